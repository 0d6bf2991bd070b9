"""What engines may be declared to do besides: keep begins of prompts, only compute prompts, make up iterations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from tests.units.fleet_specs import chats, llm_spec

from headway.domains.fleet import DOMAIN
from headway.domains.fleet.build import llm_fleet
from headway.domains.fleet.config import LlmConfig
from headway.domains.fleet.domain import least_replicas
from headway.errors import ProfileError, TraceError
from headway.plan.config import StageContext
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace
from headway.trace.prompts import PROMPT, Prompts

NOTHING = Profile.from_rows(())
ONE: dict[str, Any] = {"hardware": "a100-80gb", "tensor_parallel": 1, "token_budget": 512, "classes": {}}


def context(spec: Spec, rows: tuple[Row, ...] = ()) -> StageContext:
    return StageContext("answer", spec.stages["answer"], spec, Profile.from_rows(rows))


def alike(rate_per_s: float, seconds: float, seed: int) -> Trace:
    """Requests of which all but a few begin with one of three long texts, blocks of 64 tokens."""
    trace = chats(rate_per_s, seconds, seed)
    rng = np.random.default_rng(seed)
    prompt = np.full(trace.requests, 1100.0)
    rows = [[1000 * int(rng.integers(3)) + at for at in range(16)] + [9000 + number, 20_000 + number]
            for number in range(trace.requests)]  # fmt: skip
    columns = {"input_tokens": prompt, "output_tokens": trace.columns["output_tokens"], PROMPT: np.arange(len(rows))}
    return Trace(trace.arrival_s, columns, trace.duration_s, prompts=Prompts.of(rows, 64))


def cheapest(spec: Spec, trace: Trace, plan: Plan) -> float:
    """The least cost of all configurations that keep the promise, each simulated."""
    oracle = Oracle(spec, NOTHING, trace, feasibility="trace")
    every = DOMAIN.configs(oracle.contexts["answer"], plan.cost_usd_per_hour)
    return min(oracle.total_cost({"answer": one}) for one in every if oracle.feasible({"answer": one}))


def planned(spec: Spec, trace: Trace) -> Plan:
    return make(spec, None, trace, feasibility="trace", explained=False)


def test_a_prefix_cache_makes_the_proven_plan_cheaper_where_prompts_begin_alike() -> None:
    trace, slo = alike(30.0, 6.0, seed=1), {"latency": "6s", "percentile": 90}
    without, with_cache = (planned(llm_spec(slo, **ONE, prefix_cache=cached), trace) for cached in (False, True))
    assert with_cache.cost_usd_per_hour < without.cost_usd_per_hour
    assert with_cache.gap_ratio == 0.0
    assert with_cache.cost_usd_per_hour == cheapest(with_cache.spec, trace, with_cache)
    figures = simulate(with_cache, trace).to_dict()["stages"]["answer"]["figures"]
    assert figures["cached_ratio"] > 0.5


def test_a_cache_of_prefixes_needs_to_know_what_prompts_share() -> None:
    with pytest.raises(TraceError, match=r"stages.answer: prefix_cache needs to know .* with hash_ids"):
        planned(llm_spec(**ONE, prefix_cache=True), chats(2.0, 10.0, seed=1))
    short = alike(2.0, 10.0, seed=1)
    lacking = Trace(short.arrival_s, {**short.columns, "input_tokens": np.full(short.requests, 5000.0)}, 10.0,
                    prompts=short.prompts)  # fmt: skip
    with pytest.raises(TraceError, match="request 0 has 5000 tokens in its prompt and 18 blocks"):
        planned(llm_spec(**ONE, prefix_cache=True), lacking)


def test_engines_that_only_compute_prompts_are_planned_to_the_cheapest() -> None:
    trace = chats(14.0, 8.0, seed=2, output_tokens=150)
    spec = llm_spec({"percentile": 90, "latency": "30s"}, **{**ONE, "prefill_engines": [0, 1, 2]},
                    max_output_tokens=4096)  # fmt: skip
    strict = llm_spec({"percentile": 90, "latency": "30s"}, **{**ONE, "prefill_engines": [1, 2]})
    for declared in (spec, strict):
        plan = planned(declared, trace)
        assert plan.gap_ratio == 0.0
        assert plan.cost_usd_per_hour == cheapest(declared, trace, plan)
        assert Plan.from_dict(plan.to_dict()) == plan
    config = plan.stages["answer"]
    assert isinstance(config, LlmConfig)
    assert config.prefill_engines in (1, 2)


def test_every_neighbor_has_an_engine_left_that_decodes() -> None:
    spec = llm_spec(**{**ONE, "prefill_engines": [0, 1, 2]})
    config = LlmConfig("a100-80gb", 2, 1, 512, 64, prefill_engines=1)
    moves = dict(DOMAIN.moves(context(spec), config))
    assert "remove_replica" not in moves
    assert moves["change_prefill_engines"].prefill_engines == 0  # type: ignore[union-attr]
    for single in DOMAIN.singles(context(spec)):
        whole = dataclasses.replace(single, replicas=least_replicas(single))
        assert llm_fleet(context(spec), whole).size == whole.replicas  # type: ignore[arg-type]


def test_handing_over_takes_as_long_as_a_copy_to_the_host_unless_it_is_declared() -> None:
    config = LlmConfig("a100-80gb", 2, prefill_engines=1)
    known = llm_fleet(context(llm_spec()), config)
    assert known.transfer_token_s == known.engines[0].swap_token_s
    assert [engine.role for engine in known.engines] == ["prefill", "decode"]
    declared = llm_fleet(context(llm_spec(prefill_engines=1, transfer_token="7us")), config)
    assert declared.transfer_token_s == pytest.approx(7e-6)
    assert llm_fleet(context(llm_spec()), LlmConfig("a100-80gb", 2)).transfer_token_s == 0.0
    rows = tuple(Row("answer", "a100-80gb", size, 0.01 * size) for size in (1, 64))
    fields: dict[str, Any] = {"kind": "fleet", "kv_tokens": 8192, "hardware": "a100-80gb", "prefill_engines": 1}
    unknown = Spec.from_dict({"slo": {"latency": "60s"}, "supply": {"a100-80gb": {"price": "$2/h"}},
                              "stages": {"answer": fields}})  # fmt: skip
    with pytest.raises(ProfileError, match="is not known; give transfer_token"):
        llm_fleet(context(unknown, rows), config)


def test_iterations_are_made_up_as_declared() -> None:
    spec = llm_spec(batching=["decode-first", "prefill-first"], token_budget=[32, 256])
    made = {(one.batching, one.token_budget) for one in DOMAIN.singles(context(spec)) if isinstance(one, LlmConfig)}
    assert made == {("decode-first", 256), ("prefill-first", 32), ("prefill-first", 256)}
    fleet = llm_fleet(context(spec), LlmConfig("a100-80gb", batching="prefill-first"))
    assert fleet.engines[0].batching == "prefill-first"
    assert math.isclose(fleet.report_s, 0.5)
