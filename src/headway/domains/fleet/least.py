"""The least that requests take of a fleet, alone and of its capacity: what bounds on cost rest on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headway.fleet.llm_slo import SloClass
from headway.fleet.roofline import StepTime
from headway.sim.outcome import TOLERANCE_S
from headway.sim.station import Flags, Floats, Ints
from headway.sim.worklaw import LeastTimes


def llm_work_s(
    step: StepTime, kv_tokens: int, token_budget: int, most_running: int, prompt: Floats, output: Floats
) -> tuple[Floats, ...]:
    """Return the seconds of an engine that each request takes at least, counted in three ways.

    An iteration takes `h + max(floor, t n)` for its n tokens, and time for context and pairs of tokens. It has at most
    `token_budget` tokens, `most_running` requests and `kv_tokens` of context, so each token, each request in an
    iteration, and each token of context in an iteration, takes its share of that. Of a request's `output` tokens every
    one needs an iteration of its own. Sums over requests are bounds way by way, whatever the policies do: after a
    preemption a token comes from computing all of its context anew, which takes no less than decoding would.

    >>> step = StepTime(floor_s=0.01, token_s=1e-4)
    >>> [float(way[0]) for way in llm_work_s(step, 10_000, 500, 10, np.array([400.0]), np.array([11.0]))]
    [0.041, 0.011, 0.004455]
    """
    decodes = output - 1.0
    context = decodes * prompt + 0.5 * decodes * (decodes - 1.0)
    prompt_s = 0.5 * step.pair_s * prompt * (prompt + 1.0)
    anew_s = 0.5 * step.pair_s * (prompt + 2.0)
    share_s = step.seconds(token_budget) / token_budget
    empty_s = step.overhead_s + step.floor_s
    context_s = np.minimum(step.kv_token_s, anew_s) * context
    by_tokens = share_s * (prompt + decodes) + np.minimum(step.kv_token_s, anew_s + share_s) * context + prompt_s
    by_requests = empty_s / most_running * output + context_s + prompt_s
    by_memory = empty_s / kv_tokens * (context + prompt + decodes) + context_s + prompt_s
    return by_tokens, by_requests, by_memory


def llm_least(
    step: StepTime,
    kv_tokens: int,
    token_budget: int,
    most_running: int,
    prompt: Floats,
    output: Floats,
    classes: Sequence[SloClass],
    kind: Ints,
) -> LeastTimes:
    """Return what each request takes at least: alone on an engine, and of an engine's time.

    A prompt needs `prompt / token_budget` iterations, every further token one more.
    """
    chunks = np.ceil(prompt / token_budget)
    pairs_s = 0.5 * step.pair_s * prompt * (prompt + 1.0)
    ttft_s = chunks * step.overhead_s + np.maximum(chunks * step.floor_s, step.token_s * prompt) + pairs_s
    decodes = output - 1.0
    context = decodes * prompt + 0.5 * decodes * (decodes - 1.0)
    rest_s = decodes * step.seconds(1) + np.minimum(step.kv_token_s, 0.5 * step.pair_s * (prompt + 2.0)) * context
    tpot_s = np.divide(rest_s, decodes, out=np.zeros(decodes.size), where=decodes > 0.0)
    e2e_s = ttft_s + rest_s
    broken = np.zeros(prompt.size, np.bool_)
    if classes:
        promised = np.array([(each.ttft_s, each.tpot_s, each.e2e_s) for each in classes])[kind] + TOLERANCE_S
        broken = (ttft_s > promised[:, 0]) | (tpot_s > promised[:, 1]) | (e2e_s > promised[:, 2])
    return LeastTimes(e2e_s, broken, llm_work_s(step, kv_tokens, token_budget, most_running, prompt, output))


def cores_least(
    service_s: Floats, workers: int, network_s: float, classes: Sequence[SloClass], kind: Ints
) -> LeastTimes:
    """Return what each request takes at least of servers with so many workers, `network_s` away.

    >>> times = cores_least(np.array([3.0]), 2, 0.5, (), np.zeros(1, np.int32))
    >>> float(times.alone_s[0]), float(times.work_s[0][0])
    (4.0, 1.5)
    """
    alone_s = service_s + 2.0 * network_s
    return LeastTimes(alone_s, beyond(alone_s, classes, kind), (service_s / workers,))


def beyond(latency_s: Floats, classes: Sequence[SloClass], kind: Ints) -> Flags:
    """Return whose time is beyond what its class is promised; nobody's where there are no classes."""
    if not classes:
        return np.zeros(latency_s.size, np.bool_)
    return np.asarray(~(latency_s <= np.array([each.e2e_s for each in classes])[kind] + TOLERANCE_S))
