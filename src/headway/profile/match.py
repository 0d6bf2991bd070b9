"""Which rows of a profile a spec has no use for: a slip in a name would otherwise go unseen."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from headway.errors import nearest
from headway.profile.profile import Profile, Row
from headway.profile.target import HasFamily, Measurable

if TYPE_CHECKING:
    from headway.spec.model import Spec


def unmatched(profile: Profile, spec: Spec) -> list[str]:
    """Return a sentence for every stage, hardware and variant that rows name and the spec does not.

    >>> from headway.testing.examples import tiny_profile, tiny_spec
    >>> unmatched(tiny_profile(), tiny_spec())
    []
    """
    rows = [row for row in profile.rows if row.stage in spec.stages]
    found = _unknown(profile.rows, lambda row: row.stage, "stage", tuple(spec.stages))
    found += _unknown(rows, lambda row: row.hardware, "hardware", tuple(spec.supply))
    for name, stage in spec.stages.items():
        if isinstance(stage, Measurable | HasFamily):
            own = [row for row in rows if row.stage == name]
            valid = tuple(stage.models) if isinstance(stage, HasFamily) else stage.variant_names
            found += _unknown(own, lambda row: row.variant, f"stage {name!r}, variant", valid)
    return found


def _unknown(rows: Collection[Row], name: Callable[[Row], str], what: str, valid: tuple[str, ...]) -> list[str]:
    names = [found for row in rows if (found := name(row)) not in valid]
    sentences = []
    for found in dict.fromkeys(names):
        count = names.count(found)
        rows_of = f"1 row of {what} {found!r} is" if count == 1 else f"{count} rows of {what} {found!r} are"
        hint = nearest(found, valid) or f"; the spec has {', '.join(valid)}"
        sentences.append(f"profile: {rows_of} not used: the spec has no such name{hint}")
    return sentences
