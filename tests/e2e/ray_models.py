"""Stages for tests on Ray: models, and plans that run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.e2e.serve_models import MODELS

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.spec.model import Spec

ON_RAY = (
    MODELS
    + '''
import os
import sys


class Sizes:
    """Says how large the batch was, and where it was worked on."""

    def predict(self, batch):
        time.sleep(0.03)
        return [f"{len(batch)} {os.getpid()}" for _ in batch]


class Named:
    """Says its name, how large the batch was, and where it was worked on."""

    def __init__(self, name):
        self.name = name

    def predict(self, batch):
        time.sleep(0.03)
        return [f"{self.name} {len(batch)} {os.getpid()}" for _ in batch]


class Hang:
    def predict(self, batch):
        print("printed by the stage")
        if "hang" in batch:
            time.sleep(1000)
        return list(batch)
'''
)


def named(models: Callable[[str], str], **config: Any) -> Plan:
    """One stage that says which of its variants has worked; the variant `broken` cannot be set up."""
    variants = {name: {"model": models("Named"), "options": {"name": name}} for name in ("first", "second")}
    document = {
        "name": "pages",
        "slo": {"latency": "60s"},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"only": {"variants": {**variants, "broken": {"model": models("Broken")}}}},
    }
    rows = [Row("only", "cpu", size, 0.03, variant=name) for name in (*variants, "broken") for size in (1, 8)]
    config = {"variant": "first", "max_batch_size": 1, **config}
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"only": ReplicaConfig("cpu", **config)})


def sleepers() -> Plan:
    """One stage without a model, each replica of which carries 20 requests per second."""
    document = {
        "name": "pages",
        "slo": {"latency": "5s"},
        "supply": {"cpu": {"price": "$1/h", "startup": "2s", "max": 4}},
        "stages": {"only": {}},
    }
    return Plan(
        Spec.from_dict(document), Profile.from_rows([Row("only", "cpu", 1, 0.05)]), {"only": ReplicaConfig("cpu")}
    )


def paced(models: Callable[[str], str], variant: str) -> Plan:
    """One stage with two variants, of which one takes far longer than its profile says, and than is promised."""
    variants = {
        name: {"model": models("Slow"), "options": {"seconds": seconds}}
        for name, seconds in (("quick", 0.01), ("slow", 1.0))
    }
    document = {
        "name": "pages",
        "slo": {"latency": "500ms"},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"only": {"variants": variants}},
    }
    rows = [Row("only", "cpu", 1, 0.01, variant=name) for name in variants]
    config = ReplicaConfig("cpu", variant=variant)
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"only": config})
