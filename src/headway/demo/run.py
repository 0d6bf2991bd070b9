"""`headway demo`: the main job on real models, end to end: profile, plan, serve, replay, and tell what came of it."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.demo.scenario import Sizes
    from headway.demo.show import Steps
    from headway.plan.plan import Plan
    from headway.profile import Profile
    from headway.sim.outcome import Outcome
    from headway.spec.model import Spec
    from headway.trace import Trace

PACKAGES = {"rapidocr": "rapidocr", "onnxruntime": "onnxruntime", "skimage": "scikit-image", "scipy": "scipy",
            "PIL": "pillow"}  # fmt: skip
HARDWARE = "one-thread"
"""The hardware whose profile says what load this machine can carry."""


@dataclass
class Run:
    """Everything that one run of the demo found out, in the order in which it did."""

    seed: int
    sizes: Sizes
    date: str
    cores: int
    notes: list[str] = field(default_factory=list)
    pages: list[bytes] = field(default_factory=list)
    profile: Profile = field(init=False)
    production: Plan = field(init=False)
    plan: Plan = field(init=False)
    trace: Trace = field(init=False)
    predicted: Outcome = field(init=False)
    interval: dict[str, list[float]] = field(init=False)
    measured: Outcome = field(init=False)
    slowdowns: dict[str, float] = field(default_factory=dict)
    explained: Outcome = field(init=False)
    others: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    neighbors: dict[str, float] = field(default_factory=dict)


def main(
    output: Path, *, seed: int = 1, as_json: bool = False, sizes: Sizes | None = None, report: Path | None = None,
    port: int = 0,
) -> None:  # fmt: skip
    """Run the demo: progress on stderr, the result on stdout, all files in the folder `output`.

    `report` is where the HTML goes, else `output/report.html`; `port` 0 takes a free one. Raises HeadwayError when the
    extra `demo` is not installed or a step fails. Processes that were started are ended, whatever happens.
    """
    check_installed()
    from headway.demo.tell import Teller

    with terminated_like_interrupted():
        run_all(_new_run(seed, sizes), Teller(output, report, as_json), port)


def check_installed() -> None:
    """Raise HeadwayError when a package of the extra `demo` is missing."""
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise HeadwayError(f"the demo also needs {', '.join(missing)}; install it with: pip install 'headway[demo]'")


def run_all(run: Run, teller: Any, port: int) -> None:
    """Go through all steps, telling each result as soon as it is there."""
    from headway.demo.show import Steps

    teller.prepare()
    with Steps(6) as steps:
        profile(run, steps)
        teller.profile(run)
        plan_production(run, steps)
        teller.production(run)
        plan_here(run, steps)
        predict(run, steps)
        teller.here(run)
        measure(run, steps, port)
        with steps.step("write the report") as step:
            step.result = str(teller.write(run))
    teller.result(run)


def profile(run: Run, steps: Steps) -> None:
    """Measure all stages with sample pages."""
    from headway.demo import scenario
    from headway.demo.neighbors import Neighbors, note
    from headway.demo.pages import pages
    from headway.demo.profiled import profiled
    from headway.report.format import plural
    from headway.serve.values import encode

    with steps.step("profile the three models") as step:
        run.pages = [page.image for page in pages(run.sizes.pages, run.seed)]
        neighbors = Neighbors()
        samples = [encode(page) for page in run.pages]
        run.profile = profiled(
            step, scenario.production_spec(), samples, budget_s=run.sizes.profile_s, date=run.date, seed=run.seed
        )
        note(neighbors, "profile", run.neighbors, run.notes)
        run.pages = run.pages[: scenario.recorded_pages(run.profile)]
        step.result = f"{len(run.profile.rows)} cells from {plural(len(run.pages), 'page')}"


def plan_production(run: Run, steps: Steps) -> None:
    """Plan for traffic that this machine could not carry, and ask what others would deploy."""
    from headway.demo import scenario
    from headway.plan.make import baselines

    spec = scenario.production_spec()
    trace = scenario.production_trace(run.sizes, len(run.pages), run.seed)
    with steps.step(f"plan for {trace.rate_per_s:.0f} pages/s in bursts") as step:
        run.production = _plan_kept(run, spec, trace, step.say, run.sizes.proof_budget)
        spec = run.production.spec
        step.say("what published planners would deploy")
        others: dict[str, Mapping[str, Any]] = dict(baselines(spec, run.profile, trace, seed=run.seed))
        chosen = run.production.variants["detect"]
        for variant in scenario.model_stage(spec, "detect").variant_names:
            if variant != chosen:
                step.say(f"what {variant} would cost")
                others[f"with {variant}"] = _alternative(run, spec, trace, variant)
        run.others = others
        cost = run.production.cost_usd_per_hour
        step.result = f"${cost:.2f}/h, {run.production.provenance['simulated_candidates']} plans simulated"


def plan_here(run: Run, steps: Steps) -> None:
    """Plan for this machine's cores, at the load that they can carry."""
    from headway.demo import scenario

    spec = scenario.production_spec()
    variants = scenario.cheapest_variants(spec, run.profile, HARDWARE)
    work_s = scenario.page_work_s(run.profile, variants, HARDWARE)
    rate = scenario.LOAD * run.cores / work_s
    run.trace = scenario.host_trace(rate, run.sizes.replay_s, len(run.pages), run.seed)
    promise_s = scenario.rounded_up(scenario.PROMISE_PAGES * work_s)
    with steps.step(f"plan for this machine, {rate:.1f} pages/s") as step:
        run.plan = _plan_kept(run, scenario.host_spec(spec, run.cores, promise_s), run.trace, step.say)
        step.result = f"{sum(c.to_dict()['replicas'] for c in run.plan.stages.values())} workers on {run.cores} cores"


def predict(run: Run, steps: Steps) -> None:
    """Say what the replay will show, before it is run."""
    from headway.demo.explain import typical
    from headway.sim.simulation import interval

    with steps.step("predict the replay") as step:
        run.predicted = typical(run.plan, run.trace, run.seed)
        run.interval = interval(run.plan, run.trace, seed=run.seed, runs=run.sizes.intervals)
        step.result = percentiles_text(run.predicted)


def measure(run: Run, steps: Steps, port: int) -> None:
    """Serve the plan over HTTP, send it the trace, and measure."""
    from headway.demo.explain import slowdowns, typical, with_slowdowns
    from headway.demo.neighbors import Neighbors, note
    from headway.serve.replay import replay
    from headway.serve.run import running
    from headway.trace import Trace

    title = f"serve it, and replay {run.trace.requests} pages in {run.trace.duration_s:.0f} s"
    with steps.step(title) as step:
        step.say("starting the workers")
        neighbors = Neighbors()
        with running(run.plan, port=port, seed=run.seed, grace_s=5.0) as server:
            step.say("first pages, not counted")
            count = len(run.pages)
            first = Trace.from_arrivals([0.2 * i for i in range(count)], {"payload": list(range(count))})
            replay(server.url, first, payloads=run.pages, seed=run.seed)
            run.measured = replay(
                server.url, run.trace, payloads=run.pages, seed=run.seed,
                progress=lambda done, total: step.show(done, total, "pages read"),
            )  # fmt: skip
        note(neighbors, "replay", run.neighbors, run.notes)
        run.slowdowns = slowdowns(run.predicted, run.measured)
        run.explained = typical(with_slowdowns(run.plan, run.slowdowns), run.trace, run.seed)
        step.result = percentiles_text(run.measured)


def percentiles_text(outcome: Outcome) -> str:
    """Return P50 and P95 of an outcome."""
    from headway.report.words import answered

    return ", ".join(f"P{percent} {answered(outcome.p(percent))}" for percent in (50, 95))


def _plan(run: Run, spec: Spec, trace: Trace, say: Any, budget: int | None = None) -> Plan:
    from headway.plan.make import make

    return make(
        spec, run.profile, trace, seed=run.seed, budget=budget or run.sizes.plan_budget, progress=say,
        explained=run.sizes.explained,
    )  # fmt: skip


def _plan_kept(run: Run, spec: Spec, trace: Trace, say: Any, budget: int | None = None) -> Plan:
    """Plan for the promise, or for a looser one where this machine is too slow or busy to keep it; that is noted."""
    from headway.demo.scenario import promising, rounded_up
    from headway.plan.infeasible import Infeasible

    try:
        return _plan(run, spec, trace, say, budget)
    except Infeasible as refusal:
        smallest_s = refusal.obstacle.smallest_slo_s
        if smallest_s is None:
            raise
        promise = f"{spec.slo.latency_s:g} s"
        run.notes.append(f"A promise of {promise} cannot be kept here ({refusal}); a looser one was planned.")
        return _plan(run, promising(spec, rounded_up(1.05 * smallest_s)), trace, say, budget)


def _alternative(run: Run, spec: Spec, trace: Trace, variant: str) -> Mapping[str, Any]:
    """What the pipeline would cost with another detector, whatever its accuracy."""
    from headway.demo.scenario import model_stage, with_variant
    from headway.plan.infeasible import Infeasible
    from headway.plan.make import make

    accuracy = model_stage(spec, "detect").variant(variant).accuracy or 1.0
    floor = spec.slo.accuracy or 0.0
    note = f"reads {100 * accuracy:.1f}% of the characters"
    note += f", below the floor of {100 * floor:g}%" if accuracy < floor else ""
    try:
        plan = make(
            with_variant(spec, "detect", variant), run.profile, trace, seed=run.seed, budget=run.sizes.plan_budget,
            explained=False,
        )  # fmt: skip
    except Infeasible:
        return {"feasible": False, "note": f"{note}; too slow for the promise"}
    return {
        "cost_usd_per_hour": plan.cost_usd_per_hour, **plan.predicted, "feasible": accuracy >= floor, "note": note,
        "accuracy": accuracy,
        "stages": {name: config.to_dict() for name, config in plan.stages.items()},
    }  # fmt: skip


def _new_run(seed: int, sizes: Sizes | None) -> Run:
    from datetime import UTC, datetime

    from headway.demo import scenario

    return Run(seed, sizes or scenario.Sizes(), datetime.now(UTC).strftime("%Y-%m-%d"), scenario.host_cores())


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that the server and the workers are ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        # An event loop that runs has its own way with Ctrl-C, which leaves no worker half started.
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
