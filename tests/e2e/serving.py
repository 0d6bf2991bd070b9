"""Plans to serve, and how tests ask their servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.spec.model import Spec

INFER = "/v2/models/pages/infer"


def make_plan(stages: dict[str, dict[str, Any]], name: str = "pages", **config: Any) -> Plan:
    document = {"name": name, "slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": stages}
    rows = [Row(stage, "cpu", size, 0.01) for stage in stages for size in (1, 8)]
    return Plan(
        Spec.from_dict(document),
        Profile.from_rows(rows),
        {stage: ReplicaConfig("cpu", **{"max_batch_size": 8, **config}) for stage in stages},
    )


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}], **more}


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.01)
    return False


def gated(models: Callable[[str], str], folder: Path) -> tuple[Plan, Path]:
    """A stage of one replica that takes one item at a time, and works on it for as long as a file is not there."""
    gate = folder / "gate"
    return make_plan({"gated": {"model": models("Gated"), "options": {"gate": str(gate)}}}, max_batch_size=1), gate
