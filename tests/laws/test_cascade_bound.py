"""Laws of the bound on a cascade's loss: it covers for every n and q, and is hardly wider than it has to be."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headway.cascade import paired
from headway.cascade.graded import bootstrap_bound, mean_loss_bound
from headway.cascade.paired import loss_bound
from headway.errors import CascadeError


@cache
def bound(worse: int, better: int, samples: int, confidence: float) -> float:
    return loss_bound(worse, better, samples, confidence)


def trinomial(samples: int, loss: float, q: float) -> dict[tuple[int, int], float]:
    """The probability of each outcome (worse, better), by the textbook formula."""
    shares = ((q + loss) / 2.0, (q - loss) / 2.0, 1.0 - q)
    out = {}
    for worse in range(samples + 1):
        for better in range(samples + 1 - worse):
            counts = (worse, better, samples - worse - better)
            if any(share < 1e-12 and count for share, count in zip(shares, counts, strict=True)):
                continue
            log = math.lgamma(samples + 1) - sum(math.lgamma(count + 1) for count in counts)
            log += sum(count * math.log(share) for share, count in zip(shares, counts, strict=True) if count)
            out[worse, better] = math.exp(log)
    return out


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("samples", [1, 2, 7, 24])
def test_the_bound_covers_whatever_the_loss_and_the_share_that_differs(samples: int, confidence: float) -> None:
    for q in (0.001, 0.02, 0.1, 0.3, 0.6, 0.9, 0.999, 1.0):
        for part in (-1.0, -0.9, -0.3, 0.0, 0.2, 0.5, 0.9, 0.99, 1.0):
            loss = part * q
            covered = sum(
                p for (b, c), p in trinomial(samples, loss, q).items() if bound(b, c, samples, confidence) >= loss
            )
            assert covered >= confidence - 1e-9, (q, loss)


@pytest.mark.parametrize(
    ("samples", "worse", "better"), [(1250, 0.025, 0.025), (800, 0.004, 0.0), (500, 0.3, 0.65), (300, 0.0, 0.02)]
)
def test_drawn_outcomes_exceed_the_bound_no_more_often_than_allowed(samples: int, worse: float, better: float) -> None:
    draws = np.random.default_rng(3).multinomial(samples, [worse, better, 1.0 - worse - better], size=2000)
    exceeded = sum(bound(int(b), int(c), samples, 0.9) < worse - better for b, c, _ in draws)
    assert exceeded <= stats.binom.ppf(1.0 - 1e-6, 2000, 0.1)


def test_it_is_sharp_where_the_normal_approximation_is_good() -> None:
    """Within 8 % of the limit that knows q, where half of the width would be the price of not knowing it."""
    for worse, better, samples in ((31, 31, 1250), (60, 40, 2000), (250, 250, 10_000)):
        loss, q = (worse - better) / samples, (worse + better) / samples
        limit = loss + NormalDist().inv_cdf(0.95) * math.sqrt((q - loss * loss) / samples)
        assert limit * 0.97 < bound(worse, better, samples, 0.95) < limit * 1.08


def test_without_any_difference_it_is_the_rule_of_three() -> None:
    for samples in (10, 300, 5000):
        exact = 1.0 - 0.05 ** (1.0 / samples)
        assert exact <= bound(0, 0, samples, 0.95) < 1.02 * exact


outcomes = st.integers(1, 300).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m), st.just(n)))
)


@given(outcomes, st.sampled_from([0.6, 0.9, 0.95, 0.999]))
@settings(max_examples=60)
def test_it_is_never_below_what_was_observed_and_never_above_one(
    outcome: tuple[int, int, int], confidence: float
) -> None:
    worse, differing, samples = outcome
    found = bound(worse, differing - worse, samples, confidence)
    assert (2 * worse - differing) / samples <= found <= 1.0


@given(outcomes)
@settings(max_examples=40)
def test_more_confidence_never_makes_it_smaller(outcome: tuple[int, int, int]) -> None:
    worse, differing, samples = outcome
    found = [bound(worse, differing - worse, samples, confidence) for confidence in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)]
    assert found == sorted(found)


@given(outcomes)
@settings(max_examples=40)
def test_more_samples_at_equal_rates_never_make_it_larger(outcome: tuple[int, int, int]) -> None:
    worse, differing, samples = outcome
    found = [bound(k * worse, k * (differing - worse), k * samples, 0.95) for k in (1, 2, 4)]
    width = [value - (2 * worse - differing) / samples for value in found]
    assert width[0] >= width[1] * (1 - 1e-3) >= width[2] * (1 - 2e-3)


@given(outcomes)
@settings(max_examples=40)
def test_a_worse_outcome_never_makes_it_smaller(outcome: tuple[int, int, int]) -> None:
    worse, differing, samples = outcome
    if differing == samples:
        return
    better = differing - worse
    plain = bound(worse, better, samples, 0.95)
    slack = 1e-3 * (plain - (worse - better) / samples)
    assert bound(worse + 1, better, samples, 0.95) >= plain - slack
    assert bound(worse, better + 1, samples, 0.95) <= plain + slack


@given(outcomes.filter(lambda outcome: outcome[2] <= 40), st.floats(-0.99, 0.99), st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_the_probability_of_the_outcomes_ranked_as_low_is_that_of_their_sum(
    outcome: tuple[int, int, int], part: float, q: float
) -> None:
    worse, differing, samples = outcome
    z = 1.645
    most = paired._most_worse(worse, differing - worse, samples, z)
    limit = paired._rank(2.0 * worse - differing, differing, samples, z)
    low = {
        (b, m - b)
        for m in range(samples + 1)
        for b in range(m + 1)
        if paired._rank(2.0 * b - m, m, samples, z) <= limit + 1e-9
    }
    assert low == {(b, m - b) for m in range(samples + 1) for b in range(most[m] + 1)}
    summed = sum(p for pair, p in trinomial(samples, part * q, q).items() if pair in low)
    assert paired._probability(most, part * q, q) == pytest.approx(summed, abs=1e-12)


@given(outcomes, st.floats(-0.5, 0.9), st.sampled_from([0.02, 0.08]))
@settings(max_examples=40)
def test_the_largest_probability_is_above_that_of_every_share_and_not_by_much(
    outcome: tuple[int, int, int], loss: float, length: float
) -> None:
    worse, differing, samples = outcome
    most = paired._most_worse(worse, differing - worse, samples, 1.645)
    q_low, q_high = max(0.0, differing / samples - 0.1), min(1.0, differing / samples + 0.1)
    if abs(loss) >= q_high - 1e-3:
        return
    largest = paired._largest_probability(most, loss, q_low, q_high, length)
    least = max(q_low, abs(loss)) + 1e-6 / samples
    q = least + (q_high - 1e-6 / samples - least) * np.linspace(0.0, 1.0, 400) ** 2
    dense = max(paired._probability(most, loss, share) for share in q)
    assert dense <= largest <= dense + length * length / 8.0 * math.sqrt(2.0) + 0.005


@pytest.mark.parametrize("successes", [0, 1, 7, 40])
def test_limits_of_a_share_are_those_of_clopper_and_pearson(successes: int) -> None:
    exact = stats.beta.ppf(0.999, successes + 1, 40 - successes) if successes < 40 else 1.0
    assert paired._upper_share(successes, 40, 0.001) == pytest.approx(exact, rel=2e-6)
    assert paired._upper_share(successes, 40, 0.001) >= exact - 1e-12


def test_binomial_sums_agree_with_scipy_far_into_the_tails() -> None:
    for n, p in ((10, 0.3), (1000, 0.02), (5000, 0.5), (5000, 0.999)):
        for k in range(-1, n + 1, max(1, n // 60)):
            assert paired._cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-12, rel=1e-7)


@pytest.mark.parametrize(
    ("worse", "better", "samples", "confidence"), [(-1, 0, 10, 0.9), (6, 5, 10, 0.9), (0, 0, 0, 0.9), (1, 1, 10, 1.0)]
)
def test_counts_and_confidences_that_are_none_are_refused(
    worse: int, better: int, samples: int, confidence: float
) -> None:
    with pytest.raises(CascadeError):
        loss_bound(worse, better, samples, confidence)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_of_graded_losses_covers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draws = 400
    exceeded = 0
    for draw in range(draws):
        losses = rng.choice([-0.5, 0.0, 0.25, 1.0], p=[0.04, 0.9, 0.04, 0.02], size=300)
        exceeded += mean_loss_bound(losses, 0.9, seed=draw) < -0.02 + 0.01 + 0.02
    assert exceeded <= stats.binom.ppf(1.0 - 1e-6, draws, 0.1)


def test_the_bound_of_graded_losses_is_not_far_above_the_exact_one() -> None:
    """It depends on the order that is drawn; over orders it is wider by what it pays for needing no counts."""
    losses = np.repeat([1.0, -1.0, 0.0], [31, 31, 1188])
    exact = bound(31, 31, 1250, 0.95)
    found = [mean_loss_bound(losses, 0.95, seed) for seed in range(40)]
    assert exact < np.median(found) < 1.5 * exact


def test_graded_losses_out_of_range_are_refused() -> None:
    for losses in ([], [1.5], [float("nan")], [[0.1]]):
        with pytest.raises(CascadeError, match="from -1 to 1 per sample"):
            mean_loss_bound(losses)


def test_the_bootstrap_follows_the_normal_limit_of_a_mean() -> None:
    losses = np.random.default_rng(5).normal(0.02, 0.1, size=2000)
    limit = losses.mean() + NormalDist().inv_cdf(0.95) * losses.std() / math.sqrt(2000)
    found = bootstrap_bound(lambda rows: float(losses[rows].mean()), 2000, 0.95)
    assert found == pytest.approx(limit, abs=0.1 * (limit - losses.mean()))
    assert found == bootstrap_bound(lambda rows: float(losses[rows].mean()), 2000, 0.95)
