"""Two stages that sleep, what a tuner beside them needs, and loads that outgrow them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace

SERVICE_S = 0.02


def make_plan(supply: Mapping[str, object] | None = None, latency: str = "400ms", **config: object) -> Plan:
    """Two stages that sleep, each with a capacity of 100 requests/s, or of 200 in batches of four."""
    spec = Spec.from_dict(
        {
            "name": "sleepers",
            "slo": {"latency": latency},
            "supply": {"cpu": {"price": "$1/h", "startup": "500ms", **(supply or {})}},
            "stages": {"first": {}, "second": {"after": "first"}},
        }
    )
    rows = [Row(stage, "cpu", size, s) for stage in spec.stages for size, s in ((1, SERVICE_S), (4, 2 * SERVICE_S))]
    chosen = ReplicaConfig("cpu", replicas=2)
    return Plan(spec, Profile.from_rows(rows), dict.fromkeys(spec.stages, replace(chosen, **config)))  # type: ignore[arg-type]


def doubling(first_s: float, then_s: float, then: float = 120.0) -> Trace:
    """Requests at 60 % of the capacity, then at `then` per second: by default at 120 % of it."""
    calm = Trace.poisson(rate=60.0, seconds=first_s, seed=1).arrival_s
    busy = Trace.poisson(rate=then, seconds=then_s, seed=2).arrival_s
    return Trace.from_arrivals(np.concatenate([calm, first_s + busy]), duration_s=first_s + then_s)


def planned_on() -> Trace:
    return Trace.poisson(rate=60.0, seconds=60.0, seed=3)


def gears_file(path: Path, plan: Plan) -> Path:
    """A gear for two and a half times the traffic: the same replicas, in batches of four."""
    wide = {stage: {"max_batch_size": 4} for stage in plan.stages}
    gear = {"name": "2.5x", "rate_ratio": 2.5, "stages": wide}
    path.write_text(json.dumps({"schema": "headway.gears/1", "plan_hash": plan.hash, "gears": [gear]}))
    return path


def settled(url: str) -> dict[str, Any]:
    """The server's statistics once every replica that was asked for is there."""
    end_s = time.monotonic() + 30.0
    while True:
        stats: dict[str, Any] = httpx.get(f"{url}/stats", timeout=60.0).json()
        waiting = any(stage["replicas"]["starting"] for stage in stats["stages"].values())
        if time.monotonic() > end_s or (stats["swap"]["state"] != "starting" and not waiting):
            return stats
        time.sleep(0.1)
