"""Certificates: what they say, how the number of candidates is paid for, and why there is none."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from headway.cascade.guarantee import Certificate, certify, samples_needed
from headway.cascade.model import Cascade, Step
from headway.cascade.paired import loss_bound
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError

FULL = Cascade((Step("full"),))


def table(worse: int, better: int, samples: int) -> ValidationTable:
    """`small` is certain (0.9) of every sample but the last hundred (0.1), wrong on `worse`, `full` on `better`."""
    labels = np.arange(samples) % 2
    small, full = labels.copy(), labels.copy()
    small[:worse] = 1 - labels[:worse]
    full[worse : worse + better] = 1 - labels[worse : worse + better]
    sure = np.where(np.arange(samples) < samples - 100, 0.9, 0.1)
    return ValidationTable(labels, {"small": small, "full": full}, {"small": sure, "full": sure})


def below(threshold: float) -> Cascade:
    return Cascade((Step("small", threshold=threshold), Step("full")))


def test_a_certificate_says_on_what_it_rests() -> None:
    (found,) = certify(table(5, 3, 2000), [below(0.5)], "full")
    assert found == Certificate(
        cascade=below(0.5),
        reference="full",
        tolerance=0.01,
        loss_bound=loss_bound(5, 3, 2000),
        loss=0.001,
        accuracy=1995 / 2000,
        reference_accuracy=1997 / 2000,
        worse=5,
        better=3,
        samples=2000,
        confidence=0.95,
        candidates=1,
        correction="sequence",
        method="exact",
    )
    assert json.loads(json.dumps(found.to_dict()))["cascade"] == below(0.5).to_dict()
    assert str(found).startswith("small >= 0.5 -> full loses at most 0.3")
    assert str(found).endswith("with 0.95 confidence (observed: 0.10 points on 2,000 samples)")
    assert "with 0.999999 confidence" in str(dataclasses.replace(found, confidence=0.999999))


def test_one_that_answers_as_the_reference_does_by_construction_loses_nothing() -> None:
    never = below(float("inf"))
    for found in certify(table(5, 3, 40 + 100), [FULL, never], "full", correction="bonferroni"):
        assert (found.loss_bound, found.method) == (0.0, "same")


def test_in_sequence_all_stand_at_the_largest_bound_and_a_failure_costs_the_rest() -> None:
    samples = table(6, 6, 3000)
    both = certify(samples, [FULL, below(0.05), below(0.5)], "full")
    assert [one.loss_bound for one in both] == [0.0, *2 * [loss_bound(6, 6, 3000)]]
    tight = loss_bound(6, 6, 3000) - 1e-4
    prefix = certify(samples, [FULL, below(0.5), FULL], "full", tolerance=tight)
    assert [one.cascade for one in prefix] == [FULL]
    assert prefix[0].candidates == 3


def test_after_a_failure_what_passed_is_certified_at_the_tolerance_alone() -> None:
    labels = np.arange(3000) % 2
    said = {"full": labels, "good": labels, "bad": np.zeros(3000, int)}
    three = ValidationTable(labels, said, dict.fromkeys(said, np.ones(3000)))
    found = certify(three, [Cascade((Step("good"),)), Cascade((Step("bad"),))], "full")
    assert [(one.cascade.models, one.loss_bound) for one in found] == [(("good",), 0.01)]


def test_by_bonferroni_each_candidate_is_tested_at_its_share_of_the_error() -> None:
    found = certify(table(5, 3, 3000), [below(0.5), below(0.05)], "full", correction="bonferroni")
    assert [one.loss_bound for one in found] == 2 * [loss_bound(5, 3, 3000, 0.975)]
    assert {one.confidence for one in found} == {0.95}


def test_a_failure_before_does_not_stop_bonferroni() -> None:
    found = certify(table(200, 0, 3000), [below(0.5), FULL], "full", correction="bonferroni")
    assert [one.cascade for one in found] == [FULL]


def test_graded_credits_are_bounded_by_betting() -> None:
    rng = np.random.default_rng(2)
    full = rng.random(4000)
    given = ValidationTable(
        None, None, {"a": full, "full": full}, {"a": np.clip(full - 0.01 * (full > 0.5), 0, 1), "full": full}
    )
    (found,) = certify(given, [Cascade((Step("a"),))], "full", tolerance=0.03)
    assert found.method == "betting"
    assert 0.005 < found.loss_bound < 0.03
    with pytest.raises(CascadeError, match=r"about [\d,]+ samples like these are needed"):
        certify(given.take(np.arange(60)), [Cascade((Step("a"),))], "full", tolerance=0.03)


def test_too_few_samples_is_an_error_that_names_the_number_needed() -> None:
    with pytest.raises(CascadeError) as refusal:
        certify(table(3, 3, 250), [below(0.5)], "full")
    said = str(refusal.value)
    assert said.startswith(
        "certify: no cascade is sure to lose at most 1.00 points: the nearest, small >= 0.5 -> full, answers 3 of 250 "
        "samples worse than full and 3 better, which bounds its loss at "
    )
    needed = int(said.rpartition("about ")[2].partition(" ")[0].replace(",", ""))
    assert needed == samples_needed(0.01, 6 / 250)
    scaled = round(needed * 3 / 250)
    assert loss_bound(scaled, scaled, needed) == pytest.approx(0.01, rel=0.05)


def test_a_loss_that_was_seen_is_not_mended_by_samples() -> None:
    with pytest.raises(CascadeError, match=r"it was seen to lose 4\.00 points, so raise its thresholds"):
        certify(table(10, 0, 250), [below(0.5)], "full")
    with pytest.raises(CascadeError, match="no number of samples certifies it"):
        samples_needed(0.01, 0.04, 0.01)


def test_very_small_tolerances_need_very_many_samples() -> None:
    assert samples_needed(1e-4, 0.05) == pytest.approx(1.645**2 * 0.05 / 1e-8, rel=0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"confidence": 95}, "confidence 95"),
        ({"correction": "bonferoni"}, "did you mean 'bonferroni'"),
    ],
)
def test_terms_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        certify(table(1, 1, 200), [FULL], "full", **options)


def test_candidates_and_reference_must_be_known() -> None:
    with pytest.raises(CascadeError, match="at least one candidate"):
        certify(table(1, 1, 200), [], "full")
    with pytest.raises(CascadeError, match="no model 'fall'; did you mean 'full'"):
        certify(table(1, 1, 200), [FULL], "fall")
    with pytest.raises(CascadeError, match="discordant share"):
        samples_needed(0.01, 0.01, 0.02)
