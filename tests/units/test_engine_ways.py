"""The live engine in virtual time: the ways of requests through the graph."""

from __future__ import annotations

import asyncio

from tests.units.engine_plans import ask, make_plan, run, text, upper, values

from headway.serve.engine import Answer, Engine
from headway.serve.wire import Failure, Input, Payload, Result
from headway.testing.live import Behaviour


def test_a_value_passes_along_every_edge_and_the_last_results_are_the_answer() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "fan_out": 2}, "c": {"after": "a"}})
    answer = run(plan, ask, {"a": upper})
    assert answer.status == "answered"
    assert values(answer) == [("b", "X"), ("b", "X"), ("c", "X")]


def test_data_decides_the_branches_and_their_number() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "probability": 0.5}, "c": {"after": "a"}})

    def choose(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"b": [text("1"), text("2")]}) for _ in inputs]

    assert values(run(plan, ask, {"a": choose})) == [("b", "1"), ("b", "2")]


def test_an_item_that_chooses_no_branch_ends_without_a_value() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})
    answer = run(plan, ask, {"a": lambda inputs: [Result(branches={}) for _ in inputs]})
    assert (answer.status, answer.results) == ("answered", ())


def test_a_branch_to_a_stage_that_does_not_follow_fails_the_request() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})
    answer = run(plan, ask, {"a": lambda inputs: [Result(branches={"z": [text("1")]}) for _ in inputs]})
    assert answer.status == "failed"
    assert "'z'" in answer.error
    assert "valid: b" in answer.error


def collect(inputs: list[Input]) -> list[Result]:
    out = []
    for item in inputs:
        assert not isinstance(item, Payload)
        parts = (f"{name}={'+'.join(p.data.decode() for p in payloads)}" for name, payloads in item.items())
        out.append(Result(value=text(" ".join(parts))))
    return out


def test_a_join_waits_for_every_branch_taken_and_a_gather_for_everything() -> None:
    plan = make_plan(
        {
            "split": {},
            "left": {"after": "split"},
            "right": {"after": "split"},
            "merge": {"after": ["left", "right"]},
            "all": {"after": "merge", "gather": True},
        }
    )

    def split(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"left": [text("l1"), text("l2")], "right": [text("r")]}) for _ in inputs]

    answer = run(plan, ask, {"split": split, "merge": collect, "all": collect})
    assert values(answer) == [("all", "merge=left=l1+l2 right=r")]


def test_a_join_runs_on_the_branches_taken_and_is_skipped_when_none_was() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}})

    def only(*branches: str) -> Behaviour:
        return lambda inputs: [Result(branches={name: [text(name)] for name in branches}) for _ in inputs]

    assert values(run(plan, ask, {"a": only("b"), "d": collect})) == [("d", "b=b")]
    assert run(plan, ask, {"a": only(), "d": collect}).results == ()


def test_a_join_below_a_fan_out_runs_once_per_item_and_a_gather_keeps_the_order_of_items() -> None:
    plan = make_plan(
        {
            "a": {},
            "b": {"after": "a"},
            "c": {"after": "b"},
            "d": {"after": ["b", "c"]},
            "e": {"after": "d", "gather": True},
        },
        replicas=2,
    )

    def three(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"b": [text("1"), text("2"), text("3")]}) for _ in inputs]

    answer = run(plan, ask, {"a": three, "d": collect, "e": collect})
    assert values(answer) == [("e", "d=b=1 c=1+b=2 c=2+b=3 c=3")]


def test_one_bad_input_fails_its_request_alone() -> None:
    plan = make_plan({"a": {}}, max_batch_size=8)

    def picky(inputs: list[Input]) -> list[Result]:
        return [
            Result(error=Failure("ValueError", "cannot read it")) if item == text("bad") else Result(value=text("ok"))
            for item in inputs
        ]

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(*(ask(engine, value) for value in ("good", "bad", "good")))

    answers = run(plan, scenario, {"a": picky})
    assert [answer.status for answer in answers] == ["answered", "failed", "answered"]
    assert answers[1].error == "stage 'a': ValueError: cannot read it"


def test_edges_are_drawn_as_declared_and_by_the_seed() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "probability": 0.25, "fan_out": 2.5}}, replicas=4, max_batch_size=8)

    async def scenario(engine: Engine) -> list[int]:
        answers = await asyncio.gather(*(ask(engine) for _ in range(1000)))
        return [sum(stage == "b" for stage, _ in answer.results) for answer in answers]

    counts = run(plan, scenario)
    assert counts == run(plan, scenario)
    assert set(counts) == {0, 2, 3}
    assert 200 < sum(n > 0 for n in counts) < 300
    assert 2.4 < sum(counts) / sum(n > 0 for n in counts) < 2.6
