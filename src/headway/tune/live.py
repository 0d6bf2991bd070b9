"""A tuner beside a running server: it watches over HTTP, and advises or acts by changing the live plan."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headway.errors import HeadwayError, PlanError, ServeError
from headway.plan.plan import Plan
from headway.policy.scaling import (
    LOOK_BACK_S,
    UTILIZATION_S,
    Decision,
    Gear,
    Observation,
    StageSeen,
    Terms,
    Tuner,
    hold,
)
from headway.policy.scaling_headway import PLAN
from headway.spec.kinds import load_domain
from headway.trace import Trace
from headway.tune.advise import named
from headway.tune.effect import Judged
from headway.tune.gears import running_gear
from headway.tune.journal import Journal
from headway.tune.loop import Entry, run
from headway.tune.patience import Patience
from headway.tune.server import Server, arrival_times_s
from headway.tune.terms import terms
from headway.tune.told import Told

HISTORY_S = 600.0
"""How far back it can be said what happened since."""
RETRY_S = 15.0
"""How long what was decided is not decided again, in case it failed."""
SCHEMA = "headway.tuned/1"
STARTING = "starting"


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was counted at the server up to a moment; `ready_s` is replica time by stage."""

    at_s: float
    stages: Mapping[str, Mapping[str, Any]]
    arrived: Mapping[str, int]
    ready_s: Mapping[str, float]
    offered: int
    missed: int


@dataclass(slots=True)
class _Asked:
    """A decision for which another plan was asked for, when, and what became of that.

    `change`: what the server last told of this change, and of no other; none before it was begun. `waited`: what became
    of it where another change was in the way.
    """

    decision: Decision
    at_s: float
    change: Mapping[str, Any] | None = None
    waited: str = ""


class Live:
    """A running server, as an environment of `headway.tune.loop`. Times are of the server's clock.

    Without `act` decisions change nothing. Ends after `seconds`, or when `stop` is set. Raises ServeError when the
    server cannot be reached, PlanError when it runs something else than `plan`.
    """

    def __init__(
        self,
        server: Server,
        plan: Plan,
        terms: Terms,
        *,
        act: bool = False,
        seconds: float | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.plan, self.act = plan, act
        self.gear: str | None = None
        self.live, self._live_hash = plan, plan.hash
        self._server = server
        self.terms = terms
        self._take(server.plan())
        self._stop = stop or threading.Event()
        self._next_s = time.monotonic()
        self._end_s = np.inf if seconds is None else self._next_s + seconds
        self._wanted: tuple[Plan, str | None] | None = None
        self._asked: dict[float, _Asked] = {}
        self._put_off: _Asked | None = None
        self._geared_s = -math.inf
        self._stats = server.stats(0)
        told = self._stats["arrivals"]
        self._arrival_s = arrival_times_s(told)
        # Before what is held of them, requests may have come that are not known.
        self.since_s = float(self._arrival_s[0]) if told["missed"] else self._stats["now_s"] - self._stats["uptime_s"]
        self._past: deque[_Moment] = deque()
        self._remember()

    def wait(self, seconds: float) -> bool:
        """Sleep until the next look is due; False when the time is over."""
        self._next_s = max(self._next_s + seconds, time.monotonic())
        return self.pause(self._next_s - time.monotonic())

    def pause(self, seconds: float) -> bool:
        """Wait before the server is asked again; False when the time is over."""
        self._stop.wait(max(0.0, min(seconds, self._end_s - time.monotonic())))
        return not self._stop.is_set() and time.monotonic() < self._end_s

    def observe(self) -> Observation:
        """Ask the server how things stand."""
        self._stats = self._server.stats(self._stats["arrivals"]["cursor"])
        self._arrival_s = np.concatenate([self._arrival_s, arrival_times_s(self._stats["arrivals"])])
        self._follow()
        self._remember()
        self._ask_again()
        now_s = self._stats["now_s"]
        self._arrival_s = self._arrival_s[self._arrival_s > now_s - HISTORY_S]
        recent_s = self._arrival_s[(self._arrival_s > now_s - LOOK_BACK_S) & (self._arrival_s <= now_s)]
        stages = {name: self._seen(name) for name in self.terms.stages}
        return Observation(now_s, min(self.since_s, now_s), recent_s, stages, self.gear)

    def asks(self, decision: Decision) -> Mapping[str, Any] | None:
        """Return the hash of the plan that the server is going to be asked for; None without `act`."""
        if not self.act:
            return None
        try:
            return {"plan_hash": self._plan_for(decision, self._gear_for(decision)).hash}
        except HeadwayError:
            # No such plan can be had; `apply` says why.
            return {}

    def apply(self, decision: Decision) -> Mapping[str, Any]:
        """Have the server run what was decided, or only say so; asked again where another change is in the way."""
        if not self.act:
            return {"advised": True}
        if self._put_off is not None:
            self._put_off.waited, self._put_off = "a later decision took its place", None
        asked = self._asked[self.now_s] = _Asked(decision, self.now_s)
        applied = self._change(asked)
        if not applied.get("busy"):
            return applied
        self._put_off = asked
        text = f"{applied['error']}; asked again when it has ended, within {RETRY_S:g} s"
        return {"plan_hash": applied["plan_hash"], "waits": text}

    def _change(self, asked: _Asked) -> Mapping[str, Any]:
        """Ask for what was decided; what was done, with `busy` where another change is in the way."""
        decision = asked.decision
        gear = self._gear_for(decision)
        try:
            wanted = self._plan_for(decision, gear)
        except HeadwayError as error:
            return {"error": str(error)}
        if wanted.hash == (self._wanted[0].hash if self._wanted else self._live_hash):
            return {"plan_hash": wanted.hash}
        change = self._server.change(wanted, decision.pause_s)
        if "error" in change:
            return {"plan_hash": wanted.hash, **change}
        shown = ("state",) if gear == self.gear else ("state", "changes")
        asked.change, self._wanted, self.gear = change, (wanted, self.gear), gear
        return {"plan_hash": wanted.hash, "change": change["id"], **{key: change[key] for key in shown}}

    def _ask_again(self) -> None:
        """Ask again for what was put off, once nothing is in its way any more, for `RETRY_S` at most."""
        put_off = self._put_off
        if put_off is None:
            return
        waited_s = self.now_s - put_off.at_s
        if self._stats["swap"]["state"] == STARTING:
            if waited_s >= RETRY_S:
                put_off.waited = f"given up after {waited_s:.0f} s: another change was still starting"
                self._put_off = None
            return
        applied = self._change(put_off)
        if not applied.get("busy"):
            put_off.waited = applied.get("error", f"asked again after {waited_s:.1f} s")
            self._put_off = None

    @property
    def now_s(self) -> float:
        """When the server was asked last."""
        return float(self._stats["now_s"])

    def happened(self, at_s: float) -> Mapping[str, Any]:
        """Return requests since a moment, how many ended in a miss since, and how things stand.

        What was asked for at that very moment is said with it: whether it had to wait, and what became of its change.
        """
        now, then = self._past[-1], self._moment(at_s)
        asked = self._asked.get(at_s)
        change = None if asked is None else asked.change
        return {
            "requests": now.offered - then.offered,
            "misses": now.missed - then.missed,
            "queued": {name: now.stages[name]["queued"] for name in self.terms.stages},
            "replicas": {name: self._held(name)[0] for name in self.terms.stages},
            "plan_hash": self._stats["plan_hash"],
            **({"waited": asked.waited} if asked is not None and asked.waited else {}),
            **({} if change is None else {"swap": {key: change[key] for key in ("id", "to", "state", "why")}}),
        }

    def judged(self, since_s: float) -> Judged:
        """Return how the promise was kept for the requests that came since a moment."""
        return Judged(**self._server.promise(since_s))

    def _follow(self) -> None:
        """Learn what came of the changes that were asked for."""
        swap = self._stats["swap"]
        told = {change["id"]: change for change in (swap["last"], swap["now"]) if change is not None}
        self._asked = {at_s: asked for at_s, asked in self._asked.items() if at_s > self.now_s - HISTORY_S}
        for asked in self._asked.values():
            if asked.change is not None:
                asked.change = told.get(asked.change["id"], asked.change)
        if self._wanted is None:
            if self._stats["plan_hash"] != self._live_hash:
                self._take(self._server.plan())
            return
        wanted, former_gear = self._wanted
        if self._stats["plan_hash"] == wanted.hash:
            if self._changes_gear:
                self._geared_s = self.now_s
            self.live, self._live_hash = wanted, wanted.hash
            self._wanted = None if swap["state"] == "idle" else self._wanted
        elif swap["now"] is None or swap["now"]["to"] != wanted.hash:
            # Not started, or taken back: the plan before it is live again.
            self.gear, self._wanted = former_gear, None
            self._take(self._server.plan())
            self._geared_s = self.now_s

    def _take(self, live: Plan) -> None:
        """Go on from the plan that the server runs, in whichever gear it is."""
        self.gear = running_gear(self.plan, live, self.terms, self.gear)
        self.live, self._live_hash = live, live.hash

    @property
    def _changes_gear(self) -> bool:
        """Whether another gear has been asked for that is not known to be live."""
        if self._wanted is None:
            return False
        wanted, former_gear = self._wanted
        return former_gear != self.gear and wanted.hash != self._live_hash

    def _gear_for(self, decision: Decision) -> str | None:
        return self.gear if decision.gear is None else None if decision.gear == PLAN else decision.gear

    def _plan_for(self, decision: Decision, gear: str | None) -> Plan:
        configs = next((g.config for g in self.terms.gears if g.name == gear), {})
        stages = dict(self.live.stages)
        for name, replicas in decision.replicas.items():
            base = self.plan.stages[name].to_dict()
            fields = {**base, **configs.get(name, {}), "replicas": replicas}
            domain = load_domain(self.plan.spec.stages[name].kind)
            stages[name] = domain.parse_config(fields, f"stages.{name}")
        return replace(self.live, stages=stages, predicted={}, stage_predictions={})

    def _remember(self) -> None:
        stats = self._stats
        now_s, stages = stats["now_s"], stats["stages"]
        before = self._past[-1] if self._past else None
        gone_s = 0.0 if before is None else now_s - before.at_s
        ready_s = {
            name: (before.ready_s[name] if before is not None else 0.0) + gone_s * self._held(name)[0]
            for name in self.terms.stages
        }
        arrived = {
            name: max(
                stages[name]["items"] + stages[name]["queued"] + stages[name]["running"],
                before.arrived[name] if before is not None else 0,
            )
            for name in self.terms.stages
        }
        counts = stats["requests"]
        missed = sum(counts[key] for key in ("late", "rejected", "dropped", "failed"))
        self._past.append(_Moment(now_s, stages, arrived, ready_s, counts["offered"], missed))
        while len(self._past) > 1 and self._past[1].at_s <= now_s - HISTORY_S:
            self._past.popleft()

    def _seen(self, name: str) -> StageSeen:
        now = self._past[-1]
        past, lately = self._moment(now.at_s - LOOK_BACK_S), self._moment(now.at_s - UTILIZATION_S)
        ready, starting = self._held(name)
        # Batches of another gear say nothing of how long those of this one take.
        batched = now if self._changes_gear else self._moment(max(now.at_s - LOOK_BACK_S, self._geared_s))
        could_s = now.ready_s[name] - lately.ready_s[name]
        counted, then = now.stages[name], batched.stages[name]
        busy_s = counted["busy_s"] - lately.stages[name]["busy_s"]
        return StageSeen(
            ready=ready,
            starting=starting,
            queued=counted["queued"],
            in_service=counted["running"],
            utilization=min(1.0, busy_s / could_s) if could_s > 0 else 0.0,
            batches=counted["batches"] - then["batches"],
            items=counted["items"] - then["items"],
            busy_s=counted["busy_s"] - then["busy_s"],
            arrived=now.arrived[name] - past.arrived[name],
        )

    def _moment(self, since_s: float) -> _Moment:
        """Return the last moment up to then, or the first that is remembered."""
        return next((moment for moment in reversed(self._past) if moment.at_s <= since_s), self._past[0])

    def _held(self, name: str) -> tuple[int, int]:
        """Return the replicas that are ready and starting; those that a change is about to replace count once."""
        states = self._stats["stages"][name]["replicas"]
        ready, starting = int(states["ready"]), int(states["starting"])
        if self._wanted is None or self._stats["swap"]["state"] != STARTING:
            return ready, starting
        target = int(self._wanted[0].stages[name].to_dict()["replicas"])
        return min(ready, target), target - min(ready, target)


@dataclass(frozen=True)
class Sparing:
    """A tuner that does not say the same again within `seconds`: beside a server that it only advises nothing changes,
    and what failed to start would fail again at once."""

    tuner: Tuner
    seconds: float

    @property
    def name(self) -> str:
        """The tuner's."""
        return self.tuner.name

    def decide(self, observation: Observation, memory: Any) -> tuple[Decision, Any]:
        """Return the tuner's decision, or to hold when it has just decided the same."""
        inner, said, said_s = memory if memory is not None else (None, None, -np.inf)
        decision, inner = self.tuner.decide(observation, inner)
        asked = (tuple(sorted(decision.replicas.items())), decision.gear, decision.replan)
        if not decision.acts:
            return decision, (inner, said, said_s)
        if asked == said and observation.now_s < said_s + self.seconds:
            return hold(observation, "said already"), (inner, said, said_s)
        return decision, (inner, asked, observation.now_s)


def tune_live(
    plan: Plan,
    url: str,
    *,
    planned_on: Trace | None = None,
    name: str = "headway",
    gears: Sequence[Gear] = (),
    token: str | None = None,
    act: bool = False,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    journal: Journal | None = None,
    tell: Callable[[Entry], None] = lambda entry: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Watch the server at `url` and return the decisions taken, as JSON values; with `act` they are carried out.

    Ends after `seconds`, or when `stop` is set. `planned_on` is the trace that the plan was made from; `gears` are
    plans for multiples of it to change to; `tell` hears every decision as it is made, and `say` what else a person
    should know. A server that stalls is outlived (`headway.tune.patience`). Raises HeadwayError.
    """
    about = replace(terms(plan, planned_on), gears=tuple(gears))
    head = {"tuner": name, "plan_hash": plan.hash, "url": url, "acts": act}
    with Server(url, token) as server:
        about = replace(about, refuses_late=server.refuses_late)
        chosen = Sparing(named(name, about), RETRY_S if act else math.inf)
        environment = Live(server, plan, about, act=act, seconds=seconds, stop=stop)
        told = Told(journal, tell, say)
        told.started(head)
        begin_s = environment.now_s
        server.patience = Patience(
            environment.pause,
            lambda why: told.silent(environment.now_s, why),
            lambda after_s: told.back(environment.now_s, after_s),
        )
        try:
            entries = run(chosen, environment, listener=told)
        except (ServeError, PlanError) as error:
            told.ended(environment.now_s, str(error))
            raise
        told.ended(environment.now_s, "told to end" if stop is not None and stop.is_set() else "the time is over")
        return {
            "schema": SCHEMA,
            **head,
            "seconds": environment.now_s - begin_s,
            "decisions": [entry.to_dict() for entry in entries],
            "happened": environment.happened(begin_s),
        }
