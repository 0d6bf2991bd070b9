"""What becomes of a batch that a worker had, whichever station formed it: results, or another try for its items."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.serve.replica import WorkerLike
from headway.serve.station import Work
from headway.serve.wire import Failure, Result

log = logging.getLogger(__name__)

MAX_RETRIES = 2
"""How often an item whose worker died is put back into the queue; the last time it runs alone."""

WORKER_LOST = "WorkerLost"

PACE_WEIGHT = 1 / 32
NOTICED_PACE = 1.05
MOST_RATIO = 10.0
"""Batches that take longer than profiled are noticed by a moving mean of the ratios, in which one weighs little."""


def landed(
    answer: asyncio.Future[list[Result]],
    stage: str,
    size: int,
    worker: WorkerLike | None,
    spawn: Callable[[Coroutine[Any, Any, None]], None],
) -> tuple[list[Result] | None, bool]:
    """Return the results of a batch of `size`, or None, and whether its worker is sound; else it is ended by `spawn`.

    The batch has ended, and was not cancelled. One that could not be sent says nothing of the worker.
    """
    error = answer.exception()
    if error is None:
        return answer.result(), True
    if isinstance(error, ServeError) and not isinstance(error, WorkerDied | WorkerTimeout):
        log.warning("stage %s: a batch of %d could not be sent: %s", stage, size, error)
        return None, True
    log.warning("stage %s: %s", stage, error, exc_info=None if isinstance(error, ServeError) else error)
    if worker is not None:
        spawn(worker.stop(0.0))
    return None, False


def tried(work: Work) -> Result | None:
    """Count a try that came to nothing; return how the item ends, or None while it is to be tried again.

    >>> work = Work(None)
    >>> [tried(work) is None for _ in range(MAX_RETRIES)], tried(work).error.type
    ([True, True], 'WorkerLost')
    """
    work.tries += 1
    if work.tries <= MAX_RETRIES:
        return None
    text = f"the worker died, hung or refused the batch {work.tries} times while it had this item"
    return Result(error=Failure(WORKER_LOST, text))


class Pace:
    """How many times longer than profiled batches take of late; near 1 it is told as 1, so that chance decides nothing.

    >>> pace = Pace()
    >>> for _ in range(100):
    ...     pace.observe(took_s=0.2, profiled_s=0.1)
    >>> round(pace.told, 1)
    2.0
    """

    __slots__ = ("_ratio",)

    def __init__(self) -> None:
        self._ratio = 1.0

    def observe(self, took_s: float, profiled_s: float) -> None:
        """Take note of a batch."""
        self._ratio += (min(took_s / profiled_s, MOST_RATIO) - self._ratio) * PACE_WEIGHT

    @property
    def told(self) -> float:
        """The moving mean, or 1."""
        return self._ratio if self._ratio > NOTICED_PACE else 1.0
