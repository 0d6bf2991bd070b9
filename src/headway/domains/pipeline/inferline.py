"""InferLine's planner as published: Initialize and MinimizeCost (SoCC'20, Algorithms 1 and 2), as a baseline.

Two points where the printed text would not work are settled as its prose says: a promise is infeasible when the
service time *exceeds* it, and a batch increase that costs nothing may be taken when nothing else lowers the cost
(otherwise nothing would ever be batched).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.domain import PipelineDomain
from headway.plan.config import StageContext
from headway.plan.exact import needed_capacity
from headway.plan.oracle import Oracle

MOST_REPLICAS = 4096

Configs = dict[str, ReplicaConfig]


class Greedy:
    """One run of the greedy planner. `steps` records what it did, for the plan's reasons.

    Variants are fixed beforehand (InferLine knows none); hardware limits end the growth of a stage.
    """

    def __init__(self, oracle: Oracle, variants: Mapping[str, str]) -> None:
        self.oracle = oracle
        self.variants = dict(variants)
        self.order = oracle.spec.graph.order
        self.domain: PipelineDomain = oracle.domains[self.order[0]]
        work = oracle.simulations.workload(0, variants)
        self.scale = {name: work.items[name].count / max(1, work.requests) for name in self.order}
        self.steps: list[tuple[str, str]] = []
        self._refused: set[tuple[object, ...]] = set()
        self._least: dict[tuple[str, object], int] = {}

    def run(self) -> Configs | None:
        """Return the plan, or None when Initialize finds none."""
        configs = self.initialize()
        return None if configs is None else self.minimize_cost(configs, self.order)

    def initialize(self) -> Configs | None:
        """Algorithm 1: fastest hardware, batch size 1, and replicas for the bottleneck until the promise holds.

        None when a request alone is too slow, when supply ends, or when twice the replicas no longer help.
        """
        configs = {
            name: ReplicaConfig(self.hardware_by_latency(name)[0], variant=self.variants[name]) for name in self.order
        }
        rate = self.oracle.trace.rate_per_s
        for name, config in configs.items():
            # Fewer cannot carry the mean rate; starting there only saves simulations.
            needed = math.ceil(rate * self.scale[name] / self.throughput(name, config) - 1e-9)
            configs[name] = _replicas(config, max(1, min(needed, self.most(name, config))))
        if not self.oracle.may_be_feasible({}, self.variants):
            return None
        tried, tried_misses = sum(config.replicas for config in configs.values()), None
        while not self.feasible(configs):
            if (total := sum(config.replicas for config in configs.values())) >= 2 * tried:
                misses = sum(self.oracle.judge(configs, all_traces=True).misses)
                if tried_misses is not None and misses >= tried_misses:
                    return None
                tried, tried_misses = total, misses
            name = min(
                self.order,
                key=lambda n: configs[n].replicas * self.throughput(n, configs[n]) / max(self.scale[n], 1e-12),
            )
            if configs[name].replicas >= self.most(name, configs[name]):
                return None
            configs[name] = _replicas(configs[name], configs[name].replicas + 1)
        return configs

    def minimize_cost(self, configs: Configs, names: tuple[str, ...], local: bool = False) -> Configs:
        """Algorithm 2: take the single action that lowers the cost most, until none does."""
        while True:
            best, what = configs, ("", "")
            best_cost = cost = self.oracle.total_cost(configs)
            for name in names:
                candidates = [("remove_replica", self.remove_replica(configs, name))]
                if not local:
                    candidates.append(("downgrade_hardware", self.downgrade(configs, name)))
                for action, changed in candidates:
                    if changed is None:
                        continue
                    changed_cost = self.oracle.total_cost(changed)
                    if changed_cost < best_cost - 1e-12 and self.feasible(changed):
                        best, best_cost, what = changed, changed_cost, (action, name)
            if best_cost >= cost - 1e-12:
                for name in names:
                    batched = self.increase_batch(configs, name)
                    if batched is not None and self.feasible(batched):
                        best, what = batched, ("increase_batch", name)
                        break
            if what == ("", ""):
                return configs
            configs = best
            if not local:
                self.steps.append(what)

    def remove_replica(self, configs: Configs, name: str) -> Configs | None:
        """One replica fewer, at least one."""
        config = configs[name]
        return None if config.replicas == 1 else {**configs, name: _replicas(config, config.replicas - 1)}

    def increase_batch(self, configs: Configs, name: str) -> Configs | None:
        """The next profiled batch size (powers of two, as a rule)."""
        config = configs[name]
        larger = [
            b
            for b in self.domain.batch_sizes(self.context(name), config.variant, config.hardware)
            if b > config.max_batch_size
        ]
        if not larger:
            return None
        return {**configs, name: ReplicaConfig(config.hardware, config.replicas, larger[0], config.variant)}

    def downgrade(self, configs: Configs, name: str) -> Configs | None:
        """The next cheaper hardware for one stage, planned anew for that stage alone against the whole pipeline."""
        config = configs[name]
        price = self.price(config.hardware)
        cheaper = sorted(
            (h for h in self.hardware_by_latency(name) if self.price(h) < price), key=self.price, reverse=True
        )
        memo = (name, *(configs[n] for n in self.order))
        if not cheaper or memo in self._refused:
            return None
        now = ReplicaConfig(cheaper[0], variant=config.variant)
        budget = self.oracle.total_cost(configs)
        sizes = self.domain.batch_sizes(self.context(name), now.variant, now.hardware)
        least = min(self.least(name, ReplicaConfig(now.hardware, 1, batch, now.variant)) for batch in sizes)
        others = budget - self.oracle.cost_usd_per_hour(name, config)
        if others + least * self.price(now.hardware) >= budget - 1e-12:
            # Whatever batch size the local search ended at, the stage could not have become cheaper.
            return None
        most = self.most(name, now)
        needed = math.ceil(self.oracle.trace.rate_per_s * self.scale[name] / self.throughput(name, now) - 1e-9)
        changed = {**configs, name: _replicas(now, max(1, min(needed, most)))}
        grown = self._grow(changed, name, most)
        if grown is not None:
            grown = self.minimize_cost(grown, (name,), local=True)
            if self.oracle.total_cost(grown) < budget - 1e-12:
                return grown
        self._refused.add(memo)
        return None

    def _grow(self, configs: Configs, name: str, most: int) -> Configs | None:
        """Add replicas to one stage until the promise holds; None when a doubling of them no longer helps."""
        tried_misses: int | None = None
        while not self.feasible(configs):
            replicas = configs[name].replicas
            if replicas >= most:
                return None
            if replicas & (replicas - 1) == 0:
                misses = sum(self.oracle.judge(configs, all_traces=True).misses)
                if tried_misses is not None and misses >= tried_misses:
                    return None
                tried_misses = misses
            configs = {**configs, name: _replicas(configs[name], replicas + 1)}
        return configs

    def feasible(self, configs: Configs) -> bool:
        """Return whether the promise holds; what lacks the capacity for sure is not simulated."""
        if any(config.replicas < self.least(name, config) for name, config in configs.items()):
            return False
        return self.oracle.feasible(configs)

    def least(self, name: str, config: ReplicaConfig) -> int:
        """Replicas of this hardware and batch size without which the stage cannot carry its demand."""
        law = self.domain.work_law(config)
        if (name, law) not in self._least:
            self._least[name, law] = needed_capacity(self.oracle, name, config, law, self.variants)
        return self._least[name, law]

    def context(self, name: str) -> StageContext:
        """Where a stage's configuration stands."""
        return self.oracle.contexts[name]

    def price(self, hardware: str) -> float:
        """Dollars per hour of one replica."""
        return self.oracle.spec.supply[hardware].price_usd_per_hour

    def throughput(self, name: str, config: ReplicaConfig) -> float:
        """Requests per second of one replica with full batches (mu)."""
        service = self.oracle.profile.service(name, config.variant, config.hardware)
        return service.throughput_per_s(config.max_batch_size)

    def hardware_by_latency(self, name: str) -> list[str]:
        """A stage's hardware, lowest latency at batch size 1 first."""
        return self.domain.hardware_by_latency(self.context(name), self.variants[name])

    def most(self, name: str, config: ReplicaConfig) -> int:
        """Replicas that supply allows."""
        return min(MOST_REPLICAS, self.domain.most_replicas(self.context(name), config.hardware, float("inf")))


def _replicas(config: ReplicaConfig, replicas: int) -> ReplicaConfig:
    return ReplicaConfig(config.hardware, replicas, config.max_batch_size, config.variant)
