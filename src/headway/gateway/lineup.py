"""The upstreams that a gateway stands in front of and the rules that it goes by, and how both change while it serves.

Upstreams that are added are looked at first, and then come in slowly, as those do that were away. What an upstream has
that is taken away is finished. What waits keeps its place: only who goes next, and where, is decided otherwise.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from headway.errors import ServeError
from headway.gateway.choose import router_of
from headway.gateway.declare import Lineup, Upstream, checked
from headway.gateway.waiting import order_of
from headway.gateway.watch import Watch

if TYPE_CHECKING:
    from headway.gateway.gateway import Gateway
    from headway.gateway.replica import Replica

_FIXED: Final = ("url", "kind", "token", "models")
"""What of an upstream stays as it is for as long as it is there."""


class Change:
    """A change of a gateway's lineup, one at a time: begun, made, maybe taken back, and ended."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._held: Lineup | None = None
        self._fresh: list[Replica] = []

    def prepare(self, lineup: Lineup) -> None:
        """Begin to look at the upstreams that are not there yet. Raises ServeError, having changed nothing."""
        gateway = self._gateway
        if self._held is not None:
            raise ServeError("gateway: its upstreams are being changed; change them again when that is over")
        upstreams = checked(lineup.upstreams)
        if not 1 <= lineup.used <= len(upstreams):
            raise ServeError(f"gateway: {lineup.used} upstreams are asked for, and {len(upstreams)} are named")
        router_of(lineup.options)
        order_of(lineup.options)
        here = {replica.name: replica for replica in gateway.replicas}
        for upstream in upstreams:
            if upstream.name in here:
                _same(here[upstream.name].upstream, upstream)
        self._held = lineup
        self._fresh = [gateway.add(upstream) for upstream in upstreams if upstream.name not in here]
        gateway.seats.let_go({upstream.name for upstream in (*gateway.lineup.upstreams, *upstreams)})

    async def prepared(self) -> None:
        """Wait until all that are added have answered. Raises ServeError when one does not, or is not well."""
        await asyncio.gather(*(Watch(self._gateway, replica).reached() for replica in self._fresh))

    def switch(self) -> None:
        """Exchange what the gateway goes by and what is held back; a second call takes the first one back."""
        if self._held is None:
            raise ServeError("gateway: nothing was prepared")
        before, after = self._gateway.lineup, self._held
        self._held = before
        self._gateway.obey(after)

    def dismiss(self) -> None:
        """Let upstreams go that the gateway does not name any more, once they have finished what they have."""
        self._held, self._fresh = None, []
        self._gateway.seats.let_go({upstream.name for upstream in self._gateway.lineup.upstreams})


def _same(now: Upstream, other: Upstream) -> None:
    """Raise ServeError unless what has an upstream's name is that upstream."""
    for field in _FIXED:
        if getattr(now, field) != getattr(other, field):
            raise ServeError(
                f"upstream {now.name}: its {field} cannot change while it is in use; what is another upstream needs "
                "another name, by name=..."
            )
