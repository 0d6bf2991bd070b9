"""SimPy and Ciw, which know nothing of Headway, simulate the same systems from the same draws and agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import ciw
import numpy as np
import pytest
import simpy
from tests.laws.sim_systems import Setting, System, chain, graph, random_table, replicas

from headway.sim.draws import batch_key, bits_for, draw
from headway.sim.station import Floats
from headway.sim.workload import Workload
from headway.trace import Trace

SAME_S = 1e-9
"""The oracles add up times in another order."""

ONE = (1.0, 1.0)


class SimpyStage:
    """Replicas as processes that take whatever is queued, at most a full batch, and pass it on."""

    def __init__(
        self, env: simpy.Environment, setting: Setting, key: int, passed_on: Callable[[list[int]], None]
    ) -> None:
        self.env, self.table, self.key, self.passed_on = env, setting.service_s, key, passed_on
        self.queue: deque[int] = deque()
        self.idle: deque[simpy.Event] = deque()
        self.batches = 0
        for _ in setting.windows:
            env.process(self.replica())

    def put(self, requests: list[int]) -> None:
        self.queue.extend(requests)
        while self.idle:
            self.idle.popleft().succeed()

    def replica(self) -> Iterator[simpy.Event]:
        most, bits = self.table.shape[0] - 1, bits_for(self.table.shape[1])
        while True:
            while not self.queue:
                woken = self.env.event()
                self.idle.append(woken)
                yield woken
            batch = [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
            service_s = self.table[len(batch), draw(self.key, self.batches, bits)]
            self.batches += 1
            yield self.env.timeout(float(service_s))
            self.passed_on(batch)


def simpy_diamond(system: System) -> Floats:
    """Return when each request leaves a -> (b, c) -> d, where d starts when both b and c are done with it."""
    env, work = simpy.Environment(), system.work
    done_s = np.full(work.requests, np.inf)
    branches = np.zeros(work.requests, int)

    def joined(batch: list[int]) -> None:
        branches[batch] += 1
        # A batch may complete several joins at one instant; they go on in the order of the requests.
        stages["d"].put(sorted(request for request in batch if branches[request] == 2))

    def forked(batch: list[int]) -> None:
        stages["b"].put(batch)
        stages["c"].put(batch)

    def left(batch: list[int]) -> None:
        done_s[batch] = env.now

    following = {"a": forked, "b": joined, "c": joined, "d": left}
    stages = {
        name: SimpyStage(env, system.settings[name], batch_key(work.seed, name), passed_on)
        for name, passed_on in following.items()
    }

    def source() -> Iterator[simpy.Event]:
        for request, arrival_s in enumerate(work.trace.arrival_s):
            yield env.timeout(float(arrival_s) - env.now)
            stages["a"].put([request])

    env.process(source())
    env.run()
    return done_s


@pytest.mark.parametrize("load", [0.5, 0.95])
def test_simpy_agrees_on_batched_replicated_stages_with_a_join(load: float) -> None:
    shape = graph({"a": {}, "b": {"a": ONE}, "c": {"a": ONE}, "d": {"b": ONE, "c": ONE}})
    rng = np.random.default_rng(11)
    sizes = {"a": (4, 3), "b": (8, 2), "c": (1, 9), "d": (3, 2)}
    settings = {
        name: Setting(random_table(rng, most, 256, on_grid=False) * rng.uniform(0.9, 1.1), replicas(count))
        for name, (most, count) in sizes.items()
    }
    # The least of the stages' full-batch throughputs, so that the load is that of the bottleneck.
    capacity = min(
        len(s.windows) * (s.service_s.shape[0] - 1) / float(s.service_s[-1].mean()) for s in settings.values()
    )
    trace = Trace.poisson(rate=load * capacity, requests=6000, seed=12)
    system = System(Workload.of(shape, trace, 13), settings)
    theirs = simpy_diamond(system)
    left = system.by_recursion()
    assert left["a"].batches < 6000, "batches were formed"
    assert np.abs(system.work.completion(left) - theirs).max() < SAME_S
    simulation = system.event_simulation()
    simulation.advance(np.inf)
    assert np.abs(system.work.completion(simulation.departures()) - theirs).max() < SAME_S


def test_ciw_agrees_on_a_tandem_of_multi_server_queues() -> None:
    """Ciw gives the k-th customer to begin service the k-th of our draws, so that every single time can be compared."""
    requests = 4000
    table = -np.log1p(-(np.arange(1024) + 0.5) / 1024)
    settings = {
        "a": Setting(np.stack([table, table]), replicas(3)),
        "b": Setting(np.stack([table, table]) / 2, replicas(2)),
    }
    trace = Trace.poisson(rate=2.4, requests=requests, seed=1)
    system = System(Workload.of(chain("a", "b"), trace, 2), settings)
    left = system.by_recursion()

    def services(name: str) -> list[float]:
        key = batch_key(system.work.seed, name)
        return [float(settings[name].service_s[1, draw(key, k, 10)]) for k in range(requests)]

    gaps = [*np.diff(trace.arrival_s, prepend=0.0).tolist(), float("inf")]
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential(gaps), None],
        service_distributions=[ciw.dists.Sequential(services("a")), ciw.dists.Sequential(services("b"))],
        number_of_servers=[3, 2],
        routing=[[0.0, 1.0], [0.0, 0.0]],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(requests, method="Finish")
    records = simulation.get_all_records()
    for node, name in ((1, "a"), (2, "b")):
        theirs = sorted((r.id_number, r.service_start_date, r.exit_date) for r in records if r.node == node)
        assert len(theirs) == requests
        start_s, done_s = np.empty(requests), np.empty(requests)
        start_s[system.work.arrivals(name, left).item] = left[name].start_s
        done_s[left[name].item] = left[name].done_s
        assert np.abs(start_s - [start for _, start, _ in theirs]).max() < SAME_S
        assert np.abs(done_s - [end for _, _, end in theirs]).max() < SAME_S
