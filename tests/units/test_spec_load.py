"""Both front doors: what they read, what they say, and what hostile text costs them."""

import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import Field, ValidationError

from headway.errors import SpecError
from headway.spec import Edge, Hardware, MeasuredAccuracy, Pool, Slo, Spec, Stage, load, loads
from headway.spec.kinds import GROUP, load_domain

MINIMAL = "slo: {latency: 1s}\nsupply: {cpu: {price: $1/h}}\n"
VIDEO = """\
name: video
slo: {latency: 300ms, percentile: 99, window: 5m, objective: 99.9%, accuracy: 0.9, max_cost: $5/h}
pools: {machine: {cores: 4}}
supply:
  cpu: {price: $0.20/h, pool: machine, threads: 2, max: 64}
  gpu-a: {price: $0.60/h, startup: 30s, device: "cuda:0"}
stages:
  merge: {after: [person, vehicle]}
  detect:
  person: {after: detect, probability: 60%}
  vehicle: {after: {detect: {probability: 0.3, fan_out: 2}}, hardware: [cpu, gpu-a]}
"""


def error_of(text: str, form: str = "yaml") -> str:
    with pytest.raises(SpecError) as caught:
        loads(text, form=form)  # type: ignore[arg-type]
    return str(caught.value)


def test_yaml_toml_and_python_declare_the_same_spec(tmp_path: Path) -> None:
    toml = """
        name = "video"
        [slo]
        latency = "300ms"
        percentile = 99
        window = "5m"
        objective = "99.9%"
        accuracy = 0.9
        max_cost = "$5/h"
        [pools]
        machine.cores = 4
        [supply]
        cpu = {price = "$0.20/h", pool = "machine", threads = 2, max = 64}
        gpu-a = {price = "$0.60/h", startup = "30s", device = "cuda:0"}
        [stages.merge]
        after = ["person", "vehicle"]
        [stages.detect]
        [stages.person]
        after = "detect"
        probability = "60%"
        [stages.vehicle]
        after.detect = {probability = 0.3, fan_out = 2}
        hardware = ["cpu", "gpu-a"]
    """
    from headway.domains.pipeline.declare import ModelStage

    python = Spec(
        name="video",
        slo=Slo(latency="300ms", percentile=99, window="5m", objective="99.9%", accuracy=0.9, max_cost="$5/h"),
        pools={"machine": Pool(cores=4)},
        supply={
            "cpu": Hardware(price="$0.20/h", pool="machine", threads=2, max=64),
            "gpu-a": Hardware(price="$0.60/h", startup="30s", device="cuda:0"),
        },
        stages={
            "merge": {"after": ("person", "vehicle")},
            "detect": ModelStage(),
            "person": ModelStage(after="detect", probability=0.6),
            "vehicle": ModelStage(after={"detect": Edge(probability=0.3, fan_out=2)}, hardware=("cpu", "gpu-a")),
        },
    )
    (tmp_path / "v.yaml").write_text(VIDEO)
    (tmp_path / "v.toml").write_text(toml)
    assert load(tmp_path / "v.yaml") == load(tmp_path / "v.toml") == python == Spec.from_dict(python.to_dict())
    assert python.graph.order == ("detect", "person", "vehicle", "merge")
    assert python.slo.objective == 0.999


def test_python_construction_says_what_a_file_says() -> None:
    with pytest.raises(ValidationError, match="300 has no unit; write it as text like '300ms'"):
        Slo(latency=300)
    with pytest.raises(ValidationError, match="did you mean 'price'"):
        Hardware(prise="$1/h")
    with pytest.raises(ValidationError, match="'gone' is not a stage; valid: only"):
        Spec(slo={"latency": "1s"}, supply={"cpu": {"price": "$1/h"}}, stages={"only": {"after": "gone"}})
    with pytest.raises(SpecError, match=r"\Aslo\.latency: 300 has no unit") as caught:
        Spec.from_dict({"slo": {"latency": 300}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"only": {}}})
    assert caught.value.__cause__ is None


def test_from_dict_places_problems_within_models_too() -> None:
    with pytest.raises(SpecError, match=r"\Aaccuracy\[0\]\.variants\.gone: 'gone' is not a stage; valid: only\Z"):
        Spec.from_dict(
            {
                "slo": Slo(latency="1s"),
                "supply": {"cpu": Hardware(price="$1/h")},
                "stages": {"only": {}},
                "accuracy": [MeasuredAccuracy(variants={"gone": "small"}, accuracy=0.9)],
            }
        )


def test_anchors_and_merge_keys_work_and_own_fields_win() -> None:
    spec = loads(
        "slo: {latency: 1s}\nsupply:\n  cpu: &base {price: $1/h, startup: 5s}\n"
        "  big: {<<: *base, price: $2/h}\n  other: {<<: [{threads: 2}, *base]}\nstages: {only: {}}\n"
    )
    assert spec.supply["big"] == Hardware(price="$2/h", startup="5s")
    assert spec.supply["other"] == Hardware(price="$1/h", startup="5s", threads=2)


def test_nothing_behind_a_name_is_an_empty_declaration() -> None:
    spec = loads(MINIMAL + "stages:\n  a:\n    variants:\n      small:\n      large: {}\n  b: {after: {a: }}\n")
    same = loads(MINIMAL + "stages: {a: {variants: {small: {}, large: {}}}, b: {after: {a: {}}}}")
    assert spec == same


def test_an_error_in_an_alias_stands_where_the_alias_is_defined() -> None:
    text = MINIMAL + "stages:\n  a: &stage\n    max_batch_size: x\n  b: *stage\n"
    assert error_of(text).splitlines() == [
        "<text>:5: stages.a.max_batch_size: 'x' is not a whole number; write it like 8",
        "<text>:5: stages.b.max_batch_size: 'x' is not a whole number; write it like 8",
    ]


def test_toml_errors_carry_lines_inside_arrays_and_tables() -> None:
    text = """slo.latency = "1s"
[supply.cpu]
price = "$1/h"
[stages.a]
variants = {small = {}}
[stages.b]
after = [
    "a",
]
max_batch_size = "x"
[[accuracy]]
variants = {a = "small"}
accuracy = 0.5
[[accuracy]]
variants = {a = "small"}
accuracy = 2
"""
    assert [line.split(": ")[:2] for line in error_of(text, "toml").splitlines()] == [
        ["<text>:10", "stages.b.max_batch_size"],
        ["<text>:16", "accuracy[1].accuracy"],
    ]


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 3000, "- " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert error_of(text) == "<text>:1: values nest deeper than 40 levels; a spec needs fewer"


def test_deep_nesting_is_refused_in_toml() -> None:
    for depth in (60, 5000):
        assert "values nest deeper" in error_of("a = " + "[" * depth + "]" * depth, "toml")
    assert "values nest deeper" in error_of(".".join("a" * 60) + " = 1", "toml")


def test_an_alias_bomb_is_refused() -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    assert "more than 10000 values" in error_of(f"a0: &a0 [x]\n{levels}\n")
    merges = "\n".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 12))
    assert "more than 10000 values" in error_of(f"b0: &b0 {{x: 1}}\n{merges}\n")


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"\xff" * (1 << 20) + b"x")
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        load(path)


def test_unreadable_files_are_spec_errors(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the spec: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot read the spec"):
        load(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: x\nslo: caf\xe9\n")
    with pytest.raises(SpecError, match=r"latin\.yaml:2: byte 0xe9 is not UTF-8"):
        load(path)


@pytest.mark.parametrize("form", ["yaml", "toml"])
def test_many_values_are_refused(form: str) -> None:
    text = f"a {'=' if form == 'toml' else ':'} [{'1, ' * 100_000}]"
    assert "more than 10000 values" in error_of(text, form)


def test_long_names_and_lists_are_shortened() -> None:
    text = MINIMAL + "stages:\n" + "".join(f"  s{n}: {{after: {'x' * 5000}}}\n" for n in range(60))
    first, *_, last = error_of(text).splitlines()
    assert len(first) < 300
    assert "s18, s19 and 40 more" in first
    assert last == "and more; mend these first"
    assert len(error_of(MINIMAL + "stages: {}\n'" + "y" * 500 + "': 1\n").splitlines()[1]) < 300


def test_many_unknown_fields_are_cut_without_delay() -> None:
    assert len(error_of("".join(f"a{n}: 1\n" for n in range(4000))).splitlines()) == 51


def test_control_characters_name_their_line() -> None:
    assert error_of("a: 1\nb: \x00\n").startswith("<text>:2: character ")


def test_many_problems_are_cut() -> None:
    text = MINIMAL + "stages:\n" + "".join(f"  s{n}: {{max_batch_size: x}}\n" for n in range(80))
    lines = error_of(text).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "and more; mend these first"


@pytest.mark.parametrize("value", [{1: 2}, {"a": float("nan")}, {"a": [object()]}, {"a": {"b": (1,)}}])
def test_options_are_plain_data(value: object) -> None:
    spec = {"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": {"options": value}}}
    with pytest.raises(SpecError, match=r"stages\.a\.options"):
        Spec.from_dict(spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_batch_size", True), ("max_batch_size", "8"), ("probability", True), ("gather", 1), ("model", 3)],
)
def test_no_type_is_converted_silently(field: str, value: object) -> None:
    spec = {"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": {field: value}}}
    with pytest.raises(SpecError, match=rf"\Astages\.a\.{field}: "):
        Spec.from_dict(spec)


class CountStage(Stage):
    """What a stage of another domain declares."""

    kind: str = "count"
    up_to: int = Field(ge=1, examples=[3])


@pytest.fixture
def other_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain `count` of another package, and one whose package is broken."""
    module = SimpleNamespace(DOMAIN=SimpleNamespace(kind="count", declaration=CountStage))
    monkeypatch.setitem(sys.modules, "count_domain", module)  # type: ignore[arg-type]
    entries = [
        importlib.metadata.EntryPoint("count", "count_domain:DOMAIN", GROUP),
        importlib.metadata.EntryPoint("broken", "headway_no_such_module:DOMAIN", GROUP),
    ]

    def entry_points(group: str, name: str | None = None) -> list[importlib.metadata.EntryPoint]:
        return [entry for entry in entries if group == GROUP and name in (None, entry.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.mark.usefixtures("other_kind")
def test_another_packages_kind_is_read_by_its_own_declaration() -> None:
    spec = loads(MINIMAL + "stages:\n  a: {kind: count, up_to: 3}\n  b: {after: a}\n")
    assert isinstance(spec.stages["a"], CountStage)
    assert spec.to_dict()["stages"]["a"] == {"kind": "count", "up_to": 3}
    assert Spec.from_dict(spec.to_dict()) == spec
    assert loads(MINIMAL + "kind: count\nup_to: 3\n").stages == {"count": spec.stages["a"]}


@pytest.mark.usefixtures("other_kind")
def test_errors_within_another_packages_stage_are_placed_and_worded_alike() -> None:
    text = MINIMAL + "stages:\n  a:\n    kind: count\n    up_too: 3\n  b: {kind: count, up_to: 0}\n  c: {kind: cuont}\n"
    unknown, range_, kind = error_of(text).splitlines()
    assert unknown.startswith("<text>:6: stages.a.up_too: unknown field; valid: kind, after, ")
    assert unknown.endswith("up_to; did you mean 'up_to'?")
    assert range_ == "<text>:7: stages.b.up_to: 0 is out of range; it must be at least 1"
    assert kind.startswith("<text>:8: stages.c.kind: 'cuont' is not an installed domain; installed: broken, count, ")
    assert kind.endswith("; did you mean 'count'?")
    assert error_of(MINIMAL + "kind: count\nup_to: x\n") == (
        "<text>:4: up_to: 'x' is not a whole number; write it like 3"
    )
    assert error_of(MINIMAL + "kind: cuont\nup_to: 3\n").startswith("<text>:3: kind: 'cuont' is not an installed")


@pytest.mark.usefixtures("other_kind")
def test_a_domain_that_cannot_be_imported_says_so() -> None:
    with pytest.raises(SpecError, match="kind 'broken' cannot be loaded from headway_no_such_module:DOMAIN: No module"):
        load_domain("broken")
    assert "<text>:3: stages.a.kind: kind 'broken' cannot be loaded" in error_of(
        MINIMAL + "stages: {a: {kind: broken}}"
    )
