"""What a live server would have told of a trace, had it done exactly what the simulator says: for tests of fitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headway.plan.plan import Plan
from headway.serve.calibrate import Observation
from headway.serve.observed import StageItems
from headway.sim.simulation import StageRun, build_outcome, contexts, workload
from headway.sim.station import Arrivals, Departures
from headway.spec.kinds import load_domain
from headway.trace import Trace


def simulated_observation(plan: Plan, trace: Trace, seed: int = 0) -> Observation:
    """Return the observation of a server that runs the plan with its profile's overheads; no stage may share cores.

    >>> from headway.testing.examples import tiny_plan
    >>> seen = simulated_observation(tiny_plan(), Trace.poisson(rate=20, seconds=20, seed=1))
    >>> len(seen.items["first"].request) == seen.outcome.requests
    True
    """
    work = workload(plan, trace, seed)
    runs: dict[str, StageRun] = {}
    left: dict[str, Departures] = {}
    items: dict[str, StageItems] = {}
    for name, context in contexts(plan).items():
        station = load_domain(context.stage.kind).station(context, plan.stages[name], sampled=True)
        arrivals = work.arrivals(name, left)
        left[name] = station.run(arrivals, seed=seed, record=True)
        runs[name] = StageRun(arrivals.arrival_s, left[name], station.capacity)
        items[name] = _items(arrivals, left[name])
    outcome = build_outcome(plan, work, runs, seed=seed, mode="sampled")
    return Observation(trace, replace(outcome, kind="measured"), items)


def _items(arrivals: Arrivals, left: Departures) -> StageItems:
    """The items in order of completion, as the server's record holds them."""
    count = arrivals.item.size
    arrival_s, start_s = np.empty(count), np.empty(count)
    arrival_s[arrivals.item], start_s[arrivals.item] = arrivals.arrival_s, left.start_s
    item = left.item
    _, batch, size = np.unique(np.stack([start_s[item], left.done_s]), axis=1, return_inverse=True, return_counts=True)
    request = arrivals.request[item].astype(np.int64) + 1
    wait_s = start_s[item] - arrival_s[item]
    return StageItems(request, arrival_s[item], wait_s, left.done_s - start_s[item], size[batch.ravel()])
