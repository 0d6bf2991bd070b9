"""Simulate LLM engines: from a trace with token counts to when each request got its first token and its last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError, TraceError
from headway.fleet import metrics
from headway.fleet.engines import LlmFleet
from headway.fleet.llm_state import CACHED, COMPUTED, ITERATIONS, PREEMPTIONS, SWAPS, WASTED, Requests, Rules, State
from headway.sim.station import Floats, Ints
from headway.trace import Trace
from headway.trace.prompts import PROMPT, Prompts

Longs = NDArray[np.int64]

MAX_OUTPUT_TOKENS = 4096
"""The most output that a request is taken to have declared where the trace does not say."""

EXPECTED_OUTPUT_TOKENS = 256
"""The output that is expected of every request where no predictor has said."""

MOST_TOKENS = 1_000_000_000
"""More tokens than any request has: such a figure is an error of the trace."""

LARGEST_NUMBER = 1 << 53
"""Whole numbers beyond are not all told apart in a trace's columns."""


@dataclass(frozen=True, eq=False, slots=True)
class LlmWork:
    """Requests with their tokens, as the kernel wants them, and how many tokens a block of their prompts has.

    >>> trace = Trace.from_arrivals([0.0, 1.0], {"input_tokens": [100, 50], "output_tokens": [10, 20]})
    >>> LlmWork.of(trace).requests.limit.tolist()
    [4096, 4096]
    """

    requests: Requests
    prompt_block_tokens: int = 0

    @classmethod
    def of(
        cls,
        trace: Trace,
        prompts: Prompts | None = None,
        *,
        max_output_tokens: int = MAX_OUTPUT_TOKENS,
        expected_output_tokens: int = EXPECTED_OUTPUT_TOKENS,
    ) -> LlmWork:
        """Return the requests of a trace.

        Read are the columns `input_tokens` and `output_tokens`, and, where there are any, `max_tokens` (the output that
        was declared), `predicted_tokens`, `tenant`, `session` and, of `prompts` (else the trace's own), `prompt`.
        Raises TraceError for a column that lacks or a value that cannot be.
        """
        n = trace.requests
        prompt, output = _tokens(trace, "input_tokens"), _tokens(trace, "output_tokens")
        limit = _tokens(trace, "max_tokens", max_output_tokens)
        short = np.flatnonzero(limit < output)
        if short.size:
            at = int(short[0])
            raise TraceError(
                f"trace {trace.name!r}: request {at} has {output[at]} output tokens and may have {limit[at]} at most; "
                "raise max_output_tokens, or give the column max_tokens"
            )
        chosen = Prompts(np.zeros(n + 1, np.int64), np.empty(0, np.int32), 0)
        prompts = trace.prompts if prompts is None else prompts
        if prompts is not None:
            if PROMPT not in trace.columns:
                raise TraceError(f"trace {trace.name!r}: no column {PROMPT!r} says which prompt each request has")
            rows = trace.columns[PROMPT].astype(np.int64)
            if n and not 0 <= rows.min() <= rows.max() < prompts.size:
                raise TraceError(f"trace {trace.name!r}: column {PROMPT!r} goes beyond the {prompts.size} prompts")
            chosen = prompts.rows(rows)
            _check_blocks(trace, chosen, prompt)
        requests = Requests(
            arrival_s=trace.arrival_s,
            prompt=prompt,
            output=output,
            limit=limit,
            predicted=_tokens(trace, "predicted_tokens", expected_output_tokens),
            # What tenants are called takes no memory: their accounts are numbered as they are sorted.
            tenant=np.unique(_numbers(trace, "tenant", np.zeros(n)), return_inverse=True)[1].astype(np.int64),
            session=_numbers(trace, "session", np.arange(n)),
            first_block=chosen.first,
            blocks=chosen.blocks,
        )
        return cls(requests, chosen.block_tokens)


@dataclass(frozen=True, eq=False, slots=True)
class LlmOutcome:
    """What became of the requests, and what the engines did.

    Per request, in order of arrival: when it came, when it was first computed on, its first and its last token (seconds
    on the trace's clock, infinite for what never happened), the engine that served it (-1: none), how often it was
    preempted and how many of its prompt's tokens were cached. `tally[engine]`: see `headway.fleet.llm_state`.
    """

    arrival_s: Floats
    start_s: Floats
    first_s: Floats
    done_s: Floats
    prompt: Longs
    output: Longs
    tenant: Longs
    engine: Ints
    preempted: Ints
    cached: Longs
    tally: Longs
    busy_s: Floats

    @property
    def offered(self) -> int:
        """Requests that came."""
        return int(self.arrival_s.size)

    @property
    def answered(self) -> int:
        """Requests that got their last token."""
        return int(np.count_nonzero(np.isfinite(self.done_s)))

    @property
    def wait_s(self) -> Floats:
        """From arrival until a request is first computed on: what bounds on waiting are about."""
        return self.start_s - self.arrival_s

    @property
    def ttft_s(self) -> Floats:
        """Time to first token."""
        return self.first_s - self.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """Time to last token."""
        return self.done_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time per output token after the first; NaN for answers of one token."""
        return metrics.time_per_output_token_s(self.first_s, self.done_s, self.output.astype(np.float64))

    @property
    def normalized_s(self) -> Floats:
        """End-to-end time per output token (the vLLM paper's normalized latency)."""
        return metrics.normalized_latency_s(self.e2e_s, self.output.astype(np.float64))

    @property
    def iterations(self) -> int:
        """Iterations of all engines."""
        return int(self.tally[:, ITERATIONS].sum())

    @property
    def preemptions(self) -> int:
        """Preemptions on all engines; `swapped` of them copied memory out instead of computing it anew."""
        return int(self.tally[:, PREEMPTIONS].sum())

    @property
    def swapped(self) -> int:
        """Preemptions by swap."""
        return int(self.tally[:, SWAPS].sum())

    @property
    def wasted_ratio(self) -> float:
        """Tokens that preemptions threw away, as a share of all prompt tokens computed."""
        return float(self.tally[:, WASTED].sum() / max(1, self.tally[:, COMPUTED].sum()))

    @property
    def hit_ratio(self) -> float:
        """Prompt tokens found in the prefix cache, as a share of all that were admitted."""
        found = int(self.tally[:, CACHED].sum())
        return found / max(1, found + int(self.tally[:, COMPUTED].sum()))


def simulate_llm(fleet: LlmFleet, work: LlmWork, *, seed: int = 0, jump: bool = True) -> LlmOutcome:
    """Serve requests with a fleet. Same inputs and seed, same result.

    `jump=False` takes every iteration singly, which gives the same times up to rounding. Raises HeadwayError where the
    prefix cache lacks the blocks of the prompts, or these do not fit the blocks of memory.

    >>> from headway.fleet.engines import Engine
    >>> from headway.fleet.step_time import StepTime
    >>> fleet = LlmFleet((Engine(StepTime(floor_s=0.01, token_s=1e-4), kv_tokens=80_000),))
    >>> trace = Trace.from_arrivals([0.0], {"input_tokens": [500], "output_tokens": [11]})
    >>> outcome = simulate_llm(fleet, LlmWork.of(trace))
    >>> round(float(outcome.ttft_s[0]), 6), round(float(outcome.e2e_s[0]), 6)
    (0.05, 0.15)
    """
    from headway.fleet import llm_kernel

    engines, rules = fleet.columns, rules_of(fleet, work, seed, jump)
    state = State.of(engines, rules, work.requests)
    llm_kernel.advance(engines, rules, work.requests, state, np.inf)
    return outcome_of(work, state)


def rules_of(fleet: LlmFleet, work: LlmWork, seed: int, jump: bool = True) -> Rules:
    """Return how a fleet decides, as the kernel wants it. Raises HeadwayError as `simulate_llm` does."""
    from headway.sim.items import stream

    hash_blocks = 0
    if fleet.prefix_cache:
        if not work.prompt_block_tokens:
            raise HeadwayError("LLM fleet: prefix_cache needs to know the blocks of the prompts; give prompts")
        hash_blocks, rest = divmod(work.prompt_block_tokens, fleet.block_tokens)
        if rest:
            raise HeadwayError(
                f"LLM fleet: a block of a prompt has {work.prompt_block_tokens} tokens, one of memory "
                f"{fleet.block_tokens}; the first must be a multiple of the second"
            )
    return Rules(
        fleet.order, fleet.admission, fleet.router, float(fleet.report_s), bool(fleet.deltas), int(fleet.block_tokens),
        int(hash_blocks), float(fleet.transfer_token_s), int(stream(seed, "route").integers(1 << 32)), bool(jump),
    )  # fmt: skip


def outcome_of(work: LlmWork, state: State) -> LlmOutcome:
    """Return what the kernel has found."""
    made = work.requests
    return LlmOutcome(
        made.arrival_s, state.start_s, state.first_s, state.done_s, made.prompt, made.output, made.tenant,
        state.engine, state.preempted, state.cached, state.tally, state.busy_s,
    )  # fmt: skip


def _tokens(trace: Trace, column: str, default: int | None = None) -> Longs:
    """Return a column of whole numbers of tokens; zero counts as one, since every request is computed and answered."""
    if column not in trace.columns:
        if default is None:
            raise TraceError(
                f"trace {trace.name!r}: no column {column!r}; an LLM fleet needs input_tokens and output_tokens of "
                "each request, as a trace with tokens has them or headway trace edit draws them"
            )
        return np.full(trace.requests, default, np.int64)
    values = trace.columns[column]
    wrong = np.flatnonzero(~((values >= 0) & (values <= MOST_TOKENS)))
    if wrong.size:
        raise TraceError(
            f"trace {trace.name!r}: column {column!r} has the value {values[wrong[0]]:g} in request {wrong[0]}, which "
            f"is below 0 or above {MOST_TOKENS:,} tokens"
        )
    return np.maximum(1, np.rint(values)).astype(np.int64)


def _check_blocks(trace: Trace, prompts: Prompts, prompt: Longs) -> None:
    counts = np.diff(prompts.first)
    short = np.flatnonzero(counts < prompt // prompts.block_tokens)
    if short.size:
        at = int(short[0])
        raise TraceError(
            f"trace {trace.name!r}: request {at} has {prompt[at]} tokens in its prompt and {counts[at]} blocks; each "
            f"full block of {prompts.block_tokens} tokens needs its number"
        )


def _numbers(trace: Trace, column: str, default: Floats | Longs) -> Longs:
    values = trace.columns.get(column, default)
    if values.size and not (values.min() >= 0 and values.max() <= LARGEST_NUMBER and np.all(values == np.rint(values))):
        raise TraceError(
            f"trace {trace.name!r}: column {column!r} has a value below 0, above {LARGEST_NUMBER} or between two whole "
            "numbers; number from 0"
        )
    return values.astype(np.int64)
