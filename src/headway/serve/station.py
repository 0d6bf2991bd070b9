"""What the server needs of whatever does a stage's work, driven on one event loop, and what it gives it in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from headway.serve.wire import Input, Result

if TYPE_CHECKING:
    from prometheus_client.core import Metric

NEVER_S = math.inf
"""A time that does not come: no deadline, no need to be asked again."""


class Work:
    """One item at one stage: what to work on, until when, and when it arrived, started and was done (server clock)."""

    __slots__ = ("arrival_s", "batch_size", "deadline_s", "payload", "start_s", "tries")

    def __init__(self, payload: Input, deadline_s: float = NEVER_S) -> None:
        self.payload = payload
        self.deadline_s = deadline_s
        self.arrival_s = 0.0
        self.start_s = 0.0
        self.batch_size = 0
        self.tries = 0

    @property
    def over(self) -> bool:
        """Whether nobody waits for this item any more, so that it need not be worked on."""
        return False


class CorePool:
    """Cores that the replicas of several stations share: at most `cores` of their threads compute at any time."""

    __slots__ = ("cores", "free")

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.free = cores


@dataclass(frozen=True, slots=True)
class Decision:
    """What a station decided in which state: the arguments of `policy.batching.take` and its answer."""

    stage: str
    now_s: float
    queued: int
    oldest_arrival_s: float
    idle: int
    max_batch_size: int
    max_wait_s: float
    taken: int
    wake_at_s: float


class StationHost(Protocol):
    """What a station may use of the server. All calls are made on the event loop."""

    @property
    def clock(self) -> Callable[[], float]:
        """The server's clock, in seconds."""
        ...

    def pool(self, name: str) -> CorePool:
        """Return the named pool of cores that the stations share."""
        ...

    def wake(self) -> None:
        """Ask all stations again, once everything that happens at this instant has been delivered."""
        ...

    def finished(self, work: Work, result: Result, done_s: float) -> None:
        """Take the result of an item that was submitted; exactly once per item unless it was `dropped`."""
        ...

    def dropped(self, work: Work) -> None:
        """Take note that an item's deadline passed before it was started."""
        ...

    @property
    def paused(self) -> bool:
        """Whether no batch may begin; stations are not asked then."""
        ...

    @property
    def recording(self) -> bool:
        """Whether the server wants to be told of decisions."""
        ...

    def decided(self, decision: Decision) -> None:
        """Take note of a decision."""
        ...


@dataclass(slots=True)
class StationStats:
    """A station's state and counters since its start."""

    queued: int = 0
    running: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Replicas by state: `ready`, `starting`, `draining`."""
    batches: int = 0
    busy_s: float = 0.0
    held_s: float = 0.0
    held_by_hardware_s: Mapping[str, float] = field(default_factory=dict)
    """`held_s` by what it is paid for, of stations that can move from one hardware to another."""
    restarts: int = 0
    retries: int = 0
    pids: tuple[int, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    """What its kind of station has to tell beside, as JSON values."""
    samples: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    """What it has to tell beside one by one, as lists of JSON values, where samples are asked for."""


class StationLoad(NamedTuple):
    """What a station has to do now, as `policy.admission.Load` has it: `began_s` is a sum over the `busy` batches.

    A `pace` near 1 is told as 1: chance must not decide who is let in.
    """

    queued: int
    running: int
    busy: int
    began_s: float
    replicas: int
    pace: float = 1.0


@runtime_checkable
class TellsLoad(Protocol):
    """A station that can say how much it has to do: then requests are refused that would come too late."""

    def load(self) -> StationLoad:
        """Return what there is to do, at once: it is asked for every request."""
        ...


@runtime_checkable
class CountsRefused(Protocol):
    """A station that decides by how much comes: what is refused at the door came, too.

    Else the fewer it let in, the less it would see come, and the less it would do to let more in.
    """

    def refused(self, items: float) -> None:
        """Take note of a request that was not let in; on average one like it brings so many items here."""
        ...


@runtime_checkable
class TellsMetrics(Protocol):
    """A station that has more to tell Prometheus than every station has."""

    def metrics(self, labels: Mapping[str, str], now_s: float) -> Iterable[Metric]:
        """Return its metrics, every sample with `labels` (pipeline and stage) first."""
        ...


class LiveStation(Protocol):
    """A configured stage on the server's side.

    Law: every submitted item comes back exactly once, as `finished` or `dropped`, unless it is over or the station is
    stopped first.
    """

    @property
    def queued(self) -> int:
        """Items that wait."""
        ...

    @property
    def live(self) -> bool:
        """Whether anything works, or is on its way for the first time since it last worked."""
        ...

    async def start(self, host: StationHost) -> None:
        """Start whatever does the work; return when it can take items. Raises ServeError."""
        ...

    def submit(self, work: Work) -> None:
        """Put one item into the queue. Decides nothing: `ask` does, once all that happens at this instant is known."""
        ...

    def ask(self, now_s: float) -> float:
        """Start what may start now, without awaiting anything; return when to ask again though nothing happened."""
        ...

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result with its value in a form that leaves the server. Raises ServeError."""
        ...

    def set_replicas(self, count: int) -> None:
        """Change the number of replicas without losing an item; what is added starts in the background."""
        ...

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters."""
        ...

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop the work; items that still wait are not finished."""
        ...


@runtime_checkable
class Changeable(Protocol):
    """A station that can become what another one is while it serves, and be changed back at once.

    Laws: the queue keeps its items and their order throughout; `switch` twice is as if nothing had happened.
    """

    def prepare(self, other: LiveStation) -> None:
        """Begin to start what `other`, never started itself, is made of. Raises ServeError, having changed nothing."""
        ...

    async def prepared(self) -> None:
        """Wait until what was prepared can take over. Raises ServeError when it cannot."""
        ...

    def switch(self) -> None:
        """Exchange what serves and what is held back, at once."""
        ...

    def dismiss(self) -> None:
        """Let what is held back go, once it has finished what it works on."""
        ...
