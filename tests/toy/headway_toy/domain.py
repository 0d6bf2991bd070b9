"""What is declared, what it costs, and which station does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from headway.errors import PlanError, nearest
from headway.plan.config import StageContext
from headway.spec.base import Name, Strict
from headway.spec.model import Stage
from headway.spec.units import Duration, Price
from headway_toy.live import LiveDelay
from headway_toy.station import DelayStation


class Tier(Strict):
    """One way of buying the service."""

    delay_s: Duration = Field(alias="delay", gt=0, description="How long an answer takes.")
    price_usd_per_hour: Price = Field(alias="price", description="What the tier costs, however much it is used.")


class ToyStage(Stage):
    """A stage done by the service."""

    kind: str = "toy"
    tiers: dict[Name, Tier] = Field(min_length=1, description="The tiers to choose from.")


@dataclass(frozen=True, slots=True)
class TierConfig:
    """The chosen tier."""

    tier: str

    def to_dict(self) -> dict[str, Any]:
        return {"tier": self.tier}


class ToyDomain:
    """A service without a queue: every item is answered after the tier's delay."""

    kind = "toy"
    declaration = ToyStage
    tunable = frozenset({"tier"})

    def parse_config(self, value: Mapping[str, Any], where: str) -> TierConfig:
        for field in value:
            if field != "tier":
                raise PlanError(f"{where}.{field}: unknown; valid: tier")
        if not isinstance(value.get("tier"), str):
            raise PlanError(f"{where}.tier: needs the name of a tier")
        return TierConfig(value["tier"])

    def cost_usd_per_hour(self, context: StageContext, config: TierConfig) -> float:
        return _tier(context, config.tier).price_usd_per_hour

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterator[TierConfig]:
        for name, tier in _tiers(context).items():
            if tier.price_usd_per_hour <= max_cost_usd_per_hour + 1e-9:
                yield TierConfig(name)

    def most_usd_per_hour(self, context: StageContext, items: int) -> float:
        return max(tier.price_usd_per_hour for tier in _tiers(context).values())

    def moves(self, context: StageContext, config: TierConfig) -> Iterator[tuple[str, TierConfig]]:
        for other in self.configs(context, float("inf")):
            if other.tier != config.tier:
                yield "change_tier", other

    def richest(self, context: StageContext, variant: str | None, share: float) -> Iterator[TierConfig]:
        tiers = _tiers(context)
        yield TierConfig(min(tiers, key=lambda name: tiers[name].delay_s))

    def fastest_s(self, context: StageContext, variant: str | None, *, sampled: bool) -> float:
        return min(tier.delay_s for tier in _tiers(context).values())

    def station(self, context: StageContext, config: TierConfig, *, sampled: bool) -> DelayStation:
        return DelayStation(_tier(context, config.tier).delay_s)

    def live(self, context: StageContext, config: TierConfig) -> LiveDelay:
        return LiveDelay(_tier(context, config.tier).delay_s)


def _tiers(context: StageContext) -> dict[str, Tier]:
    assert isinstance(context.stage, ToyStage)
    return context.stage.tiers


def _tier(context: StageContext, name: str) -> Tier:
    tiers = _tiers(context)
    if name not in tiers:
        raise PlanError(f"stages.{context.name}.tier: {name!r} is not declared{nearest(name, tiers)}")
    return tiers[name]


DOMAIN = ToyDomain()
