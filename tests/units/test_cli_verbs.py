"""The verbs that simulate, compare and report, as a user runs them; what they compute is tested elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headway.cli.app import main
from headway.profile import Profile
from headway.report.words import profile_problems
from headway.testing.examples import tiny_plan, tiny_profile, tiny_spec
from headway.trace import Trace

SPEC = """\
name: tiny
slo: {latency: 300ms, percentile: 99}
supply: {cpu: {price: $0.20/h, startup: 5s}}
stages: {first: {}, second: {after: first, probability: 0.5}}
current:
  first: {hardware: cpu, replicas: 9, max_batch_size: 4}
  second: {hardware: cpu, replicas: 9}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "headway.yaml").write_text(SPEC)
    tiny_plan().write("plan.json")
    tiny_profile().write("profile.csv")
    Trace.poisson(rate=10.0, seconds=20.0, seed=1).write("t.csv")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == code, err
    return out


def test_check_says_what_it_understood(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "headway.yaml").splitlines() == [
        "tiny: 99 % of requests within 300 ms",
        "  first",
        "  second after first p=0.5",
        "hardware: cpu at $0.2/h",
    ]
    value = json.loads(run(capsys, "check", "headway.yaml", "--json"))
    assert value["stages"] == list(tiny_spec().graph.order)
    assert value["slo_s"] == 0.3


def test_check_warns_of_a_model_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SPEC.replace("first: {}", 'first: {model: "up.py:Upper"}')
    (folder / "modeled.yaml").write_text(text)
    for there, warned in ((False, True), (True, False)):
        if there:
            (folder / "up.py").write_text(MODEL)
        with pytest.raises(SystemExit) as stop:
            main(["check", "modeled.yaml"])
        assert stop.value.code == 0
        assert ("stages.first.model: there is no file 'up.py'" in capsys.readouterr().err) == warned


def test_cells_left_out_for_one_reason_are_one_line() -> None:
    cell = {"status": "skipped", "text": "no time", "stage": "first", "hardware": "cpu"}
    problems = [{**cell, "batch_size": 2}, {**cell, "status": "failed"}, {**cell, "batch_size": 4}]
    assert profile_problems({"problems": problems}) == [
        "skipped: first, cpu, 2; first, cpu, 4: no time",
        "failed: first, cpu: no time",
    ]


def test_the_schema_is_json_without_asking_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "stages" in json.loads(run(capsys, "check", "--schema"))["properties"]


def test_simulate_writes_what_it_prints_and_repeats_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["simulate", "plan.json", "--trace", "t.csv", "--seed", "2"]
    printed = run(capsys, *flags, "--json", "-o", "outcome.json")
    assert (folder / "outcome.json").read_text() == printed == run(capsys, *flags, "--json")
    assert json.loads(printed)["requests"]["offered"] == Trace.read("t.csv").requests
    assert "P99" in run(capsys, *flags)


def test_a_profile_given_to_simulate_replaces_the_plans_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "first,cpu,1,0.2\nfirst,cpu,4,0.6\nsecond,cpu,1,0.5\n"
    (folder / "slow.csv").write_text(f"stage,hardware,batch_size,mean_s\n{rows}")
    flags = ["simulate", "plan.json", "--trace", "t.csv", "--mode", "mean", "--json"]
    quick = json.loads(run(capsys, *flags))
    slow = json.loads(run(capsys, *flags, "--profile", "slow.csv"))
    assert slow["p99_s"] > quick["p99_s"]


def test_what_runs_today_is_predicted_on_a_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = json.loads(run(capsys, "diff", "headway.yaml", "plan.json", "--json"))
    assert bare["predicted"]["from"] is None
    assert "what runs today is not predicted: no trace was given" in bare["evidence"]
    assert "profile of second on cpu: 1 row, imported" in bare["evidence"]
    full = json.loads(run(capsys, "diff", "headway.yaml", "plan.json", "--trace", "t.csv", "--json"))
    assert 0.02 < full["predicted"]["from"]["p99_s"] < 0.3
    assert any("predicted on trace" in line for line in full["evidence"])
    (folder / "less.csv").write_text("stage,hardware,batch_size,mean_s\nfirst,cpu,1,0.2\n")
    flags = ["--trace", "t.csv", "--profile", "less.csv", "--json"]
    less = json.loads(run(capsys, "diff", "headway.yaml", "plan.json", *flags))
    assert less["predicted"]["from"] is None
    assert any("not predicted: less.csv: no rows for stage 'second'" in line for line in less["evidence"])


def test_what_is_no_whole_outcome_is_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bare.json").write_text('{"schema": "headway.outcome/1"}')
    assert run(capsys, "compare", "bare.json", "bare.json", code=1) == ""


def test_bad_rows_and_the_format_of_a_trace_can_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.csv").write_text((folder / "t.csv").read_text() + "soon\n")
    flags = ["--trace", "bad.csv", "--skip-bad", "--format", "csv", "--json"]
    offered = json.loads(run(capsys, "simulate", "plan.json", *flags))["requests"]["offered"]
    assert offered == Trace.read("t.csv").requests
    planned = ["plan", "headway.yaml", "--profile", "profile.csv", "--feasibility", "trace", *flags]
    assert json.loads(run(capsys, *planned))["provenance"]["requests"] == offered
    with pytest.raises(SystemExit):
        main(["simulate", "plan.json", *flags])
    assert capsys.readouterr().err == "bad.csv: 1 malformed row left out\n"


def test_outcomes_are_compared_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "simulate", "plan.json", "--trace", "t.csv", "-o", "a.json")
    run(capsys, "simulate", "plan.json", "--trace", "t.csv", "--seed", "9", "-o", "b.json")
    same = json.loads(run(capsys, "compare", "a.json", "a.json", "--json"))
    assert all(figure["difference"] in (0.0, None) for figure in same["figures"].values())
    assert "P99" in run(capsys, "compare", "a.json", "b.json")
    assert run(capsys, "report", "plan.json", "a.json", "-o", "r.html") == "r.html\n"
    assert "<html" in (folder / "r.html").read_text(encoding="utf-8")[:200]


def test_diff_takes_plans_and_what_runs_today(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "diff", "plan.json", "plan.json", "--json"))["changes"] == []
    today = json.loads(run(capsys, "diff", "headway.yaml", "plan.json", "--json"))
    assert today["cost_usd_per_hour"]["saved"] == pytest.approx(14 * 0.2)
    assert "9" in run(capsys, "diff", "headway.yaml", "plan.json")


def test_a_plan_is_served_replayed_and_drained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trace.poisson(rate=20.0, seconds=2.0, seed=1).write("t.csv")
    command = [sys.executable, "-m", "headway", "serve", "plan.json", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            measured = json.loads(run(capsys, "replay", "--url", url, "--trace", "t.csv", "--json"))
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
    requests = measured["requests"]
    assert requests["offered"] == Trace.read("t.csv").requests
    assert requests["offered"] == sum(requests[k] for k in ("answered", "dropped", "rejected", "failed", "in_flight"))


MODEL = """\
class Upper:
    def setup(self, hardware):
        pass

    def predict(self, batch):
        return [text.upper() for text in batch]
"""


def test_a_model_is_profiled_planned_and_found_beside_its_plan(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "model.py").write_text(MODEL)
    (folder / "models" / "samples.jsonl").write_text('"one"\n"two"\n')
    (folder / "models" / "up.yaml").write_text(
        "slo: {latency: 1s}\nsupply: {cpu: {price: $1/h}}\nstages: {up: {model: model.py:Upper, max_batch_size: 1}}\n"
    )
    measured = json.loads(run(capsys, "profile", "models/up.yaml", "--budget", "1s", "-o", "up.csv", "--json"))
    assert [(row["stage"], row["evidence"]) for row in measured["rows"]] == [("up", "measured")]
    assert measured["stamp"]["samples"]["count"] == 2
    assert not (folder / "up.cells.json").exists()
    flags = ["--profile", "up.csv", "--trace", "t.csv", "--feasibility", "trace", "-o", "models/up.json"]
    run(capsys, "plan", "models/up.yaml", *flags)
    served: list[tuple[str, Path]] = []
    monkeypatch.setattr("headway.serve.run.serve", lambda plan, **options: served.append((plan.spec.name, Path.cwd())))
    run(capsys, "serve", "models/up.json")
    assert served == [("pipeline", folder / "models")]


def test_a_profile_without_a_whole_stage_is_exit_1_and_written_all_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.py").write_text(MODEL)
    (folder / "up.yaml").write_text(
        "slo: {latency: 1s}\nsupply: {cpu: {price: $1/h}}\nstages: {up: {model: model.py:Upper, max_batch_size: 1},"
        " nope: {model: model.py:Nope, max_batch_size: 2}, told: {after: up}}\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["profile", "up.yaml", "--budget", "1s", "-o", "up.csv"])
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert [row.stage for row in Profile.read(folder / "up.csv").rows] == ["up"]
    assert "nothing was measured of nope;" in err
    assert err.count("there is no class 'Nope'") == 1


def test_rows_that_are_not_used_are_said_on_stderr_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "headway.yaml", "--trace", "t.csv", "--feasibility", "trace", "--json", "--profile"]
    plain = run(capsys, *flags, "profile.csv")
    more = (folder / "profile.csv").read_text().splitlines()
    (folder / "more.csv").write_text("\n".join([*more, more[1].replace("first", "frist")]) + "\n")
    for command in (flags, ["check", "headway.yaml", "--profile"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "more.csv"])
        out, err = capsys.readouterr()
        assert stop.value.code == 0
        assert "more.csv: profile: 1 row of stage 'frist' is not used" in err
        assert "did you mean 'first'?" in err
        assert "frist" not in out
        assert command != flags or json.loads(out)["stages"] == json.loads(plain)["stages"]


def test_an_infeasible_promise_is_exit_3_with_json_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tight.yaml").write_text(SPEC.replace("300ms", "1ms"))
    flags = ["plan", "tight.yaml", "--profile", "profile.csv", "--trace", "t.csv"]
    refusal = json.loads(run(capsys, *flags, "--json", code=3))
    assert refusal["feasible"] is False
    assert refusal["smallest_slo_s"] > 0.001
    assert run(capsys, *flags, code=3) == ""


@pytest.mark.parametrize("planner", ["exact", "greedy", "cg-mean", "cg-peak"])
def test_every_planner_can_be_chosen_and_repeats_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], planner: str
) -> None:
    flags = ["plan", "headway.yaml", "--profile", "profile.csv", "--trace", "t.csv", "--planner", planner]
    flags += ["--feasibility", "trace", "--seed", "1"]
    printed = run(capsys, *flags, "--json")
    assert run(capsys, *flags, "--json", "-o", "again.json") == printed == (folder / "again.json").read_text()
    assert json.loads(printed)["provenance"]["planner"] == planner
    assert "$/h" in run(capsys, *flags)


def test_a_server_that_is_not_there_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "replay", "--url", "http://127.0.0.1:9", "--trace", "t.csv", code=1) == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--url", "http://127.0.0.1:1", "--trace", "t.csv"], "give one of them"),
        (["--trace", "t.csv", "--tuner", "inferline", "--gears", "gears.json"], "has no use for gears"),
        (["--trace", "t.csv", "--planned-on", "t.csv", "--journal", "headway.yaml"], "not a journal of decisions"),
        (["--trace", "t.csv", "--planned-on", "t.csv", "--tuner", "autoscale,rate_window_s=0"], "more than 0 s"),
    ],
)
def test_what_tune_would_ignore_or_overwrite_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tune", "plan.json", *options])
    assert stop.value.code == 1
    assert says in capsys.readouterr().err
    assert (folder / "headway.yaml").read_text() == SPEC


def test_calibrate_looks_for_the_folder_of_its_output_before_it_begins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "plan.json", "--trace", "t.csv", "-o", "nowhere/fitted.csv"])
    assert stop.value.code == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "setting", "options", "says"),
    [
        (["URL"], None, [], "cannot be reached"),
        (["URL"], None, ["--trace", "t.csv"], ""),
        (["TRACE"], None, [], ""),
        (["TRACE"], None, ["--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["TRACE", "URL"], None, [], "give one of them"),
        (["URL"], "trace", [], "cannot be reached"),
        ([], "url", ["--trace", "t.csv"], ""),
    ],
)
def test_tune_goes_by_the_traffic_that_is_named_nearest(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: list[str],
    setting: str | None,
    options: list[str],
    says: str,
) -> None:
    values = {"trace": "t.csv", "url": "http://127.0.0.1:1"}
    for name in environment:
        monkeypatch.setenv(f"HEADWAY_{name}", values[name.lower()])
    if setting is not None:
        (folder / "headway.toml").write_text(f'[tune]\n{setting} = "{values[setting]}"\n')
    with pytest.raises(SystemExit) as stop:
        main(["tune", "plan.json", "--planned-on", "t.csv", "--json", *options])
    out, err = capsys.readouterr()
    assert (stop.value.code, says in err) == (1 if says else 0, True)
    assert bool(out) == (not says)


def test_replay_looks_for_the_folder_of_its_output_before_it_begins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["replay", "--url", "http://127.0.0.1:1", "--trace", "t.csv", "-o", "nowhere/measured.json"])
    assert stop.value.code == 1
    assert "there is no folder" in capsys.readouterr().err


def test_choices_are_listed_and_what_is_none_of_them_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "embedded|ray" in run(capsys, "serve", "--help")
    with pytest.raises(SystemExit) as stop:
        main(["serve", "plan.json", "--engine", "rya"])
    assert stop.value.code == 2
    assert "'rya' is not one of" in capsys.readouterr().err
