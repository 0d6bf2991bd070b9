"""What a plan says of a fleet that is served, and what of it can be said otherwise while it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from headway.errors import ServeError
from headway.gateway import GatewayOptions, Upstream
from headway.gateway.declare import Lineup


class Fleet(NamedTuple):
    """A fleet's engines and rules. Requests go to the first `used` of `upstreams`; `rules` are options of the gateway.

    `inside`: what engines decide, by the fields of a configuration. An engine takes `accelerators` of `hardware`, and
    at least `least_s` for a request; 0 where that is not known.
    """

    upstreams: tuple[Upstream, ...]
    used: int
    rules: Mapping[str, Any]
    hardware: str
    accelerators: int = 1
    inside: Mapping[str, Any] = {}
    least_s: float = 0.0

    def lineup(self, options: GatewayOptions) -> Lineup:
        """Return what a gateway goes by that has these options else."""
        return Lineup(self.upstreams, min(self.used, len(self.upstreams)), replace(options, **self.rules))

    def check(self, other: Fleet, name: str) -> None:
        """Raise ServeError, with one sentence, unless this fleet can become another one while it serves."""
        fields = [field for field, value in other.inside.items() if self.inside.get(field) != value]
        if fields:
            raise ServeError(
                f"stage {name!r}: {', '.join(fields)} {'is' if len(fields) == 1 else 'are'} of the engines, which are "
                "not started here; see to that there and serve the plan anew, or change routing, order, max_wait_s, "
                "most_running, replicas and upstreams alone"
            )
        if other.used > len(other.upstreams):
            raise ServeError(
                f"stage {name!r}: the plan counts on {other.used} engines, and {len(other.upstreams)} are named; add "
                "the others to its upstreams"
            )
        here = {upstream.name for upstream in self.upstreams}
        for upstream in other.upstreams:
            if upstream.token is not None and upstream.name not in here:
                raise ServeError(
                    f"stage {name!r}: upstream {upstream.name} needs a token, which is sent to no address that was not "
                    "named when the server started; serve the plan anew"
                )
