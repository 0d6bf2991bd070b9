"""A rack of servers with workers behind one balancer: declared as values, simulated, and what came of it.

RackSched (Zhu et al., OSDI 2020) in software: a policy chooses the server, each server preempts by quantum. See
`headway.fleet.rack` for what happens at one instant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral

import numpy as np

from headway.errors import HeadwayError, nearest
from headway.fleet import rack_codes as code
from headway.fleet import rack_state
from headway.fleet.rack import advance
from headway.fleet.rack_outside import Outside
from headway.policy.routing import JBSQ, ROUND_ROBIN, ROUTERS, Router, draws
from headway.sim.draws import batch_key
from headway.sim.outcome import percentile
from headway.sim.station import Floats, Ints

SIGNALS = {
    "reported": code.REPORTED,
    "reported+sent": code.REPORTED_SENT,
    "least-reported": code.LEAST_REPORTED,
    "work": code.WORK,
    "work+sent": code.WORK_SENT,
    "counted": code.COUNTED,
    "exact": code.EXACT,
}
"""What the balancer goes by: the load in the last report (RackSched's INT1), with what was sent since; only the least
one (INT2); the work outstanding instead of the count (INT3, known to nobody in general); its own count of what is
unanswered (Proactive); the truth, which no balancer has."""
QUEUES = {"one": code.ONE_QUEUE, "slo": code.BY_SLO, "priority": code.BY_PRIORITY}
ACTIONS = {
    "drain": code.DRAIN, "join": code.JOIN, "fail": code.FAIL, "declare-dead": code.DECLARE_DEAD,
    "balancer-down": code.BALANCER_DOWN, "balancer-up": code.BALANCER_UP,
}  # fmt: skip
"""A server is drained: it gets nothing new; joins, empty if it had failed; fails: what it has is lost, and what is sent
there until the balancer declares it dead. A balancer that is down loses all that passes it, and what it knew."""

MOST_SESSION_BITS = 24
"""A table of sessions that is larger would not be a switch's, and takes a gigabyte."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens at a time: one of `ACTIONS`, to a server by number (of no meaning for the balancer's).

    Raises HeadwayError for a time that is not one, or an action that is not known.
    """

    at_s: float
    action: str
    server: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            known = f"{nearest(self.action, ACTIONS)}; valid: {', '.join(ACTIONS)}"
            raise HeadwayError(f"rack: action is {self.action!r}{known}")
        if not 0.0 <= self.at_s < math.inf:
            raise HeadwayError(f"rack: a change happens at {self.at_s} s; a finite time of at least 0 is needed")


@dataclass(frozen=True)
class RackSetup:
    """Servers and how they, and the balancer in front of them, decide.

    `workers` per server; `pace`: how many times as fast its workers are (default: 1). `speed`: what the balancer takes
    for each server's speed (default: workers times pace; ones for a balancer that compares bare counts). `quantum_s`:
    after how long a request gives way to those that wait; with `eager` also when nobody does; it costs `switch_s` when
    it runs again. `queues`: one for all, or one per type (see `headway.fleet.rack_codes`), then with `slo_s` per type.
    `send_s`, `reply_s`: one way there and back. `report_every_s`: 0 when reports come with replies. `loss`: the share
    of reports that never come, or with `drifts` of whole replies: then a balancer does not know of the answer either,
    and what it counts for itself drifts, as RackSched's does (section 3.4). `holds`: per type, the servers that have
    its data (default: all). `balancers`: how many send requests, turn by turn, without knowing of each other; each
    hears of its own only (RackSched's clients).

    Raises HeadwayError for what is out of range or contradicts itself.

    >>> RackSetup((2, 2)).capacity
    4.0
    """

    workers: tuple[int, ...]
    router: Router = ROUTERS["least-loaded"]
    signal: str = "reported+sent"
    pace: tuple[float, ...] = ()
    speed: tuple[float, ...] = ()
    quantum_s: float = math.inf
    switch_s: float = 0.0
    eager: bool = False
    queues: str = "one"
    slo_s: tuple[float, ...] = (1.0,)
    send_s: float = 0.0
    reply_s: float = 0.0
    per_kind: bool = False
    report_every_s: float = 0.0
    loss: float = 0.0
    drifts: bool = False
    holds: tuple[tuple[int, ...], ...] = ()
    changes: tuple[Change, ...] = ()
    session_bits: int = 16
    balancers: int = 1

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("signal", self.signal, SIGNALS),
            ("queues", self.queues, QUEUES),
        ):
            if value not in valid:
                raise HeadwayError(f"rack: {name} is {value!r}{nearest(value, valid)}; valid: {', '.join(valid)}")
        servers = len(self.workers)
        for name, sized in (("pace", self.pace), ("speed", self.speed)):
            if sized and (len(sized) != servers or not all(0.0 < each < math.inf for each in sized)):
                raise HeadwayError(
                    f"rack: {name} is {sized}; one number above 0 for each of {servers} servers is needed"
                )
        if not servers or not all(isinstance(each, Integral) and each >= 1 for each in self.workers):
            raise HeadwayError(
                f"rack: workers are {self.workers}; a whole number of them is needed, at least one server with at "
                "least one"
            )
        ways = (self.switch_s, self.send_s, self.reply_s)
        if not (self.quantum_s > 0.0 and all(0.0 <= each < math.inf for each in ways)):
            raise HeadwayError("rack: quantum_s is to be above 0; switch_s, send_s and reply_s are to be at least 0")
        if not (0.0 <= self.loss <= 1.0) or not self.slo_s or not all(each > 0.0 for each in self.slo_s):
            raise HeadwayError("rack: loss is a share from 0 to 1, and slo_s has a time above 0 for each type")
        if not (self.report_every_s == 0.0 or self.reply_s <= self.report_every_s > 0.0):
            raise HeadwayError(
                f"rack: report_every_s is {self.report_every_s}; it is 0 (with replies) or at least reply_s"
            )
        if not (isinstance(self.session_bits, Integral) and 0 <= self.session_bits <= MOST_SESSION_BITS):
            raise HeadwayError(
                f"rack: session_bits is {self.session_bits}; a whole number from 0 to {MOST_SESSION_BITS} is needed"
            )
        is_several = isinstance(self.balancers, Integral) and self.balancers > 1
        if not (is_several or self.balancers == 1) or (is_several and self.router.code == JBSQ):
            raise HeadwayError("rack: a bounded queue needs one balancer, everything else at least one")
        if self.holds and len(self.holds) != len(self.slo_s):
            raise HeadwayError(f"rack: holds has {len(self.holds)} types, slo_s has {len(self.slo_s)}")
        for what, named in (
            ("a change names", [change.server for change in self.changes]),
            ("holds names", [server for held in self.holds for server in held]),
        ):
            if any(not (isinstance(server, Integral) and 0 <= server < servers) for server in named):
                raise HeadwayError(f"rack: {what} a server that does not exist; they are 0 to {servers - 1}")

    @property
    def paces(self) -> Floats:
        """How fast the workers of each server are."""
        return np.array(self.pace or [1.0] * len(self.workers))

    @property
    def capacity(self) -> float:
        """Seconds of work that all servers do in a second."""
        return float(np.dot(self.workers, self.paces))


@dataclass(frozen=True)
class RackOutcome:
    """What became of every request, in order of arrival; `fate` as in `headway.fleet.rack_codes`.

    `latency_s` is from arrival until the reply has come back, infinite for what was not answered; `wait_s` from the
    arrival until a worker began. `busy_s` per server. `events`: arrivals, deliveries, ends of slices, and replies.
    """

    latency_s: Floats
    wait_s: Floats
    service_s: Floats
    kind: Ints
    fate: Ints
    where: Ints
    busy_s: Floats
    events: int
    preemptions: int
    overflows: int

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return int(np.count_nonzero(self.fate == code.ANSWERED))

    def p(self, percent: float, skip: float = 0.0) -> float:
        """Return the nearest-rank percentile of the latency, without the first share `skip` of the requests."""
        return percentile(self.latency_s[int(skip * self.latency_s.size) :], percent)


@dataclass(eq=False)
class RackSimulation:
    """A rack that can be advanced to any time.

    `kind` (default: all 0) and `session` (default: none; -1: without) are per request; service times are on a worker of
    pace 1. Same inputs and seed, same result to the last bit. Raises HeadwayError for inputs that do not fit.
    """

    setup: RackSetup
    arrival_s: Floats
    service_s: Floats
    kind: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    session: Sequence[int] | rack_state.Longs = ()
    seed: int = 1

    def __post_init__(self) -> None:
        # The kernel is compiled for one type of each column.
        self.arrival_s = np.asarray(self.arrival_s, np.float64)
        self.service_s = np.asarray(self.service_s, np.float64)
        setup, n = self.setup, self.arrival_s.size
        kind = np.asarray(self.kind) if np.size(self.kind) else np.zeros(n, np.int32)
        session = np.asarray(self.session, np.int64)
        if self.service_s.size != n or kind.size != n or session.size not in (0, n):
            raise HeadwayError(f"rack: {n} arrivals need as many service times, types and sessions")
        for what, times_s in (("an arrival", self.arrival_s), ("a service time", self.service_s)):
            wrong = np.flatnonzero(~((times_s >= 0.0) & (times_s < math.inf)))
            if wrong.size:
                raise HeadwayError(
                    f"rack: request {wrong[0]} has {what} of {times_s[wrong[0]]} s; no time is to be below 0, and each "
                    "is to be a finite number"
                )
        if np.any(np.diff(self.arrival_s) < 0.0):
            raise HeadwayError("rack: arrivals are to be in order of time")
        if n and not (kind.min() >= 0 and kind.max() < len(setup.slo_s) and np.all(kind == np.rint(kind))):
            raise HeadwayError(
                f"rack: types go from {kind.min()} to {kind.max()}; slo_s has {len(setup.slo_s)}, numbered from 0"
            )
        rows = len(setup.slo_s) if setup.per_kind else 1
        kind = kind.astype(np.int32)
        by = (np.arange(n) % setup.balancers).astype(np.int32)
        row = kind if rows > 1 else np.zeros(n, np.int32)
        ledger = row if setup.signal == "exact" else by * np.int32(rows) + row
        work = self.service_s if setup.signal in ("work", "work+sent") else np.ones(n)
        holds = np.ones((max(1, len(setup.holds)), len(setup.workers)), np.bool_)
        for at, servers in enumerate(setup.holds):
            holds[at] = np.isin(np.arange(len(setup.workers)), servers)
        self._requests = rack_state.Requests(self.arrival_s, self.service_s, kind, session, by, row, ledger, work)
        self._rack = rack_state.Rack(
            workers=np.array(setup.workers, np.int64),
            pace=setup.paces,
            quantum_s=float(setup.quantum_s),
            switch_s=float(setup.switch_s),
            eager=bool(setup.eager),
            discipline=QUEUES[setup.queues],
            slo_s=np.array(setup.slo_s, np.float64),
            send_s=float(setup.send_s),
            reply_s=float(setup.reply_s),
            signal=SIGNALS[setup.signal],
            by_reply=setup.report_every_s <= 0.0,
            loss=float(setup.loss),
            drifts=bool(setup.drifts),
            key=batch_key(self.seed, "rack"),
        )
        speed = np.array(setup.speed, np.float64) if setup.speed else self._rack.workers * self._rack.pace
        changes = sorted(setup.changes, key=lambda change: change.at_s)
        failing = np.array([change.server for change in changes if change.action == "fail"], np.int64)
        books = rack_state.books(self._rack, speed, holds.copy(), rows, draws(self.router), setup.balancers)
        sessions = rack_state.sessions(setup.session_bits if session.size else 1)
        self._state = rack_state.state(self._requests, self._rack, rows, setup.balancers, failing)
        happens = [(change.at_s, ACTIONS[change.action], change.server) for change in changes]
        self._outside = Outside(
            self._rack, books, sessions, self._state, holds, happens, float(setup.report_every_s),
            setup.router.code != ROUND_ROBIN,
        )  # fmt: skip

    @cached_property
    def router(self) -> Router:
        """The policy, with its parameters of the types that a kernel is compiled for."""
        given = self.setup.router
        return Router(int(given.code), int(given.choices), *(float(value) for value in given[2:]))

    def advance(self, until_s: float = math.inf) -> float:
        """Let everything happen up to and at a time; return when the next thing would (infinite: nothing will)."""
        known = True
        while True:
            outside_s = self._outside.next_s(known)
            following_s = self._step(min(until_s, math.nextafter(outside_s, -math.inf)))
            known = following_s < math.inf
            # What was to come from outside may have been for nothing: reports end with everything else.
            outside_s = self._outside.next_s(known)
            if outside_s > until_s or outside_s == math.inf:
                return min(following_s, outside_s)
            self._outside.happen(outside_s)
            self._step(outside_s)
            known = True

    def _step(self, until_s: float) -> float:
        """Let the kernel process everything up to and at a time."""
        outside = self._outside
        parts = (self._requests, self._rack, self.router, outside.books, outside.sessions, self._state)
        return float(advance(*parts, until_s))

    def counts(self) -> dict[str, int]:
        """Return how many of the requests that have come are where: they add up to `arrived` at any time."""
        at = self._state.counters
        return {
            "arrived": int(at[code.NEXT_ARRIVAL]),
            "held": int(at[code.HELD_TAIL] - at[code.HELD_HEAD]),
            "sent": int(at[code.WIRE_TAIL] - at[code.WIRE_HEAD]),
            "queued": int(at[code.QUEUED]),
            "running": int(at[code.RUNNING]),
            "replying": int(at[code.REPLY_TAIL] - at[code.REPLY_HEAD]),
            "answered": int(at[code.ANSWERS]),
            "refused": int(at[code.REFUSALS]),
            "lost": int(at[code.LOSSES]),
        }

    def outcome(self) -> RackOutcome:
        """Return what came of the requests until the time that was advanced to."""
        state, at = self._state, self._state.counters
        answered = state.fate == code.ANSWERED
        latency_s = np.where(answered, state.done_s + self.setup.reply_s - self.arrival_s, math.inf)
        return RackOutcome(
            latency_s=latency_s,
            wait_s=state.start_s - self.arrival_s,
            service_s=self.service_s,
            kind=self._requests.kind,
            fate=state.fate,
            where=state.where,
            busy_s=state.busy_s,
            events=int(at[code.EVENTS]),
            preemptions=int(at[code.PREEMPTIONS]),
            overflows=int(at[code.OVERFLOWS]),
        )


def simulate_rack(
    setup: RackSetup,
    arrival_s: Floats,
    service_s: Floats,
    *,
    kind: Ints | None = None,
    session: Sequence[int] | rack_state.Longs = (),
    seed: int = 1,
) -> RackOutcome:
    """Simulate a rack until everything has been answered, refused or lost (see `RackSimulation`).

    >>> one = RackSetup((1,))
    >>> simulate_rack(one, np.array([0.0, 1.0]), np.array([3.0, 1.0])).latency_s.tolist()
    [3.0, 3.0]
    """
    kinds = np.empty(0, np.int32) if kind is None else kind
    simulation = RackSimulation(setup, arrival_s, service_s, kinds, session, seed)
    simulation.advance()
    return simulation.outcome()
