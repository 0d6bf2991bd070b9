"""A prototype's printed figures that lie far from ours: plain Python says ours are right, its own requests say why."""

from __future__ import annotations

import heapq
import itertools
from collections import deque

import numpy as np
import pytest

from headway.bench.fleets.rack_cases import WORKS
from headway.bench.fleets.rack_noise import Cell, cells
from headway.fleet import rack_codes as code
from headway.fleet.rack_run import RackSetup, simulate_rack
from headway.policy.routing import draws
from headway.sim.draws import batch_key, draw
from headway.sim.station import Floats

FAR = {cell.name: cell for cell in cells()}
ARRIVES, REACHES, ENDS, REPLIES = range(4)


def plain(setup: RackSetup, name: str, arrival_s: Floats, service_s: Floats, seed: int) -> list[float]:
    """Return the latencies of a rack, by a heap of events and nothing of ours but the draws: by turns, or power of 2.

    The balancer goes by its own count, of which a share of the replies is lost on the way.
    """
    servers, key = len(setup.workers), batch_key(seed, "rack")
    counted, busy, where = [0] * servers, [0] * servers, [0] * arrival_s.size
    queues: list[deque[tuple[int, float]]] = [deque() for _ in range(servers)]
    order, latency_s = itertools.count(), [0.0] * arrival_s.size
    events = [(float(at_s), next(order), ARRIVES, job, float(service_s[job])) for job, at_s in enumerate(arrival_s)]

    def add(at_s: float, what: int, job: int, left_s: float) -> None:
        heapq.heappush(events, (at_s, next(order), what, job, left_s))

    def work(job: int, left_s: float, now_s: float) -> None:
        slice_s = min(setup.quantum_s, left_s)
        add(now_s + slice_s, ENDS, job, left_s - slice_s)

    def drawn(job: int, number: int) -> int:
        return draw(key, job * draws(setup.router) + number, 32) * servers >> 32

    while events:
        now_s, _, what, job, left_s = heapq.heappop(events)
        server = where[job]
        if what == ARRIVES:
            server = job % servers
            if name == "power-of-2":
                server, other = drawn(job, 0), drawn(job, 1)
                server = other if counted[other] < counted[server] else server
            where[job] = server
            counted[server] += 1
            add(now_s + setup.send_s, REACHES, job, left_s)
        elif what == REACHES:
            queues[server].append((job, left_s))
        elif what == ENDS and left_s > 0.0 and not queues[server]:
            work(job, left_s, now_s)
        elif what == ENDS:
            busy[server] -= 1
            if left_s > 0.0:
                queues[server].append((job, left_s))
            else:
                add(now_s + setup.reply_s, REPLIES, job, 0.0)
        else:
            latency_s[job] = now_s - float(arrival_s[job])
            if draw(key ^ code.LOSS_KEY, job, 32) / 2**32 >= setup.loss:
                counted[server] -= 1
        while queues[server] and busy[server] < setup.workers[server]:
            busy[server] += 1
            work(*queues[server].popleft(), now_s)
    return latency_s


@pytest.mark.parametrize(
    ("far", "name", "count"),
    [("p99/exp/round-robin/0.9", "by turns", 10_000), ("p99/halves/proactive2-lost/0.9", "power-of-2", 8_000)],
)
def test_plain_python_answers_the_same_requests_at_the_same_times(far: str, name: str, count: int) -> None:
    cell, seed = FAR[far], 3
    setup, work = cell.setup, WORKS[cell.workload]
    arrival_s, service_s, _ = work.requests(cell.load * setup.capacity / work.mean_s, count, seed)
    ours = simulate_rack(setup, arrival_s, service_s, seed=seed)
    assert (setup.loss > 0.0) == (name == "power-of-2")
    np.testing.assert_allclose(ours.latency_s, plain(setup, name, arrival_s, service_s, seed), rtol=0, atol=1e-11)


@pytest.mark.parametrize("far", ["p99/exp/round-robin/0.9", "p99/exp/round-robin/0.95", "p99/bimodal/central/0.9"])
def test_over_the_prototypes_own_requests_its_figures_are_ours_to_the_last_digit(far: str) -> None:
    cell: Cell = FAR[far]
    assert round(cell.measure(True, 400_000, seed=1)) == cell.printed
