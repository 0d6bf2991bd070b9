"""RackSched's workloads and systems (Zhu et al., OSDI 2020), and the two figures that everything is judged by.

Times are those of its client and scripts: five laws of service in microseconds, Poisson arrivals, eight servers, 2.5
microseconds each way. Latency is counted from the arrival at the balancer until the reply is back, without the first
tenth of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headway.fleet.rack_run import RackOutcome, RackSetup, simulate_rack
from headway.policy import routing
from headway.policy.routing import Router
from headway.sim.items import stream
from headway.sim.station import Floats, Ints

US = 1e-6
ONE_WAY_S = 2.5 * US
WARM_UP = 0.1
QUANTUM_S = 250 * US
EQUAL = (7,) * 8
UNEQUAL = (7, 7, 7, 7, 4, 4, 4, 4)
"""Workers per server in the paper's testbed: all with seven, or half of them with four."""


@dataclass(frozen=True, slots=True)
class Work:
    """A law of service: types with a probability and a time in microseconds each; `exponential`: or that around it.

    `queues` as in `RackSetup`: the paper gives types queues of their own where times differ much and both are frequent.
    """

    title: str
    shares: tuple[float, ...]
    times_us: tuple[float, ...]
    target_us: float
    exponential: bool = False
    queues: str = "one"
    quantum_s: float = QUANTUM_S

    @property
    def mean_s(self) -> float:
        """Mean seconds of service."""
        return math.fsum(p * t for p, t in zip(self.shares, self.times_us, strict=True)) * US

    def requests(self, rate_per_s: float, count: int, seed: int) -> tuple[Floats, Floats, Ints]:
        """Return arrivals, service times and types. Seed by seed they are the same but for the rate."""
        rng = stream(seed, f"rack:{self.title}")
        gaps = rng.exponential(1.0, count)
        kind = rng.choice(len(self.shares), count, p=self.shares).astype(np.int32)
        service_s = np.array(self.times_us)[kind] * US
        if self.exponential:
            service_s = service_s * rng.exponential(1.0, count)
        return np.cumsum(gaps) / rate_per_s, service_s, kind


WORKS: Mapping[str, Work] = {
    "exp": Work("Exp(50)", (1.0,), (50.0,), 400.0, exponential=True),
    "bimodal": Work("Bimodal(90% 50, 10% 500)", (0.9, 0.1), (50.0, 500.0), 1000.0),
    "halves": Work("Bimodal(50% 50, 50% 500)", (0.5, 0.5), (50.0, 500.0), 1500.0),
    "trimodal": Work("Trimodal(50, 500, 5000)", (1 / 3, 1 / 3, 1 / 3), (50.0, 500.0, 5000.0), 15_000.0),
    "gets": Work("RocksDB, 90% GET, 10% SCAN", (0.9, 0.1), (50.0, 740.0), 1500.0, quantum_s=500 * US),
    "scans": Work("RocksDB, 50% GET, 50% SCAN", (0.5, 0.5), (50.0, 740.0), 2200.0, quantum_s=500 * US),
}
"""By name; `target_us`: the P99 that carried load is judged at, several times the longest service time."""
TYPED: Mapping[str, Work] = {name: replace(WORKS[name], queues="slo") for name in ("halves", "trimodal")}
"""Those whose types the paper gives queues of their own."""


@dataclass(frozen=True, slots=True)
class System:
    """A balancer: its policy, what it goes by, and whether it knows how many workers each server has."""

    title: str
    router: Router
    signal: str = "reported"
    knows_speed: bool = False
    loss: float = 0.0
    balancers: int = 1
    pooled: bool = False

    def setup(self, workers: Sequence[int], work: Work, **more: object) -> RackSetup:
        """Return the rack that it is put in front of; `pooled`: one server with all workers, the ideal."""
        servers = (sum(workers),) if self.pooled else tuple(workers)
        several = len(work.shares) if work.queues != "one" else 1
        made = RackSetup(
            workers=servers, router=self.router, signal=self.signal, loss=self.loss, drifts=self.loss > 0,
            balancers=self.balancers,
            speed=() if self.knows_speed else (1.0,) * len(servers), queues=work.queues, quantum_s=work.quantum_s,
            slo_s=tuple(t * US for t in work.times_us), per_kind=several > 1, send_s=ONE_WAY_S, reply_s=ONE_WAY_S,
        )  # fmt: skip
        return replace(made, **more)  # type: ignore[arg-type]


def _system(title: str, name: str, signal: str = "reported", **more: object) -> System:
    parameters = {key: more.pop(key) for key in ("choices", "depth", "explore") if key in more}
    return System(title, routing.router(name, **parameters), signal, **more)  # type: ignore[arg-type]


SYSTEMS: Mapping[str, System] = {
    "random": _system("random", "random"),
    "weighted-random": _system("random by workers", "weighted-random", knows_speed=True),
    "round-robin": _system("round robin", "round-robin"),
    "pow2-exact": _system("power of 2, exact load", "power-of-d", "exact"),
    "racksched": _system("RackSched: power of 2, reports (INT1)", "power-of-d"),
    "pow4": _system("power of 4, reports", "power-of-d", choices=4),
    "shortest": _system("shortest, reports", "least-loaded"),
    "least-sent": _system("shortest, reports + sent since", "least-loaded", "reported+sent"),
    "headway": _system(
        "Headway: shortest, reports + sent since, by workers", "least-loaded", "reported+sent", knows_speed=True
    ),
    "racksched-speed": _system("power of 2, reports by workers", "power-of-d", knows_speed=True),
    "proactive2": _system("power of 2, own count", "power-of-d", "counted"),
    "proactive2-lost": _system("power of 2, own count, 0.1% of replies lost", "power-of-d", "counted", loss=0.001),
    "int2": _system("INT2: the least report, 1/4 random", "least-loaded", "least-reported", explore=0.25),
    "int3": _system("INT3: power of 2, work outstanding", "power-of-d", "work"),
    "proactive": _system("Proactive: least own count, 1/4 random", "least-outstanding", "counted", explore=0.25),
    "clients": _system("Client(100): power of 2 in each of 100 clients", "power-of-d", balancers=100),
    "jbsq": _system("JBSQ(2), as R2P2", "jbsq", "counted", knows_speed=True),
    "jiq": _system("JIQ: an idle server, else any", "jiq", "counted", knows_speed=True),
    "prequal": _system("Prequal: the quickest that is not hot, reports + sent since", "prequal", "reported+sent"),
    "central": _system("one central queue, no way to it", "random", pooled=True),
}
"""By name. Those that do not know the workers compare bare counts, as RackSched's switch does."""


def outcome(setup: RackSetup, work: Work, load: float, count: int, seed: int) -> RackOutcome:
    """Return what comes of a rack under so much load, as a share of its capacity."""
    arrival_s, service_s, kind = work.requests(load * setup.capacity / work.mean_s, count, seed)
    if len(setup.slo_s) == 1:
        kind = np.zeros_like(kind)
    return simulate_rack(setup, arrival_s, service_s, kind=kind, seed=seed)


def p99_us(setup: RackSetup, work: Work, load: float, count: int, seed: int) -> float:
    """Return the P99 of the latency in microseconds."""
    return outcome(setup, work, load, count, seed).p(99, skip=WARM_UP) / US


def carried(setup: RackSetup, work: Work, target_us: float, count: int, seed: int, steps: int = 9) -> float:
    """Return the most load, as a share of capacity, at which the P99 keeps to a target; by bisection."""
    low, high = 0.05, 0.999
    for _ in range(steps):
        middle = (low + high) / 2
        if p99_us(setup, work, middle, count, seed) <= target_us:
            low = middle
        else:
            high = middle
    return low
