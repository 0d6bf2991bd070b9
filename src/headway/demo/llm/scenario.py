"""What the demo of LLM engines is about: the traffic that it sends, scaled to the engines, and policies to compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headway.demo.scenario import STREAM
from headway.errors import HeadwayError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import admission
from headway.policy.scheduling import order
from headway.policy.token_routing import token_router
from headway.sim.station import Floats
from headway.trace import Trace

PROMPT_TOKENS = 96.0
"""The mean prompt of what is sent: about a twelfth of what people send to large models, so that it takes a second."""
LEAST_PROMPT, LEAST_OUTPUT = 8.0, 2.0
LONGEST = 4.0
"""The longest prompt or answer, in units of the mean one."""

SHORT_TTFT_S, LONG_TTFT_S = 3.0, 6.0
"""What prompts up to the mean, and longer ones, are promised to their first token."""

ENOUGH = 2_000
"""More requests than any engine is sent here."""

LOAD = 0.6
"""The share of their time that the engines are busy with what is sent."""

INPUT_MEDIAN, INPUT_MEAN, OUTPUT_MEDIAN, OUTPUT_MEAN = 1020.0, 1155.0, 129.0, 211.0
"""Tokens of requests in the Azure LLM inference trace 2023, conversation; its arrivals are about a Poisson process."""

POLICIES = (
    "random",
    "round-robin",
    "power-of-d",
    "least-outstanding",
    "lmetric",
    "sal",
    "least-prefill",
    "first-token",
)
POLICY = "first-token"
"""What the gateway routes by in the demo."""

REPORT_S = 0.5
"""How often the gateway asks engines for their metrics."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the demo is: seconds for which engines are measured, seconds replayed, simulations of each policy.

    >>> Sizes().replay_s > Sizes.quick().replay_s
    True
    """

    measure_s: float = 45.0
    replay_s: float = 75.0
    runs: int = 20

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes with which everything is gone through once, and figures mean nothing."""
        return cls(measure_s=0.0, replay_s=3.0, runs=2)


def conversation(requests: int, seed: int) -> Trace:
    """Return requests like those of the Azure conversation trace of 2023, one a second: what is not known is drawn.

    Lengths are log-normal, with the published medians and means.
    """
    rng = np.random.default_rng([seed, STREAM])
    columns = {
        name: np.rint(rng.lognormal(math.log(median), math.sqrt(2.0 * math.log(mean / median)), requests))
        for name, median, mean in (
            ("input_tokens", INPUT_MEDIAN, INPUT_MEAN),
            ("output_tokens", OUTPUT_MEDIAN, OUTPUT_MEAN),
        )
    }
    return Trace.from_arrivals(Trace.poisson(1.0, requests=requests, seed=seed).arrival_s, columns, name="conversation")


def sent(trace: Trace | None, steps: Sequence[StepTime], most_tokens: int, seconds: float, seed: int) -> Trace:
    """Return the traffic to send: the first requests of a trace, else of `conversation`, as many as the engines carry.

    Lengths are scaled as `lengths` does, arrivals so that the engines are busy for `LOAD` of the time. Raises
    HeadwayError for a trace without requests or their tokens.
    """
    whole = conversation(ENOUGH, seed) if trace is None else trace
    prompt, output = lengths(whole, most_tokens)
    busy_s = np.cumsum([work_s(steps, *tokens) for tokens in zip(prompt.tolist(), output.tolist(), strict=True)])
    count = max(1, int(np.searchsorted(busy_s, LOAD * seconds)))
    arrival_s = whole.arrival_s[:count] - whole.arrival_s[0]
    count, end_s = arrival_s.size, float(busy_s[arrival_s.size - 1]) / LOAD
    # As long after the last request as there is between two of them, on average.
    span_s = float(arrival_s[-1]) * count / max(1, count - 1)
    columns = {"input_tokens": prompt[:count], "output_tokens": output[:count], "max_tokens": output[:count]}
    return Trace.from_arrivals(arrival_s * (end_s / span_s if span_s else 1.0), columns, end_s, whole.name)


def lengths(trace: Trace, most_tokens: int) -> tuple[Floats, Floats]:
    """Return the tokens of prompts and answers, both scaled by the factor that makes the mean prompt `PROMPT_TOKENS`.

    The longest are cut, so that one request has at most `most_tokens`. Raises HeadwayError for a trace without them.
    """
    missing = [name for name in ("input_tokens", "output_tokens") if name not in trace.columns]
    if missing or not trace.requests:
        lacks = f"column {missing[0]!r}" if missing else "request"
        raise HeadwayError(f"demo: trace {trace.name!r} has no {lacks}; give one with the tokens of its requests")
    whole = trace.columns["input_tokens"], trace.columns["output_tokens"]
    factor = PROMPT_TOKENS / max(1.0, float(np.mean(whole[0])))
    prompt, output = (
        np.clip(np.rint(factor * column), least, max(least, min(np.rint(LONGEST * factor * np.mean(column)), room)))
        for column, least, room in zip(
            whole, (LEAST_PROMPT, LEAST_OUTPUT), (most_tokens // 2, most_tokens // 4), strict=True
        )
    )
    return prompt, output


def work_s(steps: Sequence[StepTime], prompt: float, output: float) -> float:
    """Return the seconds that engines take for one request of many like it, each doing its share.

    >>> work_s([StepTime(floor_s=0.01, token_s=0.001)] * 2, prompt=100, output=11)
    0.1
    """
    pairs, context = 0.5 * prompt * (prompt + 1), prompt + 0.5 * output
    alone_s = [step.seconds(prompt, pairs=pairs) + (output - 1) * step.seconds(1, context) for step in steps]
    return 1.0 / sum(1.0 / seconds for seconds in alone_s)


def fleet(engines: Sequence[Engine], policy: str) -> LlmFleet:
    """Return engines behind a balancer as the gateway is one: it knows what it sent, and asks for the rest."""
    return LlmFleet(tuple(engines), token_router(policy), order("fcfs"), admission("reserve"), report_s=REPORT_S)


def counted(trace: Trace, kept: Sequence[int], tokens: Sequence[tuple[int, int]]) -> Trace:
    """Return some requests of a trace, with the tokens of their prompts and answers as engines counted them.

    >>> counted(conversation(3, seed=1), [0, 2], [(90, 20), (7, 5)]).columns["input_tokens"].tolist()
    [90.0, 7.0]
    """
    prompt, output = np.array(tokens, np.float64).reshape(-1, 2).T
    columns = {"input_tokens": prompt, "output_tokens": output, "max_tokens": output}
    return Trace.from_arrivals(trace.arrival_s[list(kept)], columns, trace.duration_s, trace.name)


def simulated(engines: Sequence[Engine], policy: str, trace: Trace, runs: int, seed: int) -> list[LlmOutcome]:
    """Return what would become of a trace; several times where the policy draws, since each draw is another story."""
    work = LlmWork.of(trace)
    made = fleet(engines, policy)
    return [simulate_llm(made, work, seed=seed + run) for run in range(runs)]
