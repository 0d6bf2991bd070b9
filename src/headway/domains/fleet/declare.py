"""What a stage of this domain declares: servers behind a balancer, what is promised, and what a planner may choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import InitErrorDetails

from headway.domains.fleet.served import ServedModel, StepFigures, figures
from headway.errors import ServeError, nearest
from headway.fleet.engines import BATCHINGS
from headway.policy.kv_admission import RULES
from headway.policy.routing import ROUTERS
from headway.policy.scheduling import ORDERS
from headway.policy.token_routing import TOKEN_ROUTERS
from headway.spec.base import Name, Names, Strict
from headway.spec.model import Stage
from headway.spec.units import Duration, Share
from headway.spec.wording import line_error, listed, shown, user_names, validation_error

LLM: Final = "llm"
CORES: Final = "cores"
LLM_ROUTING, CORES_ROUTING = "least-prefill", "least-loaded"
REPORT_S = 0.5
"""Seconds between the reports of LLM engines, unless told otherwise: what their metrics can be asked for at ease."""

QUEUES = ("one", "slo", "priority")
"""How a server of cores queues requests: all in one queue; or one per class, by what is left of its promise, or
strictly in the order in which classes are declared."""


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else [value]


def _each_once(values: list[Any]) -> list[Any]:
    for at, value in enumerate(values):
        if value in values[:at]:
            raise ValueError(f"{shown(value)} stands there twice; name each choice once")
    return values


Counts = Annotated[
    list[Annotated[int, Field(ge=1, le=1_000_000)]],
    BeforeValidator(_as_list, json_schema_input_type=int | list[int]),
    AfterValidator(_each_once),
    Field(min_length=1),
]
"""One whole number or several to choose from."""

Durations = Annotated[
    list[Annotated[Duration, Field(gt=0)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    AfterValidator(_each_once),
    Field(min_length=1),
]
"""One duration or several to choose from."""

Policies = Annotated[
    list[str],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    AfterValidator(_each_once),
    Field(min_length=1),
]
"""One policy's name or several to choose from."""


class ClassPromise(Strict):
    """What one class of requests is promised, beside the promise to all requests under `slo`.

    >>> ClassPromise(ttft="1s").ttft_s
    1.0
    """

    ttft_s: Duration | None = Field(
        default=None, alias="ttft", gt=0, examples=["1s"], description="The time to the first token."
    )
    tpot_s: Duration | None = Field(
        default=None,
        alias="tpot",
        gt=0,
        examples=["100ms"],
        description="The mean time per token after the first.",
    )
    e2e_s: Duration | None = Field(
        default=None,
        alias="e2e",
        gt=0,
        examples=["20s"],
        description="The time in the stage: to the last token, or to the reply.",
    )

    @model_validator(mode="after")
    def _promises_something(self) -> ClassPromise:
        if self.ttft_s is None and self.tpot_s is None and self.e2e_s is None:
            raise ValueError("promises nothing; give ttft, tpot or e2e, such as {ttft: 1s}")
        return self


def _upstream(text: str) -> str:
    from headway.gateway.written import upstream_of

    try:
        upstream_of(text, secret=lambda variable, where: "unread")
    except ServeError as error:
        raise ValueError(str(error)) from None
    return text


class FleetStage(Stage):
    """A stage done by a fleet: a balancer in front of servers, and a scheduler inside each server.

    >>> stage = FleetStage(model="llama-2-7b", token_budget=512, classes={"chat": {"ttft": "1s"}})
    >>> stage.token_budget, stage.routings, stage.classes["chat"].ttft_s
    ([512], ('least-prefill',), 1.0)
    """

    kind: str = Field(default="fleet", examples=["fleet"], description="The domain: `fleet`.")
    servers: Literal["llm", "cores"] = Field(
        default=LLM,
        examples=[CORES],
        description="What serves: `llm`, engines that batch continuously over KV-cache memory; or `cores`, servers "
        "whose workers (the `threads` of their hardware) each run one request.",
    )
    hardware: Names | None = Field(
        default=None,
        examples=["a100-80gb", ["a100-80gb", "h100-80gb"]],
        description="What servers may be bought as, names of `supply`; without it all of supply. An accelerator is "
        "known by that name, or by the hardware's `device`; its price is that of one accelerator.",
    )
    classes: dict[Name, ClassPromise] = Field(
        default_factory=dict,
        examples=[{"chat": {"ttft": "1s", "tpot": "100ms"}, "batch": {"e2e": "60s"}}],
        description="Classes of requests and what each is promised. The trace's column `class` numbers them from 0 in "
        "this order; without it all requests are of the first.",
    )
    routing: Policies | None = Field(
        default=None,
        examples=["sal", ["least-prefill", "power-of-d"]],
        description="Policies of the balancer to choose from; without it `least-prefill`, or `least-loaded` for cores.",
    )
    report_s: Duration | None = Field(
        default=None,
        alias="report",
        examples=["500ms"],
        description="The time between servers' reports to the balancer, `0s` when it sees them as they are; without "
        "it 500 ms, or for cores with every reply.",
    )
    upstreams: list[Annotated[str, AfterValidator(_upstream)]] = Field(
        default_factory=list,
        examples=[["http://gpu-1:8000", "http://gpu-2:8000,in-flight=128"]],
        description="Engines that are there, to serve with, as `python -m headway.gateway --upstream` takes them.",
    )
    model: ServedModel | None = Field(
        default=None,
        examples=["llama-2-7b"],
        description="The model of LLM engines: a name, or its figures where the name is not known; without it the "
        "profile says what iterations take, and `kv_tokens` what memory holds.",
    )
    step: StepFigures | None = Field(
        default=None,
        examples=[{"floor": "10ms", "token": "60us", "kv_token": "0.3us", "error": "5%"}],
        description="What an iteration of your engines takes, as fitted to their answers' times, on the one `hardware` "
        "and the one `tensor_parallel` named; it comes before all that is shipped or profiled.",
    )
    tensor_parallel: Counts = Field(
        default=[1, 2, 4, 8],
        examples=[1, [1, 2]],
        description="Accelerators of one engine, to choose from; those that the model does not fit are left out.",
    )
    token_budget: Counts = Field(
        default=[512, 2048], examples=[[512, 2048]], description="Tokens of an iteration at most, to choose from."
    )
    most_running: Counts = Field(
        default=[64, 128], examples=[[64, 128]], description="Requests that an engine runs at once, to choose from."
    )
    order: Policies = Field(
        default=["fcfs"],
        examples=["sjf"],
        description="In which order an engine takes requests, to choose from.",
    )
    admission: Policies = Field(
        default=["optimistic"],
        examples=[["optimistic", "reserve"]],
        description="When a request may join those that an engine runs, to choose from.",
    )
    batching: Policies = Field(
        default=["decode-first"],
        examples=["prefill-first", ["decode-first", "prefill-first"]],
        description="How an iteration is made up, to choose from: parts of prompts beside what decodes "
        "(`decode-first`), whole prompts before it (`prefill-first`), or one batch until all of it is done (`static`).",
    )
    prefix_cache: bool = Field(
        default=False,
        examples=[True],
        description="Whether engines keep the begins of prompts for others that begin alike; the trace then says in "
        "`hash_ids` of which blocks prompts consist, as Mooncake's traces do.",
    )
    prefill_engines: Annotated[
        list[Annotated[int, Field(ge=0, le=1_000_000)]],
        BeforeValidator(_as_list, json_schema_input_type=int | list[int]),
        AfterValidator(_each_once),
        Field(min_length=1),
    ] = Field(
        default=[0],
        examples=[2, [0, 1, 2]],
        description="How many of the engines only compute prompts and hand them over to all others, which only decode, "
        "to choose from; 0: every engine does both.",
    )
    transfer_token_s: Duration | None = Field(
        default=None,
        alias="transfer_token",
        examples=["5us"],
        description="What handing over takes for each token of context; without it as long as to copy it to the host.",
    )
    max_wait_s: Duration | None = Field(
        default=None,
        alias="max_wait",
        gt=0,
        examples=["30s"],
        description="How long a request may be passed over before it goes first; without it as long as its order says.",
    )
    kv_tokens: int | None = Field(
        default=None,
        ge=16,
        examples=[80000],
        description="Tokens of context that an engine's memory holds; without it what the weights leave of it.",
    )
    max_output_tokens: int = Field(
        default=4096,
        ge=1,
        examples=[4096],
        description="The most tokens of an answer where the trace has no column `max_tokens`.",
    )
    quantum_s: Durations | None = Field(
        default=None,
        alias="quantum",
        examples=["250us", ["250us", "1ms"]],
        description="After how long a worker lets another request run, to choose from; without it never.",
    )
    switch_s: Duration = Field(
        default=0.0, alias="switch", examples=["1us"], description="What it costs to take up such a request again."
    )
    queues: Policies = Field(
        default=["one"],
        examples=["slo"],
        description="How a server queues requests, to choose from: all in `one` queue, or one for each class, by its "
        "promise (`slo`) or in the order of the classes (`priority`).",
    )
    network_s: Duration = Field(
        default=0.0,
        alias="network",
        examples=["3us"],
        description="One way from the balancer to a server, or back.",
    )
    report_loss: Share = Field(
        default=0.0, examples=["1%"], description="The share of load reports that never reach the balancer; answers do."
    )
    affinity: bool = Field(
        default=False,
        examples=[True],
        description="Whether requests of one session (the trace's column `session`) keep to one server.",
    )

    @property
    def hardware_names(self) -> tuple[str, ...] | None:
        """Hardware that servers may be bought as; None means any of supply."""
        if self.hardware is None:
            return None
        return (self.hardware,) if isinstance(self.hardware, str) else tuple(self.hardware)

    @property
    def routings(self) -> tuple[str, ...]:
        """Policies of the balancer to choose from."""
        if self.routing is not None:
            return tuple(self.routing)
        return (LLM_ROUTING,) if self.servers == LLM else (CORES_ROUTING,)

    @property
    def reports_every_s(self) -> float:
        """Seconds between reports of servers; 0: the balancer sees engines as they are, or each reply reports."""
        if self.report_s is not None:
            return self.report_s
        return REPORT_S if self.servers == LLM else 0.0

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> FleetStage:
        problems = [
            *self._foreign(),
            *self._unknown_policies(),
            *self._unsplit(),
            *self._measured(),
            *self._handed_over(),
            *self._classes(),
        ]
        if problems:
            raise validation_error("FleetStage", problems)
        return self

    def _foreign(self) -> Iterator[InitErrorDetails]:
        """Fields that servers of this kind do not have."""
        names = {python: user for user, python in user_names(type(self)).items()}
        other, fields = (CORES, CORES_FIELDS) if self.servers == LLM else (LLM, LLM_FIELDS)
        for field in sorted(fields & self.model_fields_set):
            text = f"belongs to servers: {other}, and these are servers: {self.servers}; remove it"
            yield line_error([names[field]], text, getattr(self, field))

    def _unsplit(self) -> Iterator[InitErrorDetails]:
        """Numbers of accelerators that were asked for and that the model's heads cannot be split over."""
        if self.model is not None and "tensor_parallel" in self.model_fields_set:
            for at, ways in enumerate(self.tensor_parallel):
                if (text := figures(self.model).unsplit(ways)) is not None:
                    yield line_error(["tensor_parallel", at], text, ways)

    def _measured(self) -> Iterator[InitErrorDetails]:
        """A step of engines that are not all of one kind."""
        if self.step is not None and not (len(self.hardware_names or ()) == len(self.tensor_parallel) == 1):
            text = "is what one kind of engine takes; name one hardware and one tensor_parallel beside it"
            yield line_error(["step"], text, None)

    def _handed_over(self) -> Iterator[InitErrorDetails]:
        """What cannot be where some engines only compute prompts."""
        if self.servers != LLM:
            return
        if self.transfer_token_s is not None and not any(self.prefill_engines):
            text = "nothing is handed over while every engine does both; give prefill_engines, or leave this out"
            yield line_error(["transfer_token"], text, self.transfer_token_s)
        if any(self.prefill_engines) and "static" in self.batching:
            text = "a static batch decodes what it has computed itself; leave static out, or prefill_engines"
            yield line_error(["batching"], text, self.batching)

    def _unknown_policies(self) -> Iterator[InitErrorDetails]:
        for field, valid in policies_of(self.servers).items():
            for at, name in enumerate(getattr(self, field) or ()):
                if name not in valid:
                    text = f"{shown(name)} is not known here; valid: {listed(valid)}{nearest(name, valid)}"
                    yield line_error([field, at], text, name)
        if self.servers == LLM and "decode-first" in self.batching and max(self.token_budget) < min(self.most_running):
            text = (
                f"{max(self.token_budget)} is below the {min(self.most_running)} of most_running; each running request "
                "makes a token per iteration, so give a budget at least as large"
            )
            yield line_error(["token_budget"], text, self.token_budget)

    def _classes(self) -> Iterator[InitErrorDetails]:
        if self.servers == LLM:
            return
        for name, promise in self.classes.items():
            for field in ("ttft", "tpot"):
                if getattr(promise, f"{field}_s") is not None:
                    yield line_error(["classes", name, field], "only LLM engines make tokens; promise e2e instead")
        if not self.classes and set(self.queues) != {"one"}:
            yield line_error(["queues"], "a queue for each class needs classes; declare them, or leave queues out")


LIVE = ("routing", "order", "max_wait", "most_running", "report", "upstreams")
"""Fields of a declaration that a fleet's gateway goes by, so that they may be declared otherwise while it serves."""


def policies_of(servers: str) -> dict[str, tuple[str, ...]]:
    """Return the fields that name policies of servers of a kind, with the valid names.

    >>> policies_of("cores")["queues"]
    ('one', 'slo', 'priority')
    """
    if servers == LLM:
        return {
            "routing": (*ROUTERS, *TOKEN_ROUTERS),
            "order": tuple(ORDERS),
            "admission": tuple(RULES),
            "batching": tuple(BATCHINGS),
        }
    return {"routing": tuple(ROUTERS), "queues": QUEUES}


LLM_FIELDS = frozenset(
    ("model", "step", "tensor_parallel", "token_budget", "most_running", "order", "admission", "batching",
     "prefix_cache", "prefill_engines", "transfer_token_s", "max_wait_s", "kv_tokens", "max_output_tokens")
)  # fmt: skip
CORES_FIELDS = frozenset(("quantum_s", "switch_s", "queues", "network_s", "report_loss", "affinity"))
