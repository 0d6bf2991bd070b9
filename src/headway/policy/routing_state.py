"""What a balancer knows of its servers, and how it comes to know: columns that every routing policy reads.

The caller tells what it sends, what is answered and what servers report; so the simulator and a gateway keep the same
books. A missing report is NaN, never zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64] | list[float]
Counts: TypeAlias = NDArray[np.int64] | Floats
Flags: TypeAlias = NDArray[np.bool_] | list[bool]


NEWEST = 0.05
"""Weight of the newest in the moving average of what requests take on a server."""

LASTING = 16
"""For how many requests per server that average holds while the server is asked for nothing."""


class Servers(NamedTuple):
    """What a balancer knows of its servers, one entry each; columns are arrays, or lists where nothing is compiled.

    `reported`: the load in the server's last report, in requests or any other unit of work, NaN when there is none;
    `reported_at_s`: when that was; `sent`: the load sent to it that this report does not contain. `outstanding`:
    requests of this balancer that it has not answered. `assigned`: requests it was ever given. `latency_s`: what
    requests of late would have taken there had it been empty (`note_latency`); `heard`: the number of the newest of
    them from 1, 0 when there is none. `speed`: its workers, or any measure of how much faster it is than others.
    `places`: requests that it works on at once, as many as a server has workers or an engine runs. `alive`: whether it
    may be chosen.
    """

    reported: Floats
    reported_at_s: Floats
    sent: Floats
    outstanding: Floats
    assigned: Floats
    latency_s: Floats
    heard: Floats
    speed: Floats
    places: Counts
    alive: Flags

    @classmethod
    def of(cls, speed: Floats, places: Counts | None = None) -> Servers:
        """Return living servers of which nothing is known but their speed, and their places where these are not that.

        Raises ValueError where there is none, or a speed or a number of places is not above 0.

        >>> Servers.of([1.0, 2.0]).outstanding.tolist()
        [0.0, 0.0]
        """
        speeds = np.array(speed, np.float64)
        if speeds.size == 0 or not np.all((speeds > 0.0) & np.isfinite(speeds)):
            raise ValueError(f"servers: the speeds are {speeds.tolist()}; one or more finite ones above 0 are needed")
        seats = speeds.copy() if places is None else np.array(places, np.float64)
        if seats.size != speeds.size or not np.all(seats > 0.0):
            raise ValueError(f"servers: the places are {seats.tolist()}; each server has a number of them above 0")
        sent, outstanding, assigned, latency_s, heard = np.zeros((5, speeds.size))
        never = np.full(speeds.size, -np.inf)
        living = np.ones(speeds.size, np.bool_)
        nothing = np.full(speeds.size, np.nan)
        return cls(nothing, never, sent, outstanding, assigned, latency_s, heard, speeds, seats, living)

    def lists(self) -> Servers:
        """Return the same with lists as columns, which Python reads several times as fast as arrays."""
        return Servers(*(np.asarray(column).tolist() for column in self))


def load(servers: Servers, server: int) -> float:
    """Return a server's load per unit of its speed: what it last reported and what was sent to it since."""
    return per_speed(servers.reported[server] + servers.sent[server], servers.speed[server])


def own(servers: Servers, server: int) -> float:
    """Return what of this balancer's a server has not answered, per unit of its speed: known without any report."""
    return per_speed(servers.outstanding[server], servers.speed[server])


def fresh(servers: Servers, server: int, now_s: float, stale_s: float) -> bool:
    """Return whether a server's report may be used: there is one, and it is at most `stale_s` old."""
    return usable(servers.reported[server], servers.reported_at_s[server], now_s, stale_s)


def per_speed(work: float, speed: float) -> float:
    """Return work per unit of speed."""
    return float(work / speed)


def usable(reported: float, reported_at_s: float, now_s: float, stale_s: float) -> bool:
    """Return whether a report is there and at most `stale_s` old."""
    return not math.isnan(reported) and now_s - reported_at_s <= stale_s


def stretch(servers: Servers, server: int) -> float:
    """Return how many times as long as on an empty server a request takes that is sent there now, by a rule of thumb.

    What a server has shares its places, so with one request per place it takes twice as long: exact for one worker and
    for places that share a processor, too much for a server with idle workers. Without a report what this balancer has
    outstanding there counts.

    >>> servers = Servers.of([4.0])
    >>> note_sent(servers, 0, 1.0)
    >>> stretch(servers, 0)
    1.25
    """
    has = servers.reported[server] + servers.sent[server]
    if not math.isfinite(has):
        has = servers.outstanding[server]
    return float(1.0 + max(0.0, has) / servers.places[server])


def note_sent(servers: Servers, server: int, work: float) -> None:
    """Keep in mind that a request with so much work, in the unit of reports, was sent to a server."""
    servers.sent[server] += work
    servers.outstanding[server] += 1.0
    servers.assigned[server] += 1.0


def note_answered(servers: Servers, server: int) -> None:
    """Keep in mind that a server has answered a request, or that it never will."""
    servers.outstanding[server] = max(0.0, servers.outstanding[server] - 1.0)


def note_latency(servers: Servers, server: int, took_s: float, stretched: float, number: int) -> None:
    """Keep how long a request took, the balancer's `number`th from 0, that was sent when the `stretch` was `stretched`.

    Divided by that, a latency met under one load says what to expect under another. A moving average, which begins anew
    where the last latency is too old to say anything (`LASTING`).

    >>> servers = Servers.of([1.0])
    >>> note_latency(servers, 0, took_s=6.0, stretched=3.0, number=0)
    >>> note_latency(servers, 0, took_s=3.0, stretched=1.0, number=1)
    >>> servers.latency_s.tolist()
    [2.05]
    """
    old_s, heard, alone_s = servers.latency_s[server], servers.heard[server], took_s / stretched
    if heard == 0.0 or number - heard > LASTING * len(servers.alive):
        servers.latency_s[server] = alone_s
    else:
        servers.latency_s[server] = old_s + NEWEST * (alone_s - old_s)
    servers.heard[server] = max(heard, number + 1.0)


def is_news(heard: float, newest: float, outstanding: float, servers: int) -> bool:
    """Return whether a latency says something still: of a server that gets nothing it is forgotten after a while.

    `heard` and `newest`: what the server's latency was last heard by, and the newest of any server's. One that works
    will tell, however long that takes; what has nothing to do is given another try.
    """
    return heard > 0.0 and (outstanding > 0.0 or newest - heard <= LASTING * servers)


def note_report(servers: Servers, server: int, reported: float, unseen: float, at_s: float) -> None:
    """Keep a report made at `at_s`: the server's load, and what had been sent by now that this does not contain.

    A report older than the one at hand is not news.

    >>> servers = Servers.of([1.0])
    >>> note_report(servers, 0, reported=3.0, unseen=1.0, at_s=2.0)
    >>> note_report(servers, 0, reported=9.0, unseen=0.0, at_s=1.0)
    >>> load(servers, 0)
    4.0
    """
    if at_s >= servers.reported_at_s[server]:
        servers.reported[server] = reported
        servers.reported_at_s[server] = at_s
        servers.sent[server] = unseen


def note_alive(servers: Servers, server: int, by_speed: bool) -> None:
    """Let a server be chosen from now on; in turns it stands where the others are, not where it once was.

    `by_speed`: whether turns are in proportion to the speeds (weighted round robin), or one is as long as another.

    >>> servers = Servers.of([4.0, 1.0])
    >>> servers.assigned[0] = 100.0
    >>> for by_speed in (True, False):
    ...     note_alive(servers, 1, by_speed)
    ...     print(servers.assigned[1])
    25.0
    100.0
    """
    least = math.inf
    for at in range(len(servers.alive)):
        if servers.alive[at] and at != server:
            least = min(least, servers.assigned[at] / servers.speed[at] if by_speed else servers.assigned[at])
    if least < math.inf:
        due = math.floor(least * servers.speed[server]) if by_speed else least
        servers.assigned[server] = max(servers.assigned[server], due)
    servers.alive[server] = True
