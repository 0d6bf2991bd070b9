"""The plan of a running server changed over real HTTP, with real worker processes, under load."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.e2e.serve_models import MODELS
from tests.e2e.serving import wait_until

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.run import LiveServer, ServeOptions, running_in_thread
from headway.spec.model import Spec

INFER = "/v2/models/words/infer"
QUICK = {"watch": "0s"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    document = {
        "name": "words",
        "slo": {"latency": "2s"},
        "supply": {
            "cpu": {"price": "$1/h"},
            "big": {"price": "$3/h", "max": 2},
            "gpu": {"price": "$9/h", "device": "cuda:63"},
        },
        "stages": {
            "echo": {"variants": {"good": {"model": f"{path}:Echo"}, "broken": {"model": f"{path}:Broken"}}},
            "upper": {"after": "echo", "model": f"{path}:Upper"},
        },
    }  # fmt: skip
    kinds = [("echo", "good"), ("echo", "broken"), ("upper", "default")]
    rows = [
        Row(stage, hardware, size, 0.001, variant=variant)
        for stage, variant in kinds for hardware in ("cpu", "big", "gpu") for size in (1, 8)
    ]  # fmt: skip
    stages = {"echo": ReplicaConfig("cpu", variant="good"), "upper": ReplicaConfig("cpu")}
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), stages)


def but(plan: Plan, stage: str, **fields: Any) -> Plan:
    return replace(plan, stages={**plan.stages, stage: replace(plan.stages[stage], **fields)})  # type: ignore[type-var]


@pytest.fixture
def client(plan: Plan) -> Iterator[httpx.Client]:
    with running_in_thread(plan) as server, httpx.Client(base_url=server.url, timeout=60.0) as client:
        yield client


def put(client: httpx.Client, plan: Plan, **query: str) -> httpx.Response:
    return client.put("/plan", content=plan.to_json(), params=query)


@contextmanager
def load(client: httpx.Client) -> Iterator[list[tuple[str, httpx.Response]]]:
    """Ask one after the other in two threads; what was asked and answered is in the list at the end."""
    found: list[tuple[str, httpx.Response]] = []
    stop = threading.Event()

    def ask(first: str) -> None:
        number = 0
        while not stop.is_set():
            text = f"{first}{number}"
            tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
            found.append((text, client.post(INFER, json={"inputs": [tensor]})))
            number += 1

    threads = [threading.Thread(target=ask, args=(first,)) for first in "ab"]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def assert_all_answered(client: httpx.Client, found: list[tuple[str, httpx.Response]]) -> None:
    for text, response in found:
        assert response.status_code == 200, response.text
        assert response.json()["outputs"][0]["data"] == [text.upper()]
    counts = client.get("/stats").json()["requests"]
    assert counts["offered"] == counts["answered"] == len(found) > 0


def test_a_plan_is_changed_under_load_and_the_server_says_so(plan: Plan, client: httpx.Client) -> None:
    moved = but(but(plan, "upper", hardware="big", replicas=2), "echo", max_batch_size=8, max_wait_s=0.001)
    with load(client) as found:
        for target, changed in (
            (moved, {"hardware", "replicas", "max_batch_size", "max_wait_s"}),
            (but(moved, "upper", replicas=1), {"replicas"}),
        ):
            answer = put(client, target, watch="0.2s")
            assert answer.status_code == 200, answer.text
            assert answer.json()["to"] == target.hash
            assert {change["field"] for change in answer.json()["changes"]} == changed
            assert Plan.from_dict(client.get("/plan").json()).hash == target.hash
            assert wait_until(lambda: client.get("/stats").json()["swap"]["state"] == "idle")
    stats = client.get("/stats").json()
    assert stats["plan_hash"] == target.hash
    assert (stats["swap"]["last"]["state"], stats["swap"]["last"]["to"]) == ("kept", target.hash)
    assert stats["stages"]["upper"]["replicas"]["ready"] == 1
    metrics = client.get("/metrics").text
    assert f'headway_plan_info{{pipeline="words",plan_hash="{target.hash}"}} 1.0' in metrics
    assert 'headway_plan_changes_total{pipeline="words",result="kept"} 2.0' in metrics
    assert 'headway_replicas{hardware="big",stage="upper",state="ready"} 1.0' in metrics
    assert_all_answered(client, found)


def test_what_cannot_be_started_changes_nothing_and_service_goes_on(plan: Plan, client: httpx.Client) -> None:
    wanted = but(but(plan, "echo", variant="broken"), "upper", replicas=2)
    with load(client) as found:
        answer = put(client, wanted)
        assert answer.status_code == 422
        assert "nothing was changed" in answer.json()["error"]
        assert "no such weights" in answer.json()["error"]
        assert wait_until(lambda: client.get("/stats").json()["stages"]["upper"]["replicas"]["draining"] == 0)
        time.sleep(0.1)
    stats = client.get("/stats").json()
    assert stats["plan_hash"] == plan.hash
    assert stats["swap"]["last"]["state"] == "failed"
    assert [stage["replicas"]["ready"] for stage in stats["stages"].values()] == [1, 1]
    assert_all_answered(client, found)


def test_a_second_change_is_refused_while_one_is_under_way_or_supersedes_it(plan: Plan, client: httpx.Client) -> None:
    first, second = but(plan, "echo", replicas=2), but(plan, "echo", replicas=3)
    accepted = put(client, first, wait="false", watch="60s")
    assert (accepted.status_code, accepted.json()["state"]) == (202, "starting")
    refused = put(client, second)
    assert refused.status_code == 409
    assert f"a change to plan {first.hash} is " in refused.json()["error"]
    assert put(client, second, supersede="true", **QUICK).status_code == 200
    assert client.get("/stats").json()["plan_hash"] == second.hash
    assert wait_until(lambda: client.get("/stats").json()["stages"]["echo"]["replicas"]["ready"] == 3)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda value: value["spec"].update(name="other"), 422, "the plan is of 'other', and 'words' is served"),
        (
            lambda value: value["spec"]["stages"]["upper"].update(model="os:path"),
            422,
            "stages.upper: model is declared",
        ),
        (lambda value: value["spec"]["stages"]["upper"].update(probability=0.5), 422, "probability is declared"),
        (lambda value: value["stages"]["upper"].update(hardware="cpus"), 422, "did you mean 'cpu'?"),
        (
            lambda value: value["stages"]["upper"].update(hardware="big", replicas=3),
            422,
            "takes 3 replicas of it and 2",
        ),
        (lambda value: value["stages"]["upper"].update(hardware="gpu"), 422, "no device 'cuda:63'"),
        (lambda value: value["stages"]["upper"].update(replicas=2000), 422, "at most 1024"),
        (lambda value: value["stages"]["upper"].update(replicas=0), 400, "stages.upper.replicas"),
        (lambda value: value["stages"].pop("upper"), 400, "do not match the spec's stages"),
        (lambda value: value.update(schema="headway.plan/9"), 400, "this version reads 'headway.plan/1'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_sentence(
    plan: Plan, served: LiveServer, change: Callable[[dict[str, Any]], Any], status: int, says: str
) -> None:
    value = json.loads(plan.to_json())
    change(value)
    found = httpx.put(f"{served.url}/plan", json=value, headers={"authorization": "Bearer s3cret"}, timeout=60.0)
    assert found.status_code == status, found.text
    assert says in found.json()["error"]
    assert served.engine.plan_hash == plan.hash


@pytest.fixture(scope="module")
def served(plan: Plan) -> Iterator[LiveServer]:
    with running_in_thread(plan, ServeOptions(token="s3cret")) as server:
        yield server


def test_what_is_not_a_plan_or_not_allowed_is_refused(plan: Plan, served: LiveServer) -> None:
    shown = {"authorization": "Bearer s3cret"}
    url = f"{served.url}/plan"
    assert httpx.put(url, content=plan.to_json(), timeout=60.0).status_code == 401
    for body, query, status, says in (
        (b"{", {}, 400, "the body is not JSON"),
        (b"[" * 100_000, {}, 400, "not JSON"),
        (b"[]", {}, 400, "schema is 'list'"),
        (b" " * (8 * 2**20 + 1), {}, 413, "larger than 8388608 bytes"),
        (b"{}", {"watch": "soon"}, 400, "watch"),
        (b"{}", {"watch": "2h"}, 400, "from 0s to 1h"),
        (b"{}", {"wait": "maybe"}, 400, "valid: true, false"),
        (b"{}", {"force": "true"}, 400, "'force' is not asked for here; valid: watch, supersede, wait, pause"),
        (b"{}", {"wait": ["true", "false"]}, 400, "wait is given 2 times"),
    ):
        found = httpx.put(url, content=body, params=query, headers=shown, timeout=60.0)
        assert (found.status_code, says in found.json()["error"]) == (status, True), found.text
    assert served.engine.swaps.to_dict() == {"state": "idle", "now": None, "last": None}


def test_tuners_are_told_when_requests_came(plan: Plan, client: httpx.Client) -> None:
    with load(client) as found:
        time.sleep(0.1)
    told = client.get("/stats", params={"arrivals_after": 0}).json()
    arrivals = told["arrivals"]
    assert (arrivals["cursor"], arrivals["missed"], len(arrivals["gaps_us"])) == (len(found), 0, len(found) - 1)
    assert told["now_s"] >= arrivals["first_s"] + sum(arrivals["gaps_us"]) / 1e6
    later = client.get("/stats", params={"arrivals_after": len(found) - 1}).json()["arrivals"]
    assert later["gaps_us"] == []
    assert later["first_s"] == pytest.approx(arrivals["first_s"] + sum(arrivals["gaps_us"]) / 1e6, abs=2e-6)
    none = client.get("/stats", params={"arrivals_after": len(found)}).json()["arrivals"]
    assert none == {"cursor": len(found), "missed": 0, "first_s": None, "gaps_us": []}
    assert client.get("/stats", params={"arrivals_after": "x"}).status_code == 400


def test_tuners_are_told_how_the_promise_was_kept_since_a_moment(plan: Plan, client: httpx.Client) -> None:
    with load(client) as early:
        time.sleep(0.1)
    since_s = client.get("/stats").json()["now_s"]
    with load(client) as late:
        time.sleep(0.1)

    def told(since: object) -> dict[str, Any]:
        promise: dict[str, Any] = client.get("/stats", params={"timings": "false", "promise_since": since}).json()[
            "promise"
        ]
        return promise

    every, lately = told(0), told(since_s)
    assert (every["offered"], every["judged"]) == (len(early) + len(late), len(early) + len(late))
    assert (lately["offered"], lately["judged"], lately["missed"]) == (len(late), len(late), 0)
    assert 0.0 < lately["latency_s"] < plan.spec.slo.latency_s
    assert told(since_s + 1e6) == {"offered": 0, "judged": 0, "missed": 0, "latency_s": None}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("bogus=1", "'bogus' is not asked for here; valid: samples, since_s, timings, arrivals_after, promise_since"),
        ("since=3", "'since' is not asked for here; did you mean 'since_s'?"),
        ("since_s=nan", "since_s is 'nan'; it must be a number of seconds of the server's clock"),
        ("since_s=", "since_s is ''; it must be"),
        ("promise_since=-inf", "promise_since is '-inf'; it must be"),
        ("promise_since=x", "promise_since is 'x'; it must be"),
        ("arrivals_after=1.5", "arrivals_after must be a number of requests"),
        ("samples=1", "samples is '1'; valid: true, false"),
        ("since_s=1&since_s=2", "since_s is given 2 times; give it once"),
    ],
)
def test_a_question_to_the_statistics_that_is_not_understood_is_refused(
    served: LiveServer, query: str, says: str
) -> None:
    found = httpx.get(f"{served.url}/stats?{query}", headers={"authorization": "Bearer s3cret"})
    assert (found.status_code, says in found.json()["error"]) == (400, True), found.text
