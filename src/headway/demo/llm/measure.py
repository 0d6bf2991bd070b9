"""How long the iterations of engines take: fitted to requests that each is sent alone, and to small groups of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from headway.demo.llm.ask import PATH, Answer, body, model_of, together
from headway.demo.llm.engines import Endpoint
from headway.demo.llm.prompts import Prompts
from headway.fleet.step_time import StepTime, Timing, endpoint_timings, fit
from headway.serve.http1 import Client
from headway.serve.system import precise_loop


class Probe(NamedTuple):
    """Requests that are sent at one instant, and the tokens of each, of which there are about so many in its prompt."""

    requests: int
    prompt_tokens: int
    output_tokens: int


PROBES: Final = (Probe(1, 24, 16), Probe(1, 96, 16), Probe(1, 224, 16), Probe(2, 64, 16), Probe(4, 64, 16))
"""Prompts about as long as those that are sent, so that what a fit cannot say is least wrong there."""
WARM_UP: Final = Probe(1, 24, 4)


@dataclass(frozen=True, slots=True)
class Measured:
    """What an engine's iterations take, the mean relative error of that on the timings that it rests on, and these."""

    step: StepTime
    error_ratio: float
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What was measured of each endpoint; the model that all have; tokens that a word of a prompt has on average.

    `beside`: how many times as long the first engine takes when the others are busy too.
    """

    engines: tuple[Measured, ...]
    model: str | None
    tokens_per_word: float
    beside: float


def survey(
    endpoints: Sequence[Endpoint], prompts: Prompts, seconds: float, progress: Callable[[float, float], None]
) -> Survey:
    """Measure endpoints, all at the same time, since that is how they will work; the first one also by itself.

    The probes are gone through once, and again for as long as `seconds` are not over; `progress` is told how many are.
    Raises HeadwayError where an endpoint does not answer, ProfileError where its times fit no roofline.
    """
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(_survey(endpoints, prompts, seconds, progress))


async def _survey(
    endpoints: Sequence[Endpoint], prompts: Prompts, seconds: float, progress: Callable[[float, float], None]
) -> Survey:
    upstreams = [endpoint.upstream for endpoint in endpoints]
    clients = [Client(upstream.url, token=upstream.token) for upstream in upstreams]
    extras = all(upstream.kind != "hosted" for upstream in upstreams)
    try:
        models = {await model_of(client, one.base) for client, one in zip(clients, upstreams, strict=True)}
        model = models.pop() if len(models) == 1 else None
        number = itertools.count()
        words = tokens = 0

        async def ask(at: int, probe: Probe) -> list[Answer]:
            nonlocal words, tokens
            texts = [prompts.text(next(number), probe.prompt_tokens) for _ in range(probe.requests)]
            bodies = [body(text, probe.output_tokens, model=model, extras=extras) for text in texts]
            found = await together(clients[at], upstreams[at].base + PATH, bodies)
            words += sum(len(text.split()) for text in texts)
            tokens += sum(answer.prompt_tokens for answer in found)
            return found

        async def ask_all(probe: Probe) -> list[list[Answer]]:
            return list(await asyncio.gather(*(ask(at, probe) for at in range(len(endpoints)))))

        await ask_all(WARM_UP)
        begun_s = time.monotonic()
        alone = [await ask(0, probe) for probe in PROBES]
        rounds: list[list[list[Answer]]] = []
        while len(rounds) < len(PROBES) or time.monotonic() - begun_s < seconds:
            progress(min(seconds, time.monotonic() - begun_s), seconds)
            rounds.append(await ask_all(PROBES[len(rounds) % len(PROBES)]))
    finally:
        for client in clients:
            await client.close()
    groups = list(zip(*rounds, strict=True))
    beside = _seconds(groups[0][: len(PROBES)]) / _seconds(alone)
    return Survey(tuple(measured(each) for each in groups), model, tokens / words, beside)


def measured(groups: Sequence[Sequence[Answer]]) -> Measured:
    """Return what an engine's iterations take, from the answers to requests that were sent together, group by group."""
    flat = [(answer, number) for number, group in enumerate(groups) for answer in group]
    timings = endpoint_timings(
        [answer.prompt_tokens for answer, _ in flat],
        [answer.ttft_s for answer, _ in flat],
        [answer.output_tokens for answer, _ in flat],
        [answer.e2e_s for answer, _ in flat],
        [number for _, number in flat],
    )
    step, error_ratio = fit(timings, overhead=True)
    return Measured(step, error_ratio, tuple(timings))


def _seconds(groups: Sequence[Sequence[Answer]]) -> float:
    return sum(max(answer.e2e_s for answer in group) for group in groups)
