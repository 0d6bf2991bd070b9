"""A fleet in a plan: which servers, how many, and the policies of the balancer and of every server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from headway.domains.fleet.declare import CORES, CORES_ROUTING, LLM, LLM_ROUTING, policies_of
from headway.errors import PlanError, nearest
from headway.spec.base import Name, Strict
from headway.spec.units import Duration
from headway.spec.wording import describe

MAX_REPLICAS = 10_000


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """LLM engines: `replicas` of them, each on `tensor_parallel` accelerators.

    `max_wait_s`: how long a request may be passed over; None where the order alone decides. Of the replicas, so many
    `prefill_engines` only compute prompts, and all others only decode; 0: each does both.

    >>> LlmConfig("a100-80gb", replicas=2, tensor_parallel=4).accelerators
    8
    """

    hardware: str
    replicas: int = 1
    tensor_parallel: int = 1
    token_budget: int = 2048
    most_running: int = 128
    routing: str = LLM_ROUTING
    order: str = "fcfs"
    admission: str = "optimistic"
    max_wait_s: float | None = None
    batching: str = "decode-first"
    prefill_engines: int = 0

    @property
    def accelerators(self) -> int:
        """How many accelerators all engines take."""
        return self.replicas * self.tensor_parallel

    @property
    def roles(self) -> tuple[str, ...]:
        """What each replica does.

        >>> LlmConfig("a100-80gb", replicas=3, prefill_engines=1).roles
        ('prefill', 'decode', 'decode')
        """
        if not self.prefill_engines:
            return ("both",) * self.replicas
        return ("prefill",) * self.prefill_engines + ("decode",) * (self.replicas - self.prefill_engines)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it stands in a plan's JSON."""
        return {"servers": LLM, **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class CoresConfig:
    """Servers with workers; `quantum_s`: after how long a request gives way to those that wait, None for never.

    >>> CoresConfig("cpu-8", replicas=4).to_dict()["routing"]
    'least-loaded'
    """

    hardware: str
    replicas: int = 1
    quantum_s: float | None = None
    routing: str = CORES_ROUTING
    queues: str = "one"

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it stands in a plan's JSON."""
        return {"servers": CORES, **dataclasses.asdict(self)}


FleetConfig: TypeAlias = LlmConfig | CoresConfig


class _LlmText(Strict):
    """LLM engines as a person writes them under `current:`."""

    servers: Literal["llm"] = Field(default="llm", examples=["llm"], description="What serves.")
    hardware: Name = Field(examples=["a100-80gb"], description="The accelerators of the engines.")
    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS, examples=[4], description="How many engines run.")
    tensor_parallel: int = Field(default=1, ge=1, examples=[2], description="Accelerators of one engine.")
    token_budget: int = Field(default=2048, ge=1, examples=[512], description="Tokens of an iteration at most.")
    most_running: int = Field(default=128, ge=1, examples=[64], description="Requests that an engine runs at once.")
    routing: str = Field(default=LLM_ROUTING, examples=["sal"], description="The balancer's policy.")
    order: str = Field(default="fcfs", examples=["sjf"], description="In which order an engine takes requests.")
    admission: str = Field(default="optimistic", examples=["reserve"], description="When a request may join.")
    max_wait_s: Duration | None = Field(
        default=None, alias="max_wait", gt=0, examples=["30s"], description="How long a request may be passed over."
    )
    batching: str = Field(default="decode-first", examples=["static"], description="How an iteration is made up.")
    prefill_engines: int = Field(
        default=0, ge=0, le=MAX_REPLICAS, examples=[1], description="How many engines only compute prompts."
    )


class _CoresText(Strict):
    """Servers with workers as a person writes them under `current:`."""

    servers: Literal["cores"] = Field(examples=["cores"], description="What serves.")
    hardware: Name = Field(examples=["cpu-8"], description="The servers.")
    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS, examples=[4], description="How many there are.")
    quantum_s: Duration | None = Field(
        default=None, alias="quantum", gt=0, examples=["250us"], description="After how long a request gives way."
    )
    routing: str = Field(default=CORES_ROUTING, examples=["power-of-d"], description="The balancer's policy.")
    queues: str = Field(default="one", examples=["slo"], description="How a server queues requests.")


def parse_config(value: Mapping[str, Any], where: str) -> FleetConfig:
    """Return the configuration that a mapping describes, as written under `current:` or found in a plan.

    Raises PlanError, one line `where.field: text` per problem.

    >>> parse_config({"hardware": "a100-80gb", "max_wait": "30s"}, "current.answer").max_wait_s
    30.0
    """
    cores = value.get("servers", LLM) == CORES
    text: type[_LlmText] | type[_CoresText] = _CoresText if cores else _LlmText
    seconds = "quantum_s" if cores else "max_wait_s"
    try:
        read = text.model_validate({name: value[name] for name in value if name != seconds})
    except ValidationError as error:
        raise PlanError("\n".join(describe(error, value, where))) from None
    fields = {name: getattr(read, name) for name in type(read).model_fields if name != "servers"}
    if seconds in value:
        fields[seconds] = _seconds(value[seconds], f"{where}.{seconds}")
    config = CoresConfig(**fields) if cores else LlmConfig(**fields)
    _check_policies(config, where)
    return config


def _seconds(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise PlanError(f"{where}: {value!r} must be a number of seconds above 0, or null")
    return float(value)


def _check_policies(config: FleetConfig, where: str) -> None:
    for field, valid in policies_of(LLM if isinstance(config, LlmConfig) else CORES).items():
        name = getattr(config, field)
        if name not in valid:
            raise PlanError(f"{where}.{field}: {name!r} is not known; valid: {', '.join(valid)}{nearest(name, valid)}")
    if not isinstance(config, LlmConfig):
        return
    if config.prefill_engines and config.replicas <= config.prefill_engines:
        raise PlanError(
            f"{where}.prefill_engines: {config.prefill_engines} of {config.replicas} replicas leave none to decode; at "
            f"least {config.prefill_engines + 1} replicas are needed"
        )
    if config.batching == "decode-first" and config.token_budget < config.most_running:
        raise PlanError(
            f"{where}.token_budget: {config.token_budget} is below the {config.most_running} of most_running; each "
            "running request makes a token per iteration"
        )
