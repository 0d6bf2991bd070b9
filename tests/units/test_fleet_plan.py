"""Fleets are planned like anything else: proven cheapest, with classes, evidence and reasons, alone and in a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.units.fleet_specs import ENGINES, GPUS, SERVERS, chats, cores_spec, llm_spec, looks

from headway.cli import main
from headway.domains.fleet import DOMAIN
from headway.domains.fleet.config import CoresConfig, LlmConfig
from headway.errors import HeadwayError, PlanError, TraceError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmWork, simulate_llm
from headway.fleet.step_time import StepTime
from headway.plan import Infeasible, Plan
from headway.plan.config import StageContext
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.policy.token_routing import token_router
from headway.profile import Profile, Row
from headway.report.terminal import outcome_view, plan_view
from headway.sim.simulation import run_stages, simulate, workload
from headway.sim.station import Arrivals
from headway.spec.model import Spec
from headway.trace import Trace

NOTHING = Profile.from_rows(())
GRAPH: dict[str, Any] = {
    "name": "answers",
    "slo": {"latency": "40s", "percentile": 95},
    "supply": {**GPUS, "cpu": {"price": "$0.2/h"}},
    "stages": {
        "retrieve": {"hardware": "cpu"},
        "answer": {**ENGINES, "after": "retrieve", "hardware": "a100-80gb", "tensor_parallel": 1, "token_budget": 512},
    },
}
ROWS = (Row("retrieve", "cpu", 1, 0.05), Row("retrieve", "cpu", 4, 0.12))


def planned(spec: Spec, trace: Trace, **options: Any) -> Plan:
    return make(spec, None, trace, **{"feasibility": "trace", "explained": False, **options})


@pytest.mark.parametrize("seed", [1, 2])
def test_the_plan_is_the_cheapest_of_all_configurations(seed: int) -> None:
    spec = llm_spec({"percentile": 95}, classes={"chat": {"ttft": "1s"}, "batch": {"e2e": "30s"}})
    trace = chats(14.0, 25.0, seed)
    plan = planned(spec, trace)
    oracle = Oracle(spec, NOTHING, trace, feasibility="trace")
    costs = {
        config: oracle.total_cost({"answer": config})
        for config in DOMAIN.configs(oracle.contexts["answer"], plan.cost_usd_per_hour + 2.0)
    }
    feasible = {config: cost for config, cost in costs.items() if oracle.feasible({"answer": config})}
    assert 0 < len(feasible) < len(costs)
    assert plan.cost_usd_per_hour == min(feasible.values())
    assert plan.gap_ratio == 0.0
    assert plan.stages["answer"] in feasible


def test_servers_with_workers_are_planned_to_the_cheapest_too() -> None:
    spec, trace = cores_spec(), looks(150.0, 8.0, seed=3)
    plan = planned(spec, trace)
    oracle = Oracle(spec, NOTHING, trace, feasibility="trace")
    feasible = [
        oracle.total_cost({"look": config})
        for config in DOMAIN.configs(oracle.contexts["look"], 1.2)
        if oracle.feasible({"look": config})
    ]
    assert plan.cost_usd_per_hour == min(feasible)
    assert isinstance(plan.stages["look"], CoresConfig)


def test_what_a_class_is_promised_decides_the_plan() -> None:
    trace = chats(14.0, 25.0, seed=1)
    easy = planned(llm_spec(classes={"chat": {"ttft": "30s"}, "batch": {"e2e": "60s"}}), trace)
    strict = planned(llm_spec(classes={"chat": {"ttft": "400ms"}, "batch": {"e2e": "60s"}}), trace)
    assert easy.cost_usd_per_hour < strict.cost_usd_per_hour
    outcome = simulate(Plan(strict.spec, NOTHING, easy.stages), trace, mode="mean")
    late = outcome.latency_s > 60.0
    assert np.array_equal(outcome.missed, late | outcome.broken)
    assert outcome.miss_rate > 0.01 > float(late.mean())
    assert outcome.counts()["late"] == int(np.count_nonzero(outcome.missed))


def test_a_promise_that_no_engine_keeps_is_refused_without_a_search() -> None:
    with pytest.raises(Infeasible) as caught:
        planned(llm_spec(classes={"chat": {"ttft": "1ms"}, "batch": {"e2e": "60s"}}), chats(4.0, 10.0, seed=1))
    assert caught.value.obstacle.stage == "answer"
    [refused] = caught.value.obstacle.promises
    assert (refused.name, refused.promised_s) == ("chat.ttft", 0.001)
    assert 0.001 < refused.least_s < 0.5
    assert "chat.ttft: the first token is promised within 1 ms" in str(caught.value)
    assert caught.value.to_dict()["promises"] == [refused.to_dict()]


def test_what_is_declared_is_named_where_it_bounds_how_many_a_stage_serves() -> None:
    classes = {"chat": {"ttft": "400ms"}, "batch": {"e2e": "60s"}}
    with pytest.raises(Infeasible, match="when alone; it is what is declared of the stage that bounds") as caught:
        planned(llm_spec(classes=classes, prefill_engines=1), chats(60.0, 10.0, seed=1))
    assert not any(each.beyond for each in caught.value.obstacle.promises)


def test_a_small_class_that_the_promise_over_all_hides_is_named() -> None:
    trace = chats(4.0, 60.0, seed=1)
    few = np.zeros(trace.requests)
    few[:2] = 1.0
    trace = Trace.from_arrivals(trace.arrival_s, {**trace.columns, "class": few}, duration_s=trace.duration_s)
    rare = {"chat": {"e2e": "60s"}, "batch": {"ttft": "1ms"}}
    [short] = [each for each in planned(llm_spec(classes=rare), trace).reasons if each.code == "class_short"]
    assert (short.stage, short.values) == ("answer", {"class": "batch", "kept_ratio": 0.0})
    assert "class 'batch' keeps its promises for 0% of its requests; 99% is promised over all" in short.text
    kept = planned(llm_spec(classes={**rare, "batch": {"ttft": "5s"}}), trace)
    assert "class_short" not in {each.code for each in kept.reasons}


def test_what_was_fitted_to_an_engines_answers_is_planned_with_context_and_all() -> None:
    fitted = StepTime(0.01, 6e-5, 6e-6)
    declared = {"floor": "10ms", "token": "60us", "kv_token": "6us", "error": "4%"}
    alone = {"hardware": "a100-80gb", "tensor_parallel": 1, "token_budget": 512, "most_running": 64}
    trace = chats(2.0, 30.0, seed=1)
    spec = llm_spec(step=declared, model=None, kv_tokens=80_000, **alone)
    plan = planned(spec, trace)
    assert DOMAIN.needs_no_profile(spec.stages["answer"])
    config = plan.stages["answer"]
    assert isinstance(config, LlmConfig)
    engines = (Engine(fitted, 80_000, token_budget=512, most_running=64),) * config.replicas
    fleet = LlmFleet(engines, token_router(config.routing), report_s=0.5)
    mean_s = float(simulate_llm(fleet, LlmWork.of(trace)).e2e_s.mean())
    assert plan.stage_predictions["answer"]["figures"]["e2e_mean_s"] == pytest.approx(mean_s, rel=0.02)
    [known] = [each for each in plan.reasons if each.code == "evidence"]
    assert known.values == {"evidence": "measured", "error_ratio": 0.04}
    assert known.text.endswith("is measured, off by 4% on average as declared; the step that is declared")
    light = {**declared, "kv_token": "0.1us"}
    assert planned(llm_spec(step=light, kv_tokens=80_000, **alone), trace).predicted["p99_s"] < plan.predicted["p99_s"]


def test_requests_that_no_engine_can_hold_are_what_stands_in_the_way() -> None:
    trace = chats(4.0, 10.0, seed=1)
    with pytest.raises(Infeasible, match=r"stage 'answer' does not answer all: .* requests rejected") as caught:
        planned(llm_spec(kv_tokens=500), trace)
    assert (caught.value.obstacle.code, caught.value.obstacle.stage) == ("rejected", "answer")


def test_the_least_that_may_be_promised_is_the_least_that_requests_take_alone() -> None:
    trace = chats(4.0, 10.0, seed=1)
    spec = llm_spec(classes={"chat": {"ttft": "1s", "e2e": "30s"}, "batch": {"tpot": "1s"}})
    context = StageContext("answer", spec.stages["answer"], spec, NOTHING)
    told = {each.name: each for each in DOMAIN.promises(context, trace, sampled=False)}
    assert set(told) == {"chat.ttft", "chat.e2e", "batch.tpot"}
    assert not any(each.beyond for each in told.values())
    assert told["chat.ttft"].least_s < told["chat.e2e"].least_s


def test_more_engines_for_prompts_than_supply_has_are_refused_at_once() -> None:
    supply = {"a100-80gb": {"price": "$2/h", "max": 8}}
    fields = llm_spec(prefill_engines=9, tensor_parallel=1, hardware="a100-80gb").to_dict()
    spec = Spec.from_dict({**fields, "supply": supply})
    says = r"prefill_engines: 9 and an engine that decodes, on 1 each, need 10 of a100-80gb, and supply has max: 8"
    with pytest.raises(PlanError, match=says):
        planned(spec, chats(4.0, 10.0, seed=1))
    [problem] = DOMAIN.problems(spec, "answer")
    assert "supply has max: 8" in problem
    fits = llm_spec(prefill_engines=[1, 9], tensor_parallel=1, hardware="a100-80gb").to_dict()
    assert DOMAIN.problems(Spec.from_dict({**fits, "supply": supply}), "answer") == []
    assert DOMAIN.problems(llm_spec(), "answer") == []


def test_a_robust_plan_is_explained_with_its_evidence() -> None:
    spec = llm_spec({"percentile": 95}, model="mistral-7b", token_budget=512, tensor_parallel=1, hardware="a100-80gb")
    plan = make(spec, None, chats(30.0, 15.0, seed=4), budget=60)
    codes = {reason.code for reason in plan.reasons}
    assert {"optimal", "binding_constraint", "headroom", "judged", "evidence"} <= codes
    binding = next(reason.text for reason in plan.reasons if reason.code == "binding_constraint")
    assert "95% within 60 s, with what answer promises by itself, binds" in binding
    evidence = next(reason for reason in plan.reasons if reason.code == "evidence")
    assert evidence.values["evidence"] == "prior"
    assert evidence.values["error_ratio"] > 0.05
    assert any("is a prior, off by" in text for text in plan.predicted["low_confidence"])
    assert plan.stage_predictions["answer"]["figures"]["chat.kept_ratio"] > 0.95
    assert Plan.from_dict(json.loads(plan.to_json())) == plan
    assert plan_view(plan).renderables


def test_what_was_measured_is_told_without_doubt() -> None:
    rows = [Row("answer", "a100-80gb", n, 0.01 + 6e-5 * n, evidence="measured") for n in (8, 512, 2048)]
    spec = llm_spec({"percentile": 95}, token_budget=512, tensor_parallel=1, hardware="a100-80gb")
    plan = make(spec, Profile.from_rows(rows), chats(6.0, 20.0, seed=4), feasibility="trace", explained=False)
    assert not any("prior" in text for text in plan.predicted["low_confidence"])
    assert [row.batch_size for row in plan.profile.rows] == [8, 512, 2048]
    assert next(r for r in plan.reasons if r.code == "evidence").values["evidence"] == "measured"


def test_a_plan_is_set_against_what_runs_today() -> None:
    fields = llm_spec({"percentile": 95}, token_budget=512, tensor_parallel=1, hardware="a100-80gb").to_dict()
    today = {"hardware": "a100-80gb", "replicas": 4, "token_budget": 512, "most_running": 64, "max_wait": "30s"}
    plan = planned(Spec.from_dict({**fields, "current": {"answer": today}}), chats(6.0, 20.0, seed=4))
    current = next(reason for reason in plan.reasons if reason.code == "current")
    assert current.values["current_usd_per_hour"] == 8.0
    assert current.values["saved_usd_per_hour"] > 0


def test_an_outcome_tells_tokens_and_classes() -> None:
    plan = Plan(llm_spec(), NOTHING, {"answer": LlmConfig("a100-80gb", 2, token_budget=512, most_running=64)})
    trace = chats(6.0, 20.0, seed=2)
    outcome = simulate(plan, trace)
    figures = outcome.to_dict()["stages"]["answer"]["figures"]
    assert 0 < figures["ttft_mean_s"] < figures["ttft_p99_s"] < figures["e2e_p99_s"]
    assert {"chat.ttft_p99_s", "chat.kept_ratio", "batch.kept_ratio"} <= set(figures)
    assert outcome.stages["answer"].utilization < 0.9
    assert outcome_view(outcome).renderables


def test_a_trace_without_tokens_is_refused_where_they_are_needed() -> None:
    named = Trace.from_arrivals(Trace.poisson(2.0, 10.0, seed=1).arrival_s, name="arrivals.csv")
    says = r"stages.answer: trace 'arrivals.csv': no column 'input_tokens'; .* output_tokens .*headway trace edit"
    with pytest.raises(TraceError, match=says):
        planned(llm_spec(), named)
    one_engine = Plan(llm_spec(), NOTHING, {"answer": LlmConfig("a100-80gb", 1, token_budget=512, most_running=64)})
    with pytest.raises(TraceError, match=says):
        simulate(one_engine, named)
    with pytest.raises(TraceError, match=r"stages.answer: .*'class' goes from 0 to 1; whole numbers from 0 to 0"):
        planned(llm_spec(classes={"all": {"ttft": "1s"}}), chats(4.0, 20.0, seed=1))


def test_servers_need_to_know_how_long_requests_compute() -> None:
    trace = looks(10.0, 5.0, seed=1)
    lacking = Trace.from_arrivals(trace.arrival_s, {"class": trace.columns["class"]})
    with pytest.raises(TraceError, match="neither the trace's column 'service_s' nor the profile"):
        planned(cores_spec(), lacking)
    with pytest.raises(TraceError, match="affinity needs the trace's column 'session'"):
        planned(
            cores_spec(affinity=True),
            Trace.from_arrivals(trace.arrival_s, {"service_s": np.full(trace.requests, 0.01)}),
        )


def test_a_configuration_of_other_servers_is_refused() -> None:
    plan = Plan(llm_spec(), NOTHING, {"answer": CoresConfig("a100-80gb")})
    with pytest.raises(PlanError, match=r"stages.answer: the configuration is one of servers: cores"):
        simulate(plan, chats(2.0, 5.0, seed=1))


def test_no_answer_is_known_before_it_is_given() -> None:
    trace, spec = chats(20.0, 10.0, seed=5), llm_spec(routing="sal", order="srpt")
    context = Oracle(spec, NOTHING, trace, feasibility="trace").contexts["answer"]
    station = DOMAIN.station(context, LlmConfig("a100-80gb", 2, routing="sal", order="srpt"), sampled=False)
    items = np.arange(trace.requests, dtype=np.int32)
    left = station.run(Arrivals(trace.arrival_s, items, items, attributes=trace.columns), seed=1, record=False)
    now_s = float(np.median(left.done_s))
    outputs = trace.columns["output_tokens"].copy()
    outputs[left.item[left.done_s > now_s]] += 200
    longer = {**trace.columns, "output_tokens": outputs}
    again = station.run(Arrivals(trace.arrival_s, items, items, attributes=longer), seed=1, record=False)
    before, after = left.done_s <= now_s, again.done_s <= now_s
    assert before.sum() > 20
    assert np.array_equal(left.item[before], again.item[after])
    assert np.array_equal(left.done_s[before], again.done_s[after])


# In a graph


def test_a_fleet_is_a_stage_like_any_other() -> None:
    spec, trace = Spec.from_dict(GRAPH), chats(8.0, 20.0, seed=6)
    profile = Profile.from_rows(ROWS)
    plan = make(spec, profile, trace, feasibility="trace", budget=400, explained=False)
    assert plan.gap_ratio == 0.0
    assert isinstance(plan.stages["answer"], LlmConfig)
    outcome = simulate(plan, trace, mode="mean")
    counts = outcome.counts()
    assert counts["offered"] == trace.requests == counts["answered"]
    work = workload(plan, trace, 0)
    runs = run_stages(plan, work, sampled=False)
    retrieved_s = np.empty(trace.requests)
    retrieved_s[runs["retrieve"].departures.item] = runs["retrieve"].departures.done_s
    assert np.array_equal(np.sort(runs["answer"].arrival_s), np.sort(retrieved_s))
    assert np.all(outcome.latency_s + trace.arrival_s >= retrieved_s)


def test_fleets_of_both_kinds_work_one_after_the_other() -> None:
    stages = {
        "look": {**SERVERS, "hardware": "cpu-4"},
        "answer": {**ENGINES, "after": "look", "probability": 0.5, "hardware": "a100-80gb"},
    }
    supply = {**GPUS, "cpu-4": {"price": "$0.2/h", "threads": 4}}
    spec = Spec.from_dict({"slo": {"latency": "60s"}, "supply": supply, "stages": stages})
    chat, look = chats(8.0, 10.0, seed=7), looks(8.0, 10.0, seed=7)
    n = min(chat.requests, look.requests)
    columns = {name: values[:n] for name, values in {**look.columns, **chat.columns}.items()}
    trace = Trace.from_arrivals(chat.arrival_s[:n], columns)
    configs = {"look": CoresConfig("cpu-4", 2), "answer": LlmConfig("a100-80gb", 2)}
    outcome = simulate(Plan(spec, NOTHING, configs), trace, seed=3, drop_after_s=20.0)
    assert sum(value for name, value in outcome.counts().items() if name not in ("offered", "late")) == n
    assert outcome.stages["answer"].items == pytest.approx(n / 2, abs=n / 5)
    assert set(outcome.to_dict()["stages"]["look"]["figures"]) >= {"slowdown_p99", "short.e2e_p99_s"}


# On the command line


def test_fleets_of_known_models_are_planned_without_a_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.yaml").write_text(json.dumps(llm_spec(tensor_parallel=1, token_budget=512).to_dict()))
    chats(4.0, 15.0, seed=1).write(tmp_path / "chat.csv")
    spec, trace, plan = (str(tmp_path / name) for name in ("fleet.yaml", "chat.csv", "plan.json"))
    for arguments in (
        ["check", spec],
        ["plan", spec, "--trace", trace, "--feasibility", "trace", "-o", plan],
        ["simulate", plan, "--trace", trace],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr().out
        assert stop.value.code == 0
    assert "ttft p99" in said
    assert "chat: " in said


def test_stages_that_need_a_profile_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rag.yaml").write_text(json.dumps(Spec.from_dict(GRAPH).to_dict()))
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(tmp_path / "rag.yaml"), "--trace", "requests.csv"])
    assert stop.value.code == 2
    assert "'--profile': stages without one: retrieve" in capsys.readouterr().err
    with pytest.raises(HeadwayError, match="no profile is given, and nothing else says what work costs at retrieve;"):
        make(Spec.from_dict(GRAPH), None, chats(1.0, 10.0, seed=1))


def test_a_fleet_without_a_model_is_told_to_give_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = llm_spec().to_dict()
    del document["stages"]["answer"]["model"]
    (tmp_path / "bare.yaml").write_text(json.dumps(document))
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(tmp_path / "bare.yaml"), "--trace", "requests.csv"])
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "stages.answer: give model:, such as llama-2-7b" in said
    with pytest.raises(PlanError, match="give model:, such as llama-2-7b"):
        make(Spec.from_dict(document), None, chats(1.0, 10.0, seed=1))


def test_one_request_beyond_memory_is_explained_and_the_rest_keep_their_figures() -> None:
    plan = Plan(llm_spec(), NOTHING, {"answer": LlmConfig("a100-80gb", 2, token_budget=512, most_running=64)})
    trace = chats(6.0, 20.0, seed=2)
    prompt = trace.columns["input_tokens"].copy()
    prompt[5] = 300_000.0
    outcome = simulate(plan, Trace.from_arrivals(trace.arrival_s, {**trace.columns, "input_tokens": prompt}))
    stage = outcome.to_dict()["stages"]["answer"]
    for name in ("ttft_mean_s", "e2e_mean_s", "per_token_mean_s", "wait_max_s"):
        assert 0 <= stage["figures"][name] < 1e3
    assert (stage["rejected"]["first"], stage["rejected"]["input_tokens"]) == (5, 300_000)
    assert outcome.counts()["rejected"] == 1 == outcome.misses
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        console.print(outcome_view(outcome))
    assert "1 request rejected: request 5 (from 0) may need" in capture.get()
    assert "mean ∞" not in capture.get()
    assert "wait max ∞" not in capture.get()
    # Of the 89 requests of its class one is more than one in a hundred: their percentile counts it as never answered.
    assert "chat: ttft p99 ∞" in capture.get()
