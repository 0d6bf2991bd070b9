"""The scheduler for vLLM: only who is next and whether there is room is decided; all else stays as vLLM has it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.units import fake_vllm
from tests.units.fake_vllm import AsyncScheduler, Request, RequestStatus, engine, installed, make

from headway.policy.kv_admission import RULES
from headway.policy.scheduling import ORDERS, Backlog, Waiting, first


class Clock:
    """Stands in the place of the module `time`."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def dropin() -> Iterator[ModuleType]:
    with installed():
        module = importlib.import_module("headway.dropins.vllm")
        module.time = Clock()  # type: ignore[attr-defined]
        yield module


# What comes to an engine: iteration of arrival, tokens of prompt and answer, whose it is.
WORK = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 300), st.integers(1, 40), st.sampled_from("ab")),
    min_size=1,
    max_size=20,
)


def arrivals(work: list[tuple[int, int, int, str]]) -> dict[int, list[Request]]:
    found: dict[int, list[Request]] = {}
    for number, (iteration, prompt, answer, tenant) in enumerate(sorted(work)):
        request = Request(f"r{number}", prompt, answer, float(iteration), 100, {"tenant": tenant})
        found.setdefault(iteration, []).append(request)
    return found


@settings(max_examples=60)
@given(WORK, st.sampled_from(sorted(ORDERS)), st.sampled_from(sorted(RULES)))
def test_nobody_is_lost_and_all_are_answered(dropin: ModuleType, work: Any, order: str, admission: str) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": order, "admission": admission, "max_wait_s": 5}, blocks=40)
    for iteration, _ in enumerate(engine(scheduler, arrivals(work))):
        dropin.time.now_s = float(iteration)
        held = [*scheduler.waiting, *scheduler.running]
        assert sorted(request.request_id for request in held) == sorted(scheduler.requests)
    assert not scheduler.requests


@settings(max_examples=30)
@given(WORK)
def test_without_options_it_is_vllms_own(dropin: ModuleType, work: Any) -> None:
    plans = [list(engine(make(kind, blocks=30), arrivals(work))) for kind in (AsyncScheduler, dropin.PolicyScheduler)]
    assert plans[0] == plans[1]


@settings(max_examples=50)
@given(WORK, st.sampled_from(sorted(ORDERS)))
def test_who_goes_next_is_what_the_policy_says(dropin: ModuleType, work: Any, order: str) -> None:
    """With memory for all, places are what lacks: the policy's own `first`, asked again and again, fills them."""
    options = {"order": order, "max_wait_s": 4, "reach_tokens": 300}
    scheduler = make(dropin.PolicyScheduler, options, blocks=10_000, most_running=2, budget=10_000)
    line_up, wanted = scheduler._line_up, []

    def watched(now_s: float) -> Any:
        waiting = list(scheduler.waiting)
        backlog = scheduler._backlog(waiting)
        wanted.clear()
        while waiting and len(wanted) < scheduler.max_num_running_reqs - len(scheduler.running):
            seen = [as_seen(scheduler, request) for request in waiting]
            wanted.append(waiting.pop(first(scheduler._rules.order, seen, backlog, now_s)).request_id)
        return line_up(now_s)

    scheduler._line_up = watched
    dropin.time.now_s = 0.0
    for plan in engine(scheduler, arrivals(work)):
        assert plan.admitted == wanted
        dropin.time.now_s += 1.0


def as_seen(scheduler: Any, request: Request) -> Waiting:
    """Return what an order may know of a request that waits for the first time."""
    told = scheduler._answer_tokens
    expected = request.max_tokens if told is None else min(told, request.max_tokens)
    served = scheduler._served.get(request.sampling_params.extra_args["tenant"], 0.0)
    prompt = float(request.num_prompt_tokens)
    return Waiting(request.arrival_time, prompt, prompt, max(1.0, expected), served)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 4000), st.integers(0, 500), st.floats(0, 1e5)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(sorted(ORDERS)),
    st.floats(1.0, 50.0),
)
def test_sorting_agrees_with_choosing_one_by_one(dropin: ModuleType, work: Any, order: str, max_wait_s: float) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": order, "max_wait_s": max_wait_s})
    backlog, now_s = Backlog(9000.0, 256.0, 0.8, 1e-4, 0.02), 100.0
    requests, seen = [], []
    for at, (came_s, prompt, most, served) in enumerate(work):
        requests.append(Request(f"r{at}", prompt, 1, came_s, most, {"tenant": f"t{at}"}))
        seen.append(Waiting(came_s, float(prompt), float(prompt), max(1.0, float(most)), served))
        scheduler._served[f"t{at}"] = served
    chosen = min(requests, key=lambda request: scheduler._standing(request, backlog, now_s))
    assert chosen is requests[first(scheduler._rules.order, seen, backlog, now_s)]


@settings(max_examples=50)
@given(WORK)
def test_what_reserves_all_preempts_nobody(dropin: ModuleType, work: Any) -> None:
    scheduler = make(dropin.PolicyScheduler, {"admission": "reserve"}, blocks=30)
    for plan in engine(scheduler, arrivals(work)):
        assert not plan.preempted_req_ids


def crowd() -> dict[int, list[Request]]:
    return {0: [Request(f"r{number}", 60, 80, 0.0, 100) for number in range(8)]}


def preemptions(dropin: ModuleType, rule: str, **more: Any) -> int:
    scheduler = make(dropin.PolicyScheduler, {"admission": rule, **more}, blocks=40)
    return sum(len(plan.preempted_req_ids or ()) for plan in engine(scheduler, crowd()))


def test_room_that_is_kept_spares_preemptions(dropin: ModuleType) -> None:
    optimistic = preemptions(dropin, "optimistic")
    assert preemptions(dropin, "headroom", most_headroom=64, least_headroom=64) < optimistic
    assert preemptions(dropin, "peak") < optimistic


def test_headroom_widens_after_a_preemption_and_narrows_without(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"admission": "headroom"}, blocks=20)
    assert scheduler._headroom == 0.0
    seen = [(bool(plan.preempted_req_ids), scheduler._headroom) for plan in engine(scheduler, crowd())]
    assert {headroom for preempted, headroom in seen if preempted} == {64.0}
    since = max(at for at, (preempted, _) in enumerate(seen) if preempted)
    after = [headroom for _, headroom in seen[since:]]
    assert after == sorted(after, reverse=True)
    assert after[-1] < 64.0


def test_memory_that_a_prompt_in_parts_will_take_is_not_free(dropin: ModuleType) -> None:
    # 40 blocks; a prompt of 30 has taken 16 of them when one of 12 asks.
    scheduler = make(dropin.PolicyScheduler, {"admission": "headroom"}, blocks=40, budget=256)
    scheduler.add_request(Request("long", 480, 5, 0.0, 10))
    assert scheduler.schedule().admitted == ["long"]
    scheduler.add_request(Request("next", 190, 5, 1.0, 10))
    assert [request.request_id for request in scheduler._line_up(1.0)] == ["next"]


def test_each_kind_of_layers_takes_its_own_blocks(dropin: ModuleType) -> None:
    assert make(dropin.PolicyScheduler, blocks=50, groups=3)._capacity() == 50.0


def test_who_was_preempted_goes_first_the_earliest_of_them_first(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "sjf"})
    for name, prompt, came_s in (("short", 1, 0.0), ("later", 90, 2.0), ("sooner", 90, 1.0)):
        request = Request(name, prompt, 5, came_s)
        scheduler.add_request(request)
        if name != "short":
            request.status = RequestStatus.PREEMPTED
    scheduler._line_up(5.0)
    assert [request.request_id for request in scheduler.waiting] == ["sooner", "later", "short"]


def test_who_has_waited_long_enough_goes_before_short_prompts(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "sjf", "max_wait_s": 20}, most_running=1)
    scheduler.add_request(Request("long", 200, 5, 0.0))
    scheduler.add_request(Request("short", 10, 5, 15.0))
    scheduler._line_up(19.0)
    assert scheduler.waiting[0].request_id == "short"
    dropin.time.now_s = 20.0
    assert scheduler.schedule().admitted == ["long"]


def test_what_has_no_room_is_put_back_even_if_planning_fails(
    dropin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make(dropin.PolicyScheduler, {"admission": "reserve"}, blocks=10)
    for number in range(4):
        scheduler.add_request(Request(f"r{number}", 60, 20, float(number), 100))

    def fail(self: Any) -> None:
        assert len(self.waiting) == 1
        raise RuntimeError("planning fails")

    monkeypatch.setattr(fake_vllm.Scheduler, "schedule", fail)
    with pytest.raises(RuntimeError, match="planning fails"):
        scheduler.schedule()
    assert [request.request_id for request in scheduler.waiting] == ["r0", "r1", "r2", "r3"]


def test_what_vllm_asks_of_an_iteration_is_passed_on(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "sjf"})
    scheduler.schedule(True)
    scheduler.schedule(throttle_prefills=True)
    scheduler.schedule()
    assert scheduler.throttled == [True, True, False]


def test_a_request_that_waits_for_something_else_is_left_to_vllm_and_keeps_nobody_back(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "sjf", "admission": "reserve"}, blocks=10)
    blocked, remote = (
        Request("blocked", 1, 5, 0.0, 150, status=RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR),
        Request("remote", 1, 5, 0.0, 150, status=RequestStatus.WAITING_FOR_REMOTE_KVS),
    )
    for request in (blocked, remote, Request("ready", 50, 5, 1.0, 100)):
        scheduler.add_request(request)
    assert scheduler.schedule().admitted == ["ready"]
    assert list(scheduler.waiting) == [blocked]
    assert list(scheduler.kv_holding_waiting) == [remote]
    blocked.status = RequestStatus.WAITING
    assert scheduler.schedule().admitted == []


def test_a_tenant_pays_for_what_is_computed_and_comes_back_without_a_claim(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "vtc"}, budget=1000)
    list(engine(scheduler, {0: [Request("g0", 100, 10, 0.0, 10, {"tenant": "greedy"})]}))
    # The prompt, and the nine tokens of the answer that are computed to make the one that follows.
    assert scheduler._served == {"greedy": 100 * 1.0 + 9 * 2.0}
    scheduler.add_request(Request("g1", 100, 10, 0.0, 100, {"tenant": "greedy"}))
    scheduler.add_request(Request("m0", 100, 10, 0.0, 100, {"tenant": "modest"}))
    scheduler.add_request(Request("nobody's", 10, 10, 0.0, 100))
    assert scheduler._served["modest"] == scheduler._served[""] == scheduler._served["greedy"]


def test_accounts_of_tenants_that_are_gone_do_not_pile_up(dropin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropin, "ACCOUNTS", 10)
    scheduler = make(dropin.PolicyScheduler, {"order": "vtc"})
    for _ in engine(scheduler, {at: [Request(f"r{at}", 5, 1, 0.0, 10, {"tenant": f"t{at}"})] for at in range(50)}):
        assert len(scheduler._served) <= 12


def test_how_long_an_answer_will_be_is_what_is_said_else_what_others_were(dropin: ModuleType) -> None:
    scheduler = make(dropin.PolicyScheduler, {"order": "srpt"})
    asked = Request("asked", 10, 1, 0.0, 100)
    assert scheduler._expected(asked) == 100.0
    list(engine(scheduler, {0: [Request("before", 10, 20, 0.0, 100)]}))
    scheduler._learn()
    assert scheduler._expected(asked) == 20.0
    assert scheduler._expected(Request("said", 10, 1, 0.0, 100, {"predicted_tokens": 7})) == 7.0
    assert scheduler._expected(Request("huge", 10, 1, 0.0, 100, {"predicted_tokens": 10**400})) == 100.0
    assert scheduler._expected(Request("nonsense", 10, 1, 0.0, 100, {"predicted_tokens": "many"})) == 20.0
    scheduler.add_request(Request("given up", 10, 50, 0.0, 100))
    scheduler.schedule()
    scheduler.finish_requests("given up", RequestStatus.FINISHED_ABORTED)
    scheduler._learn()
    assert scheduler._expected(asked) == 20.0


@pytest.mark.parametrize(
    ("options", "named", "sentence"),
    [
        ({"oder": "sjf"}, {}, "nothing is called 'oder'; valid: order, max_wait_s"),
        ({"order": "sfj"}, {}, "order is 'sfj'"),
        ({"admission": "all"}, {}, "admission is 'all'"),
        ({"order": "sjf", "max_wait_s": -1}, {}, "max_wait_s"),
        ({"token_s": 0}, {}, "token_s and step_s are seconds above 0"),
        ({}, {"policy": "priority"}, "--scheduling-policy is 'priority'; leave it at fcfs"),
    ],
)
def test_what_is_not_valid_is_said_when_the_engine_starts(
    dropin: ModuleType, options: Any, named: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(dropin.PolicyScheduler, options, **named)


def test_another_vllm_is_told_which_ones_it_was_made_for(dropin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropin, "NEEDS", (*dropin.NEEDS, "queue"))
    with pytest.raises(RuntimeError, match=f"has no 'queue'; vLLM {dropin.VERSIONS}"):
        make(dropin.PolicyScheduler)


def test_the_stand_in_has_the_shapes_of_the_newest_that_it_was_made_for(dropin: ModuleType) -> None:
    assert dropin.VERSIONS.split()[-1] == fake_vllm.VERSION


def test_defaults_leave_all_to_vllm(dropin: ModuleType) -> None:
    found = dropin.rules({})
    assert (found.order.code, found.admission.code) == (ORDERS["fcfs"], RULES["optimistic"])
    assert found.order.max_wait_s == math.inf
