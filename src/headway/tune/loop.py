"""One loop for every tuner and both clocks: observe, decide, apply, write down, later look what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headway.errors import PlanError, ServeError
from headway.policy.scaling import Decision, Observation, Terms, Tuner
from headway.tune.effect import Effect, Figures, Judged, expected

INTERVAL_S = 0.25
"""How often a tuner is asked: often against a replica's start-up (5 s in InferLine), seldom against its own cost."""
REVIEW_S = 15.0
"""For how long it is watched what came of a decision, from when its replicas serve and its backlog should be gone."""


class Environment(Protocol):
    """A pipeline that runs, simulated or live, as the loop sees it. The only clock of the loop is `wait`.

    `apply` brings about what a decision asks for (replicas, gear, pause) and returns what was done, as JSON values;
    it must return at once: replicas then show up as `starting`. Where it only advises, it changes nothing and says so.
    What it cannot do is an entry `"error"` with one sentence in what it returns, not an exception.
    """

    @property
    def terms(self) -> Terms:
        """What the plan says of the traffic and the stages."""
        ...

    def wait(self, seconds: float) -> bool:
        """Let that much time pass; False when the run is over."""
        ...

    def observe(self) -> Observation:
        """Return what can be seen now."""
        ...

    def asks(self, decision: Decision) -> Mapping[str, Any] | None:
        """Return what `apply` is going to ask for, as JSON values; None where it asks nothing of another process."""
        ...

    def apply(self, decision: Decision) -> Mapping[str, Any]:
        """Bring about what was decided."""
        ...

    def happened(self, at_s: float) -> Mapping[str, Any]:
        """Return how it went since a moment, and what became of the change that was asked for then, as JSON values."""
        ...

    def judged(self, since_s: float) -> Judged:
        """Return how the promise was kept for the requests that came since a moment."""
        ...


class Listener(Protocol):
    """Is told every decision that acts, and later what came of it (`headway.tune.journal` writes both down)."""

    def asking(self, entry: Entry) -> None:
        """Hear of a decision before what it asks for is asked of another process; `decided` follows."""
        ...

    def decided(self, entry: Entry) -> None:
        """Hear of a decision and what was done for it."""
        ...

    def reviewed(self, number: int, at_s: float, happened: Mapping[str, Any]) -> None:
        """Hear what happened after decision `number`, beside what was expected."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision that acts: when, what was held before, what was decided, done for it, and is expected of it.

    `asked` is what was asked of another process for it, None where nothing was.
    """

    number: int
    at_s: float
    held: Mapping[str, int]
    decision: Decision
    applied: Mapping[str, Any] = field(default_factory=dict)
    expected: Figures = field(default_factory=dict)
    asked: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        decision = self.decision
        return {
            "number": self.number,
            "at_s": round(self.at_s, 6),
            "code": decision.code,
            "why": decision.text,
            "from": dict(self.held),
            "to": dict(decision.replicas),
            **({"gear": decision.gear} if decision.gear else {}),
            **({"pause_s": decision.pause_s} if decision.pause_s else {}),
            **({"replan": decision.replan} if decision.replan else {}),
            "values": dict(decision.values),
            "expected": dict(self.expected),
            **({} if self.asked is None else {"asked": dict(self.asked)}),
            "applied": dict(self.applied),
        }


def run(
    tuner: Tuner,
    environment: Environment,
    *,
    interval_s: float = INTERVAL_S,
    review_s: float = REVIEW_S,
    listener: Listener | None = None,
) -> list[Entry]:
    """Let a tuner act on an environment until it is over; return the decisions that asked for something.

    Each is reviewed once: `review_s` after the time at which its effect should have shown, or at the end. Where the
    environment raises ServeError or PlanError, what is left is reviewed by what was seen last, and the error raised
    again.
    """
    entries: list[Entry] = []
    pending: list[tuple[Entry, Effect]] = []
    memory: Any = None
    seen: Observation | None = None
    try:
        while True:
            more = environment.wait(interval_s)
            seen = environment.observe()
            if listener is not None:
                for entry, effect in list(pending):
                    effect.look(seen)
                    if not more or seen.now_s >= effect.settled_s + review_s:
                        judged = environment.judged(effect.settled_s)
                        pending.remove((entry, effect))
                        listener.reviewed(
                            entry.number, seen.now_s, _review(environment, entry, effect, judged, seen.now_s)
                        )
            if not more:
                return entries
            decision, memory = tuner.decide(seen, memory)
            if decision.acts:
                wanted, asked = expected(decision, environment.terms), environment.asks(decision)
                entry = Entry(len(entries), seen.now_s, seen.held(), decision, {}, wanted, asked)
                if listener is not None and asked is not None:
                    listener.asking(entry)
                entry = replace(entry, applied=environment.apply(decision))
                entries.append(entry)
                if listener is not None:
                    listener.decided(entry)
                    effect = Effect(seen.now_s, decision, environment.terms)
                    effect.look(seen)
                    pending.append((entry, effect))
    except (ServeError, PlanError):
        for entry, effect in pending:
            assert listener is not None
            assert seen is not None
            listener.reviewed(entry.number, seen.now_s, _review(environment, entry, effect, None, seen.now_s))
        raise


def _review(
    environment: Environment, entry: Entry, effect: Effect, judged: Judged | None, now_s: float
) -> dict[str, Any]:
    """What came of a decision, its figures beside those that were expected."""
    happened = effect.happened(judged, now_s)
    return {"expected": entry.expected, "happened": happened, **environment.happened(entry.at_s)}
