"""Policies of a fleet beside each other: who is compared with whom, on which requests, and what is told of it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from headway.cli.app import main
from headway.domains.fleet.compare import ALL, NEVER, CoresContest, LlmContest, Run, arrivals, choices, compare
from headway.domains.fleet.config import CoresConfig, LlmConfig
from headway.domains.fleet.deployed import contest_of, deployed
from headway.errors import HeadwayError, PlanError, TraceError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.report.policies import compared, policies_view
from headway.spec.model import Spec
from headway.testing.examples import tiny_plan
from headway.trace import Trace

GOLDEN = Path(__file__).parent.parent / "goldens" / "report" / "policies.txt"
SUPPLY = {"a100-80gb": {"price": "$2/h"}, "cpu": {"price": "$1/h", "threads": 2}}


def llm_plan(**config: Any) -> Plan:
    stage = {"kind": "fleet", "model": "llama-2-7b", "hardware": "a100-80gb", "classes": {"chat": {"ttft": "1s"}}}
    spec = Spec.from_dict({"name": "chat", "slo": {"latency": "30s"}, "supply": SUPPLY, "stages": {"answer": stage}})
    made = LlmConfig("a100-80gb", **{"replicas": 2, "token_budget": 512, "most_running": 64, **config})
    return Plan(spec, Profile(()), {"answer": made})


def cores_plan(**stage: Any) -> Plan:
    declared = {"kind": "fleet", "servers": "cores", "hardware": "cpu", "quantum": ["5ms", "20ms"], **stage}
    spec = Spec.from_dict({"name": "look", "slo": {"latency": "1s"}, "supply": SUPPLY, "stages": {"look": declared}})
    return Plan(spec, Profile(()), {"look": CoresConfig("cpu", replicas=3, quantum_s=0.005)})


def tokens(requests: int = 120, rate: float = 12.0, seed: int = 1) -> Trace:
    trace = Trace.poisson(rate, requests=requests, seed=seed)
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(50, 2000, trace.requests), rng.integers(5, 100, trace.requests)
    columns = {"input_tokens": prompt.astype(float), "output_tokens": output.astype(float)}
    return Trace.from_arrivals(trace.arrival_s, columns, trace.duration_s)


def work(requests: int = 400, seed: int = 1) -> Trace:
    trace = Trace.poisson(100.0, requests=requests, seed=seed)
    service_s = np.random.default_rng(seed).exponential(0.05, trace.requests)
    return Trace.from_arrivals(trace.arrival_s, {"service_s": service_s}, trace.duration_s)


def found(runs: list[Run], routing: str, rate: float = 1.0) -> list[Run]:
    return [run for run in runs if run.choice["routing"] == routing and run.rate == rate]


def test_every_choice_serves_the_same_requests_and_the_same_seed_gives_the_same_runs() -> None:
    contest = contest_of(llm_plan())
    chosen = choices(contest, {"routing": ["random", "least-prefill"], "order": ["fcfs", "sjf"]})
    traces = [tokens(seed=seed) for seed in (1, 2)]
    runs = compare(contest, traces, chosen, rates=(0.5, 1.0), seed=3)
    assert len(runs) == 4 * 2 * 2
    assert runs == compare(contest, traces, chosen, rates=(0.5, 1.0), seed=3)
    # One trace has one goodput when everything is in time, and its rate times as much at another rate.
    calm = compare(contest, traces[:1], chosen[:1], rates=(0.01, 0.02))
    assert calm[0].reported["kept_ratio"] == 1.0
    assert calm[1].reported["goodput_per_s"] == pytest.approx(2 * calm[0].reported["goodput_per_s"])


def test_queues_bounded_by_what_an_engine_runs_at_once_are_compared_too() -> None:
    contest = contest_of(llm_plan(replicas=2))
    runs = compare(contest, [tokens()], choices(contest, {"routing": ["least-outstanding", "jbsq", "central"]}))
    assert len({run.reported["ttft_mean_s"] for run in runs}) == 1


def test_who_reads_no_report_does_as_well_with_old_ones_and_who_does_is_told_apart() -> None:
    contest = contest_of(llm_plan(replicas=4))
    runs = compare(contest, [tokens(300, 60.0)], choices(contest, {"routing": ["round-robin", "least-prefill"]}))
    [blind], [seeing] = found(runs, "round-robin"), found(runs, "least-prefill")
    assert blind.reported == blind.exact
    assert seeing.reported != seeing.exact
    assert seeing.exact["ttft_mean_s"] < blind.exact["ttft_mean_s"]


def test_a_fleet_that_is_declared_to_see_loads_as_they_are_is_still_told_what_old_ones_cost() -> None:
    plan = llm_plan()
    stages = plan.spec.to_dict()["stages"]
    spec = Spec.from_dict({**plan.spec.to_dict(), "stages": {"answer": {**stages["answer"], "report": "0s"}}})
    contest = contest_of(replace(plan, spec=spec))
    assert contest.report_s == 0.5
    [run] = compare(contest, [tokens(300, 60.0)], choices(contest, {}))
    assert run.reported != run.exact


def test_higher_rates_wait_longer() -> None:
    contest = contest_of(llm_plan(replicas=1))
    runs = compare(contest, [tokens()], choices(contest, {}), rates=(0.1, 1.0, 10.0))
    waits = [run.reported["wait_max_s"] for run in runs]
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_cores_have_queues_and_quanta_to_choose_from() -> None:
    contest = contest_of(cores_plan(classes={"all": {"e2e": "200ms"}}))
    assert isinstance(contest, CoresContest)
    assert contest.present == {"routing": "least-loaded", "queues": "one", "quantum": "5ms"}
    assert set(contest.axes["quantum"]) == {NEVER, "5ms", "20ms"}
    chosen = choices(contest, {"routing": ["random", "least-loaded"], "quantum": [ALL]})
    runs = compare(contest, [work()], chosen)
    assert len(runs) == 6
    assert all((run.reported["preemptions_per_request"] == 0.0) == (run.choice["quantum"] == NEVER) for run in runs)
    for run in runs:
        if run.choice["routing"] == "random":
            assert run.reported == run.exact
    assert contest_of(cores_plan()).axes["queues"] == ["one"]


def test_policies_that_are_not_known_are_named() -> None:
    contest = contest_of(llm_plan())
    assert isinstance(contest, LlmContest)
    with pytest.raises(HeadwayError, match="routing is 'rondom'"):
        choices(contest, {"routing": ["rondom"]})
    with pytest.raises(HeadwayError, match="this fleet has no quantum to choose; it has routing, order, admission"):
        choices(contest, {"quantum": [ALL]})
    everything = choices(contest, {axis: [ALL] for axis in contest.axes})
    assert len(everything) == math.prod(len(valid) for valid in contest.axes.values())
    assert choices(contest, {}) == [contest.present]
    with pytest.raises(HeadwayError, match="rate is 0; give multiples"):
        compare(contest, [tokens()], choices(contest, {}), rates=(0.0,))
    with pytest.raises(TraceError, match="nothing to compare policies by"):
        compare(contest, [Trace.from_arrivals([], duration_s=1.0)], choices(contest, {}))
    with pytest.raises(PlanError, match=r"the plan's stages are first \(pipeline\), second \(pipeline\)"):
        contest_of(tiny_plan())


def test_what_runs_is_what_a_spec_says() -> None:
    document = llm_plan().spec.to_dict()
    with pytest.raises(PlanError, match="does not say what runs"):
        deployed(Spec.from_dict(document))
    now = {**document, "current": {"answer": {"hardware": "a100-80gb", "replicas": 3, "routing": "sal"}}}
    assert deployed(Spec.from_dict(now)).stages["answer"].to_dict()["routing"] == "sal"
    stage = {**document["stages"]["answer"], "upstreams": ["http://a", "http://b"], "most_running": [900, 32]}
    there = deployed(Spec.from_dict({**document, "stages": {"answer": stage}})).stages["answer"].to_dict()
    assert (there["replicas"], there["most_running"], there["token_budget"]) == (2, 900, 2048)


def figures(ttft_s: float, wait_s: float) -> dict[str, float]:
    return {
        "ttft_mean_s": ttft_s, "ttft_p99_s": 4 * ttft_s, "tpot_mean_s": 0.02, "tpot_p99_s": 0.05,
        "e2e_mean_s": 2 + ttft_s, "e2e_p99_s": 9.0, "goodput_per_s": 11.5, "kept_ratio": 0.98, "wait_max_s": wait_s,
        "preemptions_per_request": 0.002, "wasted_ratio": 0.0004,
    }  # fmt: skip


def made_up() -> dict[str, Any]:
    """Two routers at two rates on three traces; the second is better, and stale loads cost it more."""
    first = {"routing": "round-robin", "order": "fcfs", "admission": "optimistic"}
    second = {**first, "routing": "least-prefill"}
    runs = []
    for rate in (0.5, 1.0):
        for trace, bump in enumerate((1.0, 1.1, 1.2)):
            plain, good, ideal = (figures(rate * bump * each, 9.0 * each) for each in (0.5, 0.4, 0.3))
            runs += [Run(rate, first, trace, plain, plain), Run(rate, second, trace, good, ideal)]
    return compared("chat", "2 replicas over 1 stage on a100-80gb", runs, first, report_s=0.5, provenance={"seed": 1})


def test_ratios_are_formed_trace_by_trace() -> None:
    row = next(row for row in made_up()["rows"] if row["policies"]["routing"] == "least-prefill")
    for name, ratio in (("baseline_ratio", 0.8), ("stale_ratio", 4 / 3)):
        estimate = row[name]["ttft_mean_s"]
        assert [estimate[key] for key in ("mean", "low", "high")] == pytest.approx([ratio] * 3)
    assert row["figures"]["ttft_mean_s"]["low"] < row["figures"]["ttft_mean_s"]["mean"] == pytest.approx(0.22)
    assert row["figures"]["ttft_mean_s"]["most"] == pytest.approx(0.24)


def test_the_tables_are_the_golden_text() -> None:
    console = Console(width=100, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(policies_view(made_up()))
    seen = "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.write_text(seen, encoding="utf-8")
    assert seen == GOLDEN.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    llm_plan().write("plan.json")
    tiny_plan().write("tiny.json")
    tokens().write("t.csv")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == code, err
    return out, err


def test_the_command_compares_policies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan.json", "--trace", "t.csv", "--seeds", "2", "--rates", "0.5,1.5"]
    named = ["--routing", "random,sal", "--order", "fcfs,sjf", "--baseline", "round-robin"]
    text, _ = run(capsys, *flags, *named, "--json", "-o", "policies.json")
    assert (folder / "policies.json").read_text() == text
    value = json.loads(text)
    assert value["schema"] == "headway.policies/1"
    assert value["baseline"] == {"routing": "round-robin", "order": "fcfs", "admission": "optimistic"}
    assert len(value["rows"]) == 2 * (1 + 4)
    for row in value["rows"]:
        assert row["figures"]["wait_max_s"]["most"] >= 0.0
        assert row["stale_ratio"]["ttft_mean_s"]["mean"] > 0.0
    out, _ = run(capsys, *flags, "--routing", "random,least-loaded")
    assert "longest wait" in out
    assert "stale loads" in out
    assert "1.5 × the trace's rate" in out
    everyone, _ = run(capsys, "plan.json", "--trace", "t.csv", "--seeds", "1", "--json")
    assert len(json.loads(everyone)["rows"]) == len(contest_of(llm_plan()).axes["routing"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan.json"], 1, "plan.json alone; give another outcome, or --trace"),
        (["tiny.json", "--trace", "t.csv"], 1, "policies are those of a fleet that stands alone"),
        (["plan.json", "--trace", "t.csv", "--rates", "fast"], 2, "--rates is 'fast'; write multiples"),
        (["plan.json", "--trace", "t.csv", "--baseline", "a,b,c,d"], 1, "--baseline names 4 policies"),
        (["plan.json", "--trace", "t.csv", "-o", "no/such.json"], 1, "there is no folder"),
        (["a.json", "b.json", "--routing", "all"], 1, "--routing is for the policies of one fleet"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert says in run(capsys, *arguments, code=code)[1]


def with_one_too_large(requests: int = 60) -> Trace:
    trace = tokens(requests)
    prompt = trace.columns["input_tokens"].copy()
    prompt[7] = 300_000.0
    return Trace.from_arrivals(trace.arrival_s, {**trace.columns, "input_tokens": prompt}, trace.duration_s)


def test_a_request_beyond_memory_is_told_and_leaves_the_figures_of_what_was_answered() -> None:
    contest = contest_of(llm_plan())
    trace = with_one_too_large()
    runs = compare(contest, [trace], choices(contest, {"routing": ["round-robin", "least-prefill"]}))
    for each in runs:
        assert each.reported["rejected_ratio"] == pytest.approx(1 / 60)
        assert all(math.isfinite(each.reported[name]) for name in ("ttft_mean_s", "e2e_mean_s", "wait_max_s"))
        # One of sixty is more than one in a hundred: the percentile counts it as never answered.
        assert each.reported["ttft_p99_s"] == math.inf
        assert each.reported["kept_ratio"] <= 59 / 60
    told = contest.rejected(arrivals(trace))
    assert (told["requests"], told["first"], told["input_tokens"]) == (1, 7, 300_000)
    assert told["context_tokens"] == 304_096 > told["kv_tokens"]
    assert contest.rejected(arrivals(tokens(60))) == {}


def test_two_infinite_times_are_not_said_to_be_equal() -> None:
    first = {"routing": "round-robin", "order": "fcfs", "admission": "optimistic"}
    second = {**first, "routing": "least-prefill"}
    never = {**figures(0.4, 9.0), "ttft_mean_s": math.inf, "ttft_p99_s": math.inf, "rejected_ratio": 0.02}
    runs = [Run(1.0, choice, 0, never, never) for choice in (first, second)]
    value = compared("chat", "2 engines", runs, first, report_s=0.5, provenance={})
    for row in value["rows"]:
        assert row["stale_ratio"]["ttft_mean_s"]["mean"] is None
        assert row["baseline_ratio"]["ttft_p99_s"]["mean"] is None
    said = shown(value, 80)
    assert "±0%" not in said
    assert "∞" in said


def test_the_tables_always_say_the_longest_wait_and_what_stale_loads_cost_and_keep_names_whole() -> None:
    first = {"routing": "least-loaded", "queues": "one", "quantum": "0.25ms"}
    names = ["least-loaded", "weighted-random", "consistent-hash"]
    every = [{**first, "routing": name, "quantum": quantum} for name in names for quantum in ("0.25ms", "never")]
    once = {**figures(0.4, 9.0), "rejected_ratio": 0.02}
    runs = [Run(1.0, choice, 0, once, once) for choice in every]
    value = compared("rack", "2 servers", runs, first, report_s=None, provenance={}, rejected=TOO_LARGE)
    said = shown(value, 80)
    for name in [*names, "longest wait", "stale loads", "rejected", "0.25ms"]:
        assert name in said
    assert "may need 94,096 tokens, 90,000 in its prompt; an engine holds 80,000" in " ".join(said.split())
    assert "One resampled trace, no intervals" in said
    assert "95 %" not in said


TOO_LARGE = {"requests": 1, "first": 4, "input_tokens": 90_000, "context_tokens": 94_096, "kv_tokens": 80_000}


def shown(value: dict[str, Any], width: int) -> str:
    console = Console(width=width, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(policies_view(value))
    return capture.get()


def test_a_quantum_may_be_written_in_any_unit() -> None:
    contest = contest_of(cores_plan())
    picked = choices(contest, {"quantum": ["5000us", "0.02s", "5ms", NEVER]})
    assert [choice["quantum"] for choice in picked] == ["5ms", "20ms", NEVER]
    with pytest.raises(HeadwayError, match="quantum is '7ms'"):
        choices(contest, {"quantum": ["7ms"]})


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_time_below_0_is_found_in_its_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    rows = ["0.0,0.1", "0.5,-0.2"] if suffix == "csv" else []
    lines = (
        ["arrival_s,service_s", *rows]
        if rows
        else [json.dumps({"arrival_s": at, "service_s": took}) for at, took in ((0.0, 0.1), (0.5, -0.2))]
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(TraceError, match=rf"t\.{suffix}:{len(lines)}: service_s is '?-0.2'?; it must be .* at least 0"):
        Trace.read(path)
    contest = contest_of(cores_plan())
    below = Trace.from_arrivals([0.0, 0.5], {"service_s": [0.1, -0.2]}, name="made")
    with pytest.raises(TraceError, match=r"stages.look: trace 'made': request 1 .* service_s of -0.2 s"):
        compare(contest, [below], choices(contest, {}))
