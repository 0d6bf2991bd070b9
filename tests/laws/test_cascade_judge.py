"""Judging and searching cascades: equal to a walk row by row and to brute force, whatever the table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.cascade.model import Cascade, Step
from headway.cascade.search import credit, judge, search, walk
from headway.cascade.table import ValidationTable
from headway.policy.cascading import ALWAYS, answers

COST_S = {"a": 0.001, "b": 0.004, "c": 0.02}
seeds = st.integers(0, 2**32 - 1)


def random_table(seed: int, samples: int = 60, ties: bool = True) -> ValidationTable:
    """Three models, the dearer the better; certainties on a coarse grid, so that ties are common."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate(([0, 1], rng.integers(0, 3, samples - 2)))
    predicted, certainty = {}, {}
    for name, right in zip("abc", (0.5, 0.7, 0.9), strict=True):
        predicted[name] = np.where(rng.random(samples) < right, labels, rng.integers(0, 3, samples))
        sure = rng.random(samples)
        certainty[name] = np.round(sure, 1) if ties else sure
    return ValidationTable(labels, predicted, certainty)


def random_cascade(rng: np.random.Generator) -> Cascade:
    names = rng.permutation(list("abc"))[: rng.integers(1, 4)]
    steps = [Step(str(name), threshold=float(rng.choice([-1.0, 0.0, 0.3, 0.5, 0.9, np.inf]))) for name in names[:-1]]
    return Cascade((*steps, Step(str(names[-1]))))


def by_hand(table: ValidationTable, cascade: Cascade) -> tuple[float, list[float], float]:
    """Accuracy, shares and cost of a cascade, one sample after the other."""
    right, cost_s = 0.0, 0.0
    reached = [0] * len(cascade)
    for row in range(table.samples):
        for at, step in enumerate(cascade.steps):
            reached[at] += 1
            cost_s += COST_S[step.model]
            if step.threshold is None or table.certainty[step.model][row] >= step.threshold:
                right += table.credit[step.model][row]
                break
    return right / table.samples, [count / table.samples for count in reached], cost_s / table.samples


@given(seeds)
@settings(max_examples=30)
def test_what_is_judged_equals_a_walk_row_by_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = random_table(seed)
    cascades = [random_cascade(rng) for _ in range(20)]
    judged = judge(table, cascades, COST_S)
    for at, cascade in enumerate(cascades):
        accuracy, reaching, cost_s = by_hand(table, cascade)
        assert judged.accuracy[at] == accuracy == credit(table, cascade).mean()
        assert judged.reaching[at, : len(cascade)].tolist() == reaching
        assert not judged.reaching[at, len(cascade) :].any()
        assert judged.cost_s[at] == pytest.approx(cost_s)
        assert judged.cascade(at) == cascade
        place = walk(table, cascade)
        assert [(place >= step).mean() for step in range(len(cascade))] == reaching


@given(seeds)
@settings(max_examples=10)
def test_full_enumeration_finds_what_brute_force_finds(seed: int) -> None:
    table = random_table(seed, samples=40)
    grids = {name: [0.2, 0.5, 0.7] for name in "abc"}
    found = search(table, COST_S, thresholds=grids)
    brute = {
        Cascade((*(Step(name, threshold=t) for name, t in zip(names, chosen, strict=False)), Step(names[-1])))
        for length in (1, 2, 3)
        for names in itertools.combinations("abc", length)
        for chosen in itertools.product(*(grids[name] for name in names[:-1]))
    }
    assert (found.stop, found.total, len(found)) == ("complete", len(brute), len(brute))
    assert {found.cascade(at) for at in range(len(found))} == brute
    front = {(found.accuracy[at], found.cost_s[at]) for at in found.pareto()}
    for cascade in brute:
        accuracy, _, cost_s = by_hand(table, cascade)
        assert any(a >= accuracy and c <= cost_s + 1e-12 for a, c in front)


@given(seeds)
@settings(max_examples=20)
def test_no_member_of_the_pareto_set_is_beaten_and_both_ends_are_in_it(seed: int) -> None:
    found = search(random_table(seed), COST_S, levels=5)
    rows = found.pareto()
    assert found.cost_s[rows[0]] == found.cost_s.min()
    assert found.accuracy[rows[-1]] == found.accuracy.max()
    assert np.all(np.diff(found.cost_s[rows]) > 0)
    assert np.all(np.diff(found.accuracy[rows]) > 0)
    for row in rows:
        beats = (found.accuracy >= found.accuracy[row]) & (found.cost_s < found.cost_s[row])
        assert not beats.any()


def test_a_sampled_search_is_reproducible_without_repetition_and_says_so() -> None:
    table = random_table(1, samples=200, ties=False)
    first, again, other = (search(table, COST_S, levels=20, budget=100, seed=seed) for seed in (4, 4, 5))
    whole = search(table, COST_S, levels=20)
    assert (first.stop, whole.stop, first.total) == ("budget", "complete", whole.total)
    drawn, drawn_again, drawn_other = ([one.cascade(at) for at in range(len(one))] for one in (first, again, other))
    assert drawn == drawn_again != drawn_other
    assert len(set(drawn)) == len(drawn) == 100
    assert {Cascade((Step(name),)) for name in "abc"} <= set(drawn)
    figures = {whole.cascade(at): (whole.accuracy[at], whole.cost_s[at]) for at in range(len(whole))}
    assert all(figures[c] == (first.accuracy[at], first.cost_s[at]) for at, c in enumerate(drawn))


def test_a_budget_one_below_the_space_leaves_out_one() -> None:
    table = random_table(1)
    total = search(table, COST_S, levels=4).total
    assert len(search(table, COST_S, levels=4, budget=total - 1)) == total - 1


def test_in_any_order_every_order_is_looked_at() -> None:
    table = random_table(2)
    found = search(table, COST_S, levels=2, any_order=True)
    assert {found.cascade(at).models for at in range(len(found))} == {
        names for length in (1, 2, 3) for names in itertools.permutations("abc", length)
    }


def test_thresholds_at_which_all_stay_or_all_go_on_are_not_looked_at() -> None:
    found = search(random_table(3), COST_S, levels=9)
    longer = (found.model >= 0).sum(axis=1) > 1
    assert np.all(found.reaching[longer, 1] > 0.0)
    assert np.all(found.reaching[longer, 1] < 1.0)


# Adversarial families: what the figures say is what is chosen, whatever the models are called.


def two_models(right_a: float, right_b: float, certainty: str, samples: int = 400) -> ValidationTable:
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 2, samples)
    a = np.where(rng.random(samples) < right_a, labels, 1 - labels)
    b = np.where(rng.random(samples) < right_b, labels, 1 - labels)
    noise = rng.random(samples)
    sure = {"honest": (a == labels) * 0.5 + 0.5 * noise, "lies": (a != labels) * 0.5 + 0.5 * noise, "flat": 0 * noise}
    return ValidationTable(labels, {"a": a, "b": b}, {"a": sure[certainty], "b": noise})


def test_a_cheap_model_that_is_better_stands_alone() -> None:
    found = search(two_models(0.95, 0.7, "lies"), COST_S)
    assert found.cascade(found.pareto()[0]) == Cascade((Step("a"),))
    best = found.cascade(found.pareto()[-1])
    assert best.models[0] == "a"


def test_a_certainty_that_lies_helps_no_cascade() -> None:
    table = two_models(0.7, 0.9, "lies")
    found = search(table, COST_S)
    cascades = (found.model >= 0).sum(axis=1) == 2
    assert np.all(found.accuracy[cascades] < table.accuracy("b"))
    honest = search(two_models(0.7, 0.9, "honest"), COST_S)
    assert honest.accuracy.max() > table.accuracy("b")


def test_a_constant_certainty_gives_no_threshold_and_so_no_cascade() -> None:
    found = search(two_models(0.7, 0.9, "flat"), COST_S)
    assert [found.cascade(at) for at in range(len(found))] == [Cascade((Step("a"),)), Cascade((Step("b"),))]


def test_of_identical_models_the_cheapest_alone_is_left() -> None:
    one = two_models(0.8, 0.8, "honest")
    assert one.predicted is not None
    same = ValidationTable(one.labels, dict.fromkeys("ab", one.predicted["a"]), dict.fromkeys("ab", one.certainty["a"]))
    found = search(same, COST_S)
    assert [found.cascade(at) for at in found.pareto()] == [Cascade((Step("a"),))]


@given(st.floats(allow_nan=True), st.floats(allow_nan=False))
def test_one_sample_and_many_are_decided_alike(certainty: float, threshold: float) -> None:
    alone = answers(certainty, threshold)
    assert alone == answers(np.array([certainty]), threshold)[0]
    assert answers(certainty, ALWAYS)
    assert not answers(float("nan"), threshold) or threshold == ALWAYS
