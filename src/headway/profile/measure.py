"""Measures what every stage of a spec costs on this machine: one cell per model, hardware and batch size."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from headway.errors import HeadwayError, ProfileError, WorkerTimeout
from headway.files import content_hash
from headway.profile.cell import Effort, measure_cell
from headway.profile.finished import Finished
from headway.profile.profile import Profile, RecordedVisits, Row
from headway.profile.record import Recorder, Recording
from headway.profile.said import Said
from headway.profile.samples import samples_hash
from headway.profile.stamp import machine, stamp
from headway.profile.target import Model, NotStarted, Target, models, targets
from headway.serve.model_ref import HardwareView
from headway.serve.wire import Payload
from headway.spec.model import Spec

T = TypeVar("T")

UNHURRIED_CELL_S = 10.0
"""The longest that a cell is measured for precision's sake when there is no budget."""

RECORDING_SHARE = 0.25
"""The part of a budget after which no further sample is recorded, once there are `ENOUGH_SAMPLES`."""

ENOUGH_SAMPLES = 30
"""Samples that are recorded beyond that part too, up to the whole budget: loads rest on how many items they make."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement is: steps done and to do, and a line that says what was just done.

    A problem is told with no steps.

    >>> str(Progress(1, 4, "detect on cpu, batch 1: 33.1 ms (120x)"))
    '1/4 detect on cpu, batch 1: 33.1 ms (120x)'
    """

    done: int
    total: int
    text: str

    def __str__(self) -> str:
        return f"{self.done}/{self.total} {self.text}" if self.total else self.text


@dataclass(frozen=True, slots=True)
class Problem:
    """A cell (or a whole stage) that has no row, and why: `failed` here, or `skipped` on purpose.

    Or a `warning`: what was recorded is too little to rest on.
    """

    status: str
    text: str
    stage: str | None = None
    variant: str | None = None
    hardware: str | None = None
    batch_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as JSON values, without what does not apply."""
        names = ("status", "stage", "variant", "hardware", "batch_size", "text")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def measure(
    spec: Spec,
    samples: Sequence[Payload],
    *,
    folder: str | os.PathLike[str] = ".",
    batch_sizes: Sequence[int] | None = None,
    budget_s: float | None = None,
    effort: Effort | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    log: Callable[[str], None] | None = None,
    date: str | None = None,
    seed: int = 0,
) -> Profile:
    """Return the measured profile of every stage that has a model; one worker computes at a time.

    The samples are run through the pipeline first, so that each stage is measured with what its parents really
    produce, and visits are recorded. `folder` is where the spec's model files are looked up; `budget_s` the wall-clock
    time to share out (batch size 1 is measured even beyond it); `resume` a file that keeps finished cells, which are
    taken from it when model, options, hardware, samples and machine are the same. Batch sizes default to powers of two,
    and end where a batch alone takes longer than the promised latency. `log` takes the lines that models print
    (default: standard error), of equal tracebacks of a stage the first only; `date` is written into the stamp.

    A cell that fails, or cannot be measured here, is listed in `stamp["problems"]`; it does not lose the others. Raises
    ProfileError when nothing could be measured, and SpecError for a model that is not where the spec says.
    """
    if not samples:
        raise ProfileError("profile: no samples; give a folder of files or a JSONL file")
    if budget_s is not None and not budget_s > 0:
        raise ProfileError(f"profile: budget_s is {budget_s}; it must be greater than 0")
    stages = models(spec, folder)
    run = _Run(
        spec=spec,
        samples=samples,
        stages=stages,
        targets=targets(spec, stages, batch_sizes),
        prune=batch_sizes is None,
        budget_s=budget_s,
        effort=effort or Effort(),
        finished=Finished(resume),
        report=progress or (lambda state: None),
        said={name: Said(name, log) for name in stages},
        seed=seed,
    )
    return complete(run.profile(date))


@dataclass
class _Run:
    spec: Spec
    samples: Sequence[Payload]
    stages: dict[str, dict[str, Model]]
    targets: list[Target]
    prune: bool
    budget_s: float | None
    effort: Effort
    finished: Finished
    report: Callable[[Progress], None]
    said: dict[str, Said]
    seed: int
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    visits: list[RecordedVisits] = field(default_factory=list)
    recorded: int = 0
    not_started: set[str] = field(default_factory=set)

    async def profile(self, date: str | None) -> Profile:
        started_s = time.perf_counter()
        origin = content_hash([samples_hash(self.samples), machine()])
        for name in self.spec.stages:
            if name not in self.stages:
                self._skip(Problem("skipped", "the stage names no model; give its rows in the profile yourself", name))
        cells = self._cells(origin)
        visits = self.finished.visits(self._visits_key(origin))
        if any(row is None for *_, row in cells) or visits is None:
            recording = await self._record()
            visits = recording.visits
            self.recorded = recording.samples
            if self.recorded == len(self.samples):
                self.finished.add_visits(self._visits_key(origin), visits)
            await self._measure(cells, recording, started_s)
            for stage, text in recording.not_started.items():
                if not any(problem.stage == stage and problem.status == "failed" for problem in self.problems):
                    self._skip(Problem("failed", text, stage))
        else:
            self.rows = {(target.label, size): row for target, size, _, row in cells if row is not None}
            self.recorded = len(self.samples)
        for said in self.said.values():
            said.finish()
        self.visits = visits
        self._warn_of_little()
        return self._result(date)

    def _cells(self, origin: str) -> list[tuple[Target, int, str, Row | None]]:
        """Every cell that this machine can measure, small batches first, with its row if that is already known."""
        cells = []
        for target in self.targets:
            if target.absent is not None:
                m = target.model
                self._skip(Problem("skipped", target.absent, m.stage, m.variant, target.hardware.name))
        present = [target for target in self.targets if target.absent is None]
        for size in sorted({size for target in present for size in target.batch_sizes}):
            for target in present:
                if size in target.batch_sizes:
                    made_from = _made_from(target, origin)
                    cells.append((target, size, made_from, self.finished.row(_key(target, size), made_from)))
        return cells

    async def _record(self) -> Recording:
        hardware: dict[str, HardwareView] = {}
        for target in self.targets:
            if target.absent is None:
                hardware.setdefault(target.model.stage, target.hardware)
        recorder = Recorder(
            self.spec.graph, self.stages, hardware, seed=self.seed, timeout_s=self.effort.timeout_s, said=self.said
        )
        started_s = time.perf_counter()

        def enough(count: int) -> bool:
            self.report(Progress(count, len(self.samples), "samples run through the pipeline"))
            return recorded_enough(count, time.perf_counter() - started_s - recorder.starting_s, self.budget_s)

        recording = await recorder.run(self.samples, enough)
        for stage, text in recording.problems.items():
            self._skip(Problem("failed", f"some inputs failed: {text}", stage))
        return recording

    def _warn_of_little(self) -> None:
        total = len(self.samples)
        if self.visits and self.recorded < total:
            text = f"visits rest on {self.recorded} of {total} samples; a longer budget records more of them"
            self._skip(Problem("warning", text))
        for stage in dict.fromkeys(stage for record in self.visits for stage in record.unvisited):
            text = "no sample reached the stage, so its load rests on the declared edges; add samples that do"
            self._skip(Problem("warning", text, stage))

    async def _measure(
        self, cells: list[tuple[Target, int, str, Row | None]], recording: Recording, started_s: float
    ) -> None:
        dead: dict[str, str] = {}
        for number, (target, size, made_from, row) in enumerate(cells):
            if row is None and target.label in self.not_started:
                continue
            share_s = self._share_s(started_s, [left[1] for left in cells[number:]])
            why_not = dead.get(target.label)
            if row is None and why_not is None and size > 1 and share_s <= 0:
                why_not = "the budget was used up; run the same command again to go on"
            if row is None and why_not is None and not recording.inputs[target.model.stage]:
                why_not = "no input reached the stage"
            if row is None and why_not is None:
                row = await self._cell(target, size, recording, share_s, dead)
                if row is not None:
                    self.finished.add(_key(target, size), made_from, row)
                    self._say(
                        number, cells, f"{target.label}, batch {size}: {row.mean_s * 1e3:.4g} ms ({row.samples}x)"
                    )
            elif row is None and why_not is not None:
                self._problem("skipped", target, size, why_not)
            if row is not None:
                self.rows[target.label, size] = row
                if self.prune and row.mean_s > self.spec.slo.latency_s:
                    dead.setdefault(target.label, f"a batch of {size} alone takes longer than the promised latency")

    async def _cell(
        self, target: Target, size: int, recording: Recording, share_s: float, dead: dict[str, str]
    ) -> Row | None:
        inputs = recording.inputs[target.model.stage]
        rng = random.Random(f"{self.seed}/{_key(target, size)}")
        try:
            said = self.said[target.model.stage]
            return await measure_cell(target, size, inputs, effort=self.effort, share_s=share_s, rng=rng, log=said)
        except HeadwayError as error:
            self._problem("failed", target, size, str(error))
            if isinstance(error, NotStarted):
                self.not_started.add(target.label)
            if isinstance(error, WorkerTimeout):
                dead[target.label] = f"a batch of {size} already took too long"
            return None

    def _share_s(self, started_s: float, sizes_left: Sequence[int]) -> float:
        """The time for the first of the cells left; small batches, on which all else rests, get more of it."""
        if self.budget_s is None:
            return UNHURRIED_CELL_S
        share = (1 / sizes_left[0]) / sum(1 / size for size in sizes_left)
        return (started_s + self.budget_s - time.perf_counter()) * share

    def _result(self, date: str | None) -> Profile:
        order = {target.label: index for index, target in enumerate(self.targets)}
        measured = {label for label, size in self.rows if size == 1}
        for target in self.targets:
            if target.absent is None and target.label not in measured and any(k[0] == target.label for k in self.rows):
                self._problem("skipped", target, None, "left out: without batch size 1 the other rows cannot be used")
        keys = sorted((k for k in self.rows if k[0] in measured), key=lambda k: (order[k[0]], k[1]))
        if not keys:
            reasons = (problem.text for problem in self.problems if problem.status != "warning")
            first = next(reasons, "there are no cells")
            raise ProfileError(f"profile: nothing could be measured; the first reason: {first}")
        about: dict[str, Any] = {**stamp(self.samples, date), "seed": self.seed}
        about["samples"]["recorded"] = self.recorded
        if self.problems:
            about["problems"] = [problem.to_dict() for problem in self.problems]
        return Profile.from_rows([self.rows[key] for key in keys], self.visits, about)

    def _visits_key(self, origin: str) -> str:
        made = [model.fingerprint for variants in self.stages.values() for model in variants.values()]
        options = [dict(model.options) for variants in self.stages.values() for model in variants.values()]
        graph = [
            (name, name in self.spec.graph.joins, [(e.parent, e.probability, e.fan_out) for e in parents])
            for name, parents in self.spec.graph.parents.items()
        ]
        return content_hash([made, options, graph, origin, self.seed])

    def _say(self, number: int, cells: Sequence[object], text: str) -> None:
        self.report(Progress(number + 1, len(cells), text))

    def _problem(self, status: str, target: Target, size: int | None, text: str) -> None:
        model = target.model
        self._skip(Problem(status, text, model.stage, model.variant, target.hardware.name, size))

    def _skip(self, problem: Problem) -> None:
        # An exception's text may have several lines, a message has one.
        problem = replace(problem, text=" ".join(problem.text.split()))
        self.problems.append(problem)
        where = [problem.stage, problem.variant, problem.hardware, problem.batch_size]
        self.report(Progress(0, 0, f"{problem.status}: {', '.join(str(w) for w in where if w)}: {problem.text}"))


def recorded_enough(count: int, took_s: float, budget_s: float | None) -> bool:
    """Return whether `count` samples that took `took_s` to run are all that a budget has time for.

    >>> recorded_enough(1, 30.0, budget_s=90.0), recorded_enough(100, 30.0, budget_s=90.0)
    (False, True)
    """
    if budget_s is None:
        return False
    return took_s >= (RECORDING_SHARE if count >= ENOUGH_SAMPLES else 1.0) * budget_s


def _key(target: Target, size: int) -> str:
    return "/".join((target.model.stage, target.model.variant, target.hardware.name, str(size)))


def _made_from(target: Target, origin: str) -> str:
    model, hardware = target.model, target.hardware
    return content_hash([model.fingerprint, dict(model.options), hardware.threads, hardware.device, origin])


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in a thread of its own where an event loop already runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
