"""What no field can see alone: names that must exist elsewhere in the spec, cycles, and what runs today."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails

from headway.errors import PlanError, nearest
from headway.spec.graph import find_cycle
from headway.spec.kinds import load_domain
from headway.spec.wording import MOST_PROBLEMS, line_error, listed, shown, validation_error

if TYPE_CHECKING:
    from headway.spec.model import Spec

Problems = Iterator[InitErrorDetails]


def check(spec: Spec) -> None:
    """Raise pydantic.ValidationError naming every contradiction in a spec whose fields are valid, each at its place."""
    found = (problem for rule in RULES for problem in rule(spec))
    # Looking for the nearest of many names takes time: beyond what is shown, one more says that there are more.
    problems = list(itertools.islice(found, MOST_PROBLEMS + 1))
    if problems:
        raise validation_error("Spec", problems)


def _parents(spec: Spec) -> Problems:
    """Every parent exists and no items go round: then every stage is reached from a source."""
    unknown = False
    for name, stage in spec.stages.items():
        for index, parent in enumerate(stage.edges):
            if parent not in spec.stages:
                unknown = True
                place = ["stages", name, "after", *_place_in(stage.after, parent, index)]
                yield line_error(place, _no_such("a stage", parent, spec.stages), parent)
    cycle = None if unknown else find_cycle({name: stage.edges for name, stage in spec.stages.items()})
    if cycle:
        text = f"the stages form a cycle, {' -> '.join(cycle)}, which no request can enter; remove one of its edges"
        yield line_error(["stages", cycle[0], "after"], text)


def _place_in(names: object, name: str, index: int) -> list[str | int]:
    """Where `name` stands within a field that holds a name, a list of names or a mapping."""
    return [] if isinstance(names, str) else [index] if isinstance(names, list) else [name]


def _hardware(spec: Spec) -> Problems:
    """Stages name hardware that is in supply; hardware names pools that exist and are wide enough for a replica."""
    for name, stage in spec.stages.items():
        for index, hardware in enumerate(stage.hardware_names or ()):
            if hardware not in spec.supply:
                place = ["stages", name, "hardware", *_place_in(getattr(stage, "hardware", None), hardware, index)]
                yield line_error(place, _no_such("in supply", hardware, spec.supply), hardware)
    for name, offer in spec.supply.items():
        if offer.pool is None:
            continue
        if offer.pool not in spec.pools:
            valid = _no_such("a pool", offer.pool, spec.pools) if spec.pools else f"{offer.pool!r} is not a pool"
            hint = "" if spec.pools else f"; add pools: {{{offer.pool}: {{cores: 4}}}}"
            yield line_error(["supply", name, "pool"], valid + hint, offer.pool)
        elif offer.threads > (cores := spec.pools[offer.pool].cores):
            text = (
                f"a replica's {offer.threads} threads do not fit in pool {offer.pool!r}; use at most its {cores} cores"
            )
            yield line_error(["supply", name, "threads"], text, offer.threads)


def _measured_accuracy(spec: Spec) -> Problems:
    """Tables of measured accuracy name variants that exist, and no choice twice."""
    seen: list[dict[str, str]] = []
    for index, row in enumerate(spec.accuracy):
        for stage, variant in row.variants.items():
            place: list[str | int] = ["accuracy", index, "variants", stage]
            if stage not in spec.stages:
                yield line_error(place, _no_such("a stage", stage, spec.stages), stage)
            elif variant not in (known := spec.stages[stage].variant_names):
                yield line_error(place, _no_such(f"a variant of {stage!r}", variant, known), variant)
        if row.variants in seen:
            yield line_error(
                ["accuracy", index, "variants"], "this choice stands there twice; keep one accuracy for it"
            )
        seen.append(row.variants)


def _current(spec: Spec) -> Problems:
    """What runs today names existing stages, with configurations that the stages' domains can read."""
    if spec.current is None:
        return
    for name, fields in spec.current.items():
        if name not in spec.stages:
            yield line_error(["current", name], _no_such("a stage", name, spec.stages), name)
            continue
        stage = spec.stages[name]
        try:
            config = load_domain(stage.kind).parse_config(fields, f"current.{name}").to_dict()
        except PlanError as error:
            yield from _in_config(name, str(error))
            continue
        hardware, variant = config.get("hardware"), config.get("variant")
        allowed = spec.supply if stage.hardware_names is None else stage.hardware_names
        if hardware is not None and hardware not in spec.supply:
            yield line_error(["current", name, "hardware"], _no_such("in supply", hardware, spec.supply), hardware)
        elif hardware is not None and hardware not in allowed:
            text = _no_such(f"hardware of stage {name!r}", hardware, allowed)
            yield line_error(["current", name, "hardware"], text, hardware)
        if variant is not None and stage.variant_names and variant not in stage.variant_names:
            text = _no_such(f"a variant of {name!r}", variant, stage.variant_names)
            yield line_error(["current", name, "variant"], text, variant)


def _in_config(name: str, text: str) -> Problems:
    """A domain's complaint about a configuration: `current.NAME.FIELD: TEXT`, one a line, or any other text."""
    for line in text.splitlines():
        match = re.match(rf"(?:current\.{re.escape(name)})(?:\.(\w+))?: (.*)", line)
        place = ["current", name, *([match[1]] if match and match[1] else [])]
        yield line_error(place, match[2] if match else line)


def _no_such(what: str, name: str, valid: Iterable[str]) -> str:
    return f"{shown(name)} is not {what}; valid: {listed(valid)}{nearest(name, valid)}"


RULES = (_parents, _hardware, _measured_accuracy, _current)
