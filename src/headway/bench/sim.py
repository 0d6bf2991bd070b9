"""How fast the simulator is, as ratios to SimPy on the same systems, and what it keeps in memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from headway.bench import BenchOptions, Row
from headway.errors import HeadwayError
from headway.sim.draws import batch_key, draw
from headway.sim.replicas import ReplicaStation
from headway.sim.station import Departures, Floats
from headway.sim.workload import Workload
from headway.spec.graph import Graph
from headway.spec.model import Edge
from headway.trace import Trace

REQUESTS = 1_000_000
QUICK_REQUESTS = 20_000
QUANTILES = 256
REPEATS = 10
TANDEM = {"a": (4, 8, 2.0, 4.0), "b": (8, 4, 5.0, 3.2), "c": (2, 16, 4.0, 0.5)}
"""Replicas, largest batch, and milliseconds of a batch: base and per item."""
RATE_PER_S = 900.0
MGC_BITS, MGC_SERVERS = 12, 8


def lognormal_table(base_ms: float, item_ms: float, max_batch: int, sigma: float = 0.1) -> Floats:
    """Return latencies `[batch size, quantile]` in seconds: linear in the batch size, times a lognormal factor."""
    normal = NormalDist()
    factor = np.exp(sigma * np.array([normal.inv_cdf((q + 0.5) / QUANTILES) for q in range(QUANTILES)]))
    return np.asarray((base_ms + item_ms * np.arange(max_batch + 1))[:, None] / 1e3 * (factor / factor.mean()))


def tandem_case(seed: int, requests: int) -> tuple[Workload, dict[str, ReplicaStation]]:
    """Return the reference tandem: three batching stages in a row, Poisson arrivals, 10 % noise per batch."""
    graph = Graph.build({"a": {}, "b": {"a": Edge()}, "c": {"b": Edge()}})
    trace = Trace.poisson(RATE_PER_S, requests=requests, seed=seed)
    stations = {
        name: ReplicaStation.always(name, lognormal_table(base, item, batch), replicas)
        for name, (replicas, batch, base, item) in TANDEM.items()
    }
    return Workload.of(graph, trace, seed), stations


def simulate(work: Workload, stations: dict[str, ReplicaStation], record: bool = False) -> Floats:
    """Return each request's latency."""
    left: dict[str, Departures] = {}
    for name in work.graph.order:
        left[name] = work.run(name, stations[name], left, record)
    return np.asarray(work.completion(left) - work.trace.arrival_s)


def sim_tandem(options: BenchOptions) -> list[Row]:
    """The reference tandem: seconds per request against SimPy, on one thread, compiled before."""
    from headway.bench import simpy_models

    requests = QUICK_REQUESTS if options.quick else REQUESTS
    work, stations = tandem_case(options.seed, requests)
    before_s, latency_s = best_s(lambda: simulate(work, stations))
    bits = QUANTILES.bit_length() - 1
    draws = []
    for name in TANDEM:
        key = batch_key(options.seed, name)
        draws.append([draw(key, batch, bits) for batch in range(requests)])
    begun = time.process_time()
    done_s = simpy_models.tandem(
        work.trace.arrival_s, [s.service_s for s in stations.values()], [s.capacity for s in stations.values()], draws
    )
    theirs_s = time.process_time() - begun
    after_s, _ = best_s(lambda: simulate(work, stations))
    _same("sim-tandem", done_s - work.trace.arrival_s, latency_s)
    return [_row("sim-tandem", min(before_s, after_s), theirs_s, requests, ">= 130")]


def mgc_case(seed: int, requests: int) -> tuple[Workload, dict[str, ReplicaStation]]:
    """Return M/G/8 with gamma service of squared coefficient of variation 2, at utilization 0.9."""
    rng = np.random.default_rng(seed)
    points = np.sort(rng.gamma(0.5, 2.0, 1 << 20)).reshape(1 << MGC_BITS, -1).mean(axis=1)
    table = np.vstack([np.zeros(points.size), points / points.mean()])
    trace = Trace.poisson(0.9 * MGC_SERVERS, requests=requests, seed=seed)
    station = {"q": ReplicaStation.always("q", table, MGC_SERVERS)}
    return Workload.of(Graph.build({"q": {}}), trace, seed), station


def mgc_each_s(seed: int, requests: int) -> float:
    """Return the seconds of a request in `mgc_case`, to which the speed of other kernels is a ratio."""
    work, station = mgc_case(seed, requests)
    return best_s(lambda: simulate(work, station))[0] / requests


def sim_mgc(options: BenchOptions) -> list[Row]:
    """The reference M/G/8 against SimPy's `Resource`."""
    from headway.bench import simpy_models

    requests = QUICK_REQUESTS if options.quick else REQUESTS
    seed = options.seed
    work, station = mgc_case(seed, requests)
    table = station["q"].service_s
    before_s, latency_s = best_s(lambda: simulate(work, station))
    key = batch_key(seed, "q")
    service_s = np.array([table[1, draw(key, batch, MGC_BITS)] for batch in range(requests)])
    begun = time.process_time()
    done_s = simpy_models.multi_server(work.trace.arrival_s, service_s, MGC_SERVERS)
    theirs_s = time.process_time() - begun
    after_s, _ = best_s(lambda: simulate(work, station))
    _same("sim-mgc", done_s - work.trace.arrival_s, latency_s)
    return [_row("sim-mgc", min(before_s, after_s), theirs_s, requests, ">= 350")]


def sim_incremental(options: BenchOptions) -> list[Row]:
    """Changing only the last of three stages, as the planner does, against simulating all three."""
    work, stations = tandem_case(options.seed, QUICK_REQUESTS if options.quick else REQUESTS)
    left: dict[str, Departures] = {}
    for name in ("a", "b"):
        left[name] = work.run(name, stations[name], left)

    def last() -> Floats:
        return work.completion({**left, "c": work.run("c", stations["c"], left)})

    full_s, _ = best_s(lambda: simulate(work, stations))
    last_s, _ = best_s(last)
    ratio = last_s / full_s
    return [Row("sim-incremental", last_s * 1e3, "ms", baseline=full_s * 1e3, ratio=ratio, bar="<= 45%")]


def sim_memory(options: BenchOptions) -> list[Row]:
    """Bytes that a simulation holds at its peak, per request and stage, with every queue wait recorded."""
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    simulate(*tandem_case(options.seed, 1000), record=True)
    gc.collect()
    tracemalloc.start()
    work, stations = tandem_case(options.seed, requests)
    simulate(work, stations, record=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [Row("sim-memory", peak / requests / len(TANDEM), "bytes per request and stage", bar="<= 100")]


def best_s(run: Callable[[], Floats]) -> tuple[float, Floats]:
    """CPU seconds of the quickest of several runs after one that compiles: other load only ever adds.

    What is compared with SimPy is measured before and after it, since a shared core's speed drifts over seconds.
    """
    value = run()
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        value = run()
        seconds.append(time.process_time() - begun)
    return min(seconds), value


def _row(name: str, ours_s: float, theirs_s: float, requests: int, bar: str) -> Row:
    each, baseline = ours_s / requests * 1e9, theirs_s / requests * 1e9
    return Row(name, each, "ns per request", baseline=baseline, ratio=baseline / each, bar=bar)


def _same(name: str, theirs_s: Floats, ours_s: Floats) -> None:
    apart = float(np.abs(theirs_s - ours_s).max())
    if apart > 1e-6:
        raise HeadwayError(f"bench {name}: SimPy and Headway disagree by up to {apart:.3g} s, so a ratio means nothing")
