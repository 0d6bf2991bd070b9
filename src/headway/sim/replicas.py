"""The station of a replicated, batching model server: equal replicas that pull from one central FIFO queue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.sim.station import Arrivals, Departures, Floats


@dataclass(frozen=True)
class ReplicaStation:
    """Equal replicas, each serving one batch at a time.

    `service_s[b, q]` is the latency of a batch of b (row 0 unused) at quantile q, columns a power of two; `from_s` and
    `until_s` say per replica when it takes batches.

    >>> station = ReplicaStation("s", np.array([[0.0], [1.0]]), 0.0, np.zeros(1), np.full(1, np.inf))
    >>> arrivals = Arrivals(np.array([0.0, 0.5]), np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32))
    >>> station.run(arrivals, seed=0, record=True).done_s.tolist()
    [1.0, 2.0]
    """

    name: str
    service_s: Floats
    max_wait_s: float
    from_s: Floats
    until_s: Floats

    @classmethod
    def always(cls, name: str, service_s: Floats, replicas: int, max_wait_s: float = 0.0) -> ReplicaStation:
        """Return a station whose replicas are there from the start to the end."""
        return cls(name, service_s, max_wait_s, np.full(replicas, -np.inf), np.full(replicas, np.inf))

    @property
    def capacity(self) -> int:
        """Number of replicas."""
        return int(self.from_s.size)

    def fastest_s(self) -> float:
        """The quickest any batch can be."""
        return float(self.service_s[1:].min())

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        """Serve all arrivals in the order of time (see `headway.sim.feedforward.serve_stage`)."""
        from headway.sim.draws import batch_key, bits_for
        from headway.sim.feedforward import COUNTS, serve_stage

        n = arrivals.arrival_s.size
        replicas = self.from_s.size
        columns = self.service_s.shape[1]
        order = np.argsort(self.from_s, kind="stable")
        item = arrivals.item.copy() if arrivals.deadline_s.size else arrivals.item
        start_s = np.empty(n if record else 0)
        done_s = np.empty(n)
        done_item = np.empty(n, np.int32)
        dropped = np.empty(n if arrivals.deadline_s.size else 0, np.int32)
        counts = np.zeros(COUNTS, np.int64)
        busy_s = serve_stage(
            arrivals.arrival_s, item, arrivals.deadline_s, self.service_s,
            batch_key(seed, self.name) if columns > 1 else 0, bits_for(columns), self.max_wait_s,
            self.from_s[order], self.until_s[order], np.empty(replicas), np.empty(replicas, np.int64),
            np.empty(replicas, np.int32), np.empty(replicas, np.int32), np.empty(replicas, np.int32),
            start_s, done_s, done_item, dropped, counts,
        )  # fmt: skip
        left, lost, batches, taken = (int(count) for count in counts)
        if record:
            start_s[taken:] = np.inf
        return Departures(
            done_s[:left], done_item[:left], start_s, dropped[:lost], arrivals.item[taken:], batches, float(busy_s)
        )
