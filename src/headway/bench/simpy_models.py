"""The same systems in SimPy, written as its documentation teaches: what the simulator's speed is a ratio to.

Replicas are processes that wait for an event when there is nothing to do; customers of a multi-server queue are
processes that request a `Resource`. Service times come from the same tables and draws as Headway's, so that both give
the same latencies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import simpy

from headway.sim.station import Floats


class BatchStage:
    """Replicas that take up to `max_batch` items each; batch k of size b takes `service_s[b][draws[k]]`."""

    def __init__(
        self,
        env: Any,
        replicas: int,
        service_s: Sequence[Sequence[float]],
        draws: Sequence[int],
        following: BatchStage | None,
        done_s: Floats,
    ) -> None:
        self.env = env
        self.max_batch = len(service_s) - 1
        self.service_s = service_s
        self.draws = iter(draws)
        self.following = following
        self.done_s = done_s
        self.queue: deque[int] = deque()
        self.idle: deque[Any] = deque()
        for _ in range(replicas):
            env.process(self.replica())

    def put(self, item: int) -> None:
        """Queue an item and wake an idle replica, if there is one."""
        self.queue.append(item)
        if self.idle:
            self.idle.popleft().succeed()

    def replica(self) -> Generator[Any, Any, None]:
        """One replica: wait for work, take a batch, serve it, pass its items on."""
        while True:
            while not self.queue:
                woken = self.env.event()
                self.idle.append(woken)
                yield woken
            batch = [self.queue.popleft() for _ in range(min(self.max_batch, len(self.queue)))]
            yield self.env.timeout(self.service_s[len(batch)][next(self.draws)])
            for item in batch:
                if self.following is None:
                    self.done_s[item] = self.env.now
                else:
                    self.following.put(item)


def tandem(
    arrival_s: Floats, tables: Sequence[Floats], replicas: Sequence[int], draws: Sequence[Sequence[int]]
) -> Floats:
    """Return when each request leaves a tandem of batching stages."""
    env = simpy.Environment()
    done_s = np.empty(arrival_s.size)
    following: BatchStage | None = None
    for table, count, drawn in zip(reversed(tables), reversed(replicas), reversed(draws), strict=True):
        following = BatchStage(env, count, table.tolist(), drawn, following, done_s)
    first = following
    assert first is not None

    def source() -> Generator[Any, Any, None]:
        for item, at_s in enumerate(arrival_s.tolist()):
            yield env.timeout(at_s - env.now)
            first.put(item)

    env.process(source())
    env.run()
    return done_s


def multi_server(arrival_s: Floats, service_s: Floats, servers: int) -> Floats:
    """Return when each customer leaves a first-come-first-served queue of `servers` servers."""
    env = simpy.Environment()
    server = simpy.Resource(env, capacity=servers)
    done_s = np.empty(arrival_s.size)

    def customer(number: int, service: float) -> Generator[Any, Any, None]:
        with server.request() as turn:
            yield turn
            yield env.timeout(service)
        done_s[number] = env.now

    def source() -> Generator[Any, Any, None]:
        for number, (at_s, service) in enumerate(zip(arrival_s.tolist(), service_s.tolist(), strict=True)):
            yield env.timeout(at_s - env.now)
            env.process(customer(number, service))

    env.process(source())
    env.run()
    return done_s
