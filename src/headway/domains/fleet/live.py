"""A fleet live: a gateway in front of the engines that are there, alone or as a stage of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from headway.domains.fleet.config import FleetConfig, LlmConfig
from headway.domains.fleet.declare import REPORT_S, FleetStage
from headway.domains.fleet.domain import DOMAIN
from headway.domains.fleet.live_fleet import Fleet
from headway.domains.fleet.live_station import FleetLive
from headway.domains.fleet.times import engine_times, fleet_stage
from headway.errors import ProfileError, ServeError
from headway.gateway import Upstream
from headway.gateway.written import upstream_of
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.serve.run import EMBEDDED, ServeOptions

_GATEWAYS = ("servers", "replicas", "most_running", "routing", "order", "max_wait_s")
"""Fields of a configuration that the gateway goes by; all others are the engines' own."""
STALE_REPORTS = 6.0
"""How many reports may fail to come before a load counts as unknown."""


def live_station(context: StageContext, config: FleetConfig) -> FleetLive:
    """Return the server's station of a fleet: items are requests of the OpenAI protocol, results their answers.

    Raises ServeError where it cannot be run, or would be handed more than one item at a time.
    """
    stage, fleet = fleet_stage(context), fleet_of(context, config)
    if stage.gather or len(stage.edges) > 1:
        raise ServeError(
            f"stages.{context.name}: engines take one request at a time, and this stage joins several results; let a "
            "stage before it make one request of them"
        )
    return FleetLive(context.name, fleet)


def fleet_of(context: StageContext, config: FleetConfig) -> Fleet:
    """Return what a plan says of its engines and of the gateway before them. Raises ServeError where there are none."""
    engines = _engines(context, config)
    try:
        least_s = DOMAIN.batches_s(context, engines) or (0.0,)
    except ProfileError:
        least_s = (0.0,)
    return Fleet(
        upstreams_of(context, engines),
        engines.replicas,
        options_of(fleet_stage(context), engines),
        engines.hardware,
        engines.tensor_parallel,
        {field: value for field, value in engines.to_dict().items() if field not in _GATEWAYS},
        least_s[0],
    )


def serve_alone(
    context: StageContext,
    config: FleetConfig,
    options: ServeOptions,
    more: Mapping[str, Any],
    *,
    announce: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Run a gateway by a plan until it is told to stop; `more` are options of GatewayOptions beyond the server's.

    Raises ServeError.
    """
    from headway.domains.fleet.live_alone import changeable
    from headway.gateway import run

    plan = Plan(context.spec, context.profile, {context.name: config})
    station = FleetLive(context.name, fleet_of(context, config))
    if options.engine != EMBEDDED:
        raise ServeError(f"stages.{context.name}: engine {options.engine!r} starts replicas; these are there already")
    wanted, named = station.fleet.used, len(station.fleet.upstreams)
    if wanted != named:
        spare = f"; the first {wanted} are used" if wanted < named else ""
        warn(f"stages.{context.name}: the plan counts on {wanted} engines, and {named} are named{spare}")
    asked = {
        "host": options.host,
        "port": options.port,
        "token": options.token,
        "seed": options.seed,
        "queue_limit": options.limits.queue_limit,
        "timeout_s": options.limits.timeout_s,
        "http": options.http,
        "grace_s": options.grace_s,
    }
    given = {**station.fleet.rules, **asked, **more}
    run(station.fleet.upstreams, announce=announce, beside=partial(changeable, plan, station), warn=warn, **given)


def upstreams_of(context: StageContext, config: LlmConfig) -> tuple[Upstream, ...]:
    """Return the engines that are there, each with what the plan says of it where its own text does not.

    An engine is sent as many requests as it runs at once; all others wait in the gateway, so that its order counts with
    any engine. Raises ServeError where none is named.
    """
    stage = fleet_stage(context)
    if not stage.upstreams:
        raise ServeError(
            f"stages.{context.name}: there is no engine to send requests to; name those that are there, such as "
            "upstreams: [http://gpu-1:8000, http://gpu-2:8000]"
        )
    known: dict[str, Any] = {"max_in_flight": config.most_running, "token_budget": float(config.token_budget)}
    full_s = _full_iteration_s(context, config)
    if full_s is not None:
        known["iteration_s"] = full_s
    return tuple(upstream_of(text, **known) for text in stage.upstreams)


def _full_iteration_s(context: StageContext, config: LlmConfig) -> float | None:
    """What a full iteration takes; None where it is not known, which policies that weigh tokens can do without."""
    try:
        return engine_times(context, config.hardware, config.tensor_parallel).step.seconds(config.token_budget)
    except ProfileError:
        return None


def options_of(stage: FleetStage, config: LlmConfig) -> dict[str, Any]:
    """Return the options of a gateway that decides as the plan says.

    >>> options_of(FleetStage(report="2s"), LlmConfig("a100-80gb", routing="sal", max_wait_s=20.0))["stale_s"]
    12.0
    """
    report_s = stage.reports_every_s or REPORT_S
    return {
        "policy": config.routing,
        "order": config.order,
        "max_wait_s": math.inf if config.max_wait_s is None else config.max_wait_s,
        "scrape_every_s": report_s,
        "stale_s": STALE_REPORTS * report_s,
    }


def _engines(context: StageContext, config: FleetConfig) -> LlmConfig:
    if isinstance(config, LlmConfig):
        if config.to_dict().get("prefill_engines"):
            raise ServeError(
                f"stages.{context.name}: engines of which some only compute prompts hand them over among themselves, "
                "which this gateway has no part in; plan with prefill_engines: 0, or let their own router serve"
            )
        return config
    raise ServeError(
        f"stages.{context.name}: servers of kind cores are planned and simulated, not run; to run a model in worker "
        "processes, declare its stage with kind: pipeline"
    )
