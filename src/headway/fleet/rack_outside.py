"""What happens to a rack from outside, between two steps of its kernel: changes to servers, and reports at intervals.

At one instant this comes before everything else: changes, then reports that arrive, then reports that are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headway.fleet import rack_codes as code
from headway.fleet.rack_state import Books, Flags, Rack, Sessions, State
from headway.policy.routing import Servers, note_alive
from headway.sim.draws import draw
from headway.sim.station import Floats


@dataclass(eq=False)
class Outside:
    """Changes as (time, action, server) in order of time, and reports every `every_s` (0: none) that travel `reply_s`.

    `holds[kind, server]`: where requests of a type can be served.
    """

    rack: Rack
    books: Books
    sessions: Sessions
    state: State
    holds: Flags
    changes: Sequence[tuple[float, int, int]]
    every_s: float
    turns_by_speed: bool
    _changed: int = 0
    _ticks: int = 0
    _made: tuple[Floats, Floats] | None = None
    _unreachable: set[int] = field(default_factory=set)

    def next_s(self, something_else: bool) -> float:
        """Return when the next thing happens; reports do only while there are changes or `something_else` to come."""
        change_s = self.changes[self._changed][0] if self._changed < len(self.changes) else math.inf
        if self.every_s <= 0.0 or not (something_else or change_s < math.inf):
            return change_s
        read_s = self._ticks * self.every_s + self.rack.reply_s if self._made is not None else math.inf
        return min(change_s, read_s, (self._ticks + 1) * self.every_s)

    def happen(self, now_s: float) -> None:
        """Let everything happen that is due."""
        while self._changed < len(self.changes) and self.changes[self._changed][0] <= now_s:
            _, action, server = self.changes[self._changed]
            self._changed += 1
            self._change(action, server, now_s)
        if self.every_s > 0.0:
            if self._made is not None and self._ticks * self.every_s + self.rack.reply_s <= now_s:
                self._read(*self._made)
                self._made = None
            if (self._ticks + 1) * self.every_s <= now_s:
                self._ticks += 1
                self._made = self.state.unfinished.copy(), self.state.received.copy()
        self.state.counters[code.ASK] = 1

    def _change(self, action: int, server: int, now_s: float) -> None:
        """A server that is drained keeps its sessions; one that is declared dead is owed nothing any more.

        What comes back is empty; a balancer that comes back has forgotten everything.
        """
        if action == code.FAIL:
            self.state.works[server] = False
            self._fail(server, now_s)
        elif action == code.DRAIN:
            self.books.alive[:, server] = False
        elif action == code.DECLARE_DEAD:
            self.books.alive[:, server] = False
            self.books.outstanding[:, server] = 0.0
            self.sessions.key[self.sessions.server == server] = -1
            self._unreachable.add(server)
        elif action == code.JOIN:
            self._join(server)
        else:
            self.state.counters[code.DOWN] = int(action == code.BALANCER_DOWN)
            if action == code.BALANCER_UP:
                self._clear(np.arange(self.rack.workers.size))
                self.sessions.key[:] = -1

    def _join(self, server: int) -> None:
        if not self.state.works[server] or server in self._unreachable:
            self._clear(np.array([server]))
            self.sessions.key[self.sessions.server == server] = -1
        self._unreachable.discard(server)
        self.state.works[server] = True
        books = self.books
        living = np.logical_or.reduce(books.alive, axis=0)
        for by in range(books.outstanding.shape[0]):
            note_alive(
                Servers(books.reported[0], books.reported_at_s[0], books.sent[0], books.outstanding[by],
                        books.assigned[by], books.latency_s[by], books.heard[by], books.speed, self.rack.workers,
                        living.copy()),
                server,
                self.turns_by_speed,
            )  # fmt: skip
        books.alive[:, server] = self.holds[:, server]

    def _clear(self, servers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self.books.outstanding[:, servers] = 0.0
        self.books.sent[:, servers] = 0.0
        self.books.heard[:, servers] = 0.0
        if self.rack.signal < code.COUNTED and self.rack.signal != code.LEAST_REPORTED:
            self.books.reported[:, servers] = 0.0

    def _fail(self, server: int, now_s: float) -> None:
        """What a server runs and what waits there is lost."""
        state = self.state
        first = int(state.first_slot[server])
        slots = slice(first, first + int(self.rack.workers[server]))
        running = np.flatnonzero(state.slot_job[slots] >= 0) + first
        lost = state.slot_job[running].tolist()
        state.busy_s[server] -= float(np.sum(state.slot_end_s[running] - now_s))
        state.counters[code.RUNNING] -= running.size
        state.counters[code.QUEUED] -= state.waiting[server]
        for job in state.head[server].tolist():
            while job >= 0:
                lost.append(job)
                job = int(state.following[job])
        state.fate[lost] = code.LOST
        state.counters[code.LOSSES] += len(lost)
        state.slot_job[slots] = -1
        state.slot_seq[slots] = -1
        state.free_slot[slots] = np.arange(slots.start, slots.stop)
        state.head[server] = -1
        state.busy[server] = 0
        state.waiting[server] = 0
        if self.rack.signal == code.EXACT:
            self.books.reported[: len(state.unfinished), server] -= state.unfinished[:, server]
        state.unfinished[:, server] = 0.0

    def _read(self, count: Floats, received: Floats) -> None:
        """The reports of all servers at work reach the balancers, as the signal in use has them."""
        signal, rows, made_s = self.rack.signal, len(count), self._ticks * self.every_s
        if self.state.counters[code.DOWN] == 1 or signal in (code.COUNTED, code.EXACT):
            return
        lost = [draw(self.rack.key ^ code.LOSS_KEY, self._ticks * count.shape[1] + server, 32) / 2.0**32
                < self.rack.loss for server in range(count.shape[1])]  # fmt: skip
        heard = self.state.works & ~np.array(lost)
        for ledger in range(len(received)):
            loads = count[ledger % rows]
            books, unseen = self.books, self.books.sent_total[ledger] - received[ledger]
            if signal == code.LEAST_REPORTED:
                if heard.any():
                    best = int(np.argmin(np.where(heard, loads, math.inf)))
                    books.reported[ledger] = math.inf
                    books.reported[ledger, best] = loads[best]
                    books.least[ledger] = best
                continue
            books.reported[ledger, heard] = loads[heard]
            books.reported_at_s[ledger, heard] = made_s
            added = signal in (code.REPORTED_SENT, code.WORK_SENT)
            books.sent[ledger, heard] = unseen[heard] if added else 0.0
