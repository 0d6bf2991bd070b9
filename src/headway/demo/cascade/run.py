"""`headway demo cascade`: a family of models through a day of traffic with a spike, end to end.

The models are taught, profiled and asked about labeled images; gears are planned, served and replayed; and what came of
it is told.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.demo.cascade.digits import Digits
    from headway.demo.cascade.scenario import Chosen, Rates, Sizes
    from headway.demo.show import Step, Steps
    from headway.plan.plan import Plan
    from headway.profile import Profile
    from headway.report.timeline import Timeline
    from headway.sim.outcome import Outcome
    from headway.spec.model import Spec
    from headway.trace import Trace

WARM_UP, WARM_UP_PER_S = 60, 20.0
SERVED_SEED = 0
"""What a server draws with: the simulator is to have the same."""
FIGURES = ("p50_s", "p95_s", "p99_s", "miss_rate")


@dataclass
class Run:
    """Everything that one run of the demo found out, in the order in which it did."""

    seed: int
    sizes: Sizes
    date: str
    folder: Path
    devices: int
    notes: list[str] = field(default_factory=list)
    data: Digits = field(init=False)
    files: Mapping[str, Path] = field(init=False)
    profile: Profile = field(init=False)
    table: str = ""
    rates: Rates = field(init=False)
    plan: Plan = field(init=False)
    trace: Trace = field(init=False)
    chosen: Chosen = field(init=False)
    predicted: Outcome = field(init=False)
    interval: dict[str, list[float]] = field(init=False)
    others: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: Outcome = field(init=False)
    timeline: Timeline = field(init=False)
    neighbors: dict[str, float] = field(default_factory=dict)


def main(
    output: Path, *, seed: int = 1, as_json: bool = False, sizes: Sizes | None = None, report: Path | None = None,
    port: int = 0,
) -> None:  # fmt: skip
    """Run the demo: progress on stderr, the result on stdout, all files in the folder `output`.

    `report` is where the HTML goes, else `output/report.html`; `port` 0 takes a free one. Raises HeadwayError when the
    extra `learn` is not installed or a step fails. Processes that were started are ended, whatever happens.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise HeadwayError("the demo also needs scikit-learn; install it with: pip install 'headway[learn]'")
    from datetime import UTC, datetime

    from headway.demo.cascade import scenario
    from headway.demo.cascade.tell import CascadeTeller
    from headway.demo.run import terminated_like_interrupted

    date = datetime.now(UTC).strftime("%Y-%m-%d")
    run = Run(seed, sizes or scenario.Sizes(), date, output, scenario.devices_here())
    with terminated_like_interrupted():
        run_all(run, CascadeTeller(output, report, as_json), port)


def run_all(run: Run, teller: Any, port: int) -> None:
    """Go through all steps, telling each result as soon as it is there."""
    from headway.demo.show import Steps

    teller.prepare()
    with Steps(6) as steps:
        teach(run, steps)
        profile(run, steps)
        teller.profile(run)
        plan(run, steps)
        predict(run, steps)
        teller.plan(run)
        measure(run, steps, port)
        with steps.step("write the report") as step:
            step.result = str(teller.write(run))
    teller.result(run)


def teach(run: Run, steps: Steps) -> None:
    """Let the three models learn from images that nothing else sees."""
    from headway.demo.cascade.digits import digits, learn

    with steps.step("teach three models to read digits") as step:
        run.data = digits(run.seed, run.sizes.known)
        run.files = learn(run.data, run.folder / "models", run.seed)
        step.result = f"from {len(run.data.known)} images"


def profile(run: Run, steps: Steps) -> None:
    """Measure what batches of each model take, and ask each about the same labeled images."""
    from headway.demo.cascade import scenario
    from headway.demo.neighbors import Neighbors, note
    from headway.demo.profiled import profiled, shown
    from headway.profile.labeled import validate

    # Neither rates nor a promise are known before it is known how long the models take.
    spec = scenario.declared(run.files, run.folder, run.devices, scenario.Rates(1.0, 1.0, 1.0), 3600.0)
    samples = [scenario.payload(image) for image in run.data.validation[: run.sizes.asked]]
    with steps.step("profile the models, and ask them about labeled images") as step:
        neighbors = Neighbors()
        run.profile = profiled(
            step, spec, samples[: scenario.MEASURED], budget_s=run.sizes.profile_s, date=run.date, seed=run.seed,
            batch_sizes=run.sizes.batch_sizes,
        )  # fmt: skip
        labels = [str(label) for label in run.data.validation_labels[: run.sizes.asked]]
        told = validate(spec, samples, labels, progress=partial(shown, step), log=lambda line: None)
        note(neighbors, "profile", run.neighbors, run.notes)
        run.table = told[scenario.STAGE].rpartition(": ")[2]
        step.result = f"right: {run.table}"


def plan(run: Run, steps: Steps) -> None:
    """Choose the gears that are right most often and keep the promise, on other days than the one to be replayed."""
    from headway.demo.cascade import scenario
    from headway.plan.plan import Plan
    from headway.report.format import plural

    with steps.step("plan gears for a day with a spike") as step:
        spec, run.rates, run.chosen = _kept(run, step)
        floor = scenario.floor_of(run.chosen.accuracy, min(run.sizes.asked, len(run.data.replayed)))
        spec = scenario.with_floor(spec, floor)
        run.trace = scenario.day(run.rates, run.sizes.replay_s, len(run.data.replayed), run.seed)
        run.plan = Plan(spec, run.profile, {scenario.STAGE: run.chosen.gears})
        gears = plural(len(run.chosen.gears.gears), "gear")
        step.result = f"{gears}, {run.rates.night_per_s:.0f} to {run.rates.spike_per_s:.0f} images/s"


def _kept(run: Run, step: Step) -> tuple[Spec, Rates, Chosen]:
    """Plan for the promise, or for a looser one where this machine is too slow or busy to keep it; that is noted."""
    from headway.demo.cascade import scenario
    from headway.demo.scenario import rounded_up

    rates = scenario.Rates.of(scenario.item_s(run.profile), run.devices)
    first_s = promise_s = scenario.promise_s(run.profile)
    for trial in range(scenario.PROMISES):
        step.say(f"promise of {1e3 * promise_s:.0f} ms")
        spec = scenario.declared(run.files, run.folder, run.devices, rates, promise_s)
        days = [
            scenario.day(rates, run.sizes.replay_s, len(run.data.replayed), 1_000 * (run.seed + 1) + number)
            for number in range(run.sizes.trials)
        ]
        chosen = scenario.choose(spec, run.profile, days, run.devices)
        if chosen is not None:
            if trial:
                run.notes.append(
                    f"A promise of {1e3 * first_s:.0f} ms cannot be kept here; one of {1e3 * promise_s:.0f} ms was "
                    f"planned, for up to {rates.spike_per_s:.0f} images/s."
                )
            return spec, rates, chosen
        promise_s = rounded_up(1.5 * promise_s)
        rates = rates.slower()
    raise HeadwayError(
        f"demo: no gears keep a promise of {1e3 * promise_s:.0f} ms here; is this machine busy with something else?"
    )


def predict(run: Run, steps: Steps) -> None:
    """Say what the replay will show, before it is run, and what the same devices would do without gears."""
    from headway.demo.cascade import scenario
    from headway.demo.explain import typical
    from headway.demo.run import percentiles_text
    from headway.plan.plan import PREDICTED
    from headway.sim.simulation import interval

    with steps.step("predict the day") as step:
        run.predicted = typical(run.plan, run.trace, SERVED_SEED)
        run.interval = interval(run.plan, run.trace, seed=SERVED_SEED, runs=run.sizes.intervals)
        figures = run.predicted.to_dict()
        stage = figures["stages"][scenario.STAGE]
        run.plan = dataclasses.replace(
            run.plan,
            predicted={name: figures[name] for name in FIGURES},
            stage_predictions={scenario.STAGE: {name: stage[name] for name in PREDICTED if name in stage}},
            lower_bound_usd_per_hour=run.plan.cost_usd_per_hour if run.devices == 1 else None,
            provenance={"planner": "gears", "seed": run.seed, "trace_hash": run.trace.hash,
                        "requests": run.trace.requests, "rate_per_s": run.trace.rate_per_s},
        )  # fmt: skip
        step.say("what single models would do")
        run.others = scenario.alternatives(run.plan, run.trace, SERVED_SEED)
        step.result = f"{percentiles_text(run.predicted)}, {100 * (run.predicted.accuracy or 0):.1f}% right"


def measure(run: Run, steps: Steps, port: int) -> None:
    """Serve the plan over HTTP, send it the day's images, and see which gear answers them how."""
    from headway.demo.cascade import scenario
    from headway.demo.cascade.watch import Answers, Watch, timeline
    from headway.demo.neighbors import Neighbors, note
    from headway.demo.run import percentiles_text
    from headway.serve.replay import replay
    from headway.serve.run import running
    from headway.trace import Trace

    images = list(run.data.replayed)
    gears = run.chosen.gears
    title = f"serve it, and replay {run.trace.requests} images in {run.trace.duration_s:.0f} s"
    with steps.step(title) as step:
        step.say("starting the workers")
        neighbors, answers, doing = Neighbors(), Answers(), [""]

        def gear(state: Mapping[str, Any]) -> None:
            doing[0] = f"gear {int(state['gear']) + 1} of {len(gears.gears)}"

        with running(run.plan, port=port, seed=SERVED_SEED, grace_s=5.0) as server:
            step.say("first images, not counted")
            first = Trace.from_arrivals([number / WARM_UP_PER_S for number in range(WARM_UP)])
            replay(server.url, first, payloads=images, seed=run.seed)
            with Watch(server.url, scenario.STAGE, gear) as watch:
                measured = replay(
                    server.url, run.trace, payloads=images, seed=run.seed, on_reply=answers.keep,
                    progress=lambda done, total: step.show(done, total, doing[0]),
                )  # fmt: skip
        note(neighbors, "replay", run.neighbors, run.notes)
        labels = run.data.replayed_labels[run.trace.columns["payload"].astype(int)]
        run.timeline = timeline(
            gears, watch, answers, labels, measured, run.predicted, duration_s=run.trace.duration_s,
            floor=run.plan.spec.slo.accuracy,
        )  # fmt: skip
        run.measured = dataclasses.replace(measured, accuracy=run.timeline.accuracy)
        step.result = f"{percentiles_text(measured)}, {100 * (run.timeline.accuracy or 0):.1f}% right"
