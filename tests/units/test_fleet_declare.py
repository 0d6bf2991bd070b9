"""What a fleet declares: one word or several, names that exist, and errors by file, line and field."""

from __future__ import annotations

from typing import Any

import pytest
from tests.units.fleet_specs import cores_spec, llm_spec

from headway.domains.fleet.config import CoresConfig, LlmConfig, parse_config
from headway.domains.fleet.declare import FleetStage
from headway.domains.fleet.times import engine_times, parallelisms
from headway.errors import PlanError, ProfileError, SpecError
from headway.fleet.roofline import roofline
from headway.plan.config import StageContext
from headway.profile import Profile, Row
from headway.spec import loads
from headway.spec.model import Spec

HEAD = """slo: {latency: 60s}
supply: {a100-80gb: {price: $2/h}, cpu-4: {price: $0.2/h, threads: 4}}
stages:
  answer:
    kind: fleet
"""


def complaint(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        loads(HEAD + text, "fleet.yaml")
    return str(caught.value)


def context(spec: Spec, rows: tuple[Row, ...] = ()) -> StageContext:
    ((name, stage),) = spec.stages.items()
    return StageContext(name, stage, spec, Profile.from_rows(rows))


def test_one_word_is_a_choice_of_one() -> None:
    stage = FleetStage(token_budget=512, tensor_parallel=[1, 2], routing="sal", model="llama-2-7b")
    assert (stage.token_budget, stage.tensor_parallel, stage.routings) == ([512], [1, 2], ("sal",))


def test_reports_and_routing_are_as_servers_usually_have_them() -> None:
    engines, servers = FleetStage(model="llama-2-7b"), FleetStage(servers="cores")
    assert (engines.routings, engines.reports_every_s) == (("least-prefill",), 0.5)
    assert (servers.routings, servers.reports_every_s) == (("least-loaded",), 0.0)
    assert FleetStage(servers="cores", report="10ms").reports_every_s == 0.01


@pytest.mark.parametrize("spec", [llm_spec(), cores_spec(), llm_spec(max_wait="30s", report="0s")])
def test_a_declaration_comes_back_from_what_it_writes(spec: Spec) -> None:
    assert Spec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("    model: llama2-7b\n", 6, "answer.model: 'llama2-7b' is not a model known here"),
        ("    model: llama2-7b\n", 6, "did you mean 'llama-2-7b'?"),
        ("    routing: [sal, least]\n", 6, "answer.routing[1]: 'least' is not known here; valid: random"),
        ("    routing: leest-loaded\n", 6, "answer.routing: 'leest-loaded' is not known here"),
        ("    order: fifo\n", 6, "answer.order: 'fifo' is not known here; valid: fcfs"),
        ("    token_budget: [512, 512]\n", 6, "answer.token_budget: 512 stands there twice"),
        ("    token_budget: []\n", 6, "answer.token_budget: is empty; give at least one"),
        ("    token_budget: 32\n", 6, "answer.token_budget: 32 is below the 64 of most_running"),
        ("    batching: chunked\n", 6, "answer.batching: 'chunked' is not known here; valid: decode-first"),
        ("    prefill_engines: -1\n", 6, "answer.prefill_engines: -1 is out of range"),
        ("    transfer_token: 5us\n", 6, "answer.transfer_token: nothing is handed over while every engine does both"),
        ("    prefill_engines: 1\n    batching: static\n", 7, "answer.batching: a static batch decodes what it has"),
        ("    servers: cores\n    prefix_cache: true\n", 7, "answer.prefix_cache: belongs to servers: llm"),
        ("    max_wait: 30\n", 6, "answer.max_wait: 30 has no unit"),
        ("    classes: {chat: {}}\n", 6, "answer.classes.chat: promises nothing; give ttft, tpot or e2e"),
        ("    classes: {chat: {tfft: 1s}}\n", 6, "did you mean 'ttft'?"),
        ("    quantum: 1ms\n", 6, "answer.quantum: belongs to servers: cores"),
        ("    servers: gpus\n", 6, "answer.servers: 'gpus' is not known here; valid: 'llm', 'cores'"),
        ("    servers: cores\n    model: llama-2-7b\n", 7, "answer.model: belongs to servers: llm"),
        ("    servers: cores\n    routing: sal\n", 7, "answer.routing: 'sal' is not known here"),
        ("    servers: cores\n    queues: slo\n", 7, "answer.queues: a queue for each class needs classes"),
        ("    servers: cores\n    classes: {all: {ttft: 1s}}\n", 7, "answer.classes.all.ttft: only LLM engines"),
        ("    hardware: a100\n", 6, "answer.hardware: 'a100' is not in supply"),
        ("    model: {parameters: 7}\n", 6, "answer.model.layers: is missing"),
        ("current: {answer: {hardware: a100-80gb, order: lifo}}\n", 6, "current.answer.order: 'lifo' is not known"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(text: str, line: int, says: str) -> None:
    found = complaint(text)
    assert f"fleet.yaml:{line}: " in found
    assert says in found


@pytest.mark.parametrize(
    "config",
    [
        LlmConfig("a100-80gb", 3, 2, 512, 64, "sal", "sjf", "reserve", 30.0),
        LlmConfig("a100-80gb"),
        LlmConfig("a100-80gb", 3, batching="prefill-first", prefill_engines=2),
        CoresConfig("cpu-4", 2, 0.001, "power-of-d", "slo"),
        CoresConfig("cpu-4"),
    ],
)
def test_a_configuration_comes_back_from_its_dict(config: Any) -> None:
    assert parse_config(config.to_dict(), "stages.x") == config


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "current.x.hardware: is missing"),
        ({"hardware": "a", "replicas": 0}, "current.x.replicas: 0 is out of range"),
        ({"hardware": "a", "quantum": "1ms"}, "current.x.quantum: unknown field"),
        ({"hardware": "a", "max_wait_s": -1.0}, "current.x.max_wait_s: -1.0 must be a number of seconds above 0"),
        ({"hardware": "a", "prefill_engines": 1}, "current.x.prefill_engines: 1 of 1 replicas leave none to decode"),
        ({"hardware": "a", "batching": "chunked"}, "current.x.batching: 'chunked' is not known; valid: decode-first"),
        ({"hardware": "a", "token_budget": 8}, "current.x.token_budget: 8 is below the 128 of most_running"),
        ({"servers": "cores", "hardware": "a", "order": "sjf"}, "current.x.order: unknown field"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_its_field(value: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match="current") as caught:
        parse_config(value, "current.x")
    assert says in str(caught.value)


# What iterations take


def test_times_are_those_that_ship_with_headway() -> None:
    assert engine_times(context(llm_spec()), "a100-80gb", 1) == roofline("llama-2-7b", "a100-80gb")


def test_rows_of_the_profile_come_before_what_ships() -> None:
    rows = tuple(Row("answer", "a100-80gb", size, s, evidence="measured") for size, s in ((8, 0.02), (512, 0.02),
                 (2048, 0.08)))  # fmt: skip
    shipped, known = roofline("llama-2-7b", "a100-80gb"), engine_times(context(llm_spec(), rows), "a100-80gb", 1)
    assert known.step.floor_s == pytest.approx(0.02)
    assert known.step.kv_token_s == shipped.step.kv_token_s
    assert (known.evidence, known.kv_tokens) == ("measured", shipped.kv_tokens)
    assert engine_times(context(llm_spec(), rows), "a100-80gb", 2).evidence == "prior"


def test_an_engine_nobody_knows_is_known_by_rows_and_memory() -> None:
    fields: dict[str, Any] = {"kind": "fleet", "kv_tokens": 8192}
    spec = Spec.from_dict(
        {"slo": {"latency": "60s"}, "supply": {"laptop": {"price": "$1/h"}}, "stages": {"answer": fields}}
    )
    rows = (Row("answer", "laptop", 1, 0.01), Row("answer", "laptop", 256, 0.4))
    known = engine_times(context(spec, rows), "laptop", 1)
    assert (known.kv_tokens, known.evidence, known.step.kv_token_s) == (8192, "imported", 0.0)
    with pytest.raises(ProfileError, match=r"stages.answer: on 'laptop': what iterations take is not known"):
        engine_times(context(spec), "laptop", 1)


def test_a_model_by_its_figures_is_a_prior() -> None:
    figures = {"parameters": 8030000000, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128}
    assert engine_times(context(llm_spec(model=figures)), "a100-80gb", 1).evidence == "prior"


def test_parallelism_that_the_model_does_not_fit_is_left_out() -> None:
    assert parallelisms(context(llm_spec(model="llama-2-70b", tensor_parallel=[1, 2, 4])), "a100-80gb") == (2, 4)
    with pytest.raises(ProfileError, match="has 138 GB of weights"):
        parallelisms(context(llm_spec(model="llama-2-70b", tensor_parallel=1)), "a100-80gb")


def test_parallelism_that_the_heads_cannot_be_split_over_is_refused_and_never_planned() -> None:
    with pytest.raises(
        SpecError, match=r"tensor_parallel\[1\].*32 attention heads .* evenly over 3 .*valid: 1, 2, 4, 8"
    ):
        llm_spec(model="llama-2-7b", tensor_parallel=[1, 3])
    few = {"parameters": 8030000000, "layers": 32, "heads": 12, "kv_heads": 2, "head_dim": 128}
    with pytest.raises(SpecError, match="valid: 1, 2, 4, 6, 12"):
        llm_spec(model=few, tensor_parallel=8)
    spec = Spec.from_dict(
        {
            "slo": {"latency": "60s"},
            "supply": {"a100-80gb": {"price": "$2/h"}},
            "stages": {"answer": {"kind": "fleet", "model": few}},
        }
    )
    assert parallelisms(context(spec), "a100-80gb") == (1, 2, 4)


@pytest.mark.parametrize(
    ("change", "says"), [({"kv_heads": 5}, "kv_heads is 5 of 32 heads"), ({"parameters": 7}, "parameters")]
)
def test_figures_that_no_model_has_are_refused(change: dict[str, int], says: str) -> None:
    figures = {"parameters": 8030000000, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128}
    with pytest.raises(SpecError, match=says):
        llm_spec(model={**figures, **change})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"step": {"floor": "10ms", "token": "60us"}}, "name one hardware and one tensor_parallel"),
        ({"step": {"token": "60us"}, "hardware": "a100-80gb", "tensor_parallel": 1}, "takes no time; give floor"),
        ({"step": {"floor": "10ms"}, "hardware": "a100-80gb", "tensor_parallel": 1}, r"step\.token"),
    ],
)
def test_a_step_is_whole_and_of_one_kind_of_engine(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        llm_spec(**fields)


def test_an_unknown_accelerator_is_named_with_those_that_are_known() -> None:
    spec = Spec.from_dict(
        {
            "slo": {"latency": "60s"},
            "supply": {"big": {"price": "$2/h", "device": "h100-80gb"}, "odd": {"price": "$2/h"}},
            "stages": {"answer": {"kind": "fleet", "model": "llama-2-7b"}},
        }
    )
    assert engine_times(context(spec), "big", 1).gpu == "h100-80gb"
    with pytest.raises(ProfileError, match=r"no accelerator is known by this name.*a100-80gb"):
        engine_times(context(spec), "odd", 1)
