"""The upstreams of a gateway, each with a number that stays its own until it has left: columns are kept by it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from headway.errors import ServeError, nearest
from headway.gateway.choose import Chooser
from headway.gateway.declare import GatewayOptions, Upstream
from headway.gateway.replica import Replica

Attend: TypeAlias = Callable[[Replica], Callable[[], object]]
"""Begins to look after an upstream; what it returns ends that."""


class Seats:
    """Upstreams by number. `replicas`: all that are there, those included that are on their way in or out."""

    def __init__(self, options: GatewayOptions, upstreams: Iterable[Upstream], chooser: Chooser) -> None:
        self.replicas = [Replica(n, one, options, chooser.servers) for n, one in enumerate(upstreams)]
        self.by_number = list(self.replicas)
        self._chooser = chooser
        self._attend: Attend | None = None
        self._attended: dict[Replica, Callable[[], object]] = {}
        self._leaving: list[Replica] = []

    def attend(self, begin: Attend) -> None:
        """Have every upstream looked after from now on, those included that are added."""
        self._attend = begin
        self._attended = {replica: begin(replica) for replica in self.replicas}

    def named(self, name: str) -> Replica:
        """Return the upstream with a name. Raises ServeError where none has it."""
        names = {replica.name: replica for replica in self.replicas}
        if name not in names:
            raise ServeError(
                f"gateway: no upstream is called {name!r}{nearest(name, names)}; valid: {', '.join(names)}"
            )
        return names[name]

    def add(self, upstream: Upstream, options: GatewayOptions, meant: Collection[int], now_s: float) -> Replica:
        """Take an upstream in, sending it nothing yet; its number is none by which a request has `meant` another."""
        taken = {replica.number for replica in self.replicas}.union(meant)
        number = next((n for n in range(len(self.by_number)) if n not in taken), len(self.by_number))
        self._chooser.seat(number, upstream)
        replica = Replica(number, upstream, options, self._chooser.servers)
        replica.obey(upstream, options, False, now_s)
        self.by_number[number : number + 1] = [replica]
        self.replicas.append(replica)
        if self._attend is not None:
            self._attended[replica] = self._attend(replica)
        return replica

    def let_go(self, names: Collection[str]) -> None:
        """Have all others than these, which are sent nothing any more, leave once they have finished what they have."""
        self._leaving = [replica for replica in self.replicas if replica.name not in names]

    def see_off(self) -> bool:
        """Take out those that have finished; say whether there were any."""
        gone = [replica for replica in self._leaving if not replica.in_flight]
        for replica in gone:
            self._leaving.remove(replica)
            self.replicas.remove(replica)
            self._attended.pop(replica, lambda: None)()
            replica.close()
        return bool(gone)
