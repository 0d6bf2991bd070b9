"""Small, complete examples for docstrings and tests."""

from __future__ import annotations

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.spec.model import Spec


def tiny_spec() -> Spec:
    """Return a two-stage pipeline with one kind of hardware and a promise of 300 ms at the 99th percentile."""
    return Spec.from_dict(
        {
            "name": "tiny",
            "slo": {"latency": "300ms", "percentile": 99},
            "supply": {"cpu": {"price": "$0.20/h", "startup": "5s"}},
            "stages": {"first": {}, "second": {"after": "first", "probability": 0.5}},
        }
    )


def tiny_profile() -> Profile:
    """Return a profile for `tiny_spec`: 20 ms and 50 ms a request, a little less each in batches."""
    rows = [
        Row("first", "cpu", 1, 0.020, p50_s=0.020, p95_s=0.024, p99_s=0.030),
        Row("first", "cpu", 4, 0.060, p50_s=0.060, p95_s=0.070, p99_s=0.090),
        Row("second", "cpu", 1, 0.050, p50_s=0.050, p95_s=0.055, p99_s=0.060),
    ]
    return Profile.from_rows(rows)


def tiny_plan() -> Plan:
    """Return a plan for `tiny_spec` with two replicas per stage."""
    stages = {
        "first": ReplicaConfig("cpu", replicas=2, max_batch_size=4),
        "second": ReplicaConfig("cpu", replicas=2),
    }
    return Plan(tiny_spec(), tiny_profile(), stages)
