"""What holds for every spec and every graph."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.errors import SpecError
from headway.spec import Spec, loads
from headway.spec.graph import REQUEST, Graph, find_cycle
from headway.spec.units import duration_text, price_text

shares = st.floats(min_value=1e-6, max_value=1.0)
positive = st.floats(min_value=1e-6, max_value=1e6)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
options = st.dictionaries(st.sampled_from(["width", "path", "deep"]), plain, max_size=2)


def optional(draw: Any, fields: Mapping[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """Some of the fields, each drawn."""
    return {name: draw(strategy) for name, strategy in fields.items() if draw(st.booleans())}


@st.composite
def stage(draw: Any, earlier: list[str], hardware: list[str]) -> dict[str, Any]:
    fields = optional(
        draw,
        {
            "hardware": st.sampled_from(hardware) | st.lists(st.sampled_from(hardware), min_size=1, unique=True),
            "max_batch_size": st.integers(1, 64),
            "model": st.sampled_from(["m.py:A", "m.onnx"]),
            "options": options,
            "accuracy": shares,
        },
    )
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(["small", "large", "x.1"]), min_size=1, unique=True))
        fields["variants"] = {name: {"accuracy": draw(shares), "options": draw(options)} for name in names}
    parents = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if earlier else []
    if not parents:
        return fields
    gather = draw(st.booleans())
    joins = gather or len(parents) > 1
    edge = {"probability": shares} if joins else {"probability": shares, "fan_out": st.floats(0.01, 100)}
    if gather:
        fields["gather"] = True
    if draw(st.booleans()):
        return {**fields, "after": {parent: optional(draw, edge) for parent in parents}}
    after = parents[0] if len(parents) == 1 and draw(st.booleans()) else parents
    return {**fields, "after": after, **optional(draw, edge)}


@st.composite
def declared(draw: Any) -> dict[str, Any]:
    """A valid spec as a mapping."""
    hardware = ["cpu", "gpu-a"][: draw(st.integers(1, 2))]
    durations, prices = positive.map(duration_text), positive.map(price_text)
    supply = {
        name: {
            "price": draw(prices),
            **optional(draw, {"startup": durations, "max": st.integers(1, 99), "threads": st.integers(1, 4),
                              "device": st.just("cuda:0"), "pool": st.just("machine")}),
        }
        for name in hardware
    }  # fmt: skip
    names = [f"s{index}" for index in range(draw(st.integers(1, 6)))]
    stages = {name: draw(stage(names[:index], hardware)) for index, name in enumerate(names)}
    slo = {"latency": draw(durations), **optional(draw, {"percentile": st.floats(1, 99.9), "accuracy": shares})}
    if draw(st.booleans()):
        slo |= {"window": draw(durations), "objective": draw(shares)}
    spec = {"name": "x", "slo": slo, "supply": supply, "pools": {"machine": {"cores": 4}}, "stages": stages}
    if draw(st.booleans()):
        spec["current"] = {
            name: {
                "hardware": [fields["hardware"]][0] if isinstance(fields.get("hardware"), str) else
                (fields.get("hardware") or hardware)[0],
                "replicas": draw(st.integers(1, 9)),
                "variant": next(iter(fields.get("variants", {"default": {}}))),
                **optional(draw, {"max_wait": durations}),
            }
            for name, fields in stages.items()
        }  # fmt: skip
    if draw(st.booleans()):
        # Order in a file is free: a stage may stand before its parents.
        spec["stages"] = dict(draw(st.permutations(list(stages.items()))))
    return spec


law = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@law
@given(declared())
def test_a_spec_survives_its_mapping_json_and_yaml(value: dict[str, Any]) -> None:
    spec = Spec.from_dict(value)
    out = spec.to_dict()
    assert Spec.from_dict(out) == spec
    assert Spec.from_dict(json.loads(json.dumps(out, allow_nan=False))) == spec
    assert loads(yaml.safe_dump(out, sort_keys=False)) == spec
    assert Spec.from_dict(out).to_dict() == out
    assert list(out["stages"]) == list(value["stages"])


@law
@given(declared(), st.data())
def test_one_unknown_field_anywhere_is_one_error_that_names_it(value: dict[str, Any], data: st.DataObject) -> None:
    places = [value, value["slo"], *value["supply"].values(), *value["stages"].values()]
    data.draw(st.sampled_from(places))["zzz"] = 1
    with pytest.raises(SpecError, match=r"\A[^\n]*zzz: unknown field; valid: [^\n]*\Z"):
        Spec.from_dict(value)


@law
@given(declared())
def test_the_order_is_topological_and_stable(value: dict[str, Any]) -> None:
    spec = Spec.from_dict(value)
    graph = spec.graph
    assert sorted(graph.order) == sorted(spec.stages)
    position = {name: index for index, name in enumerate(graph.order)}
    for name in graph.order:
        assert {edge.parent for edge in graph.parents[name]} == set(spec.stages[name].edges)
        assert all(position[edge.parent] < position[name] for edge in graph.parents[name])
        assert all(edge in graph.parents[edge.child] for edge in graph.children[name])
    assert {edge for edges in graph.children.values() for edge in edges} == {
        edge for edges in graph.parents.values() for edge in edges
    }
    reached = set(graph.sources)
    for name in graph.order:
        reached |= {edge.child for edge in graph.children[name] if name in reached}
    assert reached == set(graph.order)


def ways(graph: Graph, name: str) -> list[tuple[str, ...]]:
    """Every way from the request to a stage."""
    above = [edge.parent for edge in graph.parents[name]]
    return [(*way, name) for parent in above for way in ways(graph, parent)] or [(REQUEST, name)]


@law
@given(declared())
def test_a_joins_scope_lies_on_every_way_and_its_region_between(value: dict[str, Any]) -> None:
    spec = Spec.from_dict(value)
    graph = spec.graph
    for name in graph.order:
        assert all(graph.scope[name] in way[:-1] for way in ways(graph, name))
    assert graph.joins == set(graph.region)
    for name in graph.joins:
        scope, region = graph.scope[name], set(graph.region[name])
        between = {s for way in ways(graph, name) for s in way[way.index(scope) + 1 : -1]}
        assert region == between
        assert name not in region
        assert scope not in region
        if spec.stages[name].gather:
            assert scope == REQUEST


@law
@given(declared())
def test_no_deeper_stage_of_ordinary_joins_lies_on_every_way(value: dict[str, Any]) -> None:
    for fields in value["stages"].values():
        fields.pop("gather", None)
    graph = Spec.from_dict(value).graph
    for name in graph.joins:
        common = set.intersection(*(set(way[:-1]) for way in ways(graph, name)))
        position = {REQUEST: -1, **{stage: index for index, stage in enumerate(graph.order)}}
        assert graph.scope[name] == max(common, key=position.__getitem__)


@law
@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=2, unique=True)))
def test_a_cycle_is_found_exactly_when_there_is_one_and_is_one(edges: dict[str, list[str]]) -> None:
    edges = {child: [parent for parent in parents if parent in edges] for child, parents in edges.items()}
    cycle = find_cycle(edges)
    if cycle is None:
        left = dict(edges)
        while ready := [child for child, parents in left.items() if not set(parents) & set(left)]:
            left = {child: parents for child, parents in left.items() if child not in ready}
        assert not left
    else:
        assert cycle[0] == cycle[-1] == min(cycle, key=list(edges).index)
        assert len(set(cycle)) == len(cycle) - 1
        assert all(parent in edges[child] for parent, child in itertools.pairwise(cycle))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab:{}[]&*!<>-|'\"#%@, \n\t?0.9~"), max_size=40))
def test_any_text_that_is_no_spec_is_refused_with_its_line(text: str) -> None:
    for form in ("yaml", "toml"):
        # No text this short is a whole spec, so every one is refused, and in no other way.
        with pytest.raises(SpecError, match=r"^<text>:\d+: "):
            loads(text, form=form)  # type: ignore[arg-type]
