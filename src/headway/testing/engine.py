"""Conformance suite of a serving engine: whatever runs a plan must let in, answer, refuse and drain as this one does.

The suite runs in virtual time (`headway.testing.live`): hand it engines whose stations wait on timers only. Every check
raises AssertionError with a sentence that says what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from headway.serve.engine import Answer
from headway.serve.gate import Rejected
from headway.serve.wire import Input, Payload
from headway.testing.live import run_virtual

REQUESTS = 24


class EngineLike(Protocol):
    """What the suite drives: the members of `headway.serve.engine.Engine` that others rest on."""

    @property
    def ready(self) -> bool: ...
    async def start(self) -> None: ...
    def submit(self, payload: Input, on_end: Callable[[Answer], None], timeout_s: float | None = None) -> Any: ...
    async def drain(self, grace_s: float = 30.0) -> None: ...
    async def stop(self, grace_s: float = 5.0) -> None: ...
    def stats(self) -> dict[str, Any]: ...


Make = Callable[[], EngineLike]
"""Makes a new engine; called on the event loop that it then runs on."""


def check_engine(make: Make) -> None:
    """Check all laws of an engine that answers within a second of virtual time and takes in 24 requests at once.

    One that refuses what would come too late must do without it here.

    >>> from headway.serve.engine import Engine, Limits
    >>> from headway.testing.examples import tiny_plan
    >>> from headway.testing.live import fake_stations
    >>> def make():
    ...     clock, limits = asyncio.get_running_loop().time, Limits(keep_promise=False)
    ...     return Engine(tiny_plan(), stations=fake_stations(tiny_plan()), clock=clock, limits=limits)
    >>> check_engine(make)
    """
    for law in (_lets_in_when_ready, _conserves, _gives_up_what_is_late, _drains, _same_again):
        law(make)


def _lets_in_when_ready(make: Make) -> None:
    async def main() -> None:
        engine = make()
        _require(not engine.ready, "ready before it was started")
        _require(_refusal(engine) == 503, "lets a request in before it was started")
        await engine.start()
        _require(engine.ready, "not ready after it was started")
        await engine.stop()
        _require(not engine.ready, "still ready after it was stopped")
        _require(_refusal(engine) == 503, "lets a request in after it was stopped")

    run_virtual(main)


def _conserves(make: Make) -> None:
    answers = _run(make)
    _require(all(len(found) == 1 for found in answers), "a request is not answered exactly once")
    _require(all(found[0].status == "answered" for found in answers), "a request within its time is not answered")
    _require(all(found[0].results for found in answers), "an answer without a result")


def _gives_up_what_is_late(make: Make) -> None:
    async def main() -> None:
        engine = make()
        await engine.start()
        answers: list[list[Answer]] = [[] for _ in range(REQUESTS)]
        for found in answers:
            engine.submit(_payload(0), found.append, 1e-6)
        await asyncio.sleep(60.0)
        counts = engine.stats()["requests"]
        await engine.stop()
        _require(all(len(found) == 1 for found in answers), "a request whose time is over does not end exactly once")
        _require(any(found[0].status == "dropped" for found in answers), "nothing is dropped when all are out of time")
        _check_counts(counts)

    run_virtual(main)


def _drains(make: Make) -> None:
    async def main() -> None:
        engine = make()
        await engine.start()
        answers: list[list[Answer]] = [[] for _ in range(REQUESTS)]
        for number, found in enumerate(answers):
            engine.submit(_payload(number), found.append)
        draining = asyncio.get_running_loop().create_task(engine.drain())
        await asyncio.sleep(0)
        _require(_refusal(engine) == 503, "lets a request in while it drains")
        await draining
        _require(all(len(found) == 1 for found in answers), "draining ends before all that was let in is answered")
        counts = engine.stats()["requests"]
        _require((counts["in_flight"], counts["rejected"]) == (0, 1), f"after draining it counts {counts}")
        _check_counts(counts)
        await engine.stop()

    run_virtual(main)


def _same_again(make: Make) -> None:
    def results() -> Sequence[object]:
        return [[(answer.status, answer.results) for answer in found] for found in _run(make)]

    _require(results() == results(), "the same requests at the same times get other answers, or in another order")


def _run(make: Make) -> list[list[Answer]]:
    """Requests in three clumps, each to its end."""

    async def main() -> list[list[Answer]]:
        engine = make()
        await engine.start()
        answers: list[list[Answer]] = [[] for _ in range(REQUESTS)]
        for number, found in enumerate(answers):
            engine.submit(_payload(number), found.append)
            _check_counts(engine.stats()["requests"])
            if number % 8 == 7:
                await asyncio.sleep(0.05)
        await engine.drain()
        counts = engine.stats()["requests"]
        _check_counts(counts)
        _require(counts["offered"] == REQUESTS, f"{REQUESTS} requests were offered, {counts['offered']} counted")
        await engine.stop()
        return answers

    run: Callable[[], Coroutine[Any, Any, list[list[Answer]]]] = main
    return run_virtual(run)


def _check_counts(counts: dict[str, Any]) -> None:
    ended = sum(counts[name] for name in ("answered", "dropped", "rejected", "failed", "in_flight"))
    _require(counts["offered"] == ended, f"requests are lost or counted twice: {counts}")


def _refusal(engine: EngineLike) -> int | None:
    try:
        engine.submit(_payload(0), lambda answer: None)
    except Rejected as refused:
        return refused.status
    return None


def _payload(number: int) -> Payload:
    return Payload("text", str(number).encode())


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
