"""The coarse-grained baselines of InferLine's evaluation (section 7 of SoCC'20): the pipeline as one black box.

One batch size for all stages, the largest whose end-to-end service time meets the promise; the whole unit is replicated
until its slowest stage carries the target rate: the trace's mean rate (CG-Mean), or its peak over a window as long as
the promise (CG-Peak). Each stage runs on its fastest hardware.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.inferline import Configs, Greedy
from headway.plan.oracle import Oracle
from headway.trace.envelope import peak_rate_per_s


def coarse_grained(oracle: Oracle, variants: Mapping[str, str], *, peak: bool) -> Configs | None:
    """Return the coarse-grained plan, feasible or not; None when even a batch of one exceeds the promise."""
    helper = Greedy(oracle, variants)
    hardware = {name: helper.hardware_by_latency(name)[0] for name in helper.order}
    services = {n: oracle.profile.service(n, variants[n], hardware[n]) for n in helper.order}
    slo_s = oracle.spec.slo.latency_s

    def end_to_end_s(batch: int) -> float:
        finish: dict[str, float] = {}
        for name in helper.order:
            before = max((finish[edge.parent] for edge in oracle.spec.graph.parents[name]), default=0.0)
            finish[name] = before + services[name].mean_at(batch)
        return max(finish.values()) + oracle.profile.request_overhead_s

    sizes = set.intersection(
        *({*helper.domain.batch_sizes(helper.context(n), variants[n], hardware[n])} for n in helper.order)
    )
    fitting = [batch for batch in sorted(sizes) if end_to_end_s(batch) <= slo_s + 1e-9]
    if not fitting:
        return None
    batch = fitting[-1]
    rate = peak_rate_per_s(oracle.trace.arrival_s, slo_s) if peak else oracle.trace.rate_per_s
    unit = min(services[n].throughput_per_s(batch) / max(helper.scale[n], 1e-12) for n in helper.order)
    units = max(1, math.ceil(rate / unit - 1e-9))
    return {n: ReplicaConfig(hardware[n], units, batch, variants[n]) for n in helper.order}
