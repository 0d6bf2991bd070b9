"""What may change about a cascade that runs: nothing by a tuner, whose other stages it tunes; no model elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.test_cascade_live import context_of, gear_plan

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import PlanError
from headway.plan.plan import Plan
from headway.serve.becoming import Unfit, check
from headway.spec.model import Hardware
from headway.trace import Trace
from headway.tune.gears import make_gears
from headway.tune.terms import terms

TRACE = Trace.poisson(rate=20, seconds=60, seed=1)
ITSELF = "stage 'sort' changes its gear with the load by itself; plan again when /stats says under drift"


def test_a_cascade_alone_is_not_tuned_and_it_is_said_what_to_do_instead(tmp_path: Path) -> None:
    spec, profile = context_of(tmp_path, {"small": {}, "large": {}})
    with pytest.raises(PlanError, match=f"nothing to tune; {ITSELF}"):
        terms(Plan(spec, profile, {"sort": gear_plan()}), TRACE)


def test_beside_a_cascade_the_other_stages_are_tuned(tmp_path: Path) -> None:
    spec, profile = context_of(tmp_path, {"small": {}, "large": {}}, stages={"shout": {"after": "sort"}})
    plan = Plan(spec, profile, {"sort": gear_plan(), "shout": ReplicaConfig("cpu")})
    assert set(terms(plan, TRACE).stages) == {"shout"}
    with pytest.raises(PlanError, match=f"gears: {ITSELF}"):
        make_gears(plan, TRACE)


def test_a_family_with_models_is_not_moved_to_hardware_that_is_not_here(tmp_path: Path) -> None:
    spec, profile = context_of(tmp_path, {name: {"model": f"family.py:{name}"} for name in ("small", "large")})
    supply = {**spec.supply, "gpu": Hardware(price="$2/h", device="cuda:7")}
    plan = Plan(spec.model_copy(update={"supply": supply}), profile, {"sort": gear_plan()})
    with pytest.raises(Unfit, match=r"stages\.sort: hardware 'gpu' is not here"):
        check(plan, replace(plan, stages={"sort": replace(gear_plan(), hardware="gpu")}))
