"""Closed forms hold within confidence limits from batch means, for the recursion and for the event kernel.

Service laws are tables of 2**16 equally likely values, so the moments that theory is given are those of the table: a
table's tail is cut, and its second moment is what the simulated system really has.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.laws.closed_forms import (
    assert_mean,
    batch_queue_mean_latency,
    erlang_c,
    exponential_table,
    lattice,
    md1_wait_cdf,
    midpoints,
    mmc_mean_wait,
    mmc_wait_quantile,
    pollaczek_khinchine,
)
from tests.laws.sim_systems import Setting, System, chain, constant, replicas

from headway.sim.station import Departures, Floats
from headway.sim.workload import Workload
from headway.trace import Trace

MOMENT_NOISE = 1e-6
"""Absolute times grow large and waits are differences of them: what is below this is rounding, not waiting."""


def tandem(rate: float, requests: int, seed: int, **settings: Setting) -> System:
    trace = Trace.poisson(rate=rate, requests=requests, seed=seed)
    return System(Workload.of(chain(*settings), trace, seed), settings)


def run(system: System, kernel: str) -> dict[str, Departures]:
    if kernel == "recursion":
        return system.by_recursion()
    simulation = system.event_simulation()
    simulation.advance(np.inf)
    return simulation.departures()


def waits(system: System, kernel: str = "recursion") -> Floats:
    """Return the waits of a single stage, in order of arrival."""
    (left,) = run(system, kernel).values()
    return np.maximum(left.start_s - system.work.trace.arrival_s, 0.0)


@pytest.mark.parametrize(
    ("kernel", "load", "requests"), [("recursion", 0.5, 200_000), ("recursion", 0.8, 800_000), ("events", 0.5, 200_000)]
)
def test_mm1(kernel: str, load: float, requests: int) -> None:
    wait = waits(tandem(load, requests, 1, only=Setting(exponential_table(1.0))), kernel)
    assert_mean(wait, load / (1 - load), 0.08)
    assert_mean(wait > MOMENT_NOISE, load)
    level = mmc_wait_quantile(load, 1.0, 1, 0.99)
    assert_mean(wait > level, 0.01, 0.5)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.8), (4, 0.8), (8, 0.85), (16, 0.85)])
def test_mmc(servers: int, load: float) -> None:
    rate = load * servers
    wait = waits(tandem(rate, 1_000_000, 2, only=Setting(exponential_table(1.0), replicas(servers))))
    assert_mean(wait > MOMENT_NOISE, erlang_c(servers, rate))
    assert_mean(wait, mmc_mean_wait(rate, 1.0, servers), 0.15)
    assert_mean(wait > mmc_wait_quantile(rate, 1.0, servers, 0.99), 0.01, 0.8)


@pytest.mark.parametrize(("kernel", "requests"), [("recursion", 600_000), ("events", 600_000)])
def test_md1(kernel: str, requests: int) -> None:
    rate = 0.8
    wait = waits(tandem(rate, requests, 3, only=Setting(constant(1.0))), kernel)
    assert_mean(wait, rate / (2 * (1 - rate)))
    for level in (0.0, 1.0, 2.0, 5.0):
        assert_mean(wait <= level + MOMENT_NOISE, md1_wait_cdf(rate, 1.0, level))


def test_erlangs_formula_for_md1_agrees_with_pollaczek_khinchine() -> None:
    """The mean is the integral of the tail: the two closed forms check each other."""
    t = np.linspace(0, 14, 2801)
    tail = [1 - md1_wait_cdf(0.5, 1.0, x) for x in t]
    assert np.trapezoid(tail, t) == pytest.approx(pollaczek_khinchine(0.5, 1.0, 1.0), abs=1e-3)


def erlang_2_table(columns: int = 1 << 16) -> Floats:
    """The law of a sum of two exponentials, by inverting 1 - e^-x (1 + x) with bisection; mean 1."""
    level, low, high = midpoints(columns), np.zeros(columns), np.full(columns, 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = 1 - np.exp(-middle) * (1 + middle) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return lattice((low + high) / 4)


def hyperexponential_table(columns: int = 1 << 16) -> Floats:
    """Two exponentials with balanced means and a squared coefficient of variation of 4."""
    fast = 0.5 * (1 + np.sqrt(3 / 5))
    often = round(columns * fast)
    one = -np.log1p(-midpoints(often)) / (2 * fast)
    other = -np.log1p(-midpoints(columns - often)) / (2 * (1 - fast))
    return lattice(np.concatenate([one, other]))


def bimodal_table(columns: int = 1 << 16) -> Floats:
    return lattice(np.where(midpoints(columns) < 0.9, 50.0, 500.0))


@pytest.mark.parametrize(
    ("table", "mean", "second_moment"),
    [(erlang_2_table(), 1.0, 1.5), (hyperexponential_table(), 1.0, 5.0), (bimodal_table(), 95.0, 27250.0)],
    ids=["erlang", "hyperexponential", "bimodal"],
)
def test_mg1(table: Floats, mean: float, second_moment: float) -> None:
    first, second = float(table[1].mean()), float((table[1] ** 2).mean())
    assert first == pytest.approx(mean, rel=1e-3)
    assert second == pytest.approx(second_moment, rel=3e-3)
    rate = 0.8 / first
    wait = waits(tandem(rate, 1_000_000, 4, only=Setting(table)))
    assert_mean(wait, pollaczek_khinchine(rate, first, second), 0.15)


def test_tandem_jackson() -> None:
    """M/M/2, M/M/1 and M/M/3 in a row: each sees Poisson arrivals, so the means add up (Burke, Jackson)."""
    rate, stages = 1.5, {"a": (2, 1.0), "b": (1, 2.0), "c": (3, 0.6)}
    settings = {name: Setting(exponential_table(1 / mu), replicas(c)) for name, (c, mu) in stages.items()}
    system = tandem(rate, 1_000_000, 5, **settings)
    latency = system.work.completion(system.by_recursion()) - system.work.trace.arrival_s
    assert_mean(latency, sum(mmc_mean_wait(rate, mu, c) + 1 / mu for c, mu in stages.values()))


@pytest.mark.parametrize(("rate", "max_batch"), [(0.5, 1), (2.0, 4), (6.0, 8), (12.0, 16)])
@pytest.mark.parametrize("kernel", ["recursion", "events"])
def test_greedy_batch_queue(rate: float, max_batch: int, kernel: str) -> None:
    system = tandem(rate, 300_000, 6, only=Setting(constant(*[1.0] * max_batch)))
    latency = system.work.completion(run(system, kernel)) - system.work.trace.arrival_s
    assert_mean(latency, batch_queue_mean_latency(rate, max_batch, 1.0), 0.02)


def test_the_batch_queue_formula_gives_md1_for_batches_of_one() -> None:
    assert batch_queue_mean_latency(0.5, 1, 1.0) == pytest.approx(1.0 + pollaczek_khinchine(0.5, 1.0, 1.0), rel=1e-9)


def test_the_tables_have_the_moments_that_theory_is_given() -> None:
    table = exponential_table(1.0)[1]
    assert table.mean() == pytest.approx(1.0, rel=1e-12)
    assert 1 - 1e-4 < (table**2).mean() / 2 < 1
