"""What bounds on fleets rest on: no engine does its requests' work in less, and no request is quicker than alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.laws.llm_systems import random_fleet, random_work

from headway.domains.fleet.least import cores_least, llm_least
from headway.fleet.engines import LlmFleet
from headway.fleet.llm_run import LlmOutcome, simulate_llm
from headway.fleet.llm_slo import SloClass, kept
from headway.fleet.rack_run import RackSetup, simulate_rack
from headway.policy.kv_admission import admission
from headway.sim.station import Ints
from headway.sim.worklaw import LeastTimes

CLASSES = (SloClass("quick", ttft_s=0.02, tpot_s=0.0135), SloClass("slow", e2e_s=0.3))


def equal_engines(rng: np.random.Generator) -> LlmFleet:
    """Return a random fleet whose engines are all alike and keep no prefixes."""
    fleet = random_fleet(rng)
    engine = dataclasses.replace(fleet.engines[0], token_budget=int(rng.integers(8, 64)))
    step = dataclasses.replace(engine.step, pair_s=float(rng.choice([0.0, engine.step.pair_s])))
    engine = dataclasses.replace(engine, step=step)
    return dataclasses.replace(fleet, engines=(engine,) * fleet.size, prefix_cache=False)


def run(seed: int) -> tuple[LlmFleet, LlmOutcome, LeastTimes, Ints]:
    rng = np.random.default_rng(seed)
    fleet, work = equal_engines(rng), random_work(rng, 80, rate_per_s=float(rng.choice([2.0, 30.0])))
    outcome, engine = simulate_llm(fleet, work, seed=seed), fleet.engines[0]
    kind = rng.integers(0, 2, outcome.offered).astype(np.int32)
    prompt, output = outcome.prompt.astype(float), outcome.output.astype(float)
    return fleet, outcome, llm_least(engine, prompt, output, CLASSES, kind), kind


@pytest.mark.parametrize("seed", range(25))
def test_engines_are_busy_for_at_least_the_work_of_their_requests(seed: int) -> None:
    _, outcome, least, _ = run(seed)
    for engine in range(outcome.busy_s.size):
        served = (outcome.engine == engine) & np.isfinite(outcome.done_s)
        for work_s in least.work_s:
            assert work_s[served].sum() <= outcome.busy_s[engine] * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_no_request_is_quicker_than_alone(seed: int) -> None:
    _, outcome, least, kind = run(seed)
    assert np.all(outcome.e2e_s >= least.alone_s - 1e-9)
    assert not np.any(kept(outcome, CLASSES, kind) & least.broken)


def test_preemptions_are_among_the_cases() -> None:
    preempting = [run(seed)[1].preemptions for seed in range(25)]
    assert sum(count > 0 for count in preempting) >= 3


@pytest.mark.parametrize("seed", range(6))
def test_the_times_alone_are_those_of_an_idle_engine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = dataclasses.replace(equal_engines(rng), admission=admission("reserve"))
    # So far apart that nobody meets anybody, and budgets that divide the prompts: then nothing is lost in rounding up.
    work = random_work(rng, 20, rate_per_s=0.01)
    engine = dataclasses.replace(fleet.engines[0], batching="decode-first", token_budget=64)
    outcome = simulate_llm(dataclasses.replace(fleet, engines=(engine,)), work)
    prompt, output = outcome.prompt.astype(float), outcome.output.astype(float)
    least = llm_least(engine, prompt, output, (), np.zeros(20, np.int32))
    # What context adds while decoding counts only as far as computing it anew would take as long.
    slack_s = outcome.output * outcome.output * engine.step.kv_token_s + outcome.prompt * outcome.output * 1.3e-5
    assert np.all(outcome.e2e_s >= least.alone_s - 1e-9)
    assert np.all(outcome.e2e_s <= least.alone_s + slack_s + 1e-9)


def test_servers_do_no_request_in_less_than_its_service() -> None:
    rng = np.random.default_rng(3)
    service_s = rng.exponential(0.1, 300)
    setup = RackSetup((2, 2), quantum_s=0.05, send_s=0.01, reply_s=0.01)
    outcome = simulate_rack(setup, np.cumsum(rng.exponential(0.03, 300)), service_s)
    kind = np.zeros(300, np.int32)
    least = cores_least(service_s, 2, 0.01, (SloClass("all", e2e_s=0.2),), kind)
    assert np.all(outcome.latency_s >= least.alone_s - 1e-9)
    assert outcome.busy_s.sum() / 2 == pytest.approx(float(least.work_s[0].sum()))
    assert np.array_equal(least.broken, service_s + 0.02 > 0.2 + 1e-9)
