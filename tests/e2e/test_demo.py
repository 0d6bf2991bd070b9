"""The demo from the command line: real models, real HTTP, all files; what is missing; an interruption."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.demos import command, environment, marked, told_by

from headway.demo import run, scenario
from headway.errors import HeadwayError
from headway.plan.infeasible import Infeasible, Obstacle
from headway.plan.plan import Plan
from headway.spec.model import Spec
from headway.testing.examples import tiny_profile
from headway.trace import Trace

NEEDED = ("onnxruntime", "scipy", "skimage", "PIL", "rapidocr")


def need_the_extra() -> None:
    for module in NEEDED:
        if module != "rapidocr":  # importing it starts a thread pool; the demo takes only its files
            pytest.importorskip(module)
    try:
        run.check_installed()
    except HeadwayError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    need_the_extra()
    return told_by(tmp_path_factory.mktemp("demo"), "--seconds", "3")


@pytest.mark.demo
def test_every_request_is_predicted_and_measured(told: tuple[Path, dict[str, Any]]) -> None:
    _, result = told
    predicted, measured = result["predicted"], result["measured"]
    assert result["schema"] == "headway.demo/1"
    assert predicted["kind"] == "simulated"
    assert measured["kind"] == "measured"
    assert predicted["requests"]["offered"] == measured["requests"]["offered"] > 1
    assert predicted["requests"]["answered"] == predicted["requests"]["offered"]
    assert measured["requests"]["failed"] == measured["requests"]["in_flight"] == 0
    assert predicted["provenance"]["trace_hash"] == measured["provenance"]["trace_hash"]
    assert predicted["provenance"]["plan_hash"] == measured["provenance"]["plan_hash"]
    if measured["requests"]["answered"] == measured["requests"]["offered"]:
        # The same pages for the same requests: every stage saw as many items as the simulator said.
        for name, stage in predicted["stages"].items():
            assert measured["stages"][name]["items"] == stage["items"]


@pytest.mark.demo
def test_the_choice_of_the_detector_is_a_real_one(told: tuple[Path, dict[str, Any]]) -> None:
    _, result = told
    chosen = result["production"]["stages"]["detect"]["variant"]
    assert chosen != "px320"  # below the accuracy floor
    assert set(result["others"]) >= {"greedy", "cg-mean", "cg-peak", "with px320"}
    assert result["others"]["with px320"]["feasible"] is False
    assert result["production"]["cost_usd_per_hour"] >= result["production"]["lower_bound_usd_per_hour"]


@pytest.mark.demo
def test_the_files_stand_alone(told: tuple[Path, dict[str, Any]]) -> None:
    folder, result = told
    names = {"report.html", "plan.json", "production-plan.json", "profile.csv", "profile.json", "trace.csv",
             "predicted.json", "measured.json", "demo.json"}  # fmt: skip
    assert {path.name for path in folder.iterdir() if path.is_file()} == names
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!#|data:)|url\((?!#|["']?data:|["']?#)|@import""", page)
    assert scenario.POOL in Plan.read(folder / "plan.json").spec.pools
    assert json.loads((folder / "demo.json").read_text(encoding="utf-8")) == result


def test_a_promise_that_this_machine_cannot_keep_is_loosened_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def make(spec: Spec, *_: object, **__: object) -> Spec:
        asked.append(spec.slo.latency_s)
        if len(asked) == 1:
            raise Infeasible("document", Obstacle("slow", "detect", "detect alone takes longer", smallest_slo_s=0.4242))
        return spec

    monkeypatch.setattr("headway.plan.make.make", make)
    demo = run.Run(1, scenario.Sizes.quick(), "2026-01-01", 2)
    demo.profile = tiny_profile()
    spec = scenario.production_spec()
    run._plan_kept(demo, spec, Trace.poisson(rate=1.0, seconds=1.0, seed=1), print)
    assert asked == [spec.slo.latency_s, 0.45]
    (note,) = demo.notes
    assert "cannot be kept here (detect alone takes longer)" in note


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(HeadwayError, match=r"rapidocr.*pip install 'headway\[demo\]'$"):
        run.check_installed()


@pytest.mark.demo
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    need_the_extra()
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command("--quick", "-o", str(tmp_path / "out")),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(mark),
    )  # fmt: skip
    try:
        while process.poll() is None and len(marked(mark)) < 2:  # until the first worker is there
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    # A worker whose start was interrupted ends by itself as soon as it finds its parent gone.
    end_s = time.monotonic() + 60.0
    while marked(mark) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert marked(mark) == []
