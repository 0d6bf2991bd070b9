"""The least that requests take of a fleet, alone and of its capacity: what bounds on cost rest on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headway.fleet.engines import Engine
from headway.fleet.llm_slo import SloClass
from headway.sim.outcome import TOLERANCE_S
from headway.sim.station import Flags, Floats, Ints
from headway.sim.worklaw import LeastTimes


def llm_work_s(engine: Engine, prompt: Floats, output: Floats, unseen: Floats | None = None) -> tuple[Floats, ...]:
    """Return the seconds of an engine that each request takes at least, counted in three ways.

    An iteration takes `h + max(floor, t n)` for its n tokens, and time for context and pairs of tokens. It has at most
    `token_budget` tokens (where parts of prompts are computed beside decoding; whole prompts know no budget),
    `most_running` requests and `kv_tokens` of context, so each token, each request in an iteration, and each token of
    context in an iteration, takes its share of that. Of a request's `output` tokens every one needs an iteration of its
    own. Sums over requests are bounds way by way, whatever the policies do: after a preemption a token comes from
    computing all of its context anew, which takes no less than decoding would.

    With a prefix cache, `unseen` are the tokens of prompts that it cannot spare, memory may be shared, and what is
    computed anew is one token at least that looks at all of its context.

    >>> from headway.fleet.step_time import StepTime
    >>> engine = Engine(StepTime(floor_s=0.01, token_s=1e-4), 10_000, token_budget=500, most_running=10)
    >>> [float(way[0]) for way in llm_work_s(engine, np.array([400.0]), np.array([11.0]))]
    [0.041, 0.011, 0.004455]
    """
    step = engine.step
    computed = prompt if unseen is None else unseen
    decodes = output - 1.0
    grown = 0.5 * decodes * (decodes - 1.0)
    context = decodes * prompt + grown
    held = context + prompt + decodes if unseen is None else grown + output
    prompt_s = 0.5 * step.pair_s * computed * (computed + 1.0)
    anew_s = _anew_s(engine, prompt, unseen is not None)
    share_s = step.seconds(engine.token_budget) / engine.token_budget if _chunked(engine) else step.token_s
    empty_s = step.overhead_s + step.floor_s
    context_s = np.minimum(step.kv_token_s, anew_s) * context
    by_tokens = share_s * (computed + decodes) + np.minimum(step.kv_token_s, anew_s + share_s) * context + prompt_s
    by_requests = empty_s / engine.most_running * output + context_s + prompt_s
    by_memory = empty_s / engine.kv_tokens * held + context_s + prompt_s
    return by_tokens, by_requests, by_memory


def llm_least(
    engine: Engine,
    prompt: Floats,
    output: Floats,
    classes: Sequence[SloClass],
    kind: Ints,
    *,
    unseen: Floats | None = None,
    transfer_token_s: float = 0.0,
    block_tokens: int = 0,
) -> LeastTimes:
    """Return what each request takes at least: alone on an engine, and of an engine's time.

    A prompt needs `prompt / token_budget` iterations, every further token one more, and moving to an engine that makes
    them `transfer_token_s` for each token. With a prefix cache (`unseen`, as above) all of a prompt may be cached but
    for what is behind its last full block of `block_tokens`.
    """
    ttft_s, tpot_s, e2e_s = llm_alone(
        engine, prompt, output, unseen=unseen, transfer_token_s=transfer_token_s, block_tokens=block_tokens
    )
    broken = np.zeros(prompt.size, np.bool_)
    if classes:
        promised = np.array([(each.ttft_s, each.tpot_s, each.e2e_s) for each in classes])[kind] + TOLERANCE_S
        broken = (ttft_s > promised[:, 0]) | (tpot_s > promised[:, 1]) | (e2e_s > promised[:, 2])
    return LeastTimes(e2e_s, broken, llm_work_s(engine, prompt, output, unseen))


def llm_alone(
    engine: Engine,
    prompt: Floats,
    output: Floats,
    *,
    unseen: Floats | None = None,
    transfer_token_s: float = 0.0,
    block_tokens: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """Return the least time to each request's first token, per further token (0 without any), and to its last one.

    >>> from headway.fleet.step_time import StepTime
    >>> engine = Engine(StepTime(floor_s=0.01, token_s=1e-4), 10_000, token_budget=500)
    >>> [round(float(time_s[0]), 6) for time_s in llm_alone(engine, np.array([400.0]), np.array([11.0]))]
    [0.04, 0.01, 0.14]
    """
    step = engine.step
    least = prompt if unseen is None else (prompt - 1.0) % block_tokens + 1.0
    chunks = np.ceil(least / engine.token_budget) if _chunked(engine) else np.ones(prompt.size)
    pairs_s = step.pair_s * (prompt * least - 0.5 * least * (least - 1.0))
    ttft_s = chunks * step.overhead_s + np.maximum(chunks * step.floor_s, step.token_s * least) + pairs_s
    decodes = output - 1.0
    context = decodes * prompt + 0.5 * decodes * (decodes - 1.0)
    context_s = np.minimum(step.kv_token_s, _anew_s(engine, prompt, unseen is not None)) * context
    rest_s = decodes * step.seconds(1) + context_s + np.where(decodes > 0.0, transfer_token_s * prompt, 0.0)
    tpot_s = np.divide(rest_s, decodes, out=np.zeros(decodes.size), where=decodes > 0.0)
    return ttft_s, tpot_s, ttft_s + rest_s


def _chunked(engine: Engine) -> bool:
    """Whether no iteration has more tokens than the budget."""
    return engine.batching == "decode-first"


def _anew_s(engine: Engine, prompt: Floats, shared: bool) -> Floats:
    """The seconds for each token of context that computing all of it anew takes, of which the cache may spare some."""
    return np.full(prompt.size, engine.step.pair_s) if shared else 0.5 * engine.step.pair_s * (prompt + 2.0)


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
