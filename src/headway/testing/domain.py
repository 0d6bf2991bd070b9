"""Conformance suite of a domain: run `check_domain` in the tests of any package that brings one.

Every check raises AssertionError with a sentence that says what the contract (`headway.plan.contract`) asks for.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import PlanError
from headway.plan.config import ACCURACY_EVIDENCE, Config, StageContext
from headway.plan.contract import (
    BoundsCapacity,
    DoubtsAccuracy,
    HasRichest,
    HoldsSupply,
    SharesPools,
    StartsSlowly,
    TellsEvidence,
    TellsProblems,
    WeighsRequests,
)
from headway.plan.plan import PREDICTED
from headway.profile import Profile
from headway.profile.profile import EVIDENCE
from headway.serve.station import LiveStation
from headway.sim.draws import batch_key, bits_for
from headway.sim.station import Arrivals, Departures, Floats, Station
from headway.sim.worklaw import work_bounds
from headway.sim.workload import Workload
from headway.spec.graph import Graph
from headway.spec.kinds import load_domain
from headway.spec.model import Spec, Stage
from headway.trace import Trace

MOST_CONFIGS = 40
SEED = 7
NO_COLUMNS: Mapping[str, Floats] = {}


@dataclass(frozen=True)
class Example:
    """What a domain is tried on: a stage of its kind in a spec, with the profile it needs, and a limit of cost."""

    spec: Spec
    profile: Profile
    stage: str
    max_cost_usd_per_hour: float

    @property
    def context(self) -> StageContext:
        """Where the stage's configurations stand."""
        return StageContext(self.stage, self.spec.stages[self.stage], self.spec, self.profile)


def check_domain(domain: Any, example: Example, trace: Trace | None = None) -> None:
    """Check everything that a domain promises on one example; `trace` is what its stations are tried with.

    >>> from headway.domains.pipeline import DOMAIN
    >>> from headway.testing.examples import tiny_profile, tiny_spec
    >>> check_domain(DOMAIN, Example(tiny_spec(), tiny_profile(), "first", 0.8))
    """
    check_declaration(domain, example)
    configs = check_configs(domain, example)
    check_moves(domain, example, configs)
    check_doors(domain, example, configs)
    check_live(domain, example, configs[0])
    trace = trace if trace is not None else Trace.gamma(30.0, 2.0, requests=300, seed=SEED)
    for config, sampled in itertools.product(configs, (False, True)):
        check_station(domain, example, config, trace, sampled=sampled)


def check_declaration(domain: Any, example: Example) -> None:
    """The kind is registered, declares a stage of its own, and comes back from what the spec writes."""
    _require(load_domain(domain.kind) is domain, f"kind {domain.kind!r} is not registered under this name")
    stage = example.spec.stages[example.stage]
    _require(issubclass(domain.declaration, Stage), "declaration is not a subclass of headway.spec.model.Stage")
    _require(isinstance(stage, domain.declaration), f"stage {example.stage!r} is not declared by {domain.declaration}")
    _require(stage.kind == domain.kind, f"the stage's kind is {stage.kind!r}, not {domain.kind!r}")
    text = json.dumps(example.spec.to_dict())
    _require(Spec.from_dict(json.loads(text)) == example.spec, "the declaration does not come back from its JSON")


def check_configs(domain: Any, example: Example) -> list[Config]:
    """The space is finite, unique, priced within its limit, and made of values that come back from JSON."""
    context, limit = example.context, example.max_cost_usd_per_hour
    configs: list[Config] = list(domain.configs(context, limit))
    _require(bool(configs), f"configs: nothing costs at most ${limit}/h; the example needs a higher limit")
    _require(len(set(configs)) == len(configs), "configs: a configuration comes twice")
    _require(set(domain.configs(context, limit)) == set(configs), "configs: a second call gives others")
    for config in configs:
        cost = domain.cost_usd_per_hour(context, config)
        _require(
            math.isfinite(cost) and 0 <= cost <= limit + 1e-9, f"configs: {config} costs ${cost}/h, above ${limit}/h"
        )
        _check_config(domain, config)
    costs = sorted(domain.cost_usd_per_hour(context, config) for config in configs)
    half = costs[len(costs) // 2]
    within = {config for config in configs if domain.cost_usd_per_hour(context, config) <= half + 1e-9}
    _require(
        set(domain.configs(context, half + 1e-9)) == within, "configs: a lower limit is not merely a smaller space"
    )
    most = [domain.most_usd_per_hour(context, items) for items in (1, 10, 100)]
    _require(most == sorted(most) and most[0] >= costs[0] - 1e-9, "most_usd_per_hour: falls with items, or below all")
    step = max(1, len(configs) // MOST_CONFIGS)
    return configs[::step]


def _check_config(domain: Any, config: Config) -> None:
    fields = config.to_dict()
    _require(not set(fields) & set(PREDICTED), f"{config}: {PREDICTED} are the names of predictions in a plan")
    again = domain.parse_config(json.loads(json.dumps(fields, allow_nan=False)), "stages.x")
    _require(again == config and hash(again) == hash(config), f"{config} comes back as {again} from its own to_dict")
    _require(domain.tunable <= set(fields), "tunable names fields that configurations do not have")
    try:
        domain.parse_config({**fields, "no_such_field": 1}, "stages.x")
    except PlanError as error:
        _require("stages.x" in str(error), "parse_config: the error does not say where")
    else:
        raise AssertionError("parse_config takes a field that does not exist")


def check_moves(domain: Any, example: Example, configs: Sequence[Config]) -> None:
    """Moves lead from a configuration to other ones that are priced, simulated and written like any."""
    for config in configs:
        for move, other in domain.moves(example.context, config):
            _require(isinstance(move, str) and bool(move), f"moves: {move!r} is not a name")
            _require(other != config, f"moves: {move} leads from {config} to itself")
            _check_config(domain, other)
            domain.cost_usd_per_hour(example.context, other)
            domain.station(example.context, other, sampled=False)


def check_doors(domain: Any, example: Example, configs: Sequence[Config]) -> None:
    """What a domain brings beyond the required members makes sense."""
    context = example.context
    variants = example.spec.stages[example.stage].variant_names or (None,)
    for config in configs:
        if isinstance(domain, StartsSlowly):
            _require(domain.startup_s(context, config) >= 0, "startup_s is negative")
        if isinstance(domain, HoldsSupply):
            held = domain.holds(config)
            _require(set(held) <= set(example.spec.supply), f"holds: {set(held)} is not all in supply")
            _require(all(n >= 0 for n in held.values()), "holds: a negative number of replicas")
        if isinstance(domain, BoundsCapacity | WeighsRequests):
            _require(domain.capacity(config) >= 1, "capacity is below 1")
            hash(domain.work_law(config))
        if isinstance(domain, DoubtsAccuracy):
            told = domain.doubts(context, config, 0.5, ())
            _require(all(isinstance(doubt, str) and doubt for doubt in told), f"doubts: {told} are no sentences")
        if isinstance(domain, TellsEvidence) and (known := domain.evidence(context, config)) is not None:
            kinds = (*EVIDENCE, *ACCURACY_EVIDENCE)
            _require(known.kind in kinds and bool(known.text), f"evidence: {known} is of no kind, or says nothing")
    if isinstance(domain, TellsProblems):
        told = domain.problems(example.spec, example.stage)
        _require(not list(told), f"problems: {told} of an example that is planned with")
    if isinstance(domain, HasRichest):
        for variant in variants:
            _require(bool(list(domain.richest(context, variant, 1.0))), "richest: nothing for a variant")


def check_live(domain: Any, example: Example, config: Config) -> LiveStation:
    """The server's station has the members of `headway.serve.station.LiveStation`, and nothing in its queue."""
    station: LiveStation = domain.live(example.context, config)
    members = [name for name in vars(LiveStation) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(station, name)]
    _require(not missing, f"live: the station lacks {', '.join(missing)}")
    _require(station.queued == 0, "live: a new station has items in its queue")
    return station


def check_station(domain: Any, example: Example, config: Config, trace: Trace, *, sampled: bool) -> None:
    """The simulator's station keeps conservation, causality, determinism, no peeking, and its own bounds."""
    station: Station = domain.station(example.context, config, sampled=sampled)
    arrivals = _arrivals(trace.arrival_s, trace.columns)
    left = station.run(arrivals, seed=SEED, record=True)
    _check_departures(station, arrivals, left)
    again = domain.station(example.context, config, sampled=sampled).run(arrivals, seed=SEED, record=True)
    _require(_equal(left, again), f"{config}: the same arrivals and seed give other departures")
    later = station.run(_arrivals(trace.arrival_s + 64.0, trace.columns), seed=SEED, record=True)
    _require(
        np.allclose(later.done_s, left.done_s + 64.0),
        f"{config}: arrivals moved by 64 s do not move departures by 64 s",
    )
    _check_no_peeking(station, arrivals, left)
    _check_departures(station, _arrivals(np.empty(0)), station.run(_arrivals(np.empty(0)), seed=SEED, record=True))
    hurried = _arrivals(trace.arrival_s, trace.columns, patience_s=2.0 * station.fastest_s())
    _check_departures(station, hurried, station.run(hurried, seed=SEED, record=True))
    _check_fastest(domain, example, config, station, sampled)
    if isinstance(domain, BoundsCapacity):
        gains = domain.work_gains(example.context, config, sampled=sampled)
        key, bits = batch_key(SEED, example.stage), bits_for(gains[0][1].size)
        for bound in work_bounds(gains, key, bits, trace.requests):
            least_s = trace.requests * bound.work_s - bound.run_s
            _require(left.busy_s >= least_s - 1e-9, f"{config}: {left.busy_s} s of work, but work_gains says {least_s}")
    if isinstance(domain, WeighsRequests):
        _check_least_times(domain, example, config, trace, left, sampled=sampled)
    if isinstance(domain, SharesPools):
        _check_setup(domain, example, config, trace, sampled)


def _check_departures(station: Station, arrivals: Arrivals, left: Departures) -> None:
    ids = np.concatenate([left.item, *left.lost])
    _require(np.array_equal(np.sort(ids), np.sort(arrivals.item)), "an item is lost, or leaves twice")
    _require(left.done_s.shape == left.item.shape, "done_s and item differ in length")
    _require(bool(np.all(np.diff(left.done_s) >= 0)), "departures are not in order of time")
    _require(left.start_s.shape == arrivals.arrival_s.shape, "start_s has not one entry per arrival")
    _require(bool(np.all(left.start_s >= arrivals.arrival_s)), "an item starts before it arrived")
    start_s, arrival_s = np.empty(arrivals.item.size), np.empty(arrivals.item.size)
    start_s[arrivals.item], arrival_s[arrivals.item] = left.start_s, arrivals.arrival_s
    _require(bool(np.all(left.done_s >= start_s[left.item])), "an item is done before it is started")
    quickest_s = float(np.min(left.done_s - arrival_s[left.item], initial=np.inf))
    _require(quickest_s >= station.fastest_s() - 1e-9, f"an item took {quickest_s} s, below fastest_s")
    if arrivals.deadline_s.size:
        deadline_s = np.empty(arrivals.item.size)
        deadline_s[arrivals.item] = arrivals.deadline_s
        _require(bool(np.all(start_s[left.item] <= deadline_s[left.item])), "an item is started after its deadline")
    else:
        _require(left.dropped.size == 0, "an item without a deadline is dropped")
    # There may be more batches than items: an item may pass several of them on its way through a station.
    _require(left.batches >= min(1, left.item.size) and left.busy_s >= 0, "batches or busy_s is out of range")
    _require(left.credit.size in (0, left.item.size), "credit has not one entry per departure")
    _require(left.broken.size in (0, left.item.size), "broken has not one entry per departure")
    _require(bool(np.all((left.credit >= 0) & (left.credit <= 1))), "a credit is not between 0 and 1")


def _check_no_peeking(station: Station, arrivals: Arrivals, left: Departures) -> None:
    """What is done before an arrival is the same, up to rounding, whether that arrival and all after it come or not."""
    for cut in range(1, arrivals.item.size, max(1, arrivals.item.size // 7)):
        before = station.run(_arrivals(arrivals.arrival_s[:cut], arrivals.attributes), seed=SEED, record=False)
        known, now = left.done_s < arrivals.arrival_s[cut], before.done_s < arrivals.arrival_s[cut]
        same = np.array_equal(left.item[known], before.item[now])
        same = same and np.allclose(left.done_s[known], before.done_s[now], rtol=0.0, atol=1e-9)
        _require(
            same, "what was done before an arrival changes when the arrival is taken away: the station looks ahead"
        )


def _check_fastest(domain: Any, example: Example, config: Config, station: Station, sampled: bool) -> None:
    variant = config.to_dict().get("variant")
    bound_s = domain.fastest_s(example.context, variant, sampled=sampled)
    _require(0 <= bound_s <= station.fastest_s() + 1e-12, f"fastest_s is {bound_s}, but {config} can be quicker")
    anyway_s = domain.fastest_s(example.context, None, sampled=sampled)
    _require(anyway_s <= bound_s + 1e-12, "fastest_s over all variants is above that of one of them")


def _check_least_times(
    domain: Any, example: Example, config: Config, trace: Trace, left: Departures, *, sampled: bool
) -> None:
    """No item that left was quicker than alone, or kept a promise that it breaks alone, and their work was done."""
    times = domain.least_times(example.context, config, trace, sampled=sampled)
    took_s = left.done_s - trace.arrival_s[left.item]
    _require(bool(np.all(took_s >= times.alone_s[left.item] - 1e-9)), f"{config}: an item is quicker than alone_s")
    kept = left.item if not left.broken.size else left.item[~left.broken]
    _require(not times.broken[kept].any(), f"{config}: a promise is kept that least_times says nobody can keep")
    for work_s in times.work_s:
        least_s = float(work_s[left.item].sum())
        _require(
            left.busy_s >= least_s * (1 - 1e-9), f"{config}: {left.busy_s} s of work, but least_times says {least_s}"
        )


def _check_setup(domain: Any, example: Example, config: Config, trace: Trace, sampled: bool) -> None:
    from headway.sim.eventsim import EventSimulation

    setup = domain.setup(example.context, config, sampled=sampled)
    if any(group.pool is not None for group in setup.groups):
        return
    events = EventSimulation(Workload.of(Graph.build({example.stage: {}}), trace, SEED), {example.stage: setup}, {})
    events.advance(np.inf)
    station: Station = domain.station(example.context, config, sampled=sampled)
    left = station.run(_arrivals(trace.arrival_s, trace.columns), seed=SEED, record=False)
    by_events = events.departures()[example.stage]
    same = np.array_equal(by_events.done_s, left.done_s) and np.array_equal(by_events.item, left.item)
    _require(same, f"{config}: the event kernel and the station do not agree to the last bit")


def _arrivals(arrival_s: Any, columns: Mapping[str, Floats] = NO_COLUMNS, patience_s: float = math.inf) -> Arrivals:
    items = np.arange(len(arrival_s), dtype=np.int32)
    deadline_s = arrival_s + patience_s if math.isfinite(patience_s) else np.empty(0)
    return Arrivals(np.asarray(arrival_s, float), items, items, deadline_s, columns)


def _equal(a: Departures, b: Departures) -> bool:
    arrays = ((a.done_s, b.done_s), (a.item, b.item), (a.start_s, b.start_s), (a.credit, b.credit),
              (a.broken, b.broken))  # fmt: skip
    return all(np.array_equal(x, y) for x, y in arrays) and (a.batches, a.busy_s) == (b.batches, b.busy_s)


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
