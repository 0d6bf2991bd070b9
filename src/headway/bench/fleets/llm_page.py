"""The page on LLM scheduling: what stands at its marked places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from headway.bench.fleets.llm_cells import ROUTER_LOADS, Result
from headway.bench.fleets.llm_figures import balancers, orders
from headway.bench.fleets.llm_rows import Rows
from headway.bench.page import NOT_COMPUTED, draw, rewrite, table, when_and_where
from headway.report import format as fmt
from headway.sim.estimate import Estimate


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `llm_scheduling.md` in a folder and draw its figures beside it. Raises HeadwayError when that fails."""
    if results:
        for name, drawn in (("balancers", balancers), ("orders", orders)):
            draw(folder / f"llm_scheduling-{name}.svg", drawn(Rows(results)))
    rewrite(folder / "llm_scheduling.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("orders")
    'These results have not been computed.'
    """
    rows = Rows(results)
    writers: dict[str, Callable[[], str]] = {
        "provenance": lambda: _provenance(results),
        "headline": lambda: _or_none(_headline(rows)),
        "routers": lambda: _routers(rows, "conversation"),
        "routers-code": lambda: _routers(rows, "code-like"),
        "routers-mooncake": lambda: _routers(rows, "mooncake"),
        "rates": lambda: _rates(rows),
        "orders": lambda: _orders(rows, "conversation"),
        "orders-code": lambda: _orders(rows, "code-like"),
        "orders-mooncake": lambda: _orders(rows, "mooncake"),
        "memory": lambda: _memory(rows, "conversation"),
        "memory-mooncake": lambda: _memory(rows, "mooncake"),
        "batching": lambda: _batching(rows),
        "prefix": lambda: _prefix(rows),
        "tenants": lambda: _tenants(rows),
    }
    return lambda name: writers[name]()


def _provenance(results: Sequence[Result]) -> str:
    if not results:
        return NOT_COMPUTED
    parts = max(result.seed for result in results)
    return (
        f"Computed {when_and_where(results)}. Figures are means over {parts} parts of a trace, or "
        "seeds; intervals are 95%, of ratios formed part by part."
    )


def _or_none(lines: Iterator[str]) -> str:
    return "\n".join(lines) or NOT_COMPUTED


def _headline(rows: Rows) -> Iterator[str]:
    cells = [cell for cell in rows.policies("routers", "conversation") if cell[1] == "fresh"]
    if not cells:
        return
    load = ROUTER_LOADS["conversation"][0]

    def means(name: str, setting: str) -> list[float]:
        return rows.values("routers", "conversation", name, setting, load, field="ttft_mean")

    for setting in ("fresh", "0.5 s old + sent"):
        for ours in ("sal", "first-token"):
            for theirs, where in (("round-robin", "fresh"), ("least-loaded", setting)):
                pairs = list(zip(means(ours, setting), means(theirs, where), strict=True))
                lower = Estimate.of([1.0 - one / two for one, two in pairs])
                yield (
                    f"- `{ours}`, reports {setting}: mean time to first token **{lower.text(fmt.percent)}** below "
                    f"that of `{theirs}`."
                )


def _routers(rows: Rows, workload: str) -> str:
    cells = rows.policies("routers", workload)
    if not cells:
        return NOT_COMPUTED
    load = ROUTER_LOADS[workload][0]
    signals = ("fresh", "0.5 s old", "0.5 s old + sent", "2 s old + sent")
    body = []
    for name in sorted({cell[0] for cell in cells}, key=lambda n: (_order(rows, workload, n, load), n)):
        at = ("routers", workload, name)
        body.append([
            f"`{name}`", *(rows.cell(*at, signal, load, field="ttft_mean") for signal in signals),
            rows.beside((*at, "fresh", load), (*at[:2], "round-robin", "fresh", load), "ttft_mean"),
            rows.cell(*at, "fresh", load, field="ttft_p99"), rows.worst(*at, "fresh", load, field="wait_max"),
        ])  # fmt: skip
    head = ["balancer", *(f"TTFT mean, {signal}" for signal in signals), "round-robin = 1, fresh", "P99, fresh",
            "longest wait, fresh"]  # fmt: skip
    return table(head, body)


def _order(rows: Rows, workload: str, name: str, load: float) -> float:
    fresh = rows.mean("routers", workload, name, "fresh", load, field="ttft_mean")
    return math.inf if math.isnan(fresh) else fresh


def _rates(rows: Rows) -> str:
    """Balancers x traces x rates, fresh reports: every mean time to first token as a ratio to round robin's."""
    body = []
    for workload, loads in ROUTER_LOADS.items():
        for load in sorted(loads):
            names = {cell[0] for cell in rows.policies("routers", workload) if cell[1:] == ("fresh", load)}
            for name in sorted(names, key=lambda n: (_order(rows, workload, n, load), n)):
                at, baseline = (
                    ("routers", workload, name, "fresh", load),
                    ("routers", workload, "round-robin", "fresh", load),
                )
                body.append([
                    workload, f"{load:g}", f"`{name}`",
                    *(rows.cell(*at, field=field) for field in ("ttft_mean", "ttft_p99")),
                    *(rows.beside(at, baseline, field) for field in ("ttft_mean", "e2e_mean")),
                    rows.cell(*at, field="kept", text=fmt.percent), rows.worst(*at, field="wait_max"),
                ])  # fmt: skip
    head = ["trace", "times as fast", "balancer", "TTFT mean", "P99", "TTFT mean, round-robin = 1",
            "E2E mean, round-robin = 1", "within the SLO", "longest wait"]  # fmt: skip
    return table(head, body, texts=3)


def _orders(rows: Rows, workload: str) -> str:
    cells = rows.policies("orders", workload)
    bounds = sorted({cell[1] for cell in cells} - {"none"})
    body = []
    for load in sorted({cell[2] for cell in cells}):
        for name in dict.fromkeys(cell[0] for cell in cells if cell[2] == load):
            at = ("orders", workload, name)
            body.append([
                f"{load:g}", f"`{name}`",
                *(rows.cell(*at, "none", load, field=field) for field in ("ttft_mean", "ttft_p99", "ttft_p999")),
                rows.worst(*at, "none", load, field="wait_max"),
                rows.beside((*at, "none", load), (*at[:2], "fcfs", "none", load), "ttft_mean"),
                *(rows.cell(*at, bound, load, field="ttft_mean") for bound in bounds),
                *(rows.worst(*at, bound, load, field="wait_max") for bound in bounds),
            ])  # fmt: skip
    head = ["load", "order", "TTFT mean", "P99", "P99.9", "longest wait", "mean, fcfs = 1",
            *(f"mean, maximum wait {bound}" for bound in bounds), *("longest wait then" for _ in bounds)]  # fmt: skip
    return table(head, body, texts=2)


def _memory(rows: Rows, workload: str) -> str:
    body = []
    for name, setting, load in rows.policies("memory", workload):
        at, baseline = ("memory", workload, name, setting, load), ("memory", workload, "optimistic", "recompute", load)
        fields = ("preemptions", "wasted", "ttft_mean", "tpot_p99", "e2e_mean")
        body.append([
            f"`{name}`", setting, *(rows.cell(*at, field=field) for field in fields),
            rows.beside(at, baseline, "e2e_mean"), rows.worst(*at, field="wait_max"),
        ])  # fmt: skip
    head = ["admission", "preempted by", "preemptions per request", "tokens wasted", "TTFT mean", "TPOT P99",
            "E2E mean", "E2E mean, optimistic and recompute = 1", "longest wait"]  # fmt: skip
    return table(head, body, texts=2)


def _batching(rows: Rows) -> str:
    body = []
    for name, setting, load in rows.policies("batching", "conversation"):
        at, baseline = (("batching", "conversation", *one, load) for one in
                        ((name, setting), ("decode-first", "budget 512")))  # fmt: skip
        fields = ("ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99")
        body.append([
            name, setting, *(rows.cell(*at, field=field) for field in fields),
            rows.beside(at, baseline, "ttft_mean"), rows.cell(*at, field="kept", text=fmt.percent),
        ])  # fmt: skip
    head = ["iterations", "tokens", "TTFT mean", "TTFT P99", "TPOT mean", "TPOT P99", "TTFT mean, last row = 1",
            "within the SLO"]  # fmt: skip
    return table(head, body, texts=2)


def _prefix(rows: Rows) -> str:
    load = ROUTER_LOADS["mooncake"][0]
    found = [cell for cell in rows.policies("routers", "mooncake") if cell[1:] == ("fresh", load)]
    places = [("routers", "mooncake", *cell) for cell in found]
    places += [("prefix", "mooncake", *cell) for cell in rows.policies("prefix", "mooncake")]
    body = [
        [f"`{at[2]}`", "cached" if at[0] == "routers" else at[3], rows.cell(*at, field="cached", text=fmt.percent),
         *(rows.cell(*at, field=field) for field in ("ttft_mean", "ttft_p99")),
         rows.beside(at, ("routers", "mooncake", "round-robin", "fresh", load), "ttft_mean"),
         rows.worst(*at, field="wait_max")]
        for at in places
    ]  # fmt: skip
    head = ["balancer", "prefixes", "prompt tokens found", "TTFT mean", "P99", "TTFT mean, round-robin = 1",
            "longest wait"]  # fmt: skip
    return table(head, body, texts=2)


def _tenants(rows: Rows) -> str:
    body = []
    for name, setting, load in rows.policies("tenants", "conversation"):
        at, baseline = (("tenants", "conversation", one, setting, load) for one in (name, "fcfs"))
        fields = ("fairness", "ttft_mean", "ttft_p99")
        body.append([f"`{name}`", *(rows.cell(*at, field=field) for field in fields),
                     rows.beside(at, baseline, "ttft_mean")])  # fmt: skip
    return table(["order", "Jain's index", "TTFT mean", "P99", "TTFT mean, fcfs = 1"], body)
