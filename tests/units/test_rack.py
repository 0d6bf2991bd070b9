"""Racks by example: every feature in a case small enough to follow by hand, and errors that help."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headway.errors import HeadwayError
from headway.fleet import metrics
from headway.fleet import rack_codes as code
from headway.fleet.rack_run import Change, RackOutcome, RackSetup, RackSimulation, simulate_rack
from headway.policy import routing
from headway.policy.routing import ROUTERS

FIRST = ROUTERS["round-robin"]


def run(setup: RackSetup, arrival_s: list[float], service_s: list[float], **more: Any) -> RackOutcome:
    return simulate_rack(setup, np.array(arrival_s), np.array(service_s), **more)


def done(out: RackOutcome, arrival_s: list[float]) -> list[float]:
    return [float(at) for at in out.latency_s + np.array(arrival_s)]


# Inside a server


def test_a_quantum_gives_way_only_to_those_that_wait() -> None:
    arrival_s = [0.0, 0.5]
    out = run(RackSetup((1,), quantum_s=1.0), arrival_s, [3.0, 1.0])
    assert done(out, arrival_s) == [4.0, 2.0]
    assert out.preemptions == 1
    alone = run(RackSetup((1,), quantum_s=1.0, switch_s=0.25), [0.0], [3.0])
    assert (alone.latency_s[0], alone.preemptions) == (3.0, 0)


def test_an_eager_quantum_interrupts_whether_or_not_others_wait_and_costs_the_switch() -> None:
    out = run(RackSetup((1,), quantum_s=1.0, switch_s=0.25, eager=True), [0.0], [3.0])
    assert (out.latency_s[0], out.preemptions) == (3.5, 2)
    assert out.busy_s.tolist() == [3.5]


def test_the_preempted_goes_to_the_tail_of_one_queue_and_to_the_head_of_its_own() -> None:
    arrival_s, service_s = [0.0, 0.1, 0.2], [2.0, 1.0, 1.0]
    one = run(RackSetup((1,), quantum_s=1.0), arrival_s, service_s)
    assert done(one, arrival_s) == [4.0, 2.0, 3.0]
    own = run(RackSetup((1,), quantum_s=1.0, queues="slo"), arrival_s, service_s)
    assert done(own, arrival_s) == [2.0, 3.0, 4.0]


def test_the_head_that_has_waited_longest_for_its_slo_is_next() -> None:
    arrival_s, service_s, kind = [0.0, 0.1, 0.6], [1.0, 1.0, 1.0], np.array([0, 0, 1], np.int32)
    setup = RackSetup((1,), queues="slo", slo_s=(10.0, 1.0))
    assert done(run(setup, arrival_s, service_s, kind=kind), arrival_s) == [1.0, 3.0, 2.0]
    equal = RackSetup((1,), queues="slo", slo_s=(1.0, 1.0))
    assert done(run(equal, arrival_s, service_s, kind=kind), arrival_s) == [1.0, 2.0, 3.0]


def test_a_faster_server_takes_less_time() -> None:
    out = run(RackSetup((1, 1), FIRST, pace=(1.0, 4.0)), [0.0, 0.0], [2.0, 2.0])
    assert out.latency_s.tolist() == [2.0, 0.5]


# The way there and back, and what is known


def test_the_latency_includes_both_ways() -> None:
    out = run(RackSetup((1,), send_s=0.25, reply_s=0.5), [1.0], [2.0])
    assert (out.latency_s[0], out.wait_s[0]) == (2.75, 0.25)


def herd(signal: str, name: str = "least-loaded", **more: Any) -> list[int]:
    """Where six requests in a row go before any reply can come."""
    setup = RackSetup((1, 1, 1), ROUTERS[name], signal, send_s=1.0, reply_s=1.0, **more)
    out = run(setup, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 6)
    return sorted(np.bincount(out.where, minlength=3).tolist())


def test_reports_alone_herd_and_what_was_sent_since_spreads() -> None:
    assert herd("reported+sent") == [2, 2, 2]
    assert herd("exact") == [2, 2, 2]
    assert herd("counted", "least-outstanding") == [2, 2, 2]
    assert herd("least-reported") == [0, 0, 6]
    first = run(RackSetup((1, 1), FIRST, "reported"), [0.0, 0.0], [5.0, 1.0])
    assert first.where.tolist() == [0, 1]


def test_a_report_is_what_the_server_had_left_when_it_finished() -> None:
    """Server 0 reports one left, server 1 none: the next request goes there, and the one after as well."""
    setup = RackSetup((1, 1), ROUTERS["least-loaded"], "reported", reply_s=0.5)
    arrival_s, service_s = [0.0, 0.0, 0.0, 3.0, 3.1], [1.0, 1.0, 9.0, 1.0, 1.0]
    simulation = RackSimulation(setup, np.array(arrival_s), np.array(service_s), seed=3)
    simulation.advance(2.9)
    where = simulation.outcome().where[:3].tolist()
    simulation.advance()
    out = simulation.outcome()
    busy = where[2]
    assert out.where[3] != busy or where.count(busy) == 1
    assert out.answered == 5


def test_work_is_reported_instead_of_counts_when_asked() -> None:
    setup = RackSetup((1, 1), ROUTERS["least-loaded"], "work+sent", speed=(1.0, 1.0))
    out = run(setup, [0.0, 0.1, 0.2, 0.3], [9.0, 1.0, 1.0, 1.0])
    assert out.where[1:].tolist() == [1 - out.where[0]] * 3


def test_a_lost_reply_makes_the_balancers_own_count_drift() -> None:
    setup = RackSetup((1, 1), ROUTERS["jbsq"]._replace(depth=1.0), "counted", loss=1.0)
    out = run(replace(setup, drifts=True), [0.0, 1.0, 2.0, 3.0], [0.5] * 4)
    assert (out.answered, np.count_nonzero(out.fate == code.PENDING)) == (2, 2)
    assert run(setup, [0.0, 1.0, 2.0, 3.0], [0.5] * 4).answered == 4, "a report alone takes no place along"


@pytest.mark.parametrize("name", ["jbsq", "central", "jiq"])
@pytest.mark.parametrize("report_every_s", [0.0, 0.5])
def test_lost_reports_leave_no_place_taken(name: str, report_every_s: float) -> None:
    setup = RackSetup((2, 1), ROUTERS[name], loss=0.3, report_every_s=report_every_s)
    arrival_s = np.arange(2_000) * 0.5
    out = run(setup, arrival_s.tolist(), [1.0] * arrival_s.size)
    assert out.answered == arrival_s.size
    assert out.latency_s.max() < 30.0


def test_reports_at_intervals_are_as_old_as_the_interval() -> None:
    setup = RackSetup((1, 1), ROUTERS["least-loaded"], "reported", report_every_s=10.0, speed=(1.0, 1.0))
    arrival_s = [0.0, 1.0, 2.0, 3.0, 11.0]
    simulation = RackSimulation(setup, np.array(arrival_s), np.array([50.0] * 5), seed=1)
    simulation.advance()
    loads = [simulation.outcome().where[:4].tolist().count(server) for server in (0, 1)]
    assert simulation.outcome().where[4] == int(loads[1] < loads[0]) or loads[0] == loads[1]


def test_a_policy_may_not_send_a_type_where_its_data_is_not() -> None:
    setup = RackSetup((1, 1, 1), ROUTERS["random"], slo_s=(1.0, 1.0), holds=((0,), (1, 2)))
    kind = np.arange(40, dtype=np.int32) % 2
    out = run(setup, list(np.arange(40.0)), [0.5] * 40, kind=kind)
    assert set(out.where[kind == 0].tolist()) == {0}
    assert set(out.where[kind == 1].tolist()) == {1, 2}


# Sessions


def test_a_session_stays_where_it_is_while_something_of_it_is_under_way() -> None:
    setup = RackSetup((1, 1), FIRST)
    arrival_s = [0.0, 0.5, 1.0, 20.0]
    out = run(setup, arrival_s, [2.0] * 4, session=[7, 7, 7, 7])
    assert out.where[:3].tolist() == [0, 0, 0]
    assert out.where[3] == 1, "all were answered: it is free to go elsewhere"
    free = run(setup, arrival_s, [2.0] * 4, session=[7, -1, 7, 7])
    assert free.where[:3].tolist() == [0, 1, 0]


def test_sessions_beyond_the_table_go_by_their_hash_and_are_counted() -> None:
    setup = RackSetup((2,) * 4, FIRST, session_bits=0)
    names = list(range(12)) * 2
    out = run(setup, list(np.arange(24) * 0.01), [5.0] * 24, session=names)
    assert out.overflows == 24 - 2 * code.WAYS
    assert out.where[:12].tolist() == out.where[12:].tolist()


# What happens to servers


def test_a_drained_server_finishes_what_it_has_and_gets_nothing_new() -> None:
    setup = RackSetup((1, 1), FIRST, changes=(Change(1.0, "drain", 0), Change(5.0, "join", 0)))
    arrival_s = [0.0, 0.5, 2.0, 3.0, 6.0]
    out = run(setup, arrival_s, [4.0] * 5)
    assert out.where.tolist() == [0, 1, 1, 1, 0]
    assert out.answered == 5


def test_a_failed_server_loses_what_it_has_and_what_is_sent_there_until_it_is_declared_dead() -> None:
    changes = (Change(1.0, "fail", 0), Change(3.0, "declare-dead", 0), Change(6.0, "join", 0))
    setup = RackSetup((1, 1), FIRST, changes=changes)
    arrival_s = [0.0, 0.0, 2.0, 2.0, 4.0, 7.0]
    out = run(setup, arrival_s, [2.0] * 6)
    assert out.where.tolist() == [0, 1, 0, 1, 1, 0]
    assert out.fate.tolist() == [code.LOST, 2 - 1, code.LOST, 1, 1, 1]
    assert out.busy_s.tolist() == [3.0, 6.0], "the failure cut a slice off"


def test_nobody_alive_means_refused() -> None:
    setup = RackSetup((1,), changes=(Change(1.0, "drain", 0),))
    out = run(setup, [0.0, 2.0], [1.0, 1.0])
    assert out.fate.tolist() == [code.ANSWERED, code.REFUSED]
    assert out.latency_s.tolist() == [1.0, math.inf]


def test_a_balancer_that_is_down_loses_what_passes_it_and_forgets() -> None:
    changes = (Change(1.0, "balancer-down"), Change(3.0, "balancer-up"))
    out = run(RackSetup((1, 1), changes=changes), [0.0, 0.0, 2.0, 4.0], [0.5, 1.5, 1.0, 1.0])
    assert out.fate.tolist() == [code.ANSWERED, code.LOST, code.LOST, code.ANSWERED]


# Metrics and errors


def test_the_tail_of_a_mixture_hides_what_preemption_does_for_the_short() -> None:
    rng = np.random.default_rng(1)
    n = 40_000
    kind = (rng.random(n) < 0.1).astype(np.int32)
    service_s = np.where(kind == 0, 50e-6, 500e-6)
    arrival_s = np.cumsum(rng.exponential(95e-6 / (0.9 * 8), n))
    outs = [
        run(RackSetup((8,), quantum_s=q, slo_s=(1.0, 1.0)), arrival_s, service_s, kind=kind) for q in (math.inf, 25e-6)
    ]
    short, slow = ([metrics.by_class(out.latency_s, kind, 99)[0] for out in outs],
                   [np.quantile(metrics.slowdown(out.latency_s, service_s), 0.99) for out in outs])  # fmt: skip
    assert short[1] < short[0]
    assert slow[1] < slow[0]
    assert outs[1].p(99) > outs[0].p(99)


def test_metrics_of_nothing_are_not_zero() -> None:
    nothing = np.empty(0)
    assert math.isnan(metrics.jain(nothing))
    assert metrics.by_class(nothing, np.empty(0, np.int32), 99).size == 0
    assert np.isnan(metrics.slowdown(np.array([1.0]), np.array([0.0]))).all()
    assert np.isnan(metrics.time_per_output_token_s(np.ones(1), np.ones(1), np.ones(1))).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": ()}, "at least one server"),
        ({"workers": (1, 0)}, "at least one server"),
        ({"signal": "exactly"}, "signal is 'exactly'; did you mean 'exact'"),
        ({"queues": "two"}, "queues is 'two'"),
        ({"pace": (1.0,)}, "pace is .* each of 2 servers"),
        ({"speed": (1.0, 0.0)}, "speed is"),
        ({"quantum_s": 0.0}, "quantum_s is to be above 0"),
        ({"loss": 1.5}, "loss is a share"),
        ({"slo_s": (0.0,)}, "slo_s has a time above 0"),
        ({"report_every_s": 0.1, "reply_s": 0.2}, "at least reply_s"),
        ({"holds": ((0,), (1,))}, "holds has 2 types, slo_s has 1"),
        ({"changes": (Change(0.0, "fail", 2),)}, "a change names a server that does not exist; they are 0 to 1"),
        ({"changes": (Change(0.0, "fail", 0.5),)}, "they are 0 to 1"),
        ({"holds": ((7,),)}, "holds names a server that does not exist; they are 0 to 1"),
        ({"workers": (1.5, 1)}, "a whole number of them"),
        ({"workers": (math.nan, 1)}, "a whole number of them"),
        ({"pace": (1.0, math.nan)}, "pace is .* one number above 0"),
        ({"speed": (math.nan, 1.0)}, "speed is .* one number above 0"),
        ({"speed": (math.inf, 1.0)}, "speed is .* one number above 0"),
        ({"slo_s": (1.0, math.nan)}, "slo_s has a time above 0"),
        ({"quantum_s": math.nan}, "quantum_s is to be above 0"),
        ({"send_s": math.nan}, "send_s and reply_s"),
        ({"report_every_s": math.nan}, "report_every_s is nan"),
        ({"report_every_s": -1.0}, "report_every_s is -1"),
        ({"balancers": 0}, "at least one"),
        ({"balancers": 1.5}, "at least one"),
        ({"session_bits": 99}, "session_bits is 99; a whole number from 0 to 24"),
    ],
)
def test_a_rack_that_makes_no_sense_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(HeadwayError, match=said):
        RackSetup(**{"workers": (1, 1), **wrong})


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"service_s": np.ones(1)}, "2 arrivals need as many"),
        ({"arrival_s": np.array([1.0, 0.0])}, "arrivals are to be in order"),
        ({"service_s": np.array([1.0, -1.0])}, "no time is to be below 0"),
        ({"arrival_s": np.array([0.0, math.nan])}, "request 1 has an arrival of nan s"),
        ({"arrival_s": np.array([0.0, math.inf])}, "request 1 has an arrival of inf s"),
        ({"service_s": np.array([math.nan, 1.0])}, "request 0 has a service time of nan s"),
        ({"service_s": np.array([math.inf, 1.0])}, "request 0 has a service time of inf s"),
        ({"kind": np.array([0, 0.5])}, "numbered from 0"),
        ({"kind": np.array([0, math.nan])}, "types go from nan"),
        ({"kind": np.array([0, 1], np.int32)}, "types go from 0 to 1; slo_s has 1"),
        ({"session": [1]}, "as many service times, types and sessions"),
    ],
)
def test_requests_that_make_no_sense_are_named(inputs: dict[str, Any], said: str) -> None:
    given = {"arrival_s": np.array([0.0, 1.0]), "service_s": np.ones(2), **inputs}
    with pytest.raises(HeadwayError, match=said):
        RackSimulation(RackSetup((1,)), **given)


@pytest.mark.parametrize(
    ("at_s", "action", "said"),
    [
        (0.0, "stop", "action is 'stop'; valid: drain"),
        (math.nan, "drain", "a change happens at nan s"),
        (math.inf, "drain", "a finite time of at least 0"),
        (-1.0, "drain", "a change happens at -1"),
    ],
)
def test_a_change_that_makes_no_sense_is_named(at_s: float, action: str, said: str) -> None:
    with pytest.raises(HeadwayError, match=said):
        Change(at_s, action)


def test_whole_numbers_and_lists_are_times_too() -> None:
    given = simulate_rack(RackSetup((1,)), [0, 1], [3, 1])  # type: ignore[arg-type]
    assert given.latency_s.tolist() == [3.0, 3.0]


def test_parameters_of_a_policy_may_be_given_as_whole_numbers() -> None:
    setup = RackSetup((1, 1), routing.router("jbsq", depth=2, stale_s=1))
    assert run(setup, [0.0, 0.0], [1.0, 1.0]).answered == 2


@pytest.mark.parametrize(("service_us", "quantum_us"), [(500, 100), (300, 100), (70, 10), (900, 300)])
def test_what_is_a_multiple_of_the_quantum_takes_so_many_slices(service_us: int, quantum_us: int) -> None:
    arrival_s, service_s = 1e-6 * np.arange(3.0), np.full(3, 1e-6 * service_us)
    found = simulate_rack(RackSetup((1,), quantum_s=1e-6 * quantum_us, switch_s=1e-5), arrival_s, service_s)
    slices = service_us // quantum_us
    assert found.preemptions == 3 * (slices - 1)
    # The last round ends with the slices of all three, one after the other.
    ends_us = 3 * service_us + 3 * (slices - 1) * 10 - (quantum_us + 10) * np.array([2.0, 1.0, 0.0])
    np.testing.assert_allclose(1e6 * found.latency_s, ends_us - np.arange(3.0), atol=1e-3)
