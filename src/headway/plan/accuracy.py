"""The accuracy of a choice of variants."""

from __future__ import annotations

from collections.abc import Mapping

from headway.profile import Profile
from headway.spec.model import Spec


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
        declared = spec.stages[stage]
        accuracy = declared.variant(name).accuracy if hasattr(declared, "variant") else None
        if accuracy is None:
            rows = [
                r.accuracy for r in profile.rows if (r.stage, r.variant) == (stage, name) and r.accuracy is not None
            ]
            accuracy = rows[0] if rows else None
        if accuracy is not None:
            product, known = product * accuracy, True
    return product if known else None
