"""The reproduction's workloads, results and page, and a tiny evaluation from end to end."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from headway.bench.book import Book, Stamp
from headway.bench.inferline import evaluate, figures, grid, page, summary, tuning
from headway.bench.inferline.grid import SYSTEMS, Sizes
from headway.bench.inferline.pipelines import GPU_USD_PER_HOUR, PIPELINES
from headway.bench.inferline.rows import Result
from headway.bench.inferline.summary import Table, tables
from headway.bench.inferline.workloads import (
    MOST_PER_S,
    SHAPES,
    gamma,
    played,
    rates_per_s,
    real_traces,
    rescaled,
    shape,
    split,
)
from headway.bench.page import NOT_COMPUTED, filled
from headway.errors import HeadwayError, TraceError
from headway.policy.tuners import TUNERS
from headway.trace import Trace

STAMP = Stamp("2026-01-31", "a machine")


# Pipelines


def test_the_large_model_is_84_times_faster_on_a_k80_with_batches_of_32_as_the_paper_says() -> None:
    service = PIPELINES["image"].profile()
    cpu_s = service.service("classify", "default", "cpu").mean_at(1)
    once_s, twice_s = (service.service("classify", "default", "k80").mean_at(b) for b in (1, 2))
    at_32_s = once_s + 31 * (twice_s - once_s)
    assert cpu_s / (at_32_s / 32) == pytest.approx(84, abs=1)


def test_the_price_of_a_gpu_and_the_gain_of_batches_can_be_varied_and_nothing_else_moves() -> None:
    base = PIPELINES["image"]
    other = base.vary(gpu_usd_per_hour=2.0, item_share=0.5)
    assert other.spec().supply["k80"].price_usd_per_hour == 2.0
    mine, theirs = (p.profile().service("classify", "default", "k80") for p in (base, other))
    assert theirs.mean_at(1) == pytest.approx(mine.mean_at(1))
    assert theirs.mean_at(8) < mine.mean_at(8)
    for kind in (base, other):
        assert kind.profile().service("preprocess", "default", "cpu").mean_at(8) == pytest.approx(0.0645)
    with pytest.raises(HeadwayError, match="no fixed time"):
        base.vary(item_share=4.0).profile()


# Workloads


def test_plan_and_live_traffic_have_one_rate_and_no_request_in_common() -> None:
    first, second = gamma(80.0, 4.0, 20_000, seed=3, lives=2)
    assert first.planned is second.planned
    for load in (first, second):
        assert load.live.rate_per_s == pytest.approx(80.0, rel=0.15)
        assert not np.intersect1d(load.planned.arrival_s, load.live.arrival_s).size
    assert first.live.hash != second.live.hash
    gaps_s = np.diff(first.planned.arrival_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_played_at_its_rates_with_the_busiest_minute_at_the_limit(name: str) -> None:
    rates = rates_per_s(SHAPES[name])
    assert max(rates) == MOST_PER_S
    assert [r / rates[0] for r in rates] == pytest.approx([r / SHAPES[name][0] for r in SHAPES[name]])
    counts = np.histogram(played(rates, seed=1).arrival_s, np.arange(len(rates) + 1) * 30.0)[0]
    expected = np.array(rates) * 30.0
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_quarter_is_planned_from_and_the_rest_is_served() -> None:
    load = shape("azure", seed=1, minutes=8)
    assert load.planned.duration_s == pytest.approx(60.0)
    assert load.live.duration_s == pytest.approx(180.0)
    whole = Trace.from_arrivals(np.arange(100.0) + 0.5, duration_s=100.0)
    parts = split(whole)
    assert sum(part.requests for part in parts) == whole.requests
    for share in (0.0, 1.0):
        with pytest.raises(TraceError, match="between 0 and 1"):
            split(whole, share)


def test_a_real_trace_is_played_faster_and_keeps_its_burstiness() -> None:
    slow = Trace.gamma(2.0, 3.0, requests=1_000, seed=1)
    fast = rescaled(slow, 150.0)
    assert fast.rate_per_s == pytest.approx(150.0)
    assert np.diff(fast.arrival_s) * 75.0 == pytest.approx(np.diff(slow.arrival_s) * slow.rate_per_s / 2.0)


@pytest.mark.parametrize("rates", [[], [0.0, 0.0], [1.0, -1.0]])
def test_a_shape_without_traffic_is_an_error(rates: list[float]) -> None:
    with pytest.raises(TraceError, match="one rate per minute"):
        rates_per_s(rates)


def test_real_traces_come_from_a_file_or_a_folder_and_a_wrong_path_is_said(tmp_path: Path) -> None:
    assert real_traces(None) == {}
    Trace.poisson(5.0, 10.0, seed=1).write(tmp_path / "one.csv.gz")
    (tmp_path / "README.md").write_text("about")
    assert list(real_traces(tmp_path)) == list(real_traces(tmp_path / "one.csv.gz")) == ["one"]
    with pytest.raises(HeadwayError, match="does not exist"):
        real_traces(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeadwayError, match="holds no trace"):
        real_traces(tmp_path / "empty")


# Results


def result(system: str, seed: int, cost: float | None, miss: float | None, **more: object) -> Result:
    base = Result(
        "grid", "gamma", "image", 50.0, 1.0, 150.0, 0.65, 1.0, system, seed, cost, miss, miss, None, "hash", *STAMP
    )
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def test_ratios_are_formed_seed_by_seed_and_seeds_that_are_not_whole_are_left_out() -> None:
    costs = {("a", 1): 4.0, ("b", 1): 2.0, ("a", 2): 9.0, ("b", 2): 1.0, ("a", 3): 5.0}
    table = Table([result(system, seed, cost, 0.02 * seed) for (system, seed), cost in costs.items()])
    assert table.seeds == (1, 2)
    ratio = table.cost_ratio("a", "b")
    assert ratio.mean == pytest.approx(math.sqrt(2.0 * 9.0))
    assert ratio.low < ratio.mean < ratio.high
    assert table.miss_rate("a").mean == pytest.approx(0.03)
    assert table.miss_ratio("a", "b").mean == pytest.approx(1.0)


def test_a_problem_without_a_plan_counts_for_no_system() -> None:
    table = Table(
        [result("a", 1, None, None), result("b", 1, 2.0, 0.0), result("a", 1, 3.0, 0.0, rate_per_s=90.0),
         result("b", 1, 1.0, 0.0, rate_per_s=90.0)]
    )  # fmt: skip
    assert [cell[2] for cell in table.cells] == [90.0]
    assert [cell[2] for cell in table.without_plan] == [50.0]


def test_where_a_system_misses_nothing_the_ratio_is_infinite_and_never_a_number() -> None:
    table = Table([result("a", 1, 1.0, 0.2), result("b", 1, 1.0, 0.0)])
    assert table.miss_ratio("a", "b").mean == math.inf
    assert table.miss_ratio("a", "b").text() == "∞"


# All of it


def test_the_grid_has_every_planner_with_every_tuner_once() -> None:
    pairs = {(scheme.plan, scheme.tuner, *scheme.parameters.values()) for scheme in tuning.SCHEMES.values()}
    assert len(pairs) == len(tuning.SCHEMES) == len(tuning.PLANNERS) * len(tuning.TUNERS)
    assert {scheme.tuner for scheme in tuning.SCHEMES.values()} == set(TUNERS)
    assert set(tuning.PLANNERS) < set(SYSTEMS)
    assert set(figures.SCHEME_NAMES) == set(tuning.SCHEMES)
    assert tuning.SCHEMES["headway"] == tuning.Scheme("headway", "headway")
    assert tuning.SCHEMES["inferline-plan+autoscale"] == tuning.Scheme("inferline", "autoscale")


def test_the_table_of_the_grid_marks_what_keeps_the_promise() -> None:
    more = {"experiment": "tuning", "workload": "azure"}
    some = [result("headway", 1, 2.0, 0.01, **more), result("headway-plan", 1, 1.0, 0.011, **more),
            result("cg-peak+headway", 1, 4.0, 0.0, **more)]  # fmt: skip
    known = {"tuning": Table(some)}
    written = page._tuning(known)
    assert "| pipeline, shape | tuner | CG-Peak | Headway |" in written
    assert "| Image Processing, azure | Headway | **4.00 (0%)** | **2.00 (1%)** |" in written
    assert "| Image Processing, azure | no tuner |  | 1.00 (1.1%) |" in written
    exchanged = page._exchanged(known)
    assert "| planner | CG-Peak | 2 | 0% |  |  |" in exchanged
    assert "| tuner | no tuner | 0.5 | 1.1% |  |  |" in exchanged


def tiny() -> Sizes:
    return dataclasses.replace(Sizes.quick(), requests=300, most_per_s=10.0)


@pytest.fixture
def one_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"social": PIPELINES["image"]}
    monkeypatch.setattr(grid, "PIPELINES", few)
    monkeypatch.setattr(tuning, "PIPELINES", few)
    schemes = {name: tuning.SCHEMES[name] for name in ("cg-mean+autoscale", "cg-mean+ds2", "inferline", "headway")}
    for module in (tuning, summary):
        monkeypatch.setattr(module, "SCHEMES", schemes)


@pytest.mark.usefixtures("one_pipeline")
def test_a_tiny_evaluation_ends_in_a_page_and_figures_and_is_not_computed_twice(tmp_path: Path) -> None:
    real = {"one": Trace.gamma(5.0, 2.0, requests=400, seed=9)}
    book, told = Book(Result, tmp_path / "inferline.csv"), list[str]()
    results = evaluate.evaluate(tiny(), real, book, STAMP, told.append)
    assert {r.system for r in results} == {*SYSTEMS, *tuning.SCHEMES}
    assert {r.experiment for r in results} == {"grid", "slo", "price", "batch", "real", "tuning"}
    assert all(0.0 <= r.miss_rate <= 1.0 for r in results if r.miss_rate is not None)
    assert told
    told.clear()
    again = evaluate.evaluate(tiny(), real, Book(Result, tmp_path / "inferline.csv"), STAMP, told.append)
    assert told == []
    assert [r.key for r in again] == [r.key for r in results]
    rows = evaluate.rows(tables(results))
    assert {row.name.split("/")[1] for row in rows} == {"gamma-cv1", "gamma-cv4", "one", "azure"}

    names = ("provenance", *page._WRITERS)
    (tmp_path / "inferline.md").write_text("".join(f"<!-- results: {name} --><!-- end -->\n" for name in names))
    page.write(tmp_path, results)
    text = (tmp_path / "inferline.md").read_text()
    assert NOT_COMPUTED not in text
    assert filled(text, page.body(results)) == text
    for name in ("cost", "misses", "slo", "tuning-image"):
        assert (tmp_path / f"inferline-{name}.svg").read_text().startswith("<svg xmlns=")


def test_prices_that_are_varied_include_the_base() -> None:
    varied = {cell.pipeline.gpu_usd_per_hour for cell in grid.cells(tiny(), {}) if cell.experiment == "price"}
    assert GPU_USD_PER_HOUR in varied
    assert len(varied) > 1
