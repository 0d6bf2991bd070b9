"""What every rack keeps to, whatever its policy, signal and disciplines, and whatever happens to its servers."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.rack_systems import digest, digests, random_case

from headway.fleet import rack_codes as code
from headway.fleet.rack_run import Change, RackSetup, simulate_rack
from headway.policy import routing
from headway.policy.routing import (
    ROUTERS,
    Servers,
    draws,
    note_answered,
    note_latency,
    note_report,
    note_sent,
    route,
    stretch,
)
from headway.sim.draws import batch_key, draw

SEEDS = st.integers(0, 2**31 - 1)
ROOT = Path(__file__).parent.parent.parent
PLAIN_CASES = 60


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_requests_are_conserved_at_every_step_and_nothing_happens_before_its_cause(seed: int) -> None:
    case = random_case(seed)
    rng = np.random.default_rng(seed)
    simulation, now_s, following_s = case.simulation(), 0.0, 0.0
    while following_s < math.inf:
        now_s = following_s + float(rng.choice([0.0, 0.0, 0.01, 0.3]))
        following_s = simulation.advance(now_s)
        assert following_s > now_s
        counts = simulation.counts()
        arrived = counts.pop("arrived")
        assert sum(counts.values()) == arrived == np.searchsorted(case.arrival_s, now_s, side="right")
        assert min(counts.values()) >= 0
    counts = simulation.counts()
    assert (counts["sent"], counts["queued"], counts["running"], counts["replying"]) == (0, 0, 0, 0)
    out, setup = simulation.outcome(), case.setup
    done = out.fate == code.ANSWERED
    least_s = setup.send_s + case.service_s / setup.paces[out.where] + setup.reply_s
    assert np.all(out.latency_s[done] >= least_s[done] - 1e-12)
    assert np.all(np.isinf(out.latency_s[~done]))
    began = np.isfinite(out.wait_s)
    assert np.all(out.wait_s[began] >= setup.send_s)
    assert out.answered == counts["answered"]
    assert np.count_nonzero(out.fate == code.PENDING) == counts["held"]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_the_same_seed_gives_the_same_bytes_in_one_go_or_in_steps(seed: int) -> None:
    case = random_case(seed)
    once, steps = case.outcome(), case.simulation()
    rng = np.random.default_rng(seed)
    at_s = 0.0
    while steps.advance(at_s) < math.inf:
        at_s += float(rng.exponential(0.2))
    assert digest(steps.outcome()) == digest(once)


def test_the_uncompiled_source_gives_the_same_bytes_without_overflow() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests/laws/rack_systems.py"), str(PLAIN_CASES)],
        env={**os.environ, "HEADWAY_JIT": "0"}, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(range(PLAIN_CASES))


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_what_is_decided_does_not_depend_on_what_comes_later(seed: int) -> None:
    case = random_case(seed)
    cut = int(np.random.default_rng(seed).integers(1, case.arrival_s.size))
    until_s = case.arrival_s[cut]
    whole, part = case.simulation(), case.simulation(cut)
    for simulation in (whole, part):
        simulation.advance(np.nextafter(until_s, 0.0))
    first, second = whole.outcome(), part.outcome()
    known = case.arrival_s[:cut] < until_s
    for name in ("latency_s", "wait_s", "fate", "where"):
        before, after = getattr(first, name)[:cut][known], getattr(second, name)[known]
        assert np.array_equal(before, after), name


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_workers_do_exactly_the_work_that_was_answered(seed: int) -> None:
    case = random_case(seed, changes=False)
    case.setup = replace(case.setup, switch_s=0.0)
    out = case.outcome()
    done = out.fate == code.ANSWERED
    work_s = np.zeros(len(case.setup.workers))
    np.add.at(work_s, out.where[done], case.service_s[done] / case.setup.paces[out.where[done]])
    assert out.busy_s == pytest.approx(work_s, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["reported", "reported+sent", "counted", "exact"]))
def test_a_balancer_with_one_server_is_no_balancer(seed: int, signal: str) -> None:
    """Whatever policy: the same as any other, as long as it may send everything at once."""
    case = random_case(seed, changes=False, sessions=False)
    setup = replace(case.setup, workers=(3,), pace=(), speed=(), signal=signal, holds=(), report_every_s=0.0)
    outs = []
    for name in ("random", "least-loaded", "power-of-d", "prequal", "consistent-hash", "weighted-round-robin"):
        case.setup = replace(setup, router=routing.router(name, bound=math.inf))
        outs.append(digest(case.outcome()))
    assert len(set(outs)) == 1


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_report_and_sent_since_is_the_count_of_what_is_unanswered(seed: int) -> None:
    """As long as no report is lost: so a lost one, not a count, is what the report is for."""
    case = random_case(seed, changes=False)
    setup = replace(case.setup, loss=0.0, report_every_s=0.0, per_kind=False, balancers=1)
    outs = []
    for name, signal in (("least-loaded", "reported+sent"), ("least-outstanding", "counted")):
        case.setup = replace(setup, router=ROUTERS[name], signal=signal)
        outs.append(digest(case.outcome()))
    assert outs[0] == outs[1]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 3))
def test_a_bounded_queue_never_sends_more_than_its_bound(seed: int, depth: int) -> None:
    case = random_case(seed, changes=False, sessions=False)
    router = routing.router("jbsq", depth=depth)
    case.setup = replace(case.setup, router=router, speed=(), pace=(), balancers=1)
    simulation, at_s = case.simulation(), 0.0
    most = depth * sum(case.setup.workers)
    while at_s < math.inf:
        at_s = simulation.advance(at_s)
        counts = simulation.counts()
        assert counts["sent"] + counts["queued"] + counts["running"] + counts["replying"] <= most


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["random", "round-robin", "jbsq", "central", "consistent-hash", "least-outstanding"]))
def test_lost_reports_are_nothing_to_a_policy_that_reads_none(seed: int, name: str) -> None:
    case = random_case(seed)
    setup = replace(case.setup, router=ROUTERS[name], balancers=1, drifts=False)
    outs = []
    for loss in (0.0, 0.5):
        case.setup = replace(setup, loss=loss)
        outs.append(digest(case.outcome()))
    assert outs[0] == outs[1]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_requests_of_a_session_that_overlap_go_to_one_server(seed: int) -> None:
    case = random_case(seed, changes=False)
    rng = np.random.default_rng(seed)
    case.session = rng.integers(-1, 8, case.arrival_s.size)
    case.setup = replace(case.setup, session_bits=10, loss=0.0, holds=())
    out = case.outcome()
    if out.overflows:
        return
    end_s = case.arrival_s + out.latency_s
    for name in range(8):
        mine = np.flatnonzero((case.session == name) & (out.fate == code.ANSWERED))
        for before, after in itertools.pairwise(mine):
            # What the balancer holds back has no server yet, so only what was sent counts as under way.
            if case.setup.router.code != routing.JBSQ and end_s[before] > case.arrival_s[after]:
                assert out.where[before] == out.where[after]


def shifted_by_priority(queues: str) -> float:
    """Return the P99 of the first of two types on a busy server."""
    rng = np.random.default_rng(5)
    n = 4000
    kind = rng.integers(0, 2, n).astype(np.int32)
    arrival_s = np.cumsum(rng.exponential(1.2, n))
    service_s = np.where(kind == 0, 0.2, 2.0)
    setup = RackSetup((1,), queues=queues, slo_s=(0.2, 2.0), quantum_s=0.25)
    out = simulate_rack(setup, arrival_s, service_s, kind=kind)
    assert out.answered == n
    return float(np.quantile(out.latency_s[kind == 0], 0.99))


def test_types_with_their_own_queue_are_served_by_priority_or_by_what_they_may_take() -> None:
    assert shifted_by_priority("priority") < shifted_by_priority("slo") < shifted_by_priority("one")


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.sampled_from(["power-of-d", "least-loaded", "least-outstanding", "jiq", "weighted-round-robin", "prequal"]),
)
def test_a_gateway_with_the_same_books_would_have_decided_the_same(seed: int, name: str) -> None:
    """The plain policies, told request by request and reply by reply, send every request where the kernel sent it."""
    case = random_case(seed, changes=False, sessions=False)
    router = ROUTERS[name]
    case.setup = replace(
        case.setup, router=router, signal="reported+sent", loss=0.0, report_every_s=0.0, per_kind=False, balancers=1,
        holds=(), queues="one",
    )  # fmt: skip
    # Without ties: which of two requests that end at once tells its latency first is for the server to say.
    case.service_s = case.service_s * (1.0 + np.random.default_rng(seed).random(case.service_s.size))
    simulation, setup = case.simulation(), case.setup
    simulation.advance()
    out, done_s, stretched = simulation.outcome(), simulation._state.done_s, np.ones(case.arrival_s.size)
    speeds = setup.speed or list(np.array(setup.workers) * setup.paces)
    servers = Servers.of(speeds, list(setup.workers)).lists()
    for server in range(len(setup.workers)):
        note_report(servers, server, 0.0, 0.0, 0.0)
    key, numbers = batch_key(case.seed, "rack"), draws(router)
    replies = sorted(range(done_s.size), key=lambda job: done_s[job])
    sent: list[list[int]] = [[] for _ in setup.workers]
    for job, now_s in enumerate(case.arrival_s):
        while replies and done_s[replies[0]] + setup.reply_s <= now_s:
            read = replies.pop(0)
            server, at_s = int(out.where[read]), done_s[read]
            reached = [one for one in sent[server] if case.arrival_s[one] + setup.send_s < at_s]
            left = sum(done_s[one] > at_s for one in reached)
            note_latency(servers, server, at_s - (case.arrival_s[read] + setup.send_s), stretched[read], read)
            note_answered(servers, server)
            note_report(servers, server, left, len(sent[server]) - len(reached), at_s)
        u = [draw(key, job * numbers + at, 32) / 2**32 for at in range(numbers)]
        chosen = route(router, servers, u, job, now_s)
        assert chosen == out.where[job]
        stretched[job] = stretch(servers, chosen)
        note_sent(servers, chosen, 1.0)
        sent[chosen].append(job)


@pytest.mark.parametrize("every_s", [0.0, 0.05])
@pytest.mark.parametrize("signal", ["reported+sent", "work+sent"])
@pytest.mark.parametrize("dead", [True, False])
def test_a_server_that_failed_is_as_good_as_any_once_it_is_back(every_s: float, signal: str, dead: bool) -> None:
    rng = np.random.default_rng(0)
    arrival_s = np.cumsum(rng.exponential(1 / 2000, 20_000))
    changes = (Change(1.0, "fail", 0), *([Change(1.5, "declare-dead", 0)] * dead), Change(2.0, "join", 0))
    setup = RackSetup(
        (4, 4), router=routing.router("least-loaded"), send_s=1e-3, reply_s=1e-3, changes=changes,
        report_every_s=every_s, signal=signal,
    )  # fmt: skip
    out = simulate_rack(setup, arrival_s, rng.exponential(0.0028, arrival_s.size))
    assert np.mean(out.where[arrival_s > 4.0] == 0) == pytest.approx(0.5, abs=0.03)


def test_sessions_leave_a_server_that_lost_them_and_keep_to_those_that_hold_their_type() -> None:
    arrival_s = np.arange(2_000.0)
    session = np.arange(arrival_s.size) % 5
    changes = (Change(100.2, "fail", 0), Change(100.25, "join", 0))
    setup = RackSetup((2, 2), router=routing.router("random"), changes=changes)
    out = simulate_rack(setup, arrival_s, np.full(arrival_s.size, 0.3), session=session)
    for one in range(5):
        assert 0.3 < np.mean(out.where[(arrival_s > 300.0) & (session == one)] == 0) < 0.7
    kind = (np.arange(arrival_s.size) // 3 % 2).astype(np.int32)
    apart = RackSetup((2, 2), router=routing.router("least-loaded"), slo_s=(1.0, 1.0), holds=((0,), (1,)))
    out = simulate_rack(apart, arrival_s / 4, np.full(arrival_s.size, 0.9), kind=kind, session=session)
    assert np.array_equal(out.where, kind)


def mean_latency_s(setup: RackSetup, load: float, name: str, requests: int = 40_000) -> float:
    """Return the mean latency of Exp(1) requests that come at a share of what the servers can do."""
    rng = np.random.default_rng(1)
    arrival_s = np.cumsum(rng.exponential(1.0 / (load * setup.capacity), requests))
    service_s = rng.exponential(1.0, requests)
    out = simulate_rack(replace(setup, router=routing.router(name)), arrival_s, service_s)
    return float(np.mean(out.latency_s[requests // 10 :]))


@pytest.mark.parametrize("load", [0.5, 0.85])
@pytest.mark.parametrize("workers", [(1,) * 2, (1,) * 4, (1,) * 16, (8,) * 8], ids=["2x1", "4x1", "16x1", "8x8"])
def test_prequal_is_stable_wherever_random_sending_is_and_no_worse(workers: tuple[int, ...], load: float) -> None:
    setup = RackSetup(workers)
    assert mean_latency_s(setup, load, "prequal") <= mean_latency_s(setup, load, "random")


def test_prequal_finds_out_who_is_fast_where_nobody_says() -> None:
    """Latencies tell what the loads of equally fast servers do not: better than knowing the loads alone."""
    for workers, pace in (((1,) * 2, (1.0, 5.0)), ((4,) * 4, (1.0, 1.0, 1.0, 5.0))):
        setup = RackSetup(workers, pace=pace, speed=(1.0,) * len(workers))
        mean_s = {name: mean_latency_s(setup, 0.3, name) for name in ("prequal", "least-loaded", "random")}
        assert mean_s["prequal"] < 0.9 * mean_s["least-loaded"] < mean_s["random"]
