"""What a user declares: stages, promises, supply. One strict model behind both front doors, YAML and Python.

Durations and prices are text with a unit (`"300ms"`, `"$0.20/h"`) on the way in and out, floats in seconds and dollars
per hour as attributes. Unknown keys are errors. Constructing a model in Python raises `pydantic.ValidationError` (a
`ValueError`) with the texts of a file's errors; `Spec.from_dict` and `headway.spec.load` raise `SpecError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from headway.files import content_hash
from headway.spec.base import Name, NamesList, Options, Strict, nothing_is_empty, tag_of_names
from headway.spec.graph import Graph
from headway.spec.units import Duration, Price, Share


def _not_a_share(value: Any) -> Any:
    if isinstance(value, float) and 0 < value < 1:
        raise ValueError(
            f"{value:g} is a share; write it in percent: {100 * value:g} for the {100 * value:g}th percentile"
        )
    return value


class Slo(Strict):
    """The promise: a latency percentile of all requests, and optionally accuracy, budget and windows.

    >>> Slo(latency="300ms", percentile=99).latency_s
    0.3
    """

    latency_s: Duration = Field(
        alias="latency",
        gt=0,
        examples=["300ms"],
        description="The time within which a request must be answered, counted from its scheduled arrival.",
    )
    percentile: Annotated[float, BeforeValidator(_not_a_share)] = Field(
        default=99.0,
        ge=1,
        lt=100,
        examples=[99],
        description="The percentage of all requests offered that must be answered within `latency`.",
    )
    window_s: Duration | None = Field(
        default=None,
        alias="window",
        gt=0,
        examples=["5m"],
        description="Judge the promise in windows of this length instead of over the whole time; needs `objective`.",
    )
    objective: Share | None = Field(
        default=None,
        gt=0,
        examples=["99.9%"],
        description="The share of the windows in which the promise must hold; needs `window`.",
    )
    accuracy: Share | None = Field(
        default=None,
        gt=0,
        examples=[0.92],
        description="The least accuracy of the whole pipeline; stages or their profile must then state theirs.",
    )
    max_cost_usd_per_hour: Price | None = Field(
        default=None, alias="max_cost", gt=0, examples=["$5/h"], description="The most that a plan may cost."
    )

    @model_validator(mode="after")
    def _window_with_objective(self) -> Slo:
        if (self.window_s is None) != (self.objective is None):
            raise ValueError("window and objective belong together; give both, such as window: 5m, objective: 99.9%")
        return self


class Pool(Strict):
    """Cores that the replicas of several stages share: at most `cores` of their threads compute at any time."""

    cores: int = Field(ge=1, le=1_000_000, examples=[4], description="How many cores the pool has.")


class Hardware(Strict):
    """One kind of capacity that can be bought, and how a replica on it runs.

    >>> Hardware(price="$0.20/h", startup="5s").startup_s
    5.0
    """

    price_usd_per_hour: Price = Field(alias="price", examples=["$0.20/h"], description="What one replica costs.")
    startup_s: Duration = Field(
        default=0.0,
        alias="startup",
        examples=["5s"],
        description="The time from asking for a replica to its first request.",
    )
    max_replicas: int | None = Field(
        default=None,
        alias="max",
        ge=1,
        examples=[64],
        description="The most replicas that can be had, over all stages; without it there is no limit.",
    )
    threads: int = Field(
        default=1, ge=1, le=100_000, examples=[1], description="How many threads a replica computes with."
    )
    device: str | None = Field(
        default=None,
        min_length=1,
        examples=["cuda:0"],
        description="The accelerator that a replica runs on; without it the CPU.",
    )
    pool: Name | None = Field(
        default=None, examples=["machine"], description="The pool whose cores its replicas share with others."
    )


class Variant(Strict):
    """One of several models that can do a stage's work, with its accuracy."""

    accuracy: Share | None = Field(
        default=None, gt=0, examples=[0.95], description="The share of items that this variant gets right."
    )
    model: str | None = Field(
        default=None, min_length=1, examples=["small.onnx"], description="The variant's model; without it the stage's."
    )
    options: Options = Field(
        default_factory=dict,
        examples=[{"width": 320}],
        description="Passed to the model's class, over the stage's own options.",
    )


class Edge(Strict):
    """How items pass from one parent to a stage, where this differs from the stage's own fields."""

    probability: Share = Field(
        default=1.0, gt=0, examples=[0.6], description="How likely an item of the parent takes this edge."
    )
    fan_out: float = Field(
        default=1.0, gt=0, le=10_000, examples=[2.4], description="Items that each item taking this edge becomes."
    )


MaybeEmptyEdge = Annotated[Edge, BeforeValidator(nothing_is_empty, json_schema_input_type=Edge | None)]
MaybeEmptyVariant = Annotated[Variant, BeforeValidator(nothing_is_empty, json_schema_input_type=Variant | None)]


class Stage(Strict):
    """What every stage declares, whatever does its work: its place in the graph. Domains add their own fields."""

    kind: str = Field(
        default="pipeline", examples=["pipeline"], description="The domain that does the stage's work, by its name."
    )
    after: Annotated[
        Annotated[str, Tag("(text)")]
        | Annotated[NamesList, Tag("(list)")]
        | Annotated[dict[str, MaybeEmptyEdge], Tag("(mapping)")],
        Discriminator(
            tag_of_names,
            custom_error_type="headway",
            custom_error_message="needs a stage's name, a list of names, or a mapping from names to probability "
            "and fan_out",
        ),
    ] = Field(
        default_factory=list,
        examples=["detect", ["person", "vehicle"], {"detect": {"probability": 0.6}}],
        description="The parents: a name, a list of names, or a mapping from names to `probability` and `fan_out`. "
        "A stage without parents gets every request. A stage with several runs once all branches taken have finished.",
    )
    probability: Share = Field(
        default=1.0,
        gt=0,
        examples=[0.6],
        description="How likely an item of the parent comes here, independently of other stages.",
    )
    fan_out: float = Field(
        default=1.0,
        gt=0,
        le=10_000,
        examples=[2.4],
        description="Items that each item coming here becomes; of a fraction, the average is met by drawing.",
    )
    gather: bool = Field(
        default=False,
        examples=[True],
        description="Run once per request, after all of its items that can lead here have finished.",
    )

    @property
    def edges(self) -> dict[str, Edge]:
        """The stage's incoming edges by parent, in declared order."""
        if isinstance(self.after, dict):
            return dict(self.after)
        parents = [self.after] if isinstance(self.after, str) else self.after
        return {parent: Edge(probability=self.probability, fan_out=self.fan_out) for parent in parents}

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the models to choose from; empty in a domain without such a choice."""
        return ()

    @property
    def hardware_names(self) -> tuple[str, ...] | None:
        """Hardware this stage may run on; None means any."""
        return None

    @model_validator(mode="after")
    def _edges_make_sense(self) -> Stage:
        if isinstance(self.after, list) and len(set(self.after)) != len(self.after):
            raise ValueError("after names a stage twice; name each parent once")
        if isinstance(self.after, dict) and (self.probability != 1.0 or self.fan_out != 1.0):
            raise ValueError(
                "probability and fan_out stand either at the stage or at each parent in after; remove one of the two"
            )
        if (self.gather or len(self.edges) > 1) and any(edge.fan_out != 1.0 for edge in self.edges.values()):
            raise ValueError(
                "fan_out has no meaning at a joining or gathering stage, which runs once per item; remove it"
            )
        if not self.edges and (self.probability != 1.0 or self.fan_out != 1.0 or self.gather):
            raise ValueError("probability, fan_out and gather need a parent; add after: STAGE or remove them")
        return self

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A kind that is its declaration's default must still be written: it says who reads the stage."""
        fields: dict[str, Any] = handler(self)
        return fields if self.kind == "pipeline" else {"kind": self.kind, **fields}


def _stage_by_kind(value: Any) -> Any:
    from headway.spec.kinds import parse_stage

    return value if isinstance(value, Stage) else parse_stage(value)


class MeasuredAccuracy(Strict):
    """A measured end-to-end accuracy for one choice of variants; it replaces the product of stage accuracies."""

    variants: dict[Name, Name] = Field(
        min_length=1, examples=[{"detect": "small"}], description="The chosen variant of each stage that has several."
    )
    accuracy: Share = Field(gt=0, examples=[0.93], description="The accuracy that was measured with them.")


class Spec(Strict):
    """Everything a user declares: a graph of stages, a promise, and what can be bought.

    >>> spec = Spec(name="one", slo=Slo(latency="1s"), supply={"cpu": Hardware(price="$1/h")}, stages={"only": {}})
    >>> spec.graph.order
    ('only',)
    """

    name: str = Field(
        default="pipeline", min_length=1, max_length=200, examples=["video"], description="What reports call it."
    )
    kind: Literal["pipeline"] = Field(
        default="pipeline",
        description="The domain. Any other makes the file short for one stage of that kind: no `stages`, its fields "
        "at the top.",
    )
    slo: Slo = Field(examples=[{"latency": "300ms"}], description="The promise.")
    supply: dict[Name, Hardware] = Field(
        min_length=1, examples=[{"cpu": {"price": "$0.20/h"}}], description="What can be bought, by hardware name."
    )
    pools: dict[Name, Pool] = Field(
        default_factory=dict,
        examples=[{"machine": {"cores": 4}}],
        description="Cores that several kinds of hardware share.",
    )
    stages: dict[Name, Annotated[SerializeAsAny[Stage], BeforeValidator(_stage_by_kind)]] = Field(
        min_length=1, examples=[{"detect": {}}], description="What is run, by stage name."
    )
    accuracy: list[MeasuredAccuracy] = Field(
        default_factory=list,
        examples=[[{"variants": {"detect": "small"}, "accuracy": 0.93}]],
        description="Measured accuracies of whole choices of variants; without one, stages' accuracies are multiplied.",
    )
    current: dict[Name, dict[str, Any]] | None = Field(
        default=None,
        examples=[{"detect": {"hardware": "cpu", "replicas": 6}}],
        description="What runs today, by stage; plans are compared with it.",
    )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Spec:
        """Return the spec that a mapping (as read from YAML) declares. Raises SpecError, one line per problem.

        >>> Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": {}}}).name
        'pipeline'
        """
        from headway.spec.load import parse

        return parse(value)

    def __hash__(self) -> int:
        return int(content_hash(self.to_dict()), 16)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values that `from_dict` reads back to an equal spec."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @model_validator(mode="before")
    @classmethod
    def _single_stage_of_another_kind(cls, value: Any) -> Any:
        """`kind: X` at the top with no stages is short for a pipeline with one stage X of that kind."""
        if not isinstance(value, Mapping) or "stages" in value:
            return value
        kind = value.get("kind", "pipeline")
        if kind == "pipeline" or not isinstance(kind, str):
            return value
        top = {key: value[key] for key in value if key in cls.model_fields and key != "kind"}
        rest = {key: value[key] for key in value if key not in cls.model_fields}
        return {**top, "stages": {kind: {"kind": kind, **rest}}}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Spec:
        from headway.spec.check import check

        check(self)
        return self

    @cached_property
    def graph(self) -> Graph:
        """The stages' graph: order, edges, joins."""
        return Graph.build(
            {name: stage.edges for name, stage in self.stages.items()},
            gathering={name for name, stage in self.stages.items() if stage.gather},
        )
