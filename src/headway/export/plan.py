"""What a plan says of a fleet of engines that are there: which ones, and how requests are spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headway.errors import PlanError

if TYPE_CHECKING:
    from headway.gateway.declare import Upstream
    from headway.plan.plan import Plan


def fleet_of(plan: Plan) -> tuple[tuple[Upstream, ...], dict[str, Any]]:
    """Return the upstreams of a plan whose only stage is a fleet of engines, and options of GatewayOptions.

    Raises PlanError for another plan, ServeError where no engine is named.
    """
    from headway.domains.fleet.config import LlmConfig
    from headway.domains.fleet.declare import FleetStage
    from headway.domains.fleet.live import options_of, upstreams_of
    from headway.plan.config import StageContext

    stages = list(plan.spec.stages.items())
    name, stage = stages[0]
    config = plan.stages[name]
    if len(stages) > 1 or not isinstance(stage, FleetStage) or not isinstance(config, LlmConfig):
        raise PlanError(
            f"export: a plan whose only stage is a fleet of LLM engines is needed; the stages of {plan.spec.name} are "
            + ", ".join(f"{name} ({stage.kind})" for name, stage in stages)
        )
    context = StageContext(name, stage, plan.spec, plan.profile)
    return upstreams_of(context, config), options_of(stage, config)
