"""How far calibrated predictions are from what a live server does: fitted on one trace, judged by another.

The sleeping pipeline's models take exactly as long as their profile says, so that what is left is the server's and the
simulator's. The document pipeline runs real models, and processors that others use as well change their speed within
seconds. So both traces, the one to fit on and the one to test on, are replayed in parts by turns, and each is judged as
a whole. A turn that the machine's host disturbs is measured again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.calm import calmest
from headway.bench.fidelity import CV, REQUESTS, sleeping_plan
from headway.plan.plan import Plan
from headway.profile.refit import MIN_SAMPLES
from headway.serve.calibrate import LETS_ALL_IN, RUNS, Compared, Observation, fit_all, observe
from headway.serve.figures import PERCENTS
from headway.serve.replay import replay
from headway.serve.run import running
from headway.sim.outcome import percentile
from headway.sim.simulation import simulate
from headway.sim.threads import in_threads
from headway.trace import Trace

UTILIZATIONS = (0.3, 0.5, 0.7)
FITTED_SHARE = 0.25
"""Requests to fit on, as a share of those to test on."""
TURNS = 5
"""Turns of the sleeping pipeline: short enough that some fall between what the machine's host does."""
QUICK_REQUESTS = 300
TRIAL_REQUESTS = 4000
DEMO_TURNS = 8
DEMO_REQUESTS = (24, 36)
"""Pages to fit on and to test on, in each turn."""
DEMO_PROFILE_S = 60.0
LOOSE_PAGES = 40.0
"""The promise that is planned for, in units of the work on a mean page: loose, since it is not what is tested."""
SLEEPING_BARS = {"p50_s": "<= 3%", "p99_s": "<= 8%"}
DEMO_BARS = {"p50_s": "<= 10%", "p95_s": "<= 10%"}


def calibration(options: BenchOptions) -> Iterator[Row]:
    """Predicted against measured latency after calibration, at three utilizations."""
    yield from sleeping(options)
    yield from demo(options)


def sleeping(options: BenchOptions) -> Iterator[Row]:
    """Models that sleep, 20,000 requests per utilization: P50 within 3 %, P99 within 8 %."""
    plan, tested = sleeping_plan(), (QUICK_REQUESTS if options.quick else REQUESTS) // TURNS
    counts = max(MIN_SAMPLES, round(FITTED_SHARE * tested)), tested
    with running(plan, seed=options.seed, limits=LETS_ALL_IN) as server:
        for utilization in UTILIZATIONS:
            rate = rate_for(plan, utilization, options.seed)
            seeds = itertools.count(options.seed)
            turns = [
                _turn(server.url, plan, ["page"], [Trace.gamma(rate, CV, requests=n, seed=next(seeds)) for n in counts])
                for _ in range(TURNS)
            ]
            tried = _Tried.of(plan, turns, options.seed)
            name = f"calibration/sleeping/{utilization:g}"
            yield Row(f"{name}/utilization", tried.busiest(), "of the busiest stage")
            yield from tried.rows(name, SLEEPING_BARS, _off)


def demo(options: BenchOptions) -> Iterator[Row]:
    """The document pipeline on this machine's cores: P50 and P95 within 10 % plus the simulator's own interval."""
    from headway.demo.scenario import host_cores, host_trace, used

    cores = host_cores()
    quick = ((MIN_SAMPLES, MIN_SAMPLES), 1, 12.0)
    counts, number, profile_s = quick if options.quick else (DEMO_REQUESTS, DEMO_TURNS, DEMO_PROFILE_S)
    plan, pages, page_s = _demo_plan(profile_s, options.seed)
    with running(plan, seed=options.seed, limits=LETS_ALL_IN) as server:
        # The first pages find cold workers.
        replay(server.url, host_trace(1.0, float(len(pages)), len(pages), options.seed), payloads=pages)
        for utilization in UTILIZATIONS:
            seeds, turns = itertools.count(options.seed), list[_Turn]()
            for _ in range(number):
                rate = utilization * cores / page_s
                traces = [host_trace(rate, n / rate, len(pages), next(seeds)) for n in counts]
                turns.append(_turn(server.url, plan, pages, traces))
                # What a page takes on this machine now, so that the next turn is at the load that it is meant to be.
                page_s *= used(plan, turns[-1].tested.outcome, cores) / utilization
            tried = _Tried.of(plan, turns, options.seed)
            share = float(np.mean([used(plan, turn.tested.outcome, cores) for turn in turns]))
            name = f"calibration/demo/{utilization:g}"
            yield Row(f"{name}/utilization", share, "of the cores")
            yield from tried.rows(name, DEMO_BARS, _outside)


def rate_for(plan: Plan, utilization: float, seed: int) -> float:
    """Return the rate at which the plan's busiest stage is busy for this share of the time, to about 1 %."""

    def busiest(rate: float) -> float:
        outcome = simulate(plan, Trace.gamma(rate, CV, requests=TRIAL_REQUESTS, seed=seed), seed=seed)
        return max(stage.utilization for stage in outcome.stages.values())

    low, high = 0.0, 1.0
    while busiest(high) < utilization:
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if busiest(middle) < utilization else (low, middle)
    return high


@dataclass(frozen=True, slots=True)
class _Turn:
    """A part of the trace to fit on and, at once upon it, one of the trace to test on, and what the host took."""

    fitted: Observation
    tested: Observation
    stolen_share: float


def _turn(url: str, plan: Plan, payloads: Sequence[object], traces: Sequence[Trace]) -> _Turn:
    (fitted, tested), share = calmest(lambda: [observe(url, plan, trace, payloads=payloads) for trace in traces])
    return _Turn(fitted, tested, share)


@dataclass(frozen=True, slots=True)
class _Tried:
    """A calibration and its test on another trace: predictions with the profile as it was, and as fitted.

    `stolen_share`: the most that the machine's host took from it during any turn that was kept.
    """

    tested: Sequence[Observation]
    before: Mapping[str, Compared]
    after: Mapping[str, Compared]
    stolen_share: float

    @classmethod
    def of(cls, plan: Plan, turns: Sequence[_Turn], seed: int) -> _Tried:
        found = fit_all(plan, [turn.fitted for turn in turns])
        tested = [turn.tested for turn in turns]
        before, after = (_compared(replace(plan, profile=p), tested, seed) for p in (plan.profile, found.profile))
        return cls(tested, before, after, max(turn.stolen_share for turn in turns))

    def busiest(self) -> float:
        """Mean utilization of the busiest stage, over the parts of the test."""
        parts = [[stage.utilization for stage in seen.outcome.stages.values()] for seen in self.tested]
        return float(np.mean(parts, axis=0).max())

    def rows(self, name: str, bars: Mapping[str, str], error: Callable[[Compared], float]) -> Iterator[Row]:
        """A row per figure, with the same error of the profile as it was beside it."""
        yield Row(f"{name}/stolen", self.stolen_share, "of the processors' time, by the machine's host")
        for key in ("p50_s", "p95_s", "p99_s"):
            for when, figure, bar in (("", self.after[key], bars.get(key)), ("-uncalibrated", self.before[key], None)):
                label = f"{name}/{key[:-2]}{when}"
                yield Row(label, figure.measured * 1e3, "ms", figure.predicted * 1e3, error(figure), bar)


def _compared(plan: Plan, parts: Sequence[Observation], seed: int) -> dict[str, Compared]:
    """What is predicted of all parts together beside what was measured, as `headway.serve.calibrate` does of one."""

    def latency_s(run: int) -> list[float]:
        every = np.concatenate([simulate(plan, part.trace, seed=seed + run).latency_s for part in parts])
        return [percentile(every, percent) for percent in PERCENTS]

    predicted = in_threads(latency_s, range(RUNS))
    measured = np.concatenate([part.outcome.latency_s for part in parts])
    out = {}
    for percent, values in zip(PERCENTS, zip(*predicted, strict=True), strict=True):
        low, middle, high = np.quantile(values, [0.025, 0.5, 0.975], method="nearest")
        out[f"p{percent}_s"] = Compared(float(middle), float(low), float(high), percentile(measured, percent))
    return out


def _off(figure: Compared) -> float:
    """How far a prediction is off, relative to what was measured."""
    return abs(figure.predicted - figure.measured) / figure.measured


def _outside(figure: Compared) -> float:
    """How far what was measured lies outside the simulator's own interval, relative to the prediction."""
    return max(figure.low - figure.measured, figure.measured - figure.high, 0.0) / figure.predicted


def _demo_plan(profile_s: float, seed: int) -> tuple[Plan, list[bytes], float]:
    """A plan of the document pipeline for this machine, pages to send, and a page's seconds of one core."""
    from headway.demo import scenario
    from headway.demo.pages import pages
    from headway.demo.run import HARDWARE, check_installed
    from headway.plan.make import make
    from headway.profile.measure import measure
    from headway.serve.values import encode

    check_installed()
    spec, sizes = scenario.production_spec(), scenario.Sizes()
    images = [page.image for page in pages(sizes.pages, seed)]
    profile = measure(spec, [encode(image) for image in images], budget_s=profile_s, log=lambda line: None, seed=seed)
    images = images[: scenario.recorded_pages(profile)]
    variants = scenario.cheapest_variants(spec, profile, HARDWARE)
    page_s = scenario.page_work_s(profile, variants, HARDWARE)
    rate = max(UTILIZATIONS) * scenario.host_cores() / page_s
    here = scenario.host_spec(spec, scenario.host_cores(), scenario.rounded_up(LOOSE_PAGES * page_s))
    trace = scenario.host_trace(rate, sizes.replay_s, len(images), seed)
    return make(here, profile, trace, seed=seed, budget=sizes.plan_budget, explained=False), images, page_s
