"""What a user can ask gears for, from Python and from the command line, and what is said when it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.units.cascade_family import MODELS, profile, spec, table

from headway.cascade import ValidationTable
from headway.cli.app import main
from headway.domains.cascade.choose import Judge
from headway.domains.cascade.domain import DOMAIN
from headway.domains.cascade.family import Family
from headway.domains.cascade.halves import chosen_on, judged_on
from headway.domains.cascade.objectives import most_accurate, quickest
from headway.domains.cascade.planner import GearPlanner
from headway.errors import PlanError
from headway.plan import Plan
from headway.plan.config import StageContext
from headway.plan.exact import SAME_ACCURACY, preferred, robustness
from headway.plan.infeasible import Infeasible
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace

TRACE = Trace.gamma(300.0, 2.0, seconds=5, seed=1)


def test_the_most_accurate_plan_in_time_is_more_accurate_with_more_devices(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    found = [most_accurate(declared, profile("cascade"), TRACE, devices, seed=1) for devices in (1, 2, 4)]
    accuracies = [plan.predicted["accuracy"] for plan in found]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < accuracies[-1]
    for plan, devices in zip(found, (1, 2, 4), strict=True):
        assert plan.feasible
        assert plan.stages["cascade"].to_dict()["devices"] == devices
        assert plan.predicted["p95_s"] <= declared.slo.latency_s
        again = Plan.from_dict(json.loads(plan.to_json()))
        assert simulate(again, TRACE, seed=1, mode="mean").accuracy == plan.predicted["accuracy"]


def test_the_quickest_plan_that_is_right_enough_is_slower_for_a_higher_floor(tmp_path: Path) -> None:
    found = [
        quickest(spec(tmp_path, {"accuracy": floor, "latency": "400ms"}), profile("cascade"), TRACE, 2, seed=1)
        for floor in (0.8, 0.9)
    ]
    assert found[0].predicted["p95_s"] < found[1].predicted["p95_s"]
    assert found[1].predicted["accuracy"] >= 0.9


def test_of_plans_of_equal_cost_the_most_accurate_is_taken(tmp_path: Path) -> None:
    declared = spec(tmp_path, supply={"max": 1}, max_rate="300/s")
    cheapest = make(declared, profile("cascade"), TRACE, feasibility="trace", seed=1, explained=False)
    (stage,) = cheapest.stages.values()
    best = most_accurate(declared, profile("cascade"), TRACE, stage.to_dict()["devices"], seed=1)
    assert cheapest.cost_usd_per_hour == best.cost_usd_per_hour
    assert cheapest.predicted["accuracy"] >= best.predicted["accuracy"] - SAME_ACCURACY
    assert cheapest.reasons[0].text.startswith("proven cheapest over all that stages may choose; the most accurate of")


def test_of_plans_of_equal_cost_and_accuracy_the_most_robust_is_taken(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    oracle = Oracle(declared, profile("cascade"), TRACE, feasibility="trace", seed=1)
    every = [{"cascade": plan} for plan in DOMAIN.configs(oracle.contexts["cascade"], 2.0)]
    kept = [stages for stages in every if oracle.total_cost(stages) == 2.0 and oracle.feasible(stages)]
    chosen = preferred(oracle, kept)
    right, sturdy = oracle.accuracy(chosen) or 0.0, robustness(oracle, chosen)
    others = {oracle.accuracy(stages) or 0.0: robustness(oracle, stages) for stages in kept}
    assert right >= max(others) - SAME_ACCURACY
    assert all(sturdy <= other for accuracy, other in others.items() if accuracy >= max(others) - SAME_ACCURACY)
    assert min(others.values()) < sturdy


def test_a_wish_that_cannot_be_had_names_the_range_and_the_model(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"1 device cannot serve .* to 3000 requests/s; model 'small'"):
        most_accurate(spec(tmp_path, max_rate="3000/s"), profile("cascade"), TRACE, 1)
    with pytest.raises(Infeasible, match=r"of an accuracy of 0\.99 were found.*model 'large'"):
        quickest(spec(tmp_path, {"accuracy": 0.99}), profile("cascade"), TRACE, 2)
    with pytest.raises(PlanError, match=r"give slo\.accuracy"):
        quickest(spec(tmp_path), profile("cascade"), TRACE, 2)
    alone = spec(tmp_path).to_dict()
    two = {**alone, "stages": {**alone["stages"], "read": {"after": "cascade"}}}
    with pytest.raises(
        PlanError, match=r"a cascade alone.*read of kind pipeline; plan the cascade in a spec of its own"
    ):
        most_accurate(Spec.from_dict(two), profile("cascade"), TRACE, 2)
    with pytest.raises(PlanError, match="give one"):
        most_accurate(spec(tmp_path), profile("cascade"), TRACE)
    with pytest.raises(PlanError, match=r"\$0\.5/h pays for no device; the cheapest costs \$1/h"):
        most_accurate(spec(tmp_path), profile("cascade"), TRACE, usd_per_hour=0.5)
    with pytest.raises(PlanError, match=r"devices is 3; supply has from 1 to 2 of gpu"):
        most_accurate(spec(tmp_path, supply={"max": 2}), profile("cascade"), TRACE, 3)


def test_for_so_much_an_hour_no_more_is_spent_than_makes_answers_right(tmp_path: Path) -> None:
    declared = spec(tmp_path, supply={"max": 4})
    found = most_accurate(declared, profile("cascade"), TRACE, usd_per_hour=2.5, seed=1)
    on_two = most_accurate(declared, profile("cascade"), TRACE, 2, seed=1)
    assert found.cost_usd_per_hour <= 2.5
    assert found.predicted["accuracy"] >= on_two.predicted["accuracy"] - SAME_ACCURACY


def test_a_robust_plan_of_so_many_devices_keeps_its_promise_on_resampled_traces(tmp_path: Path) -> None:
    declared = spec(tmp_path, {"latency": "60ms"}, max_rate="200/s")
    found = most_accurate(declared, profile("cascade"), TRACE, 1, feasibility="robust", seed=1)
    oracle = Oracle(declared, profile("cascade"), TRACE, seed=1)
    assert oracle.feasible(found.stages)
    assert "miss_rate_p97" in found.predicted


def test_accuracy_is_judged_on_samples_that_no_cascade_was_chosen_on(tmp_path: Path) -> None:
    said, right = table(), np.zeros(600, np.bool_)
    right[chosen_on(said)] = True
    labels = np.asarray(said.labels)
    predicted = dict.fromkeys(MODELS, np.where(right, labels, (labels + 1) % 4))
    lucky = ValidationTable(labels, predicted, said.certainty)
    lucky.write(tmp_path / "validation.csv")
    declared = spec(tmp_path)
    family = Family.of(StageContext("cascade", declared.stages["cascade"], declared, profile("cascade")), "gpu")
    assert chosen_on(family.table).tolist() == chosen_on(said).tolist()
    plan = GearPlanner(family, 0.1).plans(2)[0]
    assert plan.gears[0].accuracy == 1.0
    assert Judge(family, TRACE).judge(plan).accuracy == 0.0


@pytest.mark.parametrize("samples", [10, 400])
def test_few_samples_are_not_split(samples: int) -> None:
    said = table(samples)
    chosen, judged = chosen_on(said), judged_on(said)
    if samples < 40:
        assert chosen.tolist() == judged.tolist() == list(range(samples))
    else:
        assert sorted([*chosen, *judged]) == list(range(samples))


# The command line


def test_the_command_line_plans_for_so_many_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(declared_of(tmp_path, max_rate="200/s")))
    profile("cascade").write(tmp_path / "profile.csv")
    TRACE.write(tmp_path / "t.csv")
    files = ["--profile", str(tmp_path / "profile.csv"), "--trace", str(tmp_path / "t.csv"), "--feasibility", "trace"]
    said = []
    for limit in (["--devices", "1"], ["--budget-usd-per-hour", "1.9"]):
        with pytest.raises(SystemExit) as stop:
            main(["plan", str(tmp_path / "spec.yaml"), *files, *limit, "--json"])
        assert stop.value.code == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["stages"] == said[1]["stages"]
    assert said[0]["stages"]["cascade"]["devices"] == 1
    for more in (["--budget-usd-per-hour", "1"], ["--planner", "greedy"]):
        with pytest.raises(SystemExit):
            main(["plan", str(tmp_path / "spec.yaml"), *files, "--devices", "1", *more])
        assert "give one" in (err := capsys.readouterr().err) or "leave --planner" in err


def planned(capsys: pytest.CaptureFixture[str], folder: Path, declared: dict[str, Any], rate: float) -> tuple[Any, str]:
    """What `headway plan --json` says of an infeasible spec, and what it says to a person."""
    (folder / "spec.yaml").write_text(json.dumps(declared))
    profile("cascade").write(folder / "profile.csv")
    Trace.poisson(rate, seconds=3.0, seed=1).write(folder / "t.csv")
    files = ["--profile", str(folder / "profile.csv"), "--trace", str(folder / "t.csv"), "--feasibility", "trace"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(folder / "spec.yaml"), *files, "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 3, err
    return json.loads(out), err


def declared_of(folder: Path, **more: Any) -> dict[str, Any]:
    table().write(folder / "validation.csv")
    return {
        "kind": "cascade",
        "slo": {"latency": "100ms", "percentile": 95},
        "supply": {"gpu": {"price": "$1/h", "max": 1}},
        "models": {name: {} for name in MODELS},
        "table": str(folder / "validation.csv"),
        **more,
    }


def test_the_command_line_names_the_range_of_rates_and_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, said = planned(capsys, tmp_path, declared_of(tmp_path, max_rate="3000/s"), 2000.0)
    assert value["code"] == "capacity"
    assert value["stage"] == "cascade"
    for text in (value["text"], said):
        assert "1 device cannot serve 1520" in text
        assert "to 3000 requests/s; model 'small' of the cheapest cascade takes most of them" in text


def test_the_command_line_names_them_where_accuracy_is_what_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slo = {"latency": "100ms", "percentile": 95, "accuracy": 0.92}
    value, _ = planned(capsys, tmp_path, declared_of(tmp_path, max_rate="700/s", slo=slo), 600.0)
    assert value["code"] == "accuracy"
    assert "1 device cannot serve" in value["text"]
    assert "to 700 requests/s; model 'large' of" in value["text"]
