"""The experiments behind the page on LLM scheduling: which fleets serve which requests, and what is noted of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.bench.book import Book, Stamp
from headway.bench.fleets.llm_cases import CHUNK, MAX_WAIT_S, MOST_RUNNING, SPEED_UP, engine, fleet, slices
from headway.files import content_hash
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.fleet.llm_slo import SloClass, kept, tokens_per_tenant
from headway.fleet.metrics import jain
from headway.fleet.roofline import roofline
from headway.policy.kv_admission import admission
from headway.policy.scheduling import order
from headway.policy.token_routing import token_router
from headway.sim.outcome import percentile
from headway.trace import Trace

SLICES = 8
SLO = SloClass("interactive", ttft_s=1.0, tpot_s=0.05)
"""What goodput is counted by."""

TIGHT_KV_TOKENS = 24_000
TIGHT_LONG_KV_TOKENS = 150_000
"""Little for Mooncake's prompts: the longest of them just fits."""
SWAP_TOKEN_S = 524_288 / (3.2e10 * 0.8)
"""Copying a token's keys and values of Llama-2-7B over PCIe 4."""

CODE_MEAN_TOKENS, CODE_OUTPUT, CODE_RATE, CODE_CV = 2048.0, 28.0, 2.57, 13.2
"""The published figures of the Azure code trace, by which the made-up one is drawn."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy did on one part of a trace. Times in seconds; `kept` is the share of requests within the SLO.

    `setting` is what else differs within an experiment; `load` how many times as fast as it came a trace is played.
    """

    experiment: str
    workload: str
    setting: str
    policy: str
    load: float
    seed: int
    ttft_mean: float | None
    ttft_p99: float | None
    ttft_p999: float | None
    wait_max: float | None
    tpot_mean: float | None
    tpot_p99: float | None
    e2e_mean: float | None
    kept: float | None
    preemptions: float | None
    wasted: float | None
    cached: float | None
    fairness: float | None
    inputs: str
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return (self.experiment, self.workload, self.setting, self.policy, self.load, self.seed)


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet on one workload; its parts are the seeds."""

    experiment: str
    workload: str
    setting: str
    policy: str
    load: float
    fleet: LlmFleet


Parts = Sequence[LlmWork]

ROUTER_LOADS: Mapping[str, Sequence[float]] = {
    "conversation": (SPEED_UP, 3.0, 4.2), "code-like": (SPEED_UP, 1.8, 2.7), "mooncake": (1.0, 0.8, 1.2),
}  # fmt: skip
"""How many times as fast as it came a trace is played to several engines: first where reports are made old too."""
MOONCAKE_ENGINES = 6
ROUTER_NAMES = (
    "round-robin", "random", "least-loaded", "power-of-d", "least-memory", "least-prefill", "lmetric", "sal",
    "first-token",
)  # fmt: skip
MOONCAKE_NAMES = (
    "round-robin", "consistent-hash", "least-loaded", "power-of-d", "least-prefill", "lmetric", "sal", "first-token",
    "prefix-aware",
)  # fmt: skip
SIGNALS: Mapping[str, Mapping[str, Any]] = {
    "fresh": {},
    "0.5 s old": {"report_s": 0.5, "deltas": False},
    "0.5 s old + sent": {"report_s": 0.5},
    "2 s old + sent": {"report_s": 2.0},
}
ORDER_NAMES = ("fcfs", "sjf", "aged", "hrrn", "srpt", "mlfq", "larry", "larry-backlog")
ORDER_LOADS: Mapping[str, Sequence[float]] = {
    "conversation": (0.9, 1.0, 1.1), "code-like": (0.7, 0.9, 1.1), "mooncake": (0.14, 0.17, 0.2),
}  # fmt: skip
"""The same for one engine: below, about at and above what it carries."""
RULE_NAMES = ("optimistic", "headroom", "peak", "reserve")


def served_by(workload: str, router: str, engines: int, **changes: Any) -> LlmFleet:
    """Return the fleet that serves a workload: Mooncake's long prompts go to Llama-3-8B with a prefix cache."""
    if workload != "mooncake":
        return fleet(router, engines, **changes)
    known = roofline("llama-3-8b", "a100-80gb")
    changes.setdefault("made", Engine(known.step, known.kv_tokens, 2048, MOST_RUNNING))
    return fleet(router, engines, **{"prefix_cache": True, **changes})


def router_cells(workload: str) -> Iterator[Cell]:
    """Balancers in front of several engines at several loads; with fresh and with old reports at the first of them."""
    engines, names = (4, ROUTER_NAMES) if workload != "mooncake" else (MOONCAKE_ENGINES, MOONCAKE_NAMES)
    first, *others = ROUTER_LOADS[workload]
    for name in names:
        for signal, changes in SIGNALS.items():
            if signal == "fresh" or name not in ("round-robin", "random", "consistent-hash"):
                yield Cell("routers", workload, signal, name, first, served_by(workload, name, engines, **changes))
        for load in others:
            yield Cell("routers", workload, "fresh", name, load, served_by(workload, name, engines))
    guarded = dataclasses.replace(
        served_by(workload, "first-token", engines, report_s=2.0), router=token_router("first-token", stale_s=1.0)
    )
    yield Cell("routers", workload, "2 s old + sent", "first-token, stale after 1 s", first, guarded)


def order_cells(workload: str) -> Iterator[Cell]:
    """Orders within one engine, below, at and above what it carries, without and with a maximum wait."""
    for load in ORDER_LOADS[workload]:
        for name in ORDER_NAMES:
            for bound, most_s in (("none", math.inf), (f"{MAX_WAIT_S:g} s", MAX_WAIT_S)):
                if name == "fcfs" and most_s < math.inf:
                    continue
                ordered = order(name, max_wait_s=most_s, reach_tokens=14_000.0)
                yield Cell("orders", workload, bound, name, load, served_by(workload, "random", 1, ordered=ordered))


def memory_cells(workload: str) -> Iterator[Cell]:
    """Admission rules and ways to preempt in one engine whose memory is short."""
    for swap_s, setting in ((math.inf, "recompute"), (SWAP_TOKEN_S, "swap or recompute")):
        short, load = engine(kv_tokens=TIGHT_KV_TOKENS, swap_token_s=swap_s), 0.5
        if workload == "mooncake":
            known = roofline("llama-3-8b", "a100-80gb")
            # A token of Llama-3-8B has a quarter of the keys and values of one of Llama-2-7B.
            short = Engine(known.step, TIGHT_LONG_KV_TOKENS, 2048, MOST_RUNNING, swap_token_s=swap_s / 4)
            load = ORDER_LOADS[workload][0]
        for name in RULE_NAMES:
            made = served_by(workload, "random", 1, admitted=admission(name), made=short)
            yield Cell("memory", workload, setting, name, load, made)


def batching_cells() -> Iterator[Cell]:
    """How iterations are made up, and prefill on engines of its own; four engines each."""
    for name, budget in (("decode-first", CHUNK), ("decode-first", 2048), ("prefill-first", 4096), ("static", 4096)):
        made = engine(batching=name, token_budget=budget)
        yield Cell("batching", "conversation", f"budget {budget}", name, SPEED_UP, fleet("first-token", made=made))
    apart = [engine(role=role, token_budget=2048) for role in ("prefill", "prefill", "decode", "decode")]
    split = LlmFleet(tuple(apart), token_router("first-token"), transfer_token_s=524_288 / 2.5e10)
    yield Cell("batching", "conversation", "budget 2048", "2 prefill, 2 decode", SPEED_UP, split)


def tenant_cells() -> Iterator[Cell]:
    """One tenant sends half of all requests: who is served while everybody waits."""
    for name in ("fcfs", "sjf", "vtc"):
        yield Cell("tenants", "conversation", "", name, 1.3, fleet("random", 1, ordered=order(name)))


def prefix_cells() -> Iterator[Cell]:
    """Mooncake's prompts on engines that keep no prefixes, beside what `router_cells` has of those that do."""
    made = served_by("mooncake", "least-prefill", MOONCAKE_ENGINES, prefix_cache=False)
    yield Cell("prefix", "mooncake", "no cache", "least-prefill", ROUTER_LOADS["mooncake"][0], made)


def code_like(seconds: float, seed: int) -> Trace:
    """Return a trace drawn to the published figures of the Azure code trace: long prompts, short answers, bursts."""
    trace = Trace.gamma(CODE_RATE, CODE_CV, seconds=seconds, seed=seed)
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(math.log(1469.0), 0.815, trace.requests), 1, 7437)
    output = np.clip(rng.lognormal(math.log(13.0), 1.24, trace.requests), 1, 1000)
    columns = {"input_tokens": np.rint(prompt), "output_tokens": np.rint(output)}
    return Trace.from_arrivals(trace.arrival_s, columns, seconds)


def workloads(real: Mapping[str, Path], quick: bool) -> Iterator[tuple[Callable[[float], Parts], list[Cell]]]:
    """Yield, for each workload at hand, its parts at a load, and the cells that are computed on it.

    `real` names the trace files: "conversation" (with token counts) and "mooncake" (with blocks of prompts).
    """
    count = 2 if quick else SLICES

    def limited(trace: Trace, requests: int) -> Trace:
        return trace.slice(0.0, float(trace.arrival_s[requests])) if quick and trace.requests > requests else trace

    if "conversation" in real:
        trace = limited(Trace.read(real["conversation"]), 1_000)

        def conversation(load: float) -> Parts:
            return [LlmWork.of(part) for part in slices(trace, count, load)]

        cells = [
            *router_cells("conversation"), *order_cells("conversation"), *memory_cells("conversation"),
            *batching_cells(),
        ]  # fmt: skip
        yield conversation, cells

        def tenants(load: float) -> Parts:
            return [LlmWork.of(_with_tenants(part, at)) for at, part in enumerate(slices(trace, count, load))]

        yield tenants, list(tenant_cells())
    if "mooncake" in real:
        shared = Trace.read(real["mooncake"])
        few = limited(shared, 400)

        def mooncake(load: float) -> Parts:
            return [LlmWork.of(part, shared.prompts) for part in slices(few, count, load)]

        yield mooncake, [
            *prefix_cells(), *router_cells("mooncake"), *order_cells("mooncake"), *memory_cells("mooncake"),
        ]  # fmt: skip

    def code(load: float) -> Parts:
        seconds = 60.0 if quick else 1200.0
        return [LlmWork.of(code_like(seconds, seed).scale_time(1 / load)) for seed in range(1, count + 1)]

    yield code, [*router_cells("code-like"), *order_cells("code-like")]


def _with_tenants(trace: Trace, seed: int) -> Trace:
    drawn = np.random.default_rng(seed).random(trace.requests)
    tenant = np.where(drawn < 0.5, 0.0, 1.0 + np.floor((drawn - 0.5) * 8.0))
    return Trace.from_arrivals(trace.arrival_s, {**trace.columns, "tenant": tenant})


def compute(
    real: Mapping[str, Path], book: Book[Result], stamp: Stamp, tell: Callable[[str], None],
    *, quick: bool = False,
) -> None:  # fmt: skip
    """Put all results into the book; those that it has are not computed."""
    for parts_at, cells in workloads(real, quick):
        parts: dict[float, Parts] = {}
        for cell in cells:
            if cell.load not in parts:
                parts = {cell.load: parts_at(cell.load)}
            made = parts[cell.load]
            inputs = content_hash([repr(cell.fleet), [_hash(work) for work in made]])
            wanted = [_empty(cell, seed, inputs) for seed in range(1, len(made) + 1)]
            missing = [each for each in wanted if book.find(each) is None]
            if missing:
                tell(f"{cell.experiment}: {cell.workload} x {cell.load:g}, {cell.setting or 'as it is'}, {cell.policy}")
            book.add(stamp.on(measured(each, cell.fleet, made[each.seed - 1])) for each in missing)


def measured(wanted: Result, made: LlmFleet, work: LlmWork) -> Result:
    """Return a result with what a fleet did on one part."""
    out = simulate_llm(made, work, seed=wanted.seed)
    tpot_s = out.tpot_s[~np.isnan(out.tpot_s)]
    return dataclasses.replace(
        wanted,
        ttft_mean=float(np.mean(out.ttft_s)),
        ttft_p99=percentile(out.ttft_s, 99),
        ttft_p999=percentile(out.ttft_s, 99.9),
        wait_max=float(np.max(out.wait_s)),
        tpot_mean=float(np.mean(tpot_s)),
        tpot_p99=percentile(tpot_s, 99),
        e2e_mean=float(np.mean(out.e2e_s)),
        kept=float(np.mean(kept(out, [SLO], np.zeros(out.offered, np.int32)))),
        preemptions=out.preemptions / out.offered,
        wasted=out.wasted_ratio,
        cached=out.hit_ratio,
        fairness=_fairness(out),
    )


def _fairness(out: LlmOutcome) -> float:
    """Jain's index of the tokens that each tenant was served by the time of the last arrival."""
    return jain(tokens_per_tenant(out, float(out.arrival_s[-1])))


def _empty(cell: Cell, seed: int, inputs: str) -> Result:
    head = (cell.experiment, cell.workload, cell.setting, cell.policy, cell.load, seed)
    return Result(*head, *(None,) * 12, inputs)


def _hash(work: LlmWork) -> str:
    return content_hash(b"".join(np.ascontiguousarray(column).tobytes() for column in work.requests))


def real_files(path: Path | None) -> dict[str, Path]:
    """Return the traces of a file or a folder by what they are: "conversation" and "mooncake"."""
    if path is None:
        return {}
    files = [path] if path.is_file() else sorted(path.iterdir())
    found = {}
    for file in files:
        if "mooncake" in file.name:
            found["mooncake"] = file
        elif "conv" in file.name:
            found["conversation"] = file
    return found
