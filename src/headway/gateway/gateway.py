"""What happens to a request in the gateway: let in, sent or queued, retried, given up, answered; and counted once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from headway.gateway.ask import ApiError, read, with_priority
from headway.gateway.choose import Chooser
from headway.gateway.declare import GatewayOptions, Lineup, Upstream, checked
from headway.gateway.heads import Head, Known
from headway.gateway.journal import Journal
from headway.gateway.keys import Accounts, retry_after
from headway.gateway.models import Models
from headway.gateway.relay import Asker, Relay
from headway.gateway.replica import Replica
from headway.gateway.reports import Report
from headway.gateway.seats import Seats
from headway.gateway.splice import Splice
from headway.gateway.stats import Stats
from headway.gateway.urgency import priority
from headway.gateway.waiting import Queue
from headway.policy.admission import expired, full
from headway.serve.infer import Refused

if TYPE_CHECKING:
    from headway.serve.message import Message

SWEEP_S: Final = 0.1
"""How often deadlines and stalls are looked for: one timer for all requests."""
_NOBODY: Final = "no upstream is up that could take this request"
_ENDING: Final = "the gateway is shutting down"
_LOOKS: Final = 20
"""How often a request is looked at in the time that it may stall."""
_UNSEEN_S: Final = 1.0
"""How soon it shows that a kept connection had just been closed, and that nobody saw what was sent over it."""


class Gateway:
    """Stands in front of upstreams. `clock` is monotonic, in seconds. Raises ServeError."""

    def __init__(self, upstreams: Iterable[Upstream], options: GatewayOptions, clock: Callable[[], float]) -> None:
        found = checked(upstreams)
        self.lineup = Lineup(found, len(found), options)
        self.options = options
        self.clock = clock
        self.started_s = clock()
        self.chooser = Chooser(options, found)
        self.seats = Seats(options, found, self.chooser)
        self.replicas = self.seats.replicas
        self.queue = Queue(options, found)
        self.accounts = Accounts(options.keys, options.token, self.started_s)
        self.stats = Stats(self.started_s)
        self.counts = self.stats.counts
        self.journal = Journal(options.decisions, options.decision_log, clock)
        self.heads: Known[Head] = Known()
        self.draining = False
        self.active: dict[int, Relay] = {}
        self.splice = Splice(self.active)
        self.models = Models(self.replicas)
        self._by_number = self.seats.by_number
        self._priority = any(replica.kind.priority for replica in self.replicas) and options.priority
        self._tasks: set[asyncio.Task[None]] = set()

    # Let in

    def submit(self, client: Asker, message: Message, head: Head) -> Relay | None:
        """Take in a request; the client's connection gets its answer, maybe before this returns, and then None is."""
        now_s, account = self.clock(), head.account
        self.counts.offered += 1
        account.offered += 1
        if self.stats.arrivals is not None:
            self.stats.arrivals.add(now_s)
        try:
            if self.draining:
                raise ApiError(503, _ENDING, retry_after(1.0))
            ask = read(message.body)
            barred = self.models.barred(ask.model)
            within_s = head.within_s or self.options.timeout_s
            relay = Relay(self, client, message, head, ask, self.counts.offered, now_s, now_s + within_s)
            if account.bounded:
                account.admit(relay.tokens, now_s)
            if barred:
                relay.barred = barred
            self.accounts.come(account)
            self.active[relay.number] = relay
            # Others that wait go first, but where they fill the queue it is not for what this one could have.
            waits = 0 < self.queue.size < self.options.queue_limit
            number = -1 if waits else self.chooser(relay, now_s)
            if number >= 0:
                self._send(relay, self._by_number[number], now_s)
            else:
                self._enqueue(relay)
                if waits:
                    self.serve_waiting(now_s)
        except Refused as error:
            self.counts.by_status["rejected"] += 1
            self.stats.finished(now_s, math.inf)
            self.journal.refused(self.counts.offered, now_s, error.status, str(error))
            client.refuse(message, error)
            return None
        return relay

    def models_changed(self) -> None:
        """Take note that an upstream serves other models than before, for those that wait too."""
        self.models.forget()
        for relay in self.queue.all:
            try:
                barred = self.models.barred(relay.ask.model)
            except ApiError:
                barred = tuple(range(len(self._by_number)))
            relay.barred = tuple(sorted({*relay.tried, *barred}))

    def _enqueue(self, relay: Relay) -> None:
        """Let a request wait. Raises ApiError when too many do, or there is nothing to wait for."""
        if not self._someone_up(relay):
            self._turn_away(relay)
            raise ApiError(503, _NOBODY, retry_after(self.options.open_s))
        if full(self.queue.size, self.options.queue_limit):
            self._turn_away(relay)
            wait_s = min(60.0, self.queue.size / self.stats.per_s) if self.stats.per_s else 1.0
            raise ApiError(429, f"{self.queue.size} requests wait already, the most that may", retry_after(wait_s))
        self.queue.add(relay)

    def _turn_away(self, relay: Relay) -> None:
        self._forget(relay)
        relay.settle()

    def _someone_up(self, relay: Relay) -> bool:
        return any(replica.up and replica.number not in relay.barred for replica in self.replicas)

    # Sent

    def _send(self, relay: Relay, replica: Replica, now_s: float) -> None:
        if not relay.sent_s:
            self.accounts.begin(relay.account, relay.tokens)
            self.stats.queue_wait.add(now_s - relay.arrival_s)
        relay.attempts += 1
        relay.replica = replica
        relay.sent_s = relay.seen_s = now_s
        self.journal.sent(relay, replica, self.chooser)
        relay.stretched = replica.began()
        self.chooser.sent(relay, replica.number)
        head, body = relay.head, relay.message.body
        if self._priority and replica.kind.priority:
            waited_s = relay.arrival_s - self.started_s
            body = with_priority(body, priority(waited_s, relay.tokens, self.options.max_wait_s))
        frame = b"".join((replica.prefix[head.url], head.lines, b"%d\r\n\r\n" % len(body), body))
        line = None if relay.again else replica.take()
        if line is not None:
            line.send(relay, frame)
        else:
            task = asyncio.get_running_loop().create_task(self._connect(relay, replica, frame, relay.attempts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, relay: Relay, replica: Replica, frame: bytes, attempt: int) -> None:
        try:
            line = await replica.connect()
        except OSError as error:
            if not relay.over and relay.attempts == attempt and relay.replica is replica:
                self.broken(relay, f"it cannot be reached: {error}", reached=False)
            return
        if relay.over or relay.attempts != attempt or relay.replica is not replica:
            replica.free(line)
        else:
            line.send(relay, frame)

    def serve_waiting(self, now_s: float) -> None:
        """Send as many of those that wait as there is room for."""
        passed_over: set[tuple[int, ...]] = set()
        alive = self.chooser.servers.alive
        # To rank all that wait takes its time: while nobody has room they are not asked for.
        while True in alive and (relay := self.queue.next(now_s, passed_over)) is not None:
            number = self.chooser(relay, now_s)
            if number >= 0:
                self.queue.discard(relay)
                self._send(relay, self._by_number[number], now_s)
            else:
                passed_over.add(relay.barred)
                if not relay.barred:
                    return

    # Answered

    def began(self, relay: Relay, replica: Replica, now_s: float) -> bytes:
        """Take note that the answer begins, and return the headers that the gateway adds to it."""
        relay.begun = True
        relay.look_s = 0.0
        relay.first_s = relay.seen_s = now_s
        more = replica.first_token(relay, now_s)
        self.chooser.computed(relay, replica.number)
        self.stats.first_token.add(now_s - relay.arrival_s)
        lines = self.journal.why(relay, replica)
        if more and self.queue.size:
            self.serve_waiting(now_s)
        if not (relay.keep and relay.client.keeps(relay.message)):
            relay.keep = False
            return lines + b"connection: close\r\n"
        return lines if relay.speaks_chunks else lines + b"connection: keep-alive\r\n"

    def completed(self, relay: Relay, now_s: float) -> None:
        """Count a request whose answer has been passed on as a whole."""
        replica = relay.replica
        assert replica is not None
        relay.judge(replica, now_s)
        relay.replica = None
        replica.ended(relay.sent_s)
        told = relay.settle()
        if told is not None:
            self.queue.answered(told)
        self.stats.served(now_s - relay.sent_s)
        self._finish(relay, "answered" if relay.status < 500 else "failed", now_s)
        self.stats.latency.add(now_s - relay.arrival_s)
        relay.client.ended(relay.message, relay.keep)
        if self.queue.size:
            self.serve_waiting(now_s)

    # Not answered

    def may_retry(self, relay: Relay) -> bool:
        """Whether another upstream could be asked."""
        if relay.begun or relay.attempts >= self.options.attempts:
            return False
        here = relay.replica
        return any(r.up and r is not here and r.number not in relay.barred for r in self.replicas)

    def broken(self, relay: Relay, why: str, status: int = 0, unseen: bool = False, reached: bool = True) -> None:
        """Try another upstream, where nothing of the answer has been passed on; else end the request."""
        now_s = self.clock()
        replica = relay.replica
        assert replica is not None
        retry = self.may_retry(relay)
        self._release(relay)
        if unseen and not relay.again and now_s - relay.sent_s < _UNSEEN_S:
            # Once, and over a connection of its own: what ends that one too has been seen.
            relay.again = True
            relay.attempts -= 1
            self._send(relay, replica, now_s)
            return
        self.journal.failed(relay, why)
        if status != 429:
            relay.blame(replica, now_s, sure=bool(status) or not reached)
        if retry:
            relay.tried = (*relay.tried, replica.number)
            relay.barred = tuple(sorted({*relay.barred, replica.number}))
            replica.retried += 1
            self.stats.retries += 1
            self.queue.add(relay)
        else:
            self._fail(relay, 502, f"the upstream {replica.name} gave no answer: {why}", "failed")
        self.serve_waiting(now_s)

    def abandoned(self, relay: Relay) -> None:
        """Give up a request whose client is gone; its upstream hears of it."""
        now_s = self.clock()
        self.stats.cancelled += 1
        self._drop(relay, cancelled=True)
        self._finish(relay, "dropped", now_s, "the client went away")
        self.serve_waiting(now_s)

    def _fail(self, relay: Relay, status: int, text: str, how: str) -> None:
        """End a request without an answer of an upstream, or without the rest of it."""
        self._drop(relay, cancelled=status == 504 and relay.head.within_s is not None)
        self._finish(relay, how, self.clock(), text)
        if relay.begun:
            relay.client.abort()
        else:
            relay.client.refuse(relay.message, ApiError(status, text))

    def _drop(self, relay: Relay, cancelled: bool) -> None:
        line, relay.line = relay.line, None
        cancelled = cancelled and line is not None
        self.queue.discard(relay)
        if line is not None:
            line.abort()
        self._release(relay)
        relay.settle(cancelled)

    def _release(self, relay: Relay) -> None:
        replica, relay.replica = relay.replica, None
        relay.look_s = 0.0
        if replica is not None:
            if not relay.begun:
                self.chooser.computed(relay, replica.number)
            replica.ended(relay.sent_s)

    def _finish(self, relay: Relay, status: str, now_s: float, why: str = "") -> None:
        self.counts.by_status[status] += 1
        self.stats.finished(relay.arrival_s, now_s - relay.arrival_s if status == "answered" else math.inf)
        self._forget(relay)
        self.journal.ended(relay, status, now_s, why)

    def _forget(self, relay: Relay) -> None:
        relay.over = True
        del self.active[relay.number]
        relay.account.active -= 1

    # As time goes by

    def reported(self, replica: Replica, report: Report) -> None:
        """Take note of what an engine says of its memory."""
        self.chooser.memory(replica.number, report.kv_usage, report.kv_tokens)
        known = [r.report.kv_usage for r in self.replicas if r.report is not None and r.report.kv_usage is not None]
        if known:
            self.queue.memory = sum(known) / len(known)

    def sweep(self, now_s: float) -> None:
        """Look for what time alone brings about: deadlines, stalls, breakers, shares that grow."""
        # Who waits for an upstream to come back waits no longer than for one that is there and says nothing.
        patience_s = min(self.options.max_wait_s, self.options.first_token_s)
        for replica in self.replicas:
            replica.check(now_s)
        # Nothing is due of most of many requests, and to look at each of them ten times a second is not cheap.
        for relay in [one for one in self.active.values() if now_s >= one.look_s]:
            if expired(relay.deadline_s, now_s):
                self._fail(relay, 504, f"no answer within {relay.deadline_s - relay.arrival_s:g} s", "dropped")
            elif relay.replica is not None:
                self._look_for_stall(relay, now_s)
            elif now_s - relay.arrival_s > patience_s and not self._someone_up(relay):
                self._fail(relay, 503, _NOBODY, "failed")
        self.stats.sweep(now_s)
        if self.seats.see_off():
            self.models_changed()
        if self.queue.size:
            self.serve_waiting(now_s)
        self.journal.flush()

    def _look_for_stall(self, relay: Relay, now_s: float) -> None:
        if relay.line is not None:
            relay.line.count()
        limit_s = self.options.stall_s if relay.begun else self.options.first_token_s
        relay.look_s = min(relay.deadline_s, now_s + limit_s / _LOOKS)
        if relay.pieces != relay.seen_pieces or (relay.begun and relay.client.slow):
            relay.seen_pieces, relay.seen_s = relay.pieces, now_s
            return
        if now_s - relay.seen_s > limit_s:
            line, relay.line = relay.line, None
            if line is not None:
                line.abort()
            self.broken(relay, f"nothing came of it for {limit_s:g} s")

    def drain(self, name: str, draining: bool = True) -> None:
        """Send an upstream nothing more, or send to it again; what it has is finished. Raises ServeError."""
        replica = self.seats.named(name)
        replica.draining = draining
        now_s = self.clock()
        replica.check(now_s)
        self.serve_waiting(now_s)

    # Upstreams that come and go (`headway.gateway.lineup`)

    def add(self, upstream: Upstream) -> Replica:
        """Take an upstream in, to which nothing is sent before `obey` names it."""
        meant = {number for relay in self.active.values() for number in relay.barred}
        replica = self.seats.add(upstream, self.options, meant, self.clock())
        self.models_changed()
        return replica

    def obey(self, lineup: Lineup) -> None:
        """Send to the upstreams of this lineup by its rules from now on; all of them are there (`add`)."""
        now_s, options = self.clock(), lineup.options
        self.lineup, self.options = lineup, options
        used = lineup.upstreams[: lineup.used]
        named = {upstream.name: upstream for upstream in lineup.upstreams}
        self.chooser.obey(options)
        self.queue.obey(options, used)
        for replica in self.replicas:
            upstream = named.get(replica.name, replica.upstream)
            replica.obey(upstream, options, upstream in used, now_s)
            self.chooser.weigh(replica.number, upstream)
        self._priority = any(replica.kind.priority for replica in self.replicas) and options.priority
        self.models_changed()
        self.serve_waiting(now_s)

    def give_up(self) -> None:
        """End what a drain has not ended in its time; who has nothing of an answer yet is told so."""
        for relay in list(self.active.values()):
            self._fail(relay, 503, _ENDING, "dropped")

    async def close(self) -> None:
        """Close all connections to upstreams."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica in self.replicas:
            replica.close()
        self.splice.close()
        self.journal.close()
