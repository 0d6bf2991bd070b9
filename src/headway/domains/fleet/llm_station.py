"""The simulator's station of LLM engines: requests with tokens, first tokens and last ones, and promises to classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.domains.fleet.least import llm_least, llm_work_s
from headway.domains.fleet.leaving import CLASS, departures, kinds, per_arrival
from headway.errors import TraceError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.fleet.llm_slo import SloClass, kept, tokens_per_tenant
from headway.fleet.metrics import goodput_per_s, jain, mean_answered, most_answered, slowdown
from headway.sim.draws import batch_key
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals, Departures, Floats, Ints
from headway.trace import Trace
from headway.trace.prompts import BLOCK_TOKENS, PROMPT, Prompts

COLUMNS = ("input_tokens", "output_tokens", "max_tokens", "predicted_tokens", "tenant", "session")
"""The columns of a trace that engines and their policies go by; the first two are needed."""

NO_PROMPTS = Prompts.of([], BLOCK_TOKENS)


def work_of(
    name: str,
    arrival_s: Floats,
    columns: Mapping[str, Floats],
    max_output_tokens: int,
    prompts: Prompts | None = None,
    trace: str = "",
) -> LlmWork:
    """Return the requests that a stage's engines get; `prompts` are those that a prefix cache knows blocks of.

    Raises TraceError, beginning with the stage and the name of the `trace`, for what lacks.
    """
    last_s = float(arrival_s[-1]) if arrival_s.size else 0.0
    wanted = COLUMNS if prompts is None else (*COLUMNS, PROMPT)
    known = {column: columns[column] for column in wanted if column in columns}
    requests = Trace.from_arrivals(arrival_s, known, duration_s=max(last_s, 1.0), name=trace)
    try:
        return LlmWork.of(requests, prompts, max_output_tokens=max_output_tokens)
    except TraceError as error:
        raise TraceError(f"stages.{name}: {error}") from None


@dataclass(frozen=True)
class LlmStation:
    """Equal LLM engines behind a balancer, that serve items by the tokens of their requests.

    Time is busy as far as tokens need it at least, in full iterations: an engine that iterates all the time over few
    requests is not full, and utilization says how much of the capacity the traffic takes.

    >>> from headway.fleet.step_time import StepTime
    >>> engine = Engine(StepTime(floor_s=0.01, token_s=1e-4), kv_tokens=80_000)
    >>> station = LlmStation("answer", LlmFleet((engine,)), (SloClass("chat", ttft_s=0.04),), 4096)
    >>> one = np.zeros(1, np.int32)
    >>> tokens = {"input_tokens": np.array([500.0]), "output_tokens": np.array([11.0])}
    >>> left = station.run(Arrivals(np.zeros(1), one, one, attributes=tokens), seed=0, record=True)
    >>> round(float(left.done_s[0]), 6), bool(left.broken[0]), round(left.figures["ttft_p99_s"], 6)
    (0.15, True, 0.05)
    """

    name: str
    fleet: LlmFleet
    classes: tuple[SloClass, ...]
    max_output_tokens: int

    @property
    def capacity(self) -> int:
        """Number of engines."""
        return self.fleet.size

    @property
    def engine(self) -> Engine:
        """What each of the engines is."""
        return self.fleet.engines[0]

    def fastest_s(self) -> float:
        """One iteration with one token."""
        return self.engine.step.seconds(1, pairs=1)

    def served(self, arrivals: Arrivals, seed: int) -> tuple[LlmOutcome, Ints]:
        """Return what came of all arrivals, and of which class each is. Raises TraceError for columns that lack."""
        kind = kinds(per_arrival(arrivals, CLASS), arrivals.arrival_s.size, len(self.classes), self.name)
        return simulate_llm(self.fleet, self._work(arrivals), seed=batch_key(seed, self.name)), kind

    def rejected(self, arrivals: Arrivals) -> dict[str, int]:
        """Return which arrivals no engine takes, whatever the policies: those that may need more memory than one has.

        How many `requests`, the `first` of them (its number in the trace, from 0) with its `input_tokens` and the
        `context_tokens` that it may grow to, and the `kv_tokens` that an engine holds. Empty when there is none.
        """
        work = self._work(arrivals).requests
        context, block = work.prompt + work.limit, self.fleet.block_tokens
        beyond = np.flatnonzero(-(-context // block) > self.engine.kv_tokens // block)
        if not beyond.size:
            return {}
        first = int(beyond[0])
        return {
            "requests": int(beyond.size),
            "first": int(arrivals.request[arrivals.item[first]]),
            "input_tokens": int(work.prompt[first]),
            "context_tokens": int(context[first]),
            "kv_tokens": self.engine.kv_tokens,
        }

    def _work(self, arrivals: Arrivals) -> LlmWork:
        n = arrivals.arrival_s.size
        columns = {name: values for name in COLUMNS if (values := per_arrival(arrivals, name)) is not None}
        if not n:
            columns |= {name: np.empty(0) for name in (*COLUMNS[:2], PROMPT)}
        prompts = None
        if self.fleet.prefix_cache:
            prompts = arrivals.prompts if n else NO_PROMPTS
            if prompts is None:
                raise TraceError(
                    f"stages.{self.name}: prefix_cache needs to know of which blocks prompts consist; give a trace "
                    "with hash_ids, as Mooncake's have them, or leave prefix_cache out"
                )
            if n:
                columns[PROMPT] = arrivals.attributes[PROMPT][arrivals.request[arrivals.item]]
        return work_of(self.name, arrivals.arrival_s, columns, self.max_output_tokens, prompts, arrivals.trace)

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        """Serve all arrivals. Raises TraceError for a trace without the tokens of its requests."""
        outcome, kind = self.served(arrivals, seed)
        return departures(
            arrivals,
            outcome.start_s,
            outcome.done_s,
            kept(outcome, self.classes, kind) if self.classes else np.empty(0, np.bool_),
            busy_s=self._busy_s(outcome),
            figures=llm_figures(self, outcome, kind) if record else {},
            told=self._told(arrivals, outcome) if record else {},
            record=record,
        )

    def alone_s(self, outcome: LlmOutcome) -> Floats:
        """The least that each request takes with no other there, nothing of its prompt cached."""
        prompt, output = outcome.prompt.astype(np.float64), outcome.output.astype(np.float64)
        transfer_s = self.fleet.transfer_token_s
        return llm_least(self.engine, prompt, output, (), np.zeros(0, np.int32), transfer_token_s=transfer_s).alone_s

    def _told(self, arrivals: Arrivals, outcome: LlmOutcome) -> dict[str, Any]:
        """Why requests were never answered, where some were not."""
        rejected = self.rejected(arrivals) if outcome.answered < outcome.offered else {}
        return {"rejected": rejected} if rejected else {}

    def _busy_s(self, outcome: LlmOutcome) -> float:
        """The engines' time that what was answered takes at least: the largest of the ways to count it."""
        answered = np.isfinite(outcome.done_s)
        columns = outcome.prompt, outcome.output, outcome.cached
        prompt, output, cached = (values[answered].astype(np.float64) for values in columns)
        unseen = prompt - np.minimum(cached, prompt - 1.0) if self.fleet.prefix_cache else None
        ways = llm_work_s(self.engine, prompt, output, unseen)
        return max(float(way.sum()) for way in ways)


def llm_figures(station: LlmStation, outcome: LlmOutcome, kind: Ints) -> dict[str, float]:
    """Return what one latency hides of LLM requests, over all and by class.

    Means and the longest wait are those of what was answered; in percentiles what never was takes infinitely long. A
    slowdown is the time to the last token over the least that the request takes alone.
    """
    if not outcome.offered:
        return {}
    tpot_s, normalized_s = (values[~np.isnan(values)] for values in (outcome.tpot_s, outcome.normalized_s))
    slow = slowdown(outcome.e2e_s, station.alone_s(outcome))
    figures = {
        "ttft_mean_s": mean_answered(outcome.ttft_s),
        "ttft_p99_s": percentile(outcome.ttft_s, 99),
        **({"tpot_mean_s": mean_answered(tpot_s), "tpot_p99_s": percentile(tpot_s, 99)} if tpot_s.size else {}),
        "e2e_mean_s": mean_answered(outcome.e2e_s),
        "e2e_p99_s": percentile(outcome.e2e_s, 99),
        "per_token_mean_s": mean_answered(normalized_s),
        "slowdown_p99": percentile(slow, 99),
        "wait_max_s": most_answered(outcome.wait_s),
        "iterations": float(outcome.iterations),
        "preemptions": float(outcome.preemptions),
        "wasted_ratio": outcome.wasted_ratio,
    }
    if station.fleet.prefix_cache:
        figures["cached_ratio"] = outcome.hit_ratio
    if outcome.tenant.max() > outcome.tenant.min():
        figures["tenant_fairness"] = fairness(outcome)
    if station.classes:
        met = kept(outcome, station.classes, kind)
        span_s = float(np.ptp(outcome.arrival_s))
        if span_s > 0.0:
            figures["goodput_per_s"] = goodput_per_s(met.astype(np.float64), span_s)
        for at, each in enumerate(station.classes):
            own = kind == at
            if own.any():
                own_tpot_s = outcome.tpot_s[own & ~np.isnan(outcome.tpot_s)]
                figures[f"{each.name}.ttft_p99_s"] = percentile(outcome.ttft_s[own], 99)
                if own_tpot_s.size:
                    figures[f"{each.name}.tpot_p99_s"] = percentile(own_tpot_s, 99)
                figures[f"{each.name}.e2e_p99_s"] = percentile(outcome.e2e_s[own], 99)
                figures[f"{each.name}.slowdown_p99"] = percentile(slow[own], 99)
                figures[f"{each.name}.kept_ratio"] = float(met[own].mean())
    return figures


def fairness(outcome: LlmOutcome) -> float:
    """Return how alike tenants are served: Jain's index of what share of their tokens was done when the last came.

    1 when every tenant has got the same share of what it asked for by then.
    """
    asked = np.bincount(outcome.tenant, weights=outcome.prompt + outcome.output)
    served = tokens_per_tenant(outcome, float(outcome.arrival_s[-1]))
    share = served[asked > 0.0] / asked[asked > 0.0]
    return jain(share) if share.any() else 1.0
