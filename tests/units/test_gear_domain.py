"""The cascade domain: planned alone and within a pipeline, judged by latency and simulated accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.units import cascade_family
from tests.units.cascade_family import MODELS, profile, spec

from headway.cascade.search import credit
from headway.cli import app
from headway.domains.cascade import DOMAIN
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.halves import judged_on
from headway.domains.cascade.station import CascadeStation
from headway.errors import PlanError, SpecError
from headway.plan import Infeasible, Plan
from headway.plan.config import StageContext
from headway.plan.contract import TellsProblems
from headway.plan.make import make
from headway.profile import Profile, Row
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.testing import domain as suite
from headway.testing.domain import Example
from headway.trace import Trace


def context(declared: Spec, of: Profile | None = None) -> StageContext:
    return StageContext("cascade", declared.stages["cascade"], declared, of or profile("cascade"))


def trace(rate: float = 200.0, seconds: float = 8.0, seed: int = 1) -> Trace:
    return Trace.gamma(rate, 2.0, seconds=seconds, seed=seed)


@pytest.mark.parametrize("fields", [{}, {"device_memory": "350MB"}])
def test_it_conforms(tmp_path: Path, fields: dict[str, Any]) -> None:
    example = Example(spec(tmp_path, **fields), profile("cascade"), "cascade", 3.0)
    suite.check_declaration(DOMAIN, example)
    configs = suite.check_configs(DOMAIN, example)
    suite.check_moves(DOMAIN, example, configs[:1])
    suite.check_doors(DOMAIN, example, configs)
    suite.check_live(DOMAIN, example, configs[0])
    arrivals = Trace.gamma(200.0, 2.0, requests=300, seed=7)
    for config in configs[::12]:
        for sampled in (False, True):
            suite.check_station(DOMAIN, example, config, arrivals, sampled=sampled)


def test_a_plan_keeps_both_promises_and_comes_back_from_its_file(tmp_path: Path) -> None:
    declared = spec(tmp_path, {"accuracy": 0.9})
    plan = make(declared, profile("cascade"), trace(), feasibility="trace", seed=1)
    assert plan.feasible
    assert plan.gap_ratio == 0.0
    assert plan.predicted["accuracy"] >= 0.9
    assert plan.predicted["p95_s"] <= 0.1
    again = Plan.from_dict(json.loads(plan.to_json()))
    assert again.to_json() == plan.to_json()
    outcome = simulate(again, trace(), seed=1, mode="mean")
    assert outcome.holds
    assert outcome.accuracy == plan.predicted["accuracy"] == outcome.stages["cascade"].accuracy
    assert outcome.to_dict()["accuracy"] == outcome.accuracy


def test_a_higher_floor_never_needs_fewer_devices(tmp_path: Path) -> None:
    costs = []
    for floor in (0.8, 0.88, 0.92):
        declared = spec(tmp_path, {"accuracy": floor}, max_rate="1500/s")
        plan = make(declared, profile("cascade"), trace(900, 4), feasibility="trace", seed=1, explained=False)
        costs.append(plan.cost_usd_per_hour)
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_what_no_plan_can_be_right_about_is_said(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"accuracy floor of 0\.999") as caught:
        make(spec(tmp_path, {"accuracy": 0.999}), profile("cascade"), trace(), feasibility="trace")
    assert caught.value.obstacle.code == "accuracy"
    assert caught.value.obstacle.best_accuracy is not None
    few = spec(tmp_path, {"accuracy": 0.925}, {"max": 2}, max_rate="1500/s")
    with pytest.raises(Infeasible, match="accuracy") as caught:
        make(few, profile("cascade"), trace(900, 4), feasibility="trace")
    assert caught.value.obstacle.code == "accuracy"


def test_too_few_devices_name_the_range_and_the_model(tmp_path: Path) -> None:
    declared = spec(tmp_path, supply={"max": 1}, max_rate="5000/s")
    with pytest.raises(Infeasible, match=r"1 device cannot serve .* to 5000 requests/s; model 'small'"):
        make(declared, profile("cascade"), trace(), feasibility="trace")


@pytest.mark.parametrize("slo", [{"latency": "1.3ms"}, {"latency": "17ms", "accuracy": 0.92}])
def test_what_more_devices_keep_is_not_refused_where_supply_has_no_limit(tmp_path: Path, slo: dict[str, Any]) -> None:
    """Bursts take more than twice the devices that carry the highest rate."""
    bursts = Trace.gamma(120.0, 3.0, seconds=8.0, seed=1)
    plan = make(spec(tmp_path, slo), profile("cascade"), bursts, feasibility="trace", seed=1, explained=False)
    found = plan.stages["cascade"]
    assert isinstance(found, GearPlan)
    assert plan.feasible
    assert plan.gap_ratio == 0.0
    fewer = spec(tmp_path, slo, {"max": found.devices - 1})
    with pytest.raises(Infeasible, match="with the supply allowed"):
        make(fewer, profile("cascade"), bursts, feasibility="trace", seed=1)


def test_an_infeasible_promise_says_how_many_devices_were_looked_at(tmp_path: Path) -> None:
    crowds = Trace.from_arrivals(np.repeat(np.arange(1.0, 5.0), 200), duration_s=5.0)
    with pytest.raises(Infeasible, match=r"infeasible with up to \d+ devices: .* runs out of capacity") as caught:
        make(spec(tmp_path, {"latency": "1.1ms"}), profile("cascade"), crowds, feasibility="trace")
    assert caught.value.obstacle.code == "capacity"
    assert "supply allowed" not in str(caught.value)


@pytest.mark.parametrize("supply", [None, {"max": 40}])
def test_a_floor_that_needs_a_model_slower_than_the_promise_is_told_so(
    tmp_path: Path, supply: dict[str, Any] | None
) -> None:
    slow = spec(tmp_path, {"latency": "8ms", "accuracy": 0.92}, supply)
    says = r"is late least often, for \d+\.\d% of them even when nothing waits: model 'large' takes 16 ms for one alone"
    with pytest.raises(Infeasible, match=says) as caught:
        make(slow, profile("cascade"), trace(), feasibility="trace", seed=1)
    assert caught.value.obstacle.code == "slo_below_service_time"
    assert "capacity" not in str(caught.value)
    enough = spec(tmp_path, {"latency": "40ms", "accuracy": 0.92}, {"max": 1}, max_rate="2000/s")
    with pytest.raises(Infeasible) as caught:
        make(enough, profile("cascade"), trace(2_000, 2), feasibility="trace", seed=1)
    assert "late least often" not in str(caught.value)


def test_it_is_one_stage_of_a_pipeline_under_one_promise(tmp_path: Path) -> None:
    alone = spec(tmp_path, {"accuracy": 0.85}).to_dict()
    stage = {**alone["stages"]["cascade"], "after": "read"}
    declared = Spec.from_dict(
        {**alone, "supply": {**alone["supply"], "cpu": {"price": "$0.2/h"}}, "stages": {"read": {}, "cascade": stage}}
    )
    rows = [*profile("cascade").rows, Row("read", "cpu", 1, 0.004), Row("read", "cpu", 4, 0.01)]
    plan = make(declared, Profile.from_rows(rows), trace(), feasibility="robust", seed=1, explained=False)
    assert plan.feasible
    outcome = simulate(plan, trace(), seed=1)
    assert outcome.stages["read"].accuracy is None
    assert outcome.accuracy == outcome.stages["cascade"].accuracy
    assert outcome.counts()["answered"] == outcome.requests


def test_a_column_of_the_trace_says_which_sample_a_request_is(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    config = next(iter(DOMAIN.configs(context(declared), 4.0)))
    plan = Plan(declared, profile("cascade"), {"cascade": config})
    table = cascade_family.table()
    easy = int(np.flatnonzero(np.all([table.correct[name] for name in MODELS], axis=0))[0])
    asked = Trace.from_arrivals(np.arange(50) / 20.0, {"sample": np.full(50, easy)})
    assert simulate(plan, asked, seed=1).accuracy == 1.0
    beyond = Trace.from_arrivals([0.0, 1.0], {"sample": [0.0, 600.0]})
    with pytest.raises(PlanError, match="0 to 599"):
        simulate(plan, beyond)


def test_a_certified_family_has_only_gears_within_the_tolerance(tmp_path: Path) -> None:
    declared = spec(tmp_path, tolerance="5%", max_rate="200/s")
    table = cascade_family.table()
    for config in DOMAIN.configs(context(declared), 3.0):
        for gear in config.gears:
            assert gear.accuracy is not None
            assert credit(table, gear.cascade)[judged_on(table)].mean() >= table.accuracy("large") - 0.06
    with pytest.raises(PlanError, match="tolerance"):
        list(DOMAIN.configs(context(spec(tmp_path, tolerance="0.01%")), 6.0))


def test_a_plan_notices_that_its_validation_table_was_changed(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    config = next(iter(DOMAIN.configs(context(declared), 4.0)))
    cascade_family.table(seed=5).write(tmp_path / "validation.csv")
    with pytest.raises(PlanError, match="not the validation table"):
        DOMAIN.station(context(declared), config, sampled=False)
    (tmp_path / "validation.csv").unlink()
    with pytest.raises(PlanError, match="cannot read"):
        DOMAIN.station(context(declared), config, sampled=False)


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no unit"):
        spec(tmp_path, max_rate=400)
    with pytest.raises(SpecError, match="takes 900 MB"):
        spec(tmp_path, models={"small": {"memory": "900MB"}}, device_memory="500MB")
    with pytest.raises(PlanError, match="no such model; did you mean 'large'"):
        list(DOMAIN.configs(context(spec(tmp_path, models={"larg": {}}), profile_of("larg")), 4.0))
    with pytest.raises(PlanError, match="how much memory"):
        list(
            DOMAIN.configs(context(spec(tmp_path, models={"small": {}}, device_memory="1GB"), profile_of("small")), 4.0)
        )


def test_what_is_wrong_with_a_table_is_named_before_it_is_planned_with(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    declared = spec(tmp_path, {"accuracy": 0.8}, models={"smal": {}})
    (problem,) = DOMAIN.problems(declared, "cascade")
    assert problem.startswith("stages.cascade.models.smal: the table ")
    assert "has no such model; did you mean 'small'" in problem
    with pytest.raises(PlanError, match=r"models\.smal: the table .*validation\.csv has no such model"):
        make(declared, profile_of("smal"), trace(), feasibility="trace")
    assert isinstance(DOMAIN, TellsProblems)
    assert DOMAIN.problems(spec(tmp_path), "cascade") == []
    (tmp_path / "validation.csv").write_text("sample,model,label,predicted,certainty\n0,small,0,0,nan\n")
    assert "validation.csv: line 2: the certainty is 'nan'" in DOMAIN.problems(spec(tmp_path), "cascade")[0]
    declared = spec(tmp_path)
    (tmp_path / "validation.csv").unlink()
    assert "validation.csv: cannot read the validation table" in DOMAIN.problems(declared, "cascade")[0]
    path = tmp_path / "headway.yaml"
    path.write_text(
        "kind: cascade\nslo: {latency: 100ms, percentile: 95}\nsupply: {gpu: {price: $1/h}}\n"
        "models: {small: {}}\ntable: none.csv\nmax_rate: 100/s\n"
    )
    with pytest.raises(SystemExit) as end:
        app.main(["check", str(path)])
    assert not end.value.code
    told = " ".join(capfd.readouterr().err.split())
    assert "warning: " in told
    assert "none.csv: cannot read the validation table" in told


def profile_of(model: str) -> Profile:
    return Profile.from_rows([Row("cascade", "gpu", 1, 0.001, variant=model)])


def test_start_up_counts_the_device_and_its_models(tmp_path: Path) -> None:
    declared = spec(tmp_path, supply={"startup": "5s"})
    config = next(iter(DOMAIN.configs(context(declared), 4.0)))
    assert DOMAIN.startup_s(context(declared), config) == 5.0 + 2.0 * len(MODELS)


def test_no_device_holds_more_than_its_memory(tmp_path: Path) -> None:
    declared = spec(tmp_path, device_memory="350MB")
    memory_mb = {name: 100.0 * (at + 1) for at, name in enumerate(MODELS)}
    configs = list(DOMAIN.configs(context(declared), 3.0))
    assert any(len(config.placement) > 1 for config in configs)
    for config in configs:
        for group in config.placement:
            assert sum(memory_mb[name] for name in group.models) <= 350.0
        for gear in config.gears:
            for shares in gear.load_split:
                assert sum(shares) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"devices": 9}, r"current\.cascade\.devices: is 9"),
        ({"gears": []}, r"gears: is empty"),
        ({"window_s": 0}, r"window_s: must be above 0"),
        ({"placement": [{"models": ["small"], "devices": 0}]}, r"placement\[0\]\.devices: 0 must be"),
        ({"placement": [{"models": ["small"], "devices": 1}]}, r"no device holds this model"),
        ({"hardware": 3}, r"hardware: 3 is not text"),
        ({"max_batch": {}}, r"max_batch: unknown; did you mean 'max_batch_sizes'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    fields = next(iter(DOMAIN.configs(context(spec(tmp_path)), 4.0))).to_dict()
    if "placement" in change:
        del fields["devices"]
    with pytest.raises(PlanError, match=text):
        DOMAIN.parse_config({**fields, **change}, "current.cascade")


def test_gears_ask_models_in_order_and_rates_rise(tmp_path: Path) -> None:
    fields = next(iter(DOMAIN.configs(context(spec(tmp_path)), 4.0))).to_dict()
    backward = {
        "steps": [{"model": "large", "threshold": 0.5}, {"model": "small"}],
        "up_to_per_s": 1.0,
        "min_queue": [1, 1],
    }
    with pytest.raises(PlanError, match="asked in the order"):
        DOMAIN.parse_config({**fields, "gears": [backward]}, "x")
    single = {"steps": [{"model": "small"}], "up_to_per_s": 1.0, "min_queue": [1]}
    with pytest.raises(PlanError, match="must rise"):
        DOMAIN.parse_config({**fields, "gears": [single, single]}, "x")
    with pytest.raises(PlanError, match="min_queue: needs 1 numbers"):
        DOMAIN.parse_config({**fields, "gears": [{**single, "min_queue": [1, 1]}]}, "x")


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    texts = [
        make(spec(tmp_path), profile("cascade"), trace(), feasibility="trace", seed=3, explained=False).to_json()
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_the_station_says_how_long_each_gear_served(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    config = max(DOMAIN.configs(context(declared), 3.0), key=lambda config: len(config.gears))
    assert isinstance(config, GearPlan)
    station = DOMAIN.station(context(declared), config, sampled=False)
    assert isinstance(station, CascadeStation)
    arrivals = suite._arrivals(trace(350.0).arrival_s)
    served = station.serve(arrivals, seed=1, record=True)
    assert served.held_s.size == len(config.gears)
    assert served.held_s.sum() == pytest.approx(served.departures.done_s[-1] - arrivals.arrival_s[0])


def test_a_burst_is_measured_by_the_gear_that_serves_it(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    config = max(DOMAIN.configs(context(declared), 3.0), key=lambda config: len(config.gears))
    *_, before, cheapest = config.gears
    assert cheapest.utilization is not None
    calm_per_s, most_per_s = 0.5 * config.gears[0].up_to_per_s, cheapest.up_to_per_s
    burst_per_s = (before.up_to_per_s + most_per_s) / 2

    def outcome(rate_per_s: float) -> Any:
        calm_s, burst_s = np.arange(0.0, 40.0, 1 / calm_per_s), np.arange(40.0, 50.0, 1 / rate_per_s)
        plan = Plan(declared, profile("cascade"), {"cascade": config})
        return simulate(plan, Trace.from_arrivals([*calm_s, *burst_s]), seed=1, mode="mean")

    within, beyond = outcome(burst_per_s), outcome(3.0 * most_per_s)
    stage = within.stages["cascade"]
    by_mean = burst_per_s * stage.service_s / stage.items / config.devices
    assert stage.peak_utilization_10s < 0.9 * by_mean, "dear work in calm times is not what bursts take"
    assert stage.peak_utilization_10s == pytest.approx(cheapest.utilization * burst_per_s / most_per_s, rel=0.01)
    assert not [doubt for doubt in within.low_confidence if "busiest" in doubt]
    assert [doubt for doubt in beyond.low_confidence if "busiest" in doubt]
