"""Closed forms of dispatching and of processor sharing hold within confidence limits, and SimPy and Ciw agree."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import ciw
import numpy as np
import pytest
import simpy
from tests.laws.closed_forms import assert_mean, erlang_c, mmc_mean_wait, pollaczek_khinchine

from headway.fleet.rack_run import RackOutcome, RackSetup, simulate_rack
from headway.policy import routing
from headway.policy.routing import ROUTERS
from headway.sim.station import Floats

LOAD = 0.8
BIMODAL = (50.0, 500.0)


def poisson(seed: int, rate: float, n: int) -> tuple[np.random.Generator, Floats]:
    rng = np.random.default_rng(seed)
    return rng, np.cumsum(rng.exponential(1 / rate, n))


def steady(out: RackOutcome) -> Floats:
    """The latencies without the first tenth, in which an empty rack fills."""
    return out.latency_s[out.latency_s.size // 10 :]


@pytest.mark.parametrize("servers", [1, 8])
def test_a_server_with_workers_is_an_mmc_queue(servers: int) -> None:
    rate, n = LOAD * servers, 600_000
    rng, arrival_s = poisson(1, rate, n)
    out = simulate_rack(RackSetup((servers,)), arrival_s, rng.exponential(1.0, n))
    assert_mean(out.wait_s > 1e-6, erlang_c(servers, rate))
    assert_mean(out.wait_s, mmc_mean_wait(rate, 1.0, servers), 0.15)


LAWS = {
    "erlang": lambda rng, n: rng.gamma(2.0, 0.5, n),
    "gamma": lambda rng, n: rng.gamma(0.5, 2.0, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.9, *BIMODAL) / 95.0,
}


@pytest.mark.parametrize(("law", "second_moment"), [("erlang", 1.5), ("gamma", 3.0), ("bimodal", 27250 / 95**2)])
def test_first_come_first_served_obeys_pollaczek_and_khinchine(law: str, second_moment: float) -> None:
    n = 1_000_000
    rng, arrival_s = poisson(2, LOAD, n)
    out = simulate_rack(RackSetup((1,)), arrival_s, LAWS[law](rng, n))
    assert_mean(out.wait_s, pollaczek_khinchine(LOAD, 1.0, second_moment), 0.15)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_short_quanta_make_the_mean_insensitive_to_the_law_of_service(law: str) -> None:
    """M/G/1 processor sharing: E[T] = E[S] / (1 - load), and x / (1 - load) for a request of size x."""
    n = 250_000
    rng, arrival_s = poisson(3, LOAD, n)
    service_s = LAWS[law](rng, n)
    out = simulate_rack(RackSetup((1,), quantum_s=0.02), arrival_s, service_s)
    assert_mean(steady(out), 1 / (1 - LOAD), 0.15)
    if law == "bimodal":
        for size in BIMODAL:
            mine = out.latency_s[service_s == size / 95.0]
            assert_mean(mine, size / 95.0 / (1 - LOAD), 0.15)


def power_of_d(load: float, choices: int) -> float:
    """Mean latency of M/M/1 servers as their number grows (Mitzenmacher 1996; Vvedenskaya et al. 1996)."""
    if choices == 1:
        return 1 / (1 - load)
    return math.fsum(load ** ((choices**i - choices) / (choices - 1)) for i in range(1, 60))


@pytest.mark.parametrize(("load", "choices"), [(0.7, 2), (0.9, 2), (0.9, 3)])
def test_power_of_d_meets_the_mean_field_limit(load: float, choices: int) -> None:
    servers, n = 500, 1_000_000
    rng, arrival_s = poisson(4, load * servers, n)
    setup = RackSetup((1,) * servers, routing.router("power-of-d", choices=choices), "exact")
    found = steady(simulate_rack(setup, arrival_s, rng.exponential(1.0, n)))
    # 500 servers are not infinitely many: measured, they are up to 0.7 % slower.
    assert float(found.mean()) == pytest.approx(power_of_d(load, choices), rel=0.015)


def shortest_queue(servers: int, load: float, longest: int) -> float:
    """Return the mean latency of JSQ before M/M/1 servers, by the chain of sorted queue lengths cut off at `longest`.

    By power iteration of the uniformised chain, so that it rests on nothing but the transitions.
    """
    lengths = [()]
    for _ in range(servers):
        lengths = [(*head, last) for head in lengths for last in range((head[-1] if head else longest) + 1)]
    index = {state: at for at, state in enumerate(lengths)}
    rate = load * servers + servers
    source, target, chance = [], [], []
    for at, state in enumerate(lengths):
        moves = [((*state[:-1], state[-1] + 1), load * servers)]
        moves += [((*state[:k], state[k] - 1, *state[k + 1 :]), 1.0) for k in range(servers) if state[k]]
        for after, speed in moves:
            source.append(at)
            target.append(index.get(tuple(sorted(after, reverse=True)), at))
            chance.append(speed / rate)
    moved, into, share = np.array(source), np.array(target), np.array(chance)
    stay = 1.0 - np.bincount(moved, share, len(lengths))
    law = np.full(len(lengths), 1.0 / len(lengths))
    waiting = np.array([sum(state) for state in lengths], np.float64)
    before, mean = 0.0, 1.0
    while abs(mean - before) > 1e-9 * mean:
        before = mean
        for _ in range(200):
            law = stay * law + np.bincount(into, law[moved] * share, len(lengths))
        mean = float(law @ waiting)
    return mean / (load * servers)


@pytest.mark.parametrize(("servers", "longest", "expected"), [(2, 60, 2.955737), (3, 30, 2.285548)])
def test_joining_the_shortest_queue_meets_the_exact_chain(servers: int, longest: int, expected: float) -> None:
    assert shortest_queue(servers, LOAD, longest) == pytest.approx(expected, rel=1e-4)
    n = 1_000_000
    rng, arrival_s = poisson(5, LOAD * servers, n)
    setup = RackSetup((1,) * servers, ROUTERS["least-loaded"], "exact")
    assert_mean(steady(simulate_rack(setup, arrival_s, rng.exponential(1.0, n))), expected)


def test_a_central_queue_over_servers_is_one_server_with_all_workers() -> None:
    n = 100_000
    rng, arrival_s = poisson(6, 0.9 * 12, n)
    service_s = rng.exponential(1.0, n)
    one = simulate_rack(RackSetup((12,)), arrival_s, service_s)
    many = simulate_rack(RackSetup((3, 4, 5), ROUTERS["central"], "counted"), arrival_s, service_s)
    assert many.latency_s == pytest.approx(one.latency_s, abs=1e-9)


class SimpyServer:
    """A server in SimPy: workers that run what is queued for a quantum and put it back when others wait."""

    def __init__(self, env: simpy.Environment, workers: int, quantum_s: float, pace: float, done_s: Floats) -> None:
        self.env, self.quantum_s, self.pace, self.done_s = env, quantum_s, pace, done_s
        self.queue: deque[tuple[int, float]] = deque()
        self.idle: deque[simpy.Event] = deque()
        for _ in range(workers):
            env.process(self.worker())

    def put(self, job: int, left_s: float) -> None:
        self.queue.append((job, left_s))
        if self.idle:
            self.idle.popleft().succeed()

    def worker(self) -> Iterator[simpy.Event]:
        while True:
            while not self.queue:
                woken = self.env.event()
                self.idle.append(woken)
                yield woken
            job, left_s = self.queue.popleft()
            while left_s > 0.0:
                slice_s = min(self.quantum_s, left_s)
                yield self.env.timeout(slice_s)
                left_s -= slice_s
                if left_s > 0.0 and self.queue:
                    self.queue.append((job, left_s))
                    break
            else:
                self.done_s[job] = self.env.now


@pytest.mark.parametrize("quantum_s", [math.inf, 0.3])
def test_simpy_finishes_the_same_requests_at_the_same_times(quantum_s: float) -> None:
    n, setup = 3000, RackSetup((2, 3, 1), quantum_s=quantum_s, pace=(1.0, 0.5, 2.0), send_s=0.1, reply_s=0.2)
    rng, arrival_s = poisson(7, 0.9 * setup.capacity, n)
    service_s = rng.exponential(1.0, n)
    out = simulate_rack(setup, arrival_s, service_s)
    env, done_s = simpy.Environment(), np.zeros(n)
    servers = [SimpyServer(env, w, quantum_s, p, done_s) for w, p in zip(setup.workers, setup.paces, strict=True)]

    def request(job: int) -> Iterator[simpy.Event]:
        yield env.timeout(arrival_s[job] + setup.send_s)
        server = servers[out.where[job]]
        server.put(job, service_s[job] / server.pace)

    for job in range(n):
        env.process(request(job))
    env.run()
    assert out.latency_s == pytest.approx(done_s + setup.reply_s - arrival_s, abs=1e-8)


@pytest.mark.parametrize("workers", [1, 4])
def test_ciw_waits_as_long(workers: int) -> None:
    n = 2000
    rng, arrival_s = poisson(8, 0.9 * workers, n)
    service_s = rng.exponential(1.0, n)
    gaps_s = np.diff(arrival_s, prepend=0.0)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps_s.tolist(), math.inf])],
        service_distributions=[ciw.dists.Sequential(service_s.tolist())],
        number_of_servers=[workers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(n, method="Finish")
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)[:n]
    out = simulate_rack(RackSetup((workers,)), arrival_s, service_s)
    assert out.wait_s[: len(records)] == pytest.approx([record.waiting_time for record in records], abs=1e-8)
