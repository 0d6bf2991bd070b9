"""The smallest promise that can be kept: looked for among plans with all the capacity that supply allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.plan.config import Config
from headway.plan.contract import HasRichest, HoldsSupply
from headway.plan.exact import search
from headway.plan.oracle import Oracle
from headway.plan.simulations import Simulations
from headway.sim.outcome import by_window, percentile
from headway.sim.station import Floats

MOST_CHOICES = 4
"""Choices of variants that are looked at, the quickest first."""
MOST_MIXTURES = 16
"""Ways of spreading the stages over hardware that are looked at for each of them."""
MOST_LISTED = 4096
MOST_TRIED = 400
MOST_WORK = 50_000_000
"""Neighbors that are tried; on long traces fewer, so that requests times stages simulated stay below this, as well as
in exact search."""
STEP = 0.005
"""Improvements smaller than this share are not looked for."""
CLOSER = 0.02
PROOF_BUDGET = 200
PROOFS = 8
"""Exact search looks for promises smaller by this share, with so many simulations each time, at most so often."""
CONFIRMATIONS = 4

Hardware = tuple[str, ...]
Stages = Mapping[str, Config]


@dataclass(frozen=True)
class Smallest:
    """The smallest promise that was found and the candidate that keeps it; `proven`: none below it by `CLOSER`."""

    slo_s: float
    stages: Stages
    proven: bool = False


def smallest_promise(
    oracle: Oracle, choices: Sequence[Mapping[str, str]], cap_usd_per_hour: float = math.inf
) -> Smallest | None:
    """Return the smallest promise found that supply can keep; None where a domain does not know its richest.

    With limits to supply the richest configurations are improved by exchanges between two stages, and then exact search
    looks for something smaller among plans that cost at most `cap_usd_per_hour`, which may prove that there is none.
    """
    best = _Best(oracle)
    quickest = sorted(choices, key=lambda choice: least_latency_s(oracle, choice))[:MOST_CHOICES]
    for choice in quickest:
        for stages in richest_candidates(oracle, choice):
            best.take(stages)
    if not limited(oracle) or best.stages is None:
        return None if best.stages is None else Smallest(best.slo_s, best.stages)
    _descend(oracle, best, choices)
    proven = math.isfinite(best.slo_s) and _prove(oracle, best, cap_usd_per_hour)
    # A smaller promise is judged on other resampled traces, for which nothing is proven here.
    return Smallest(_confirmed(oracle, best.stages, best.slo_s), best.stages, proven and not oracle.sampled)


def limited(oracle: Oracle) -> bool:
    """Return whether supply has any limit to the number of replicas."""
    return any(offer.max_replicas is not None or offer.pool is not None for offer in oracle.spec.supply.values())


def unlimited(oracle: Oracle) -> Oracle:
    """Return an oracle that judges on the same traces, with as much of every hardware as one likes."""
    if not limited(oracle):
        return oracle
    free = {name: h.model_copy(update={"max_replicas": None, "pool": None}) for name, h in oracle.spec.supply.items()}
    spec = oracle.spec.model_copy(update={"supply": free})
    shared = Simulations(
        spec, oracle.profile, oracle.traces, oracle.seeds, sampled=oracle.sampled, block_s=oracle.block_s
    )
    return Oracle(
        spec, oracle.profile, oracle.trace, feasibility=oracle.feasibility, seed=oracle.seed, simulations=shared
    )


class _Best:
    """The candidate with the smallest promise so far. Others are given up on the first traces that refute them."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.slo_s = math.inf
        self.stages: Stages | None = None
        self._smaller: Oracle | None = None

    def take(self, stages: Stages) -> bool:
        """Return whether a candidate is better, and then keep it."""
        if self._smaller is not None and not self._smaller.judge(stages).feasible:
            return False
        value_s = promise_s(self.oracle, stages)
        if self.stages is not None and value_s >= self.slo_s:
            return False
        self.slo_s, self.stages = value_s, stages
        if math.isfinite(value_s):
            self._smaller = self.oracle.with_slo(value_s * (1 - STEP))
        return True


def _descend(oracle: Oracle, best: _Best, choices: Sequence[Mapping[str, str]]) -> None:
    """Take better neighbors until there is none, or enough were tried."""
    left = min(MOST_TRIED, _affordable(oracle, oracle.may_fail + 1))
    better = True
    while better:
        assert best.stages is not None
        better = False
        for changed in _neighbors(oracle, best.stages, choices):
            if not left:
                return
            left -= 1
            if best.take(changed):
                better = True
                break


def _affordable(oracle: Oracle, traces: int) -> int:
    """How many candidates may be simulated on so many traces each."""
    return max(1, MOST_WORK // (len(oracle.spec.stages) * oracle.trace.requests * traces))


def _neighbors(oracle: Oracle, stages: Stages, choices: Sequence[Mapping[str, str]]) -> Iterator[Stages]:
    """Candidates that supply allows in which one stage or two are changed by one move each."""
    steps = {
        name: [config for _, config in oracle.domains[name].moves(oracle.contexts[name], stages[name])]
        for name in oracle.spec.graph.order
    }
    ones: list[Stages] = [{name: config} for name, configs in steps.items() for config in configs]
    twos = (
        {one: first, other: second}
        for one, other in itertools.combinations(steps, 2)
        for first in steps[one]
        for second in steps[other]
    )
    for some in itertools.chain(ones, twos):
        changed = {**stages, **some}
        variants = {name: config.variant for name, config in changed.items() if hasattr(config, "variant")}
        if oracle.supplied(changed) and variants in choices:
            yield changed


def _prove(oracle: Oracle, best: _Best, cap_usd_per_hour: float) -> bool:
    """Let exact search look for smaller promises; return whether it ends by proving that there is none."""
    budget = min(PROOF_BUDGET, _affordable(oracle, len(oracle.traces)))
    for _ in range(PROOFS):
        other = oracle.with_slo(best.slo_s * (1 - CLOSER))
        found = search(other, None, cap_usd_per_hour, budget=budget, ties=0)
        if found.stages is None:
            return found.stop == "exhausted"
        best.take(found.stages)
    return False


def _confirmed(oracle: Oracle, stages: Stages, slo_s: float) -> float:
    """The smallest promise that a candidate keeps on the traces on which a plan for that promise is judged."""
    for _ in range(CONFIRMATIONS if oracle.sampled and math.isfinite(slo_s) else 0):
        slo = oracle.spec.slo.model_copy(update={"latency_s": slo_s})
        spec = oracle.spec.model_copy(update={"slo": slo})
        own_s = promise_s(Oracle(spec, oracle.profile, oracle.trace, seed=oracle.seed), stages)
        if own_s <= slo_s:
            break
        slo_s = own_s
    return slo_s


def promise_s(oracle: Oracle, stages: Stages) -> float:
    """Return the smallest latency that a candidate could promise, everything else of the promise being as it is."""
    finish = (oracle.simulations.finish_s(k, stages) for k in range(len(oracle.traces)))
    return _promise_s(oracle, [done_s - t.arrival_s for done_s, t in zip(finish, oracle.traces, strict=True)])


def least_latency_s(oracle: Oracle, variants: Mapping[str, str]) -> float:
    """Return what could be promised with no waiting at all and every stage at its quickest."""
    traces = range(len(oracle.traces))
    return _promise_s(oracle, [oracle.simulations.tails(k, variants).least_s for k in traces])


def _promise_s(oracle: Oracle, latency_s: list[Floats]) -> float:
    """The smallest promise that these latencies, trace by trace, would keep on enough traces."""
    slo = oracle.spec.slo
    values = sorted(
        least_promise_s(trace.arrival_s, values, slo.percentile, slo.window_s, slo.objective)
        for trace, values in zip(oracle.traces, latency_s, strict=True)
    )
    return values[len(values) - 1 - oracle.may_fail]


def least_promise_s(
    arrival_s: Floats, latency_s: Floats, percent: float, window_s: float | None, objective: float | None
) -> float:
    """Return the smallest promise kept by latencies: over all requests, or in the share `objective` of windows.

    >>> least_promise_s(np.array([0.0, 1.0]), np.array([0.2, 0.3]), 50.0, 1.0, 0.5)
    0.2
    """
    if not latency_s.size:
        return 0.0
    if window_s is None or objective is None:
        return percentile(latency_s, percent)
    values = sorted(percentile(window, percent) for window in by_window(arrival_s, latency_s, window_s))
    return values[max(0, math.ceil(objective * len(values) - 1e-9) - 1)]


def without_waiting_s(oracle: Oracle, stages: Stages) -> dict[str, float] | None:
    """Return by stage the promised percentile of its items' times; None where an item had to wait for capacity.

    The candidate must hold no cores that others share.
    """
    order = oracle.spec.graph.order
    work = oracle.simulations.workload(0, stages)
    left = {name: oracle.simulations.departures(0, name, stages, work, stages) for name in order}
    out: dict[str, float] = {}
    for name in order:
        arrivals = work.arrivals(name, left)
        reached_s = np.empty(work.items[name].count)
        reached_s[arrivals.item] = arrivals.arrival_s
        done_s, capacity = left[name].done_s, oracle.simulations.station(name, stages[name]).capacity
        together = np.arange(1, arrivals.arrival_s.size + 1) - np.searchsorted(done_s, arrivals.arrival_s, "right")
        if capacity and together.max(initial=0) > capacity:
            return None
        if done_s.size:
            out[name] = percentile(done_s - reached_s[left[name].item], oracle.spec.slo.percentile)
    return out


def richest_candidates(oracle: Oracle, choice: Mapping[str, str]) -> list[Stages]:
    """Return candidates with all the capacity that supply allows; none when a domain does not know its own.

    Stages are spread over hardware in a few ways, the fastest first. Where several stages want more of the same
    hardware than there is, they share it equally, and in proportion to their work.
    """
    order = oracle.spec.graph.order
    if not all(isinstance(oracle.domains[name], HasRichest) for name in order):
        return []
    known = {name: _by_hardware(oracle, name, choice, 1.0) for name in order}
    ways = itertools.islice(itertools.product(*(known[name] for name in order)), MOST_LISTED)
    ranked = sorted(ways, key=lambda way: sum(list(known[n]).index(h) for n, h in zip(order, way, strict=True)))
    work_s = _work_s(oracle, choice)
    out: list[Stages] = []
    mixtures = 0
    for way in ranked:
        whole = _supplied(oracle, [known[name][hardware] for name, hardware in zip(order, way, strict=True)])
        some = whole or [
            stages
            for shares in (_equal_shares(way), _work_shares(oracle, way, work_s))
            for stages in _supplied(oracle, _shared(oracle, choice, way, shares))
        ]
        out += some
        mixtures += bool(some)
        if mixtures == MOST_MIXTURES:
            break
    return out


def _work_s(oracle: Oracle, choice: Mapping[str, str]) -> list[float]:
    """Each stage's items times the mean time of one on its quickest hardware."""
    items = oracle.simulations.workload(0, choice).items
    return [
        items[name].count
        * float(oracle.domains[name].fastest_s(oracle.contexts[name], choice.get(name), sampled=False))
        for name in oracle.spec.graph.order
    ]


def _equal_shares(way: Sequence[Hardware]) -> list[float]:
    return [1 / way.count(hardware) for hardware in way]


def _work_shares(oracle: Oracle, way: Sequence[Hardware], work_s: Sequence[float]) -> list[float]:
    """One replica for every stage, and the rest in proportion to the work of those that share a hardware."""
    shares = []
    for hardware, own_s in zip(way, work_s, strict=True):
        sharing = [s for h, s in zip(way, work_s, strict=True) if h == hardware]
        part = own_s / sum(sharing) if sum(sharing) > 0 else 1 / len(sharing)
        offer = oracle.spec.supply.get(hardware[0]) if len(hardware) == 1 else None
        most = None if offer is None else offer.max_replicas
        shares.append(part if most is None else (1 + part * max(0, most - len(sharing))) / most)
    return shares


def _shared(
    oracle: Oracle, choice: Mapping[str, str], way: Sequence[Hardware], shares: Sequence[float]
) -> list[list[Config]]:
    return [
        _by_hardware(oracle, name, choice, share).get(hardware, [])
        for name, hardware, share in zip(oracle.spec.graph.order, way, shares, strict=True)
    ]


def _by_hardware(oracle: Oracle, name: str, choice: Mapping[str, str], share: float) -> dict[Hardware, list[Config]]:
    """A stage's richest configurations with a share of supply, by the hardware that they take."""
    domain: Any = oracle.domains[name]
    out: dict[Hardware, list[Config]] = {}
    for config in domain.richest(oracle.contexts[name], choice.get(name), min(share, 1.0)):
        hardware = tuple(sorted(domain.holds(config))) if isinstance(domain, HoldsSupply) else ()
        out.setdefault(hardware, []).append(config)
    return out


def _supplied(oracle: Oracle, known: Sequence[Sequence[Config]]) -> list[Stages]:
    """The first configurations of all stages together, the second ones, and so on, as far as supply has them.

    A short list's last one stays.
    """
    if not all(known):
        return []
    together = (
        {n: c[min(at, len(c) - 1)] for n, c in zip(oracle.spec.graph.order, known, strict=True)}
        for at in range(max(len(configs) for configs in known))
    )
    return [stages for stages in together if oracle.supplied(stages)]
