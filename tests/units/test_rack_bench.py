"""RackSched's workloads and systems, the figures that are held against a prototype's, and the page of results."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.bench import BenchOptions
from headway.bench.fleets import rack, rack_page, rack_reference, racksched
from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, TYPED, UNEQUAL, WORKS, carried, p99_us
from headway.bench.fleets.racksched import FIGURES, LOADS, SERIES, Result, happened, loaded, name_of

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


def test_a_figure_of_one_seed_is_met_by_noise_or_its_makers_own_error_and_not_beyond() -> None:
    assert rack._beside("a", [100.0, 101.0, 99.0], 103.0, "us").met
    assert rack._beside("a", [90.0, 110.0, 100.0], 115.0, "us").met
    assert not rack._beside("a", [100.0, 101.0, 99.0], 110.0, "us").met


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


def some_results() -> list[Result]:
    out = []
    for number in ("10", "11", "12", "13", "14", "15", "16"):
        figure = FIGURES[number]
        for workload in figure.works:
            for workers in figure.racks:
                for system in figure.systems:
                    for seed in (1, 2):
                        figures = 50.0, 100.0 + seed, 60.0, 2.0, 0.9, None, None
                        stamp = "", "2026-01-31", "a machine"
                        base = Result("load", workload, name_of(workers), system, 0.0, seed, 1000, *figures, *stamp)
                        out += [replace(base, at=load) for load in LOADS]
                        out.append(replace(base, experiment="carried"))
    return out


def test_the_page_is_written_from_results(tmp_path: Path) -> None:
    shutil.copy(PAGE, tmp_path)
    rack_page.write(tmp_path, some_results())
    written = (tmp_path / "racksched.md").read_text(encoding="utf-8")
    assert "102 (" in written
    assert "Computed 2026-01-31 on a machine" in written
    assert (tmp_path / "racksched-latency.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_servers_are_named_by_their_workers() -> None:
    assert name_of(UNEQUAL) == "4x7+4x4"
    assert racksched.SERVERS == (1, 2, 4, 8, 12)
