"""The benchmarks of LLM engines: the rival obeys the same rules, and the page says what the results say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from headway.bench import BenchOptions
from headway.bench.book import Book
from headway.bench.fleets import llm, llm_cells, llm_page, llm_simpy, llm_vidur
from headway.bench.fleets.llm_cases import MAX_WAIT_S, engine, fleet, shaped, slices
from headway.bench.fleets.llm_cells import Cell, Result
from headway.bench.page import NOT_COMPUTED
from headway.fleet.llm_run import simulate_llm
from headway.policy.scheduling import order
from headway.trace import Trace


def test_the_rival_in_simpy_gives_the_same_times() -> None:
    made = fleet("round-robin", 2, made=engine(kv_tokens=8_192))
    work = shaped(120, 12.0, seed=3)
    outcome = simulate_llm(made, work)
    assert outcome.preemptions > 0
    first_s, done_s = llm_simpy.serve(made, work.requests)
    np.testing.assert_allclose(outcome.first_s, first_s, rtol=1e-9)
    np.testing.assert_allclose(outcome.done_s, done_s, rtol=1e-9)


@pytest.mark.parametrize("most_s", [0.25, 0.5])
def test_nobody_is_passed_over_any_more_after_the_maximum_wait(most_s: float) -> None:
    made, work = fleet("round-robin", 2, ordered=order("sjf", max_wait_s=most_s)), shaped(300, 20.0, seed=4)
    outcome = simulate_llm(made, work)
    unbound = simulate_llm(dataclasses.replace(made, order=order("sjf")), work)
    assert 0.0 < llm.passed_over_s(outcome) <= most_s < llm.passed_over_s(unbound)
    assert float(outcome.wait_s.max()) > most_s
    assert llm.passed_over_s(simulate_llm(fleet("round-robin", 2), work)) == 0.0


@pytest.mark.parametrize("there", [False, True])
def test_the_bar_against_vidur_is_measured_against_simpy_where_that_is_not_installed(
    there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shaped(40, 8.0, seed=1).requests
    columns = {"input_tokens": work.prompt.astype(float), "output_tokens": work.output.astype(float)}
    trace = Trace.from_arrivals(work.arrival_s, columns)
    monkeypatch.setattr(llm, "real", lambda path, bench: trace)
    monkeypatch.setattr(llm, "QUICK_VIDUR_REQUESTS", 30)
    monkeypatch.setattr(llm, "QUICK_SIMPY_REQUESTS", 39)
    monkeypatch.setattr(llm_vidur, "installed", lambda: there)
    monkeypatch.setattr(llm_vidur, "serve", lambda fleet, requests: (*llm_simpy.serve(fleet, requests), 1.0))
    rows = {row.name: row for row in llm.sim_llm_vidur(BenchOptions(quick=True))}
    said = capsys.readouterr().err
    vidur, simpy = rows["sim-llm-vidur/vidur"], rows["sim-llm-vidur/simpy"]
    assert (vidur.bar, simpy.bar) == ((">= 300", None) if there else (None, ">= 300"))
    assert (vidur.to_dict()["value"] is None) == (not there)
    assert ("pip install --no-deps vidur" in said) == (not there)


def test_parts_of_a_trace_have_all_of_its_requests() -> None:
    trace = Trace.from_arrivals(np.arange(10.0), {"input_tokens": np.arange(10.0)})
    parts = slices(trace, 3, speed_up=2.0)
    assert [part.requests for part in parts] == [3, 3, 4]
    assert parts[1].arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert np.concatenate([part.columns["input_tokens"] for part in parts]).tolist() == list(range(10))


def test_a_trace_made_up_to_published_figures_has_them() -> None:
    trace = llm_cells.code_like(50_000.0, seed=2)
    assert float(trace.columns["input_tokens"].mean()) == pytest.approx(llm_cells.CODE_MEAN_TOKENS, rel=0.06)
    assert float(trace.columns["output_tokens"].mean()) == pytest.approx(llm_cells.CODE_OUTPUT, rel=0.15)


def test_results_are_kept_and_the_page_is_written_from_them(tmp_path: Path) -> None:
    book = Book(Result, tmp_path / "llm_scheduling.csv")
    cell = Cell("routers", "conversation", "fresh", "sal", 3.6, fleet("sal", 2))
    for seed in (1, 2):
        wanted = llm_cells._empty(cell, seed, "inputs")
        made = llm_cells.measured(wanted, cell.fleet, shaped(40, 6.0, seed))
        book.add([dataclasses.replace(made, date="2026-01-01", machine="here")])
    again = Book(Result, tmp_path / "llm_scheduling.csv").results
    assert [result.seed for result in again] == [1, 2]
    names = ("provenance", "routers", "rates", "orders", "memory", "batching", "prefix", "tenants", "routers-code")
    page = "".join(f"<!-- results: {name} -->\n<!-- end -->\n" for name in names)
    (tmp_path / "llm_scheduling.md").write_text(page, encoding="utf-8")
    llm_page.write(tmp_path, again)
    text = (tmp_path / "llm_scheduling.md").read_text(encoding="utf-8")
    assert "| `sal` |" in text
    assert "over 2 parts" in text
    assert text.count(NOT_COMPUTED) == 6
    drawn = {name: (tmp_path / f"llm_scheduling-{name}.svg").read_text("utf-8") for name in ("balancers", "orders")}
    assert all(one.startswith("<svg ") for one in drawn.values())
    assert "sal: " in drawn["balancers"]
    assert "sjf: " not in drawn["orders"], "orders have not been computed"


def test_every_policy_meets_every_trace_at_several_rates_on_one_and_on_several_engines() -> None:
    for workload in llm_cells.ROUTER_LOADS:
        several, one = list(llm_cells.router_cells(workload)), list(llm_cells.order_cells(workload))
        assert {cell.fleet.size for cell in one} == {1}
        assert min(cell.fleet.size for cell in several) >= 4
        for cells, loads in ((several, llm_cells.ROUTER_LOADS), (one, llm_cells.ORDER_LOADS)):
            assert {cell.load for cell in cells} == set(loads[workload])
            assert len(loads[workload]) == 3
        keys = [(cell.setting, cell.policy, cell.load) for cell in several]
        assert len(set(keys)) == len(keys)
        assert {"0.5 s old", "2 s old + sent"} < {cell.setting for cell in several}
        assert {"none", f"{MAX_WAIT_S:g} s"} == {cell.setting for cell in one}


def test_mooncakes_prompts_are_kept_as_prefixes_but_where_that_is_what_is_compared() -> None:
    cells = [*llm_cells.router_cells("mooncake"), *llm_cells.order_cells("mooncake")]
    assert all(cell.fleet.prefix_cache for cell in cells)
    assert not any(cell.fleet.prefix_cache for cell in (*llm_cells.prefix_cells(), *llm_cells.order_cells("code-like")))
    assert {cell.fleet.engines[0].kv_tokens for cell in llm_cells.memory_cells("mooncake")} == {150_000}
