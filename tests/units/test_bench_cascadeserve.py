"""The evaluation of gear plans: its workloads, baselines, results and page, and a tiny run from end to end."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from tests.units import cascade_family

from headway.bench import BenchOptions, Row
from headway.bench.book import Book, Stamp
from headway.bench.cascades import ensembles, family, gears, shipped, tries
from headway.bench.cascadeserve import cells, evaluate, page
from headway.bench.cascadeserve.cells import SYSTEMS
from headway.bench.cascadeserve.evaluate import Sizes
from headway.bench.cascadeserve.rows import Result
from headway.bench.page import NOT_COMPUTED, filled
from headway.cascade import ValidationTable
from headway.domains.cascade.halves import chosen_on, judged_on
from headway.domains.cascade.planner import GearPlanner
from headway.errors import HeadwayError, TraceError
from headway.trace import Trace


def test_no_sample_is_used_twice() -> None:
    whole = family.whole(100.0, 1.0)
    plans = family.planned(whole).table
    parts = [chosen_on(plans), judged_on(plans), family.tested(whole)]
    assert sum(part.size for part in parts) == whole.table.samples
    assert not np.intersect1d(parts[0], parts[1]).size


def test_dearer_models_of_the_measured_family_are_more_accurate() -> None:
    made = family.whole(100.0, 1.0)
    accuracies = [made.table.accuracy(name) for name in made.batch_sizes(1.0)]
    assert accuracies == sorted(accuracies)
    times = list(made.cost_s(made.batch_sizes(1.0)).values())
    assert times[-1] > 20 * times[0]


def test_a_trace_is_played_at_any_rate_and_keeps_its_shape() -> None:
    real = Trace.from_arrivals(np.concatenate([np.arange(100) / 10, 10 + np.arange(900) / 90]), duration_s=20.0)
    again = family.played(real, 400.0, 30.0, seed=1)
    assert again.requests == 12_000
    early = float(np.mean(again.arrival_s < 15.0))
    assert early == pytest.approx(0.1, abs=0.02)
    with pytest.raises(TraceError, match="too few"):
        family.played(Trace.from_arrivals([1.0]), 10.0, 1.0, seed=1)


# Ensembles


def test_a_vote_is_weighted_by_certainty() -> None:
    said = {"a": [0, 0, 1], "b": [1, 0, 1], "c": [1, 1, 0]}
    table = ValidationTable([0, 1, 1], said, {"a": [0.9, 0.1, 0.6], "b": [0.3, 0.1, 0.5], "c": [0.4, 0.9, 0.3]})
    assert ensembles.vote(table, ("a", "b", "c")).tolist() == [1.0, 1.0, 1.0]
    assert ensembles.vote(table, ("b",)).tolist() == [0.0, 0.0, 1.0]


def test_a_pool_serves_first_come_first_served_and_never_more_than_works() -> None:
    arrival_s = np.array([0.0, 0.0, 0.0, 1.2])
    table = np.array([0.0, 1.0, 1.5])
    one = ensembles._serve(arrival_s, np.array([1, 1, 1]), 1.0, table)
    assert one.tolist() == [1.5, 1.5, 3.0, 3.0]
    more = ensembles._serve(arrival_s, np.array([2, 2, 2]), 1.0, table)
    assert more.tolist() == [1.5, 1.5, 1.0, 2.2]
    later = ensembles._serve(arrival_s, np.array([1, 2, 2]), 1.0, table)
    assert later.tolist() == [1.5, 1.5, 2.0, 2.5]


def test_autoscaled_ensembles_hold_more_at_once_than_on_average() -> None:
    made = family.planned(family.whole(500.0, 1.0))
    held = ensembles.cocktail(made, family.bursty(500.0, 8.0, 1), 1.0, 0.92)
    assert held is not None
    assert held.accuracy >= 0.92
    assert held.latency_s <= 1.0
    assert held.mean_devices < held.devices
    assert ensembles.cocktail(made, family.bursty(500.0, 8.0, 1), 1.0, 0.999) is None


# Planners without an idea


def test_every_plan_is_every_way_of_giving_ranges_their_cascades() -> None:
    planner = GearPlanner(family.planned(family.whole(100.0, 1.0)), 1.0)
    sizes = planner.sizes()[0]
    plans = list(tries.every_plan(planner, 2, sizes, ranges=3, rows=[0, 5, 9]))
    assert len({plan.gears for plan in plans}) <= len(plans) == 2 * 10
    for plan in plans:
        accuracies = [gear.accuracy for gear in plan.gears if gear.accuracy is not None]
        assert accuracies == sorted(accuracies, reverse=True)
        assert plan.gears[-1].up_to_per_s == 100.0


@pytest.mark.parametrize(
    ("floor", "latency_s", "why"),
    [
        (0.9, 1.0, "a plan of gears was not found"),
        (0.9, 1e-6, "no plan at all can be right so often in time"),
        (0.9999, 1.0, "no plan at all can be right so often in time"),
    ],
)
def test_a_cell_without_a_plan_says_whether_there_can_be_one(floor: float, latency_s: float, why: str) -> None:
    cell = cells.Cell(floor, latency_s, 1, 4.0)
    row = gears.unsolved("cell", cell, dataclasses.replace(cell.result("gears"), rate_per_s=50.0))
    assert row.unit.endswith(why)
    assert row.baseline == pytest.approx(100 * floor)


def test_the_grid_is_held_to_all_of_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(cell: cells.Cell) -> list[Result]:
        found = [dataclasses.replace(cell.result(name), devices=8.0, tested_accuracy=cell.floor) for name in SYSTEMS]
        lost = (cell.floor, cell.latency_s) == (0.94, 0.5)
        return [dataclasses.replace(one, devices=None) if lost and one.system == "gears" else one for one in found]

    monkeypatch.setattr(gears, "solve", solve)
    monkeypatch.setattr(gears, "unsolved", lambda head, cell, ours: Row(f"{head}/unsolved", 0.0, "%"))
    rows = {row.name: row for row in gears.gears_cost(BenchOptions())}
    assert "gears-cost/94%/500ms/unsolved" in rows
    assert (rows["gears-cost/cells"].value, rows["gears-cost/cells"].met) == (24, False)
    monkeypatch.setattr(gears, "solve", lambda cell: [cell.result(name) for name in SYSTEMS])
    rows = {row.name: row for row in gears.gears_cost(BenchOptions(quick=True))}
    assert (rows["gears-cost/cells"].value, rows["gears-cost/cells"].met) == (0, False)


def test_random_plans_are_plans() -> None:
    planner = GearPlanner(family.planned(family.whole(100.0, 1.0)), 1.0)
    plans = list(itertools.islice(tries.random_plans(planner, 2, np.random.default_rng(1)), 20))
    assert len(set(plans)) > 15
    for plan in plans:
        rates = [gear.up_to_per_s for gear in plan.gears]
        assert rates == sorted(rates)


# Results


def test_a_tiny_evaluation_ends_in_a_page_and_figures_and_is_not_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "TINY_LATENCIES_S", (1.0,))
    monkeypatch.setattr(evaluate, "TINY_CASCADES", 3)
    monkeypatch.setattr(evaluate, "SHARES", (1.0,))
    monkeypatch.setattr(cells, "MIDDLE", 3)
    monkeypatch.setattr(cells, "WANTED", (2, 6))
    path, told = tmp_path / "cascadeserve.csv", list[str]()
    stamp = Stamp("2026-01-31", "a machine")
    evaluate.evaluate(Sizes.quick(), {}, Book(Result, path), stamp, told.append)
    assert told
    told.clear()
    results = Book(Result, path).results
    evaluate.evaluate(Sizes.quick(), {}, Book(Result, path), stamp, told.append)
    assert told == []
    assert {r.experiment for r in results} == {"cells", "ablation", "spikes", "planners"}
    found = {r.system: r for r in results if r.experiment == "cells"}
    assert set(found) == set(SYSTEMS)
    ours = found["gears"].devices
    assert ours is not None
    for name in ("static-model", "switching", "static-cascade"):
        theirs = found[name].devices
        assert theirs is None or ours <= theirs
    (tmp_path / "cascadeserve.md").write_text("".join(f"<!-- results: {n} --><!-- end -->\n" for n in page._WRITERS))
    page.write(tmp_path, results)
    text = (tmp_path / "cascadeserve.md").read_text()
    assert NOT_COMPUTED not in text
    assert filled(text, page.body(results)) == text
    for name in ("devices", "spikes", "ablation"):
        assert (tmp_path / f"cascadeserve-{name}.svg").read_text().startswith("<svg xmlns=")


def test_spikes_are_told_over_seeds_and_a_seed_without_a_plan_is_counted() -> None:
    one = Result("spikes", "bursty", 0.95, 0.5, 3, "gears", 0.0, 1, p95_s=0.2, accuracy=0.95)
    worst = [dataclasses.replace(one, at_s=at_s, p95_s=p95_s) for at_s, p95_s in ((1.0, 0.3), (2.0, 0.1))]
    lacking = dataclasses.replace(one, given=2, seed=2, p95_s=None, accuracy=None)
    text = page.body([one, *worst, lacking])("spikes")
    assert text.splitlines()[2:] == ["| Gears | 3, 2 | 1 of 2 | 0.2 s | 0.3 s | 95% |"]
    again = dataclasses.replace(one, seed=3, p95_s=0.4)
    text = page.body([one, *worst, lacking, again, dataclasses.replace(again, at_s=1.0)])("spikes")
    assert "| Gears | 3, 2, 3 | 2 of 3 | 0.3 s (0 s to " in text


def test_the_planning_of_an_example_with_gears_is_timed_as_its_readme_says(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    cascade_family.table().write(folder / "validation.csv")
    cascade_family.profile("cascade").write(folder / "profile.csv")
    (folder / "headway.yaml").write_text(
        "kind: cascade\nslo: {latency: 100ms, percentile: 95}\nsupply: {gpu: {price: $1/h}}\n"
        "models: {small: {}, medium: {}, large: {}}\ntable: validation.csv\nmax_rate: 100/s\n"
    )
    plan = "headway plan headway.yaml --profile profile.csv --trace requests.csv --feasibility trace -o plan.json"
    trace = "headway trace poisson --rate 50/s --seconds 4 --seed 1 -o requests.csv"
    (folder / "README.md").write_text(f"# Answers\n\n```sh\n{trace}\n{plan}\nfalse\n```\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "headway.yaml").write_text(
        "slo: {latency: 1s}\nsupply: {cpu: {price: $1/h}}\nstages: {a: {}}\n"
    )
    rows = {row.name: row.value for row in shipped.examples_planned(tmp_path)}
    assert set(rows) == {"gears-planning/examples/answers/plan", "gears-planning/examples/answers/gears"}
    assert rows["gears-planning/examples/answers/gears"] >= 1
    (folder / "README.md").write_text("```sh\nfalse\n```\n")
    with pytest.raises(HeadwayError, match="'false' failed"):
        list(shipped.examples_planned(tmp_path))
