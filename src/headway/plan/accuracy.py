"""The accuracy of a choice of variants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from headway.profile import Profile
from headway.spec.model import Spec


def combinations(spec: Spec) -> Iterator[dict[str, str]]:
    """Yield every choice of variants, of all stages that have variants, in the order of declaration."""
    with_variants = {n: names for n in spec.graph.order if (names := spec.stages[n].variant_names)}
    for combination in itertools.product(*with_variants.values()):
        yield dict(zip(with_variants, combination, strict=True))


def plan_accuracy(spec: Spec, profile: Profile, variants: Mapping[str, str]) -> float | None:
    """Return the end-to-end accuracy of a choice of variants, or None when none is known.

    A measured entry of the spec's `accuracy` table wins; otherwise it is the product of the stages' accuracies (IPA's
    PAS), taken from the declaration, else from the profile. A stage without an accuracy counts as neutral.
    """
    for entry in spec.accuracy:
        if all(variants.get(stage) == name for stage, name in entry.variants.items()):
            return entry.accuracy
    product, known = 1.0, False
    for stage, name in variants.items():
        accuracy = stage_accuracy(spec, profile, stage, name)
        if accuracy is not None:
            product, known = product * accuracy, True
    return product if known else None


def stage_accuracy(spec: Spec, profile: Profile, stage: str, variant: str) -> float | None:
    """Return the accuracy of one stage with a variant, as declared or else as profiled; None when unknown."""
    declared = spec.stages[stage]
    accuracy: float | None = declared.variant(variant).accuracy if hasattr(declared, "variant") else None
    if accuracy is not None:
        return accuracy
    rows = [r.accuracy for r in profile.rows if (r.stage, r.variant) == (stage, variant) and r.accuracy is not None]
    return rows[0] if rows else None
