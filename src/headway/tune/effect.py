"""What is expected of a decision and what came of it, in the same figures, so that one can be set beside the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.policy.scaling import Decision, Floats, Observation, Terms
from headway.sim.outcome import TOLERANCE_S, number, percentile

Figures = dict[str, float | None]
"""`ready_s` and `drained_s`: from the decision until the replicas that it asked for serve, and until no more waits than
they take up in their next batches. `rate_per_s`, `miss_rate` and `latency_s`: of the requests that came after that, how
many came, the share that missed the promise, and the latency at its percentile. None for what is not known."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Requests that came within a span: how many, how many of them ended or are late, and how many of these missed.

    `latency_s` is the judged ones' at the promise's percentile; None when that is infinite, or none was judged.
    """

    offered: int
    judged: int
    missed: int
    latency_s: float | None

    @classmethod
    def of(cls, offered: int, latency_s: Floats, terms: Terms) -> Judged:
        """Return what the latencies of the judged requests say; infinite for those without an answer.

        >>> from headway.testing.scaling import example_terms
        >>> Judged.of(4, np.array([0.1, 0.2, np.inf]), example_terms()).missed
        1
        """
        missed = int(np.count_nonzero(latency_s > terms.slo_s + TOLERANCE_S))
        return cls(offered, latency_s.size, missed, number(percentile(latency_s, terms.slo_percentile)))


def expected(decision: Decision, terms: Terms) -> Figures:
    """Return what a tuner expects of its decision: after it has shown, that the promise is kept.

    >>> from headway.testing.scaling import example_terms
    >>> expected(Decision({"first": 3}, expected={"ready_s": 5.0}), example_terms())["ready_s"]
    5.0
    """
    said = decision.expected
    return {
        "ready_s": said.get("ready_s", 0.0),
        "drained_s": said.get("drained_s"),
        "rate_per_s": said.get("rate_per_s"),
        "miss_rate": round(1.0 - terms.slo_percentile / 100.0, 9),
        "latency_s": terms.slo_s,
    }


class Effect:
    """What comes of a decision, from look to look. It should have shown at `settled_s`."""

    def __init__(self, at_s: float, decision: Decision, terms: Terms) -> None:
        said = expected(decision, terms)
        self.settled_s = at_s + max(said["ready_s"] or 0.0, said["drained_s"] or 0.0)
        self._at_s, self._decision, self._terms = at_s, decision, terms
        self._ready_s: float | None = None
        self._drained_s: float | None = None

    def look(self, seen: Observation) -> None:
        """Take note of how things stand."""
        passed_s = round(seen.now_s - self._at_s, 6)
        if self._ready_s is None and all(seen.stages[n].ready >= r for n, r in self._decision.replicas.items()):
            self._ready_s = passed_s
        if self._ready_s is not None and self._drained_s is None and not self._backlog(seen):
            self._drained_s = passed_s

    def happened(self, judged: Judged | None, now_s: float) -> Figures:
        """Return the figures; `judged` are the requests that came from `settled_s` to now, None when not known."""
        span_s = now_s - self.settled_s
        seen: Figures = {"ready_s": self._ready_s, "drained_s": self._drained_s}
        if judged is None:
            return {**seen, "rate_per_s": None, "miss_rate": None, "latency_s": None}
        return {
            **seen,
            "rate_per_s": round(judged.offered / span_s, 3) if span_s > 0.0 else None,
            "miss_rate": round(judged.missed / judged.judged, 6) if judged.judged else None,
            "latency_s": None if judged.latency_s is None else round(judged.latency_s, 6),
        }

    def _backlog(self, seen: Observation) -> bool:
        stages = self._terms.in_gear(seen.gear)
        return any(each.queued > each.ready * stages[name].max_batch_size for name, each in seen.stages.items())
