"""RackSched's workloads and systems, the figures that are held against a prototype's, and the page of results."""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.bench import BenchOptions
from headway.bench.book import Book, Stamp
from headway.bench.fleets import rack, rack_noise, rack_page, rack_reference, racksched
from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, TYPED, UNEQUAL, WORKS, carried, p99_us
from headway.bench.fleets.racksched import (
    FIGURES,
    LOADS,
    PROTOTYPE,
    SERIES,
    SERIES_SYSTEMS,
    Result,
    happened,
    loaded,
    name_of,
)
from headway.bench.page import NOT_COMPUTED
from headway.fleet.rack_run import simulate_rack

PAGE = Path(__file__).parent.parent.parent / "docs" / "reproductions" / "racksched.md"


@pytest.mark.parametrize("name", WORKS)
def test_a_workload_has_its_mean_its_rate_and_the_same_requests_at_any_rate(name: str) -> None:
    work = WORKS[name]
    slow, service_s, kind = work.requests(100.0, 40_000, seed=1)
    fast, again_s, _ = work.requests(200.0, 40_000, seed=1)
    assert service_s.mean() == pytest.approx(work.mean_s, rel=0.03)
    assert slow[-1] == pytest.approx(400.0, rel=0.03)
    assert fast * 2 == pytest.approx(slow)
    assert np.array_equal(service_s, again_s)
    assert set(kind.tolist()) == set(range(len(work.shares)))


def test_every_system_can_be_put_in_front_of_every_rack() -> None:
    for system in SYSTEMS.values():
        for workers in (EQUAL, UNEQUAL):
            for work in (*WORKS.values(), *TYPED.values()):
                setup = system.setup(workers, work)
                assert sum(setup.workers) == sum(workers)
                assert setup.per_kind == (work.queues == "slo")
    assert SYSTEMS["headway"].setup(UNEQUAL, WORKS["exp"]).speed == ()
    assert SYSTEMS["racksched"].setup(UNEQUAL, WORKS["exp"]).speed == (1.0,) * 8


def test_carried_load_is_where_the_p99_crosses_its_target() -> None:
    work = WORKS["exp"]
    setup = SYSTEMS["random"].setup((2, 2), work)
    most = carried(setup, work, 600.0, 2000, seed=1)
    assert p99_us(setup, work, most, 2000, 1) <= 600.0 < p99_us(setup, work, most + 0.01, 2000, 1)


def test_the_prototypes_tables_are_whole() -> None:
    for groups in rack_reference.P99_US.values():
        assert [len(group) for group in groups] == [len(rack_reference.LOADS)] * len(rack_reference.COLUMNS)
    names = {*rack_reference.P99_US, *rack_reference.CARRIED_EQUAL, *rack_reference.CARRIED_UNEQUAL}
    assert names <= set(SYSTEMS)


def test_one_more_run_falls_where_it_is_said_to_with_the_share_that_is_said() -> None:
    drawn = np.random.default_rng(1).normal(100.0, 5.0, (4000, 9))
    met = [rack_noise.within(list(eight), one, 0.0) for *eight, one in drawn.tolist()]
    assert np.mean(met) == pytest.approx(rack_noise.EXPECTED, abs=0.01)


def test_digits_that_were_not_printed_are_not_held_against_a_figure() -> None:
    assert rack_noise.within([505.0] * 8, 505.4, 0.5)
    assert not rack_noise.within([505.0] * 8, 506.0, 0.5)


def test_chances_are_binomial() -> None:
    assert rack_noise.chance_of_as_few(111, 111) == pytest.approx(1.0)
    assert rack_noise.chance_of_as_few(0, 5, 0.4) == pytest.approx(0.6**5)
    missed = rack_noise.chance_of_as_few(111 - 104 - 1, 111, 1 - rack_noise.EXPECTED)
    assert rack_noise.chance_of_as_few(104, 111) == pytest.approx(1.0 - missed)


def test_a_seed_that_is_unlike_the_others_lies_outside_when_it_is_left_out() -> None:
    first, second, *_ = rack_noise.cells()
    alike, unlike = [100.0, 104.0, 98.0, 102.0], [100.0, 104.0, 98.0, 250.0]
    assert rack_noise.left_out({first: alike, second: unlike}) == [1.0, 1.0, 1.0, 0.5]


def test_the_prototypes_requests_are_drawn_as_it_drew_them_whatever_the_seed() -> None:
    cell = next(one for one in rack_noise.cells() if one.system == "round-robin" and one.workload == "bimodal")
    rng = np.random.default_rng(11)
    service_us = np.where(rng.random(3000) < 0.9, 50.0, 500.0)
    arrival_us = np.cumsum(rng.exponential(95.0 / (cell.load * 64), 3000))
    out = simulate_rack(cell.setup, arrival_us * 1e-6, service_us * 1e-6)
    assert [cell.measure(True, 3000, seed) for seed in (1, 2)] == pytest.approx([out.p(99, skip=0.1) * 1e6] * 2)
    assert cell.measure(False, 3000, 1) != cell.measure(False, 3000, 2)


def test_a_quick_run_holds_every_printed_figure_against_both_sets_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [cell for cell in rack_noise.cells() if cell.system in ("round-robin", "random")]
    monkeypatch.setattr(rack_noise, "cells", lambda: few)
    rows = {row.name: row for row in rack.tables(BenchOptions(quick=True))}
    for cell in few:
        assert rows[f"sim-rack/{cell.name}"].baseline == cell.printed
        assert rows[f"sim-rack/same-requests/{cell.name}"].bar is None
    judged = [name for name, row in rows.items() if row.bar is not None]
    assert judged == ["sim-rack/same-requests/cells-within-noise/chance", "sim-rack/same-requests/equal"]


def test_a_quick_run_of_carried_load_has_a_row_for_each_baseline() -> None:
    rows = list(rack.rack_carried(BenchOptions(quick=True)))
    assert {row.name.rsplit("/", 1)[1] for row in rows} == {"random", "weighted-random"}
    assert all((row.bar is None) == row.name.endswith("weighted-random") for row in rows)


def empty(experiment: str, requests: int, seed: int = 1) -> Result:
    return Result(experiment, "exp", name_of((2, 2)), "headway", 0.5, seed, requests, *(None,) * 7, "")


def test_a_point_has_the_tail_of_all_of_the_shortest_type_and_of_the_slowdown() -> None:
    work = WORKS["bimodal"]
    found = loaded(SYSTEMS["headway"].setup((2, 2), work), work, 4000, empty("load", 4000))
    assert found.p50_us is not None
    assert found.p99_us is not None
    assert found.short_p99_us is not None
    assert 50.0 < found.p50_us <= found.short_p99_us <= found.p99_us
    assert found.slowdown is not None
    assert found.slowdown > 1.0


def test_a_series_loses_what_passes_a_balancer_that_is_down_and_recovers() -> None:
    case = replace(SERIES["switch-failure"], rate_per_s=40e3)
    work = WORKS["exp"]
    setup = SYSTEMS["headway"].setup((2, 2), work)
    rows = list(happened(case, setup, work, empty("switch-failure", 24_000)))
    assert len(rows) == round(case.seconds / case.window_s)
    lost = sum(row.lost or 0.0 for row in rows)
    assert lost == pytest.approx(0.05 * 40e3, rel=0.1)
    assert rows[-1].answered_per_s == pytest.approx(40e3, rel=0.15)


FIGURES_OF_ONE = 50.0, 100.0, 60.0, 2.0, 0.9, 850e3, 1.0
STAMP = "", "2026-01-31", "a machine"


def made(experiment: str, workload: str, workers: str, system: str, at: float, seed: int) -> Result:
    return replace(
        Result(experiment, workload, workers, system, at, seed, 1000, *FIGURES_OF_ONE, *STAMP), p99_us=100.0 + seed
    )


def some_results() -> list[Result]:
    out = []
    for seed in (1, 2):
        for figure in FIGURES.values():
            for workload in figure.works:
                for workers in figure.racks:
                    for system in figure.systems:
                        where = workload, name_of(workers), system
                        out += [made("load", *where, load, seed) for load in LOADS]
                        out.append(made("carried", *where, 0.0, seed))
        for name, case in SERIES.items():
            ends = [case.window_s * (k + 1) for k in range(round(case.seconds / case.window_s))]
            out += [made(name, "exp", "8x7", system, round(end, 6), seed) for end in ends for system in SERIES_SYSTEMS]
        for experiment in PROTOTYPE:
            for cell in rack_noise.cells():
                ours = made(experiment, cell.workload, name_of(cell.workers), cell.system, cell.load, seed)
                off = 2.0 if (cell.system, cell.load, experiment) == ("central", 0.9, "prototype") else 1.0
                spread = 0.01 * seed if experiment == "prototype" else 0.0
                value = cell.printed * off * (1.0 + spread)
                out.append(replace(ours, p99_us=value) if cell.load else replace(ours, carried=value))
    return out


def test_the_page_is_written_from_results(tmp_path: Path) -> None:
    shutil.copy(PAGE, tmp_path)
    rack_page.write(tmp_path, some_results())
    written = (tmp_path / "racksched.md").read_text(encoding="utf-8")
    assert "102 (" in written
    assert "Computed 2026-01-31 on a machine" in written
    for name in ("latency", "growth", "changes"):
        assert (tmp_path / f"racksched-{name}.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_the_page_tells_what_of_a_prototype_is_met_and_which_cells_are_not() -> None:
    body = rack_page.body(some_results())
    assert "108 of 111 cells (97.3%) lie" in body("prototype")
    assert "**111 of 111 cells (100.0%) lie" in body("prototype")
    assert "**21 of 21 cells whose balancer draws nothing are equal" in body("prototype")
    assert body("outside").count("one central queue") == 3
    assert rack_page.body(some_results()[:1])("prototype") == NOT_COMPUTED


def test_what_lies_beside_the_page_is_what_its_command_would_compute() -> None:
    book = Book(Result, PAGE.with_suffix(".csv"))
    missing: list[str] = []

    def tell(text: str) -> None:
        missing.append(text)
        raise LookupError

    with contextlib.suppress(LookupError):
        racksched.compute(book, range(1, racksched.SEEDS + 1), racksched.REQUESTS, Stamp("", ""), tell)
    assert missing == []


def test_a_series_costs_what_its_windows_say() -> None:
    windows = [
        made("switch-failure", "exp", "8x7", "headway", at, 1) for at in (0.1, 0.32, 0.34, 0.36, 0.38)
    ]  # fmt: skip
    windows[1] = replace(windows[1], p99_us=math.nan, lost=500.0, answered_per_s=0.0)
    windows[3] = replace(windows[3], p99_us=300.0, answered_per_s=100e3)
    lost, before_us, worst_us, over_ms = rack_page._cost(SERIES["switch-failure"], windows)
    assert (lost, before_us, worst_us) == (504.0, 101.0, 300.0)
    assert over_ms == pytest.approx(30.0)


def test_servers_are_named_by_their_workers() -> None:
    assert name_of(UNEQUAL) == "4x7+4x4"
    assert racksched.SERVERS == (1, 2, 4, 8, 12)
