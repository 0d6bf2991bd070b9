"""Laws of a declared tolerance: it holds against whichever model truly is the most accurate, which nobody knows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.units.cascade_family import profile, spec

from headway.cascade import Cascade, ValidationTable, certify
from headway.cascade.guarantee import NotCertified
from headway.domains.cascade.family import Family
from headway.domains.cascade.planner import GearPlanner
from headway.errors import PlanError
from headway.plan.config import StageContext

TRUE = {"small": 0.94, "medium": 0.95, "large": 0.97}
CONFIDENCE = 0.95
DRAWS = 200


def drawn(samples: int, seed: int) -> ValidationTable:
    """What models say that are right independently of each other, and whose certainties tell nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, samples)
    predicted = {name: np.where(rng.random(samples) < share, labels, 1 - labels) for name, share in TRUE.items()}
    return ValidationTable(labels, predicted, {name: rng.random(samples) for name in TRUE})


def family(folder: Path, tolerance: float) -> Family:
    declared = spec(folder, tolerance=tolerance)
    return Family.of(StageContext("cascade", declared.stages["cascade"], declared, profile("cascade")), "gpu")


def true_loss(cascade: Cascade) -> float:
    """Against the most accurate model: certainties are uniform and say nothing of an answer."""
    reaching, right = 1.0, 0.0
    for name, threshold in zip(cascade.models, cascade.thresholds, strict=True):
        answering = reaching if threshold == -math.inf else reaching * min(1.0, max(0.0, 1.0 - threshold))
        right, reaching = right + answering * TRUE[name], reaching - answering
    return max(TRUE.values()) - right


@pytest.mark.parametrize(("samples", "tolerance", "least"), [(200, 0.01, 0), (1200, 0.019, DRAWS // 4)])
def test_a_cascade_loses_more_than_tolerated_no_more_often_than_confidence_allows(
    tmp_path: Path, samples: int, tolerance: float, least: int
) -> None:
    known = family(tmp_path, tolerance)
    sizes = known.batch_sizes(0.1)
    accepted = wrong = 0
    for seed in range(DRAWS):
        try:
            choice = replace(known, table=drawn(samples, seed)).cascades(sizes, 1)
        except PlanError:
            continue
        accepted += 1
        wrong += any(true_loss(cascade) > tolerance for cascade in choice.certificates)
    allowed = DRAWS * (1 - CONFIDENCE)
    assert accepted >= least
    assert wrong <= allowed + 2.5 * math.sqrt(allowed * CONFIDENCE)


def test_of_three_samples_nothing_is_certain(tmp_path: Path) -> None:
    right = [0, 1, 0]
    table = ValidationTable(right, dict.fromkeys(TRUE, right), {name: [0.9, 0.8, 0.7] for name in TRUE})
    planner = GearPlanner(replace(family(tmp_path, 0.0001), table=table), 0.1)
    with pytest.raises(PlanError, match=r"about [\d,]+ samples like these are needed to certify.* where it has 3"):
        planner.plans(4)


def test_of_several_references_the_one_that_bounds_the_loss_highest_is_told() -> None:
    table = drawn(4000, 1)
    single = [Cascade.from_dict({"steps": [{"model": name}]}) for name in TRUE]
    together = {
        one.cascade: one
        for one in certify(table, single, tuple(TRUE), tolerance=0.2, confidence=0.9, correction="bonferroni")
    }
    for cascade in single:
        (own,) = cascade.models
        apart = [
            certify(table, [*[cascade] * 3], name, tolerance=0.2, confidence=0.9, correction="bonferroni")[0]
            for name in TRUE
            if name != own
        ]
        worst = max(apart, key=lambda one: one.loss_bound)
        assert together[cascade].reference == worst.reference
        assert together[cascade].loss_bound == max(0.0, worst.loss_bound)


def test_against_every_model_more_samples_are_needed_than_against_any() -> None:
    table, medium = drawn(600, 2), Cascade.from_dict({"steps": [{"model": "medium"}]})

    def needed(references: tuple[str, ...]) -> int:
        with pytest.raises(NotCertified) as refusal:
            certify(table, [medium], references, tolerance=0.05)
        return refusal.value.needed or 0

    assert needed(("small", "medium", "large")) == needed(("large",)) > table.samples
