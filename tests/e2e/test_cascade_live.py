"""Cascades served over real HTTP by real worker processes: alone, as a stage of a pipeline, and rehearsed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.cascade_models import FAMILY
from tests.e2e.serving import wait_until

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade import DOMAIN
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import PlanError, ServeError, SpecError
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.run import LiveServer, running_in_thread
from headway.sim.station import Arrivals
from headway.spec.model import Spec

NAMES = ("small", "large")
SAMPLES = 40


def table() -> ValidationTable:
    labels = np.arange(SAMPLES) % 2
    doubtful = np.arange(SAMPLES) % 5 == 0
    small = np.where(doubtful & (np.arange(SAMPLES) % 10 == 0), 1 - labels, labels)
    sure = {"small": np.where(doubtful, 0.1, 0.9), "large": np.full(SAMPLES, 0.95)}
    return ValidationTable(labels, {"small": small, "large": labels}, sure)


def gear_plan(devices: int = 1) -> GearPlan:
    both = Gear(Cascade((Step("small", threshold=0.5), Step("large"))), 1000.0, (1, 1))
    return GearPlan("cpu", (Group(NAMES, devices),), (("small", 4), ("large", 4)), (both,))


def context_of(folder: Path, models: dict[str, dict[str, Any]], **fields: Any) -> tuple[Spec, Profile]:
    """Return a spec of a cascade `sort` with a profile of a few milliseconds; `fields` may add stages."""
    path = folder / "validation.csv"
    table().write(path)
    more = fields.pop("stages", {})
    stage = {"kind": "cascade", "models": models, "table": str(path), "max_rate": "1000/s", **fields}
    supply = {"cpu": {"price": "$1/h"}}
    spec = Spec.from_dict(
        {"name": "texts", "slo": {"latency": "30s"}, "supply": supply, "stages": {"sort": stage, **more}}
    )
    rows = [Row("sort", "cpu", size, 0.002, variant=name) for name in NAMES for size in (1, 4)]
    rows += [Row(name, "cpu", 1, 0.001) for name in more]
    return spec, Profile.from_rows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cascade")
    (path / "family.py").write_text(FAMILY)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Callable[[str], dict[str, str]]:
    return lambda name: {"model": f"{folder / 'family.py'}:{name}"}


@pytest.fixture(scope="module")
def texts(folder: Path, model: Callable[[str], dict[str, str]]) -> Iterator[LiveServer]:
    spec, profile = context_of(folder, {"small": model("Small"), "large": model("Large")})
    with running_in_thread(Plan(spec, profile, {"sort": gear_plan(devices=2)})) as server:
        yield server


def fetch(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Return status and text; a client of httpx costs more than the request for each that is made."""
    request = urllib.request.Request(url, body, {"content-type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60.0) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ask(server: LiveServer, text: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
    status, found = fetch(f"{server.url}/v2/models/texts/infer", json.dumps({"inputs": [tensor]}).encode(), headers)
    if status != 200:
        return {"status": status, **json.loads(found)}
    (output,) = json.loads(found)["outputs"]
    return dict(output)


def cascade_stats(server: LiveServer) -> dict[str, Any]:
    stats: dict[str, Any] = json.loads(fetch(f"{server.url}/stats")[1])["stages"]["sort"]
    return stats


def test_the_answer_says_which_model_gave_it_and_how_sure_it_was(texts: LiveServer) -> None:
    easy, hard = ask(texts, "x" * 19), ask(texts, "x" * 9)
    assert (easy["datatype"], easy["shape"]) == ("FP64", [2])
    assert np.allclose(easy["data"], [0.05, 0.95])
    assert easy["parameters"]["model"] == "small"
    assert easy["parameters"]["certainty"] == pytest.approx(0.9)
    assert hard["data"] == ["short"]
    assert hard["parameters"] == {"model": "large", "certainty": 0.99, "content_type": "str"}


def test_an_input_that_fails_fails_alone(texts: LiveServer) -> None:
    bad = ask(texts, "bad input")
    assert bad["status"] == 500
    assert "cannot read it" in bad["error"]


def test_metrics_tell_gears_exits_and_certainty(texts: LiveServer) -> None:
    before = cascade_stats(texts)["cascade"]["exits"]
    for length in (1, 2, 10, 11, 19):
        ask(texts, "x" * length)
    found = cascade_stats(texts)["cascade"]
    assert {name: found["exits"][name] - before[name] for name in NAMES} == {"small": 3, "large": 2}
    assert found["escalations"]["small"] >= 2
    assert sum(gear["held_s"] for gear in found["gears"]) > 0
    _, page = fetch(f"{texts.url}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(page)}
    exits = {sample.labels["model"]: sample.value for sample in families["headway_cascade_exits"].samples}
    assert exits == {name: float(count) for name, count in found["exits"].items()}
    asked = [s for s in families["headway_cascade_certainty"].samples if s.name.endswith("_count")]
    assert {s.labels["model"] for s in asked} == set(NAMES)
    assert families["headway_cascade_gear"].samples[0].labels == {"pipeline": "texts", "stage": "sort"}
    exposed = {f"{f.name}_total" if f.type == "counter" else f.name for f in families.values()}
    written = (Path(__file__).parents[2] / "docs" / "cascades.md").read_text(encoding="utf-8")
    rows = written.partition("<!-- cascade metrics: begin -->")[2].partition("<!-- cascade metrics: end -->")[0]
    assert set(re.findall(r"headway_cascade_\w+", rows)) == {n for n in exposed if n.startswith("headway_cascade_")}


def test_nothing_is_lost_when_workers_are_killed(texts: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, texts, "x" * (1 + at % 19)) for at in range(60)]
        for pid in cascade_stats(texts)["pids"][:3]:
            os.kill(pid, signal.SIGKILL)
        answers = [future.result() for future in asked]
    assert [answer for answer in answers if "status" in answer] == []
    assert [answer["parameters"]["model"] for answer in answers] == [
        "small" if abs(1 + at % 19 - 10) >= 5 else "large" for at in range(60)
    ]


def test_a_cascade_is_one_stage_of_a_pipeline(folder: Path, model: Callable[[str], dict[str, str]]) -> None:
    spec, profile = context_of(
        folder,
        {"small": model("Plain"), "large": model("Large")},
        certainty=f"{folder / 'family.py'}:sure",
        stages={"shout": {"after": "sort", **model("Upper")}},
    )
    plan = Plan(spec, profile, {"sort": gear_plan(), "shout": ReplicaConfig("cpu")})
    with running_in_thread(plan) as server:
        assert ask(server, "x" * 19)["data"] == ["{'LENGTH': 19}"]
        assert ask(server, "x" * 9)["data"] == ["SHORT"]


def test_a_rehearsal_escalates_the_items_that_the_simulator_escalates(folder: Path) -> None:
    spec, profile = context_of(folder, {name: {} for name in NAMES})
    plan = Plan(spec, profile, {"sort": gear_plan()})
    with running_in_thread(plan) as server:
        answers = [ask(server, "") for _ in range(SAMPLES + 5)]
        found = cascade_stats(server)["cascade"]
    context = StageContext("sort", spec.stages["sort"], spec, profile)
    items = np.arange(SAMPLES + 5, dtype=np.int32)
    served = DOMAIN.station(context, gear_plan(), sampled=False).serve(
        Arrivals(np.arange(SAMPLES + 5.0), items, items), seed=0, record=True
    )
    assert [answer["parameters"]["model"] for answer in answers] == [NAMES[at] for at in served.answered_by]
    assert found["accuracy"] == pytest.approx(served.departures.accuracy)


def test_what_cannot_be_served_is_refused_in_a_sentence(folder: Path, model: Callable[[str], dict[str, str]]) -> None:
    def live(models: dict[str, Any], plan: GearPlan | None = None, **fields: Any) -> Any:
        spec, profile = context_of(folder, models, **fields)
        return DOMAIN.live(StageContext("sort", spec.stages["sort"], spec, profile), plan or gear_plan())

    with pytest.raises(PlanError, match=r"sort\.models\.large: has no model where others have one"):
        live({"small": model("Small"), "large": {}})
    with pytest.raises(SpecError, match=r"sort\.certainty: 'margn' is not known; did you mean 'margin'"):
        live({"small": model("Small"), "large": model("Large")}, certainty="margn")
    with pytest.raises(SpecError, match=r"sort\.models\.small\.model: there is no file"):
        live({"small": {"model": "nowhere.py:Small"}, "large": model("Large")})
    with pytest.raises(ServeError, match=r"its gears are made for a fixed number of devices \(1\)"):
        live({name: {} for name in NAMES}).set_replicas(2)


def test_the_plan_is_changed_while_it_serves(folder: Path, model: Callable[[str], dict[str, str]]) -> None:
    spec, profile = context_of(folder, {"small": model("Small"), "large": model("Large")})
    plan = Plan(spec, profile, {"sort": gear_plan()})
    only = Gear(Cascade((Step("large"),)), 1000.0, (1,))
    dearer = replace(plan, stages={"sort": replace(gear_plan(devices=2), gears=(only,))})
    elsewhere = replace(plan, stages={"sort": GearPlan("cpu", (Group(("large",), 1),), (("large", 4),), (only,))})

    def change(to: Plan) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"{server.url}/plan?watch=0s", to.to_json().encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=60.0) as response:
            return response.status, json.load(response)

    with running_in_thread(plan) as server, ThreadPoolExecutor(4) as pool:
        before = [ask(server, "x" * 19)["parameters"]["model"] for _ in range(3)]
        pids = cascade_stats(server)["pids"]
        asked = [pool.submit(ask, server, "x" * 19) for _ in range(200)]
        status, found = change(dearer)
        after = [ask(server, "x" * 19)["parameters"]["model"] for _ in range(3)]
        assert (before, after) == (["small"] * 3, ["large"] * 3)
        assert (status, found["state"]) == (200, "kept")
        assert {each["field"] for each in found["changes"]} == {"devices", "placement", "gears"}
        stats = cascade_stats(server)
        assert (len(stats["pids"]), set(pids) <= set(stats["pids"])) == (4, True)
        change(elsewhere)
        assert [ask(server, "x" * 19)["parameters"]["model"] for _ in range(3)] == ["large"] * 3
        assert {future.result()["parameters"]["model"] for future in asked} <= {"small", "large"}
        assert wait_until(lambda: len(cascade_stats(server)["pids"]) == 1)
        exits = cascade_stats(server)["cascade"]["exits"]
        assert sum(exits.values()) == 209


ROUTED = Gear(Cascade((Step("small", threshold=0.5), Step("large"))), 1000.0, (1, 1), skip=(12.0,))


@pytest.mark.parametrize("hardness", ["size", "length"])
def test_clearly_hard_inputs_skip_the_cheap_model(
    folder: Path, model: Callable[[str], dict[str, str]], hardness: str
) -> None:
    spec, profile = context_of(
        folder,
        {"small": model("Small"), "large": model("Large")},
        hardness=hardness if hardness == "size" else f"{folder / 'family.py'}:{hardness}",
    )
    plan = Plan(spec, profile, {"sort": replace(gear_plan(), gears=(ROUTED,))})
    with running_in_thread(plan) as server:
        with ThreadPoolExecutor(8) as pool:
            texts = ["x" * length for length in (1, 2, 12, 19, 9)] * 4
            answers = list(pool.map(lambda text: ask(server, text), texts))
        # The text of 19 would be answered by the small model; that of 9 is not known to be hard, and goes on.
        assert [a["parameters"]["model"] for a in answers] == ["small", "small", "large", "large", "large"] * 4
        found = cascade_stats(server)["cascade"]
        assert (found["skipped"], found["escalations"]["small"]) == (8, 4)


def test_an_item_whose_deadline_passes_is_answered_with_what_was_said_of_it(
    folder: Path, model: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    spec, profile = context_of(
        folder, {"small": model("Small"), "large": {**model("Gated"), "options": {"gate": str(gate)}}}
    )
    apart = replace(gear_plan(), placement=(Group(("small",), 1), Group(("large",), 1)))

    def escalated() -> int:
        return int(cascade_stats(server)["cascade"]["escalations"]["small"])

    with running_in_thread(Plan(spec, profile, {"sort": apart})) as server, ThreadPoolExecutor(2) as pool:
        patient = pool.submit(ask, server, "x" * 9)
        assert wait_until(lambda: escalated() == 1)
        hasty = pool.submit(ask, server, "x" * 9, {"x-request-timeout": "100ms"})
        assert wait_until(lambda: escalated() == 2)
        time.sleep(0.1)
        gate.touch()
        assert patient.result()["parameters"]["model"] == "large"
        assert hasty.result()["parameters"]["model"] == "small"


def test_what_drifts_is_told_without_labels_and_so_is_what_was_asked_again(texts: LiveServer) -> None:
    """A thousand inputs of which the small model is as certain as of few in the table."""
    assert cascade_stats(texts)["cascade"]["drift"] == []
    with ThreadPoolExecutor(8) as pool:
        models = {answer["parameters"]["model"] for answer in pool.map(lambda _: ask(texts, "x" * 17), range(1_100))}
    assert models == {"small"}
    assert wait_until(lambda: bool(cascade_stats(texts)["cascade"]["checks"]))
    found = cascade_stats(texts)["cascade"]
    assert any("model 'small' is" in text and "where the validation table has" in text for text in found["drift"])
    assert sum(found["checks"]["small"].values()) >= 1
    families = {f.name: f for f in text_string_to_metric_families(fetch(f"{texts.url}/metrics")[1])}
    assert families["headway_cascade_drift"].samples[0].value == len(found["drift"])
    assert sum(sample.value for sample in families["headway_cascade_checks"].samples) >= 1
