"""What a domain brings. A new domain is one new folder and one entry point in the group `headway.domains`.

A domain's unit is the *station*: it takes timed items and gives them back later, at a cost and with an accuracy. A
pipeline is a graph of stations of any mix of kinds, planned and simulated under one promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headway.plan.config import Config, StageContext
from headway.sim.station import Station
from headway.spec.model import Spec, Stage

if TYPE_CHECKING:
    from headway.serve.station import LiveStation


class Domain(Protocol):
    """One kind of work."""

    @property
    def kind(self) -> str:
        """The word after `kind:` that chooses this domain; equal to the entry point's name."""
        ...

    @property
    def declaration(self) -> type[Stage]:
        """The pydantic model of what a stage of this kind declares."""
        ...

    @property
    def tunable(self) -> frozenset[str]:
        """Configuration fields that a tuner may change while the station runs."""
        ...

    def parse_config(self, value: Mapping[str, Any], where: str) -> Config:
        """Return the configuration that a mapping (of `current:`, or a plan) describes; PlanError names `where`."""
        ...

    def cost_usd_per_hour(self, config: Config, spec: Spec) -> float:
        """Dollars per hour of the capacity that the configuration holds."""
        ...

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterable[Config]:
        """Every configuration that costs at most so much: the space that exact search proves over. Order is free."""
        ...

    def moves(self, context: StageContext, config: Config) -> Iterator[tuple[str, Config]]:
        """Neighbouring configurations with the name of the move that leads there, for local search."""
        ...

    def station(self, context: StageContext, config: Config, *, sampled: bool) -> Station:
        """The simulator's station: service times drawn from the profile when `sampled`, else their means."""
        ...

    def live(self, context: StageContext, config: Config) -> LiveStation:
        """The server's station."""
        ...
