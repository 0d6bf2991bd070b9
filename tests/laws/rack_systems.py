"""Random racks, with every feature at times, and what a run of one gives as bytes that can be compared."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass

import numpy as np

from headway.fleet.rack_run import ACTIONS, SIGNALS, Change, RackOutcome, RackSetup, RackSimulation
from headway.policy import routing
from headway.policy.routing import ROUTERS
from headway.sim.station import Floats

GRID = 1 / 64
"""Times on a grid of binary fractions: their sums are exact, so that many things happen at one instant."""


@dataclass
class Case:
    """A rack and what comes to it."""

    setup: RackSetup
    arrival_s: Floats
    service_s: Floats
    kind: np.ndarray
    session: np.ndarray
    seed: int

    def simulation(self, first: int | None = None) -> RackSimulation:
        """Return a simulation of it, with the first so many requests only when told."""
        part = slice(first)
        return RackSimulation(
            self.setup, self.arrival_s[part], self.service_s[part], self.kind[part], self.session[part], self.seed
        )

    def outcome(self) -> RackOutcome:
        simulation = self.simulation()
        simulation.advance()
        return simulation.outcome()


def random_case(seed: int, requests: int = 80, *, changes: bool = True, sessions: bool = True) -> Case:
    """Return a rack of random servers, policy, signal and disciplines, and requests most of which come in bursts."""
    rng = np.random.default_rng(seed)
    servers, kinds = int(rng.integers(1, 6)), int(rng.integers(1, 4))

    def grid(low: int, high: int) -> float:
        return float(rng.integers(low, high)) * GRID

    seconds = 6.0
    happened = [
        Change(float(np.floor(rng.random() * seconds / GRID) * GRID), str(rng.choice(sorted(ACTIONS))),
               int(rng.integers(servers))) for _ in range(int(rng.integers(0, 6)))
    ]  # fmt: skip
    reply_s = grid(0, 6)
    name = str(rng.choice(sorted(ROUTERS)))
    setup = RackSetup(
        workers=tuple(int(n) for n in rng.integers(1, 4, servers)),
        router=routing.router(name, explore=float(rng.choice([0.0, 0.25])), stale_s=float(rng.choice([math.inf, 0.5]))),
        signal=str(rng.choice(sorted(SIGNALS))),
        pace=tuple(float(p) for p in rng.choice([0.5, 1.0, 2.0], servers)),
        speed=() if rng.random() < 0.5 else (1.0,) * servers,
        quantum_s=float(rng.choice([math.inf, 4 * GRID])),
        switch_s=float(rng.choice([0.0, GRID])),
        eager=bool(rng.random() < 0.3),
        queues=str(rng.choice(["one", "slo", "priority"])),
        slo_s=tuple(float(s) for s in rng.integers(1, 9, kinds)),
        send_s=grid(0, 6),
        reply_s=reply_s,
        per_kind=bool(rng.random() < 0.5),
        report_every_s=float(rng.choice([0.0, reply_s + GRID])),
        loss=float(rng.choice([0.0, 0.2])),
        drifts=bool(rng.integers(2)),
        holds=tuple(tuple(np.flatnonzero(rng.random(servers) < 0.8).tolist()) for _ in range(kinds))
        if rng.random() < 0.3 else (),
        changes=tuple(happened) if changes else (),
        session_bits=int(rng.choice([1, 6])),
        balancers=int(rng.choice([1, 3])) if ROUTERS[name].code != routing.JBSQ else 1,
    )  # fmt: skip
    named = rng.integers(-1, 12, requests) if sessions and rng.random() < 0.5 else np.empty(0, np.int64)
    return Case(
        setup,
        np.sort(np.floor(rng.beta(0.4, 0.6, requests) * seconds / GRID) * GRID),
        rng.integers(1, 24, requests) * GRID,
        rng.integers(0, kinds, requests).astype(np.int32),
        named,
        seed,
    )


def digest(outcome: RackOutcome) -> str:
    """Return a hash of everything that came of a run."""
    whole = hashlib.sha256()
    for name in ("latency_s", "wait_s", "fate", "where", "busy_s"):
        whole.update(np.ascontiguousarray(getattr(outcome, name)).tobytes())
    whole.update(json.dumps([outcome.events, outcome.preemptions, outcome.overflows]).encode())
    return whole.hexdigest()


def digests(seeds: range) -> list[str]:
    """Return the hashes of runs of the random cases of these seeds."""
    return [digest(random_case(seed, 60).outcome()) for seed in seeds]


if __name__ == "__main__":
    print(json.dumps(digests(range(int(sys.argv[1])))))
