"""What a user declares: stages, promises, supply. One strict model behind both front doors, YAML and Python.

Durations and prices are text with a unit (`"300ms"`, `"$0.20/h"`) on the way in and out, floats in seconds and dollars
per hour as attributes. Unknown keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from headway.spec.graph import Graph
from headway.spec.units import Duration, Price, Share

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")


def _check_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(
            f"{name!r} is not a valid name; use a letter, then at most 63 letters, digits, dots, dashes or underscores"
        )
    return name


Name = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Base of every declared value: immutable, no unknown keys, no silent conversions of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False, allow_inf_nan=False)


class Slo(Strict):
    """The promise: a latency percentile of all requests, and optionally accuracy, budget and windows.

    >>> Slo(latency="300ms", percentile=99).latency_s
    0.3
    """

    latency_s: Duration = Field(alias="latency", gt=0)
    percentile: float = Field(default=99.0, gt=0, lt=100)
    window_s: Duration | None = Field(default=None, alias="window", gt=0)
    objective: Share | None = Field(default=None, gt=0)
    accuracy: Share | None = None
    max_cost_usd_per_hour: Price | None = Field(default=None, alias="max_cost")

    @model_validator(mode="after")
    def _window_with_objective(self) -> Slo:
        if (self.window_s is None) != (self.objective is None):
            raise ValueError("window and objective belong together: give both, such as window: 5m, objective: 99.9%")
        return self


class Pool(Strict):
    """Cores that the replicas of several stages share: at most `cores` of their threads compute at any time."""

    cores: int = Field(ge=1)


class Hardware(Strict):
    """One kind of capacity that can be bought, and how a replica on it runs.

    >>> Hardware(price="$0.20/h", startup="5s").startup_s
    5.0
    """

    price_usd_per_hour: Price = Field(alias="price")
    startup_s: Duration = Field(default=0.0, alias="startup")
    max_replicas: int | None = Field(default=None, alias="max", ge=1)
    threads: int = Field(default=1, ge=1)
    device: str | None = None
    pool: Name | None = None


class Variant(Strict):
    """One of several models that can do a stage's work, with its accuracy."""

    accuracy: Share | None = Field(default=None, gt=0)
    model: str | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)


class Edge(Strict):
    """How items pass from one parent to a stage, where this differs from the stage's own `probability` and `fan_out`."""

    probability: Share = Field(default=1.0, gt=0)
    fan_out: float = Field(default=1.0, gt=0, le=10_000)


class Stage(Strict):
    """What every stage declares, whatever does its work: its place in the graph. Domains add their own fields.

    `after` is a parent's name, a list of names, or a mapping from names to edges.
    """

    kind: str = "pipeline"
    after: str | list[str] | dict[str, Edge] = Field(default_factory=list)
    probability: Share = Field(default=1.0, gt=0)
    fan_out: float = Field(default=1.0, gt=0, le=10_000)
    gather: bool = False

    @property
    def edges(self) -> dict[str, Edge]:
        """The stage's incoming edges by parent, in declared order."""
        if isinstance(self.after, dict):
            return dict(self.after)
        parents = [self.after] if isinstance(self.after, str) else self.after
        return {parent: Edge(probability=self.probability, fan_out=self.fan_out) for parent in parents}

    @model_validator(mode="after")
    def _edges_make_sense(self) -> Stage:
        if isinstance(self.after, list) and len(set(self.after)) != len(self.after):
            raise ValueError("after names a stage twice; name each parent once")
        if isinstance(self.after, dict) and (self.probability != 1.0 or self.fan_out != 1.0):
            raise ValueError(
                "probability and fan_out stand either at the stage or at each parent in after, not at both"
            )
        if (self.gather or len(self.edges) > 1) and any(edge.fan_out != 1.0 for edge in self.edges.values()):
            raise ValueError(
                "fan_out has no meaning at a joining or gathering stage, which runs once per item; remove it"
            )
        if not self.edges and (self.probability != 1.0 or self.fan_out != 1.0 or self.gather):
            raise ValueError("probability, fan_out and gather need a parent; add after: STAGE or remove them")
        return self


def _stage_by_kind(value: Any) -> Any:
    from headway.spec.kinds import parse_stage

    return value if isinstance(value, Stage) else parse_stage(value)


class MeasuredAccuracy(Strict):
    """A measured end-to-end accuracy for one choice of variants; it replaces the product of stage accuracies."""

    variants: Mapping[str, str]
    accuracy: Share = Field(gt=0)


class Spec(Strict):
    """Everything a user declares: a graph of stages, a promise, and what can be bought.

    >>> spec = Spec.from_dict({"name": "one", "slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}},
    ...                        "stages": {"only": {}}})
    >>> spec.graph.order
    ('only',)
    """

    name: str = "pipeline"
    kind: Literal["pipeline"] = "pipeline"
    slo: Slo
    supply: dict[str, Hardware] = Field(min_length=1)
    pools: dict[str, Pool] = Field(default_factory=dict)
    stages: dict[str, Annotated[SerializeAsAny[Stage], BeforeValidator(_stage_by_kind)]] = Field(min_length=1)
    accuracy: list[MeasuredAccuracy] = Field(default_factory=list)
    current: dict[str, dict[str, Any]] | None = None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Spec:
        """Return the spec that a mapping (as read from YAML) declares. Raises pydantic.ValidationError."""
        return cls.model_validate(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values that `from_dict` reads back to an equal spec."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @model_validator(mode="before")
    @classmethod
    def _single_stage_of_another_kind(cls, value: Any) -> Any:
        """`kind: X` at the top with no stages is short for a pipeline with one stage X of that kind."""
        if not isinstance(value, Mapping) or value.get("kind", "pipeline") == "pipeline" or "stages" in value:
            return value
        kind = value["kind"]
        top = {key: value[key] for key in value if key in cls.model_fields and key != "kind"}
        rest = {key: value[key] for key in value if key not in cls.model_fields}
        return {**top, "stages": {kind: {"kind": kind, **rest}}}

    @field_validator("stages", "supply", "pools")
    @classmethod
    def _names_are_valid(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            _check_name(name)
        return value

    @cached_property
    def graph(self) -> Graph:
        """The stages' graph: order, edges, joins."""
        return Graph.build(
            {name: stage.edges for name, stage in self.stages.items()},
            gathering={name for name, stage in self.stages.items() if stage.gather},
        )
