"""What a replayed cascade did: its gears, as the server tells them meanwhile, and its answers, as they came back."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade
from headway.domains.cascade.gears import GearPlan
from headway.errors import HeadwayError
from headway.report.gearing import asks
from headway.report.timeline import UNKNOWN, Timeline, windows
from headway.serve.http1 import Reply
from headway.sim.outcome import Outcome

EVERY_S = 0.25
TIMEOUT_S = 5.0


@dataclass
class Watch:
    """Asks a server for its gears a few times a second, from a thread, for as long as its block lasts.

    `seen`: moments of the monotonic clock with what `/stats` said of the cascade then. `tell` is called with each.
    """

    url: str
    stage: str
    tell: Callable[[Mapping[str, Any]], None] = lambda state: None
    seen: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._keep_looking, name="headway-demo-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            self._look()

    def _keep_looking(self) -> None:
        while not self._over.wait(EVERY_S):
            # One look that is missing leaves a longer step between two others.
            try:
                self._look()
            except HeadwayError:
                continue
            self.tell(self.seen[-1][1])

    def _look(self) -> None:
        asked_s = time.monotonic()
        try:
            with urllib.request.urlopen(f"{self.url}/stats?timings=false", timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
        except (OSError, ValueError) as error:
            raise HeadwayError(f"demo: the server does not tell its gears: {error}") from None
        self.seen.append(((asked_s + time.monotonic()) / 2, found["stages"][self.stage]["cascade"]))


@dataclass
class Answers:
    """Replies of a replay, to be read when it is over; the replay's clock is found from when requests went out."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    sent_s: dict[int, float] = field(default_factory=dict)

    def keep(self, number: int, reply: Reply) -> None:
        """Take a reply."""
        if reply.status == 200:
            self.bodies[number] = reply.body
        if not math.isnan(reply.sent_s):
            self.sent_s[number] = reply.sent_s

    def begun_s(self, arrival_s: NDArray[np.float64]) -> float:
        """Return when the trace began, by the monotonic clock: no request goes out before its time."""
        return min((sent_s - float(arrival_s[number]) for number, sent_s in self.sent_s.items()), default=math.nan)

    def read(self, requests: int, models: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return per request which model answered, and the class with the best score; `UNKNOWN` without an answer."""
        model, best = np.full(requests, UNKNOWN), np.full(requests, UNKNOWN)
        for number, body in self.bodies.items():
            (output,) = json.loads(body)["outputs"]
            model[number] = models.index(output["parameters"]["model"])
            best[number] = int(np.argmax(output["data"]))
        return model, best


def timeline(
    plan: GearPlan,
    watch: Watch,
    answers: Answers,
    labels: NDArray[np.int64],
    measured: Outcome,
    predicted: Outcome,
    *,
    duration_s: float,
    floor: float | None,
) -> Timeline:
    """Return how a replay went; `labels` are the right classes of its requests."""
    model, best = answers.read(measured.requests, plan.models)
    begun_s = answers.begun_s(measured.arrival_s)
    answered = model != UNKNOWN
    right = answered & (best == labels)
    held = [(at_s - begun_s, _held(state, len(plan.gears))) for at_s, state in watch.seen]
    return Timeline(
        gears=tuple(gear_name(gear.cascade) for gear in plan.gears),
        models=plan.models,
        windows=windows(
            measured.arrival_s, measured.latency_s, model, right, held, duration_s=duration_s,
            models=len(plan.models), percent=measured.slo_percentile, predicted_s=predicted.latency_s,
        ),
        slo_s=measured.slo_s,
        percentile=measured.slo_percentile,
        switches=int(watch.seen[-1][1]["switches"]) - int(watch.seen[0][1]["switches"]),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        floor=floor,
    )  # fmt: skip


def gear_name(cascade: Cascade) -> str:
    """Return a cascade as a person writes it.

    >>> from headway.cascade import Step
    >>> gear_name(Cascade((Step("small", threshold=0.834651), Step("large"))))
    'small ≥ 0.835 → large'
    """
    return asks(cascade.to_dict()["steps"])


def _held(state: Mapping[str, Any], gears: int) -> list[float]:
    """The seconds in each gear, those for a lost device counted with the ones of the same rank."""
    seconds = [0.0] * gears
    for each in state["gears"]:
        seconds[min(int(each["gear"]), gears - 1)] += float(each["held_s"])
    return seconds
