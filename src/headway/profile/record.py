"""Which inputs each stage really gets, and how many: the samples are run through the whole pipeline once.

InferLine section 4.1 records scale factors in the same way; here the counts of every sample are kept, under every
choice of variants, so that what the stages' loads have in common is kept too.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headway.errors import HeadwayError, ProfileError, ServeError, WorkerDied
from headway.profile.profile import RecordedVisits
from headway.profile.said import Said
from headway.profile.target import Model, NotStarted, started
from headway.serve.model_ref import HardwareView
from headway.serve.walk import Item, Request, Walk
from headway.serve.wire import Failure, Input, Payload, Result
from headway.serve.worker import Worker
from headway.spec.graph import Graph
from headway.spec.model import Edge

MAX_COMBINATIONS: Final = 64
"""Choices of variants that are recorded; of more, the first of each stage and every change of one stage from it."""

MAX_INPUTS: Final = 256
"""Inputs kept per stage; of more, a random choice."""

_MAX_DEATHS: Final = 3
_NOT_NEEDED: Final = Result()  # of a last stage only the inputs matter
_FORCED_SAMPLES: Final = 8


@dataclass
class Recording:
    """What was recorded: inputs by stage, visits by choice of variants, what failed, and over how many samples.

    `not_started` tells why a stage's model could not be set up; such a stage is not among the `problems`.
    """

    inputs: dict[str, list[Input]]
    visits: list[RecordedVisits] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    not_started: dict[str, str] = field(default_factory=dict)
    samples: int = 0


class Recorder:
    """Runs samples through the pipeline, one item at a time, so that only one worker computes at any time.

    `starting_s` is how long workers have taken to start.
    """

    def __init__(
        self,
        graph: Graph,
        stages: Mapping[str, Mapping[str, Model]],
        hardware: Mapping[str, HardwareView],
        *,
        seed: int,
        timeout_s: float,
        said: Mapping[str, Said] | None = None,
    ) -> None:
        self._graph = graph
        self._stages = stages
        self._hardware = hardware
        self._seed = seed
        self._timeout_s = timeout_s
        self._said = said or {}
        self._rng = random.Random(seed)
        self._workers: dict[tuple[str, str], Worker] = {}
        self._deaths: dict[tuple[str, str], int] = {}
        self._above = {name: ancestors(graph, name) for name in graph.order}
        self._seen = dict.fromkeys(graph.order, 0)
        self._decided = False
        self.recording = Recording({name: [] for name in graph.order})
        self.starting_s = 0.0

    async def run(self, samples: Sequence[Payload], enough: Callable[[int], bool]) -> Recording:
        """Record the samples until `enough(samples so far)`; at least one. Workers are stopped before it returns."""
        choices = combinations(self._graph, self._stages)
        counts: list[dict[str, list[int]]] = [{name: [] for name in self._graph.order} for _ in choices]
        try:
            for number, sample in enumerate(samples):
                results: dict[tuple[object, ...], Result] = {}
                for choice, count in zip(choices, counts, strict=True):
                    visits = await self._walk(self._graph, number, sample, choice, results)
                    for name in self._graph.order if visits is not None else ():
                        count[name].append((visits or {}).get(name, 0))
                self.recording.samples += 1
                if enough(self.recording.samples):
                    break
            await self._feed_the_starving(samples, choices[0])
        finally:
            for worker in self._workers.values():
                await worker.stop()
        # Where no stage decides by its data, counts would only be draws from the declared probabilities.
        if self._decided:
            left_out = len(samples) - self.recording.samples
            self.recording.visits = [
                RecordedVisits({name: tuple(c) for name, c in count.items()}, choice, left_out)
                for choice, count in zip(choices, counts, strict=True)
                if any(count.values())
            ]
        return self.recording

    async def inputs_of(self, stage: str, samples: Sequence[Payload]) -> list[list[Input]]:
        """Return per sample what it becomes at a stage, under the first variant of each. Workers are stopped first.

        Raises ProfileError for a sample that fails on its way there.
        """
        choice = combinations(self._graph, self._stages)[0]
        found: list[list[Input]] = []
        try:
            for number, sample in enumerate(samples):
                met: list[tuple[str, Input]] = []
                if await self._walk(self._graph, number, sample, choice, {}, met=met) is None:
                    problems = {**self.recording.problems, **self.recording.not_started}
                    why = next((f"{name}: {text}" for name, text in problems.items()), "it was not answered")
                    raise ProfileError(f"sample {number + 1} does not reach stage {stage!r}: {why}")
                found.append([payload for name, payload in met if name == stage])
        finally:
            for worker in self._workers.values():
                await worker.stop()
        return found

    async def _walk(
        self,
        graph: Graph,
        number: int,
        sample: Payload,
        choice: Mapping[str, str],
        results: dict[tuple[object, ...], Result],
        only: frozenset[str] | None = None,
        met: list[tuple[str, Input]] | None = None,
    ) -> dict[str, int] | None:
        """Take one sample through the graph; return how many items entered each stage, or None when one failed.

        Results are shared between choices that agree on a stage and all stages above it. `met` gets every item.
        """
        queue: list[Item] = []
        walk = Walk(graph, queue.append, self._seed)
        walk.enter(Request(number, lambda answer: None), sample)
        visits: dict[str, int] = {}
        failed = False
        while queue:
            item = queue.pop(0)
            stage = item.stage
            visits[stage] = visits.get(stage, 0) + 1
            if met is not None:
                met.append((stage, item.payload))
            key = (stage, item.key, *(choice.get(name) for name in (*self._above[stage], stage)))
            if key not in results:
                if only is None or stage in only:
                    self._keep(stage, item.payload)
                results[key] = await self._result(stage, choice, item.payload)
            result = results[key]
            if result.error is not None:
                self._note(stage, f"{result.error.type}: {result.error.message}")
                failed = True
                continue
            self._decided = self._decided or result.branches is not None
            if graph.children[stage]:
                try:
                    walk.follow(item, result)
                except ServeError as error:
                    self._note(stage, str(error))
                    failed = True
                    queue[:] = [other for other in queue if other.up is None]  # other sources still have their turn
        return None if failed else visits

    async def _result(self, stage: str, choice: Mapping[str, str], payload: Input) -> Result:
        if not self._graph.children[stage]:
            return _NOT_NEEDED
        if stage not in self._stages:
            return Result(value=payload) if isinstance(payload, Payload) else Result(value=Payload("json", b"null"))
        variants = self._stages[stage]
        variant = choice.get(stage, next(iter(variants)))
        try:
            worker = await self._worker(variants[variant])
            (result,) = await worker.predict([payload], timeout_s=self._timeout_s)
            return _answer_of(result, variants[variant])
        except HeadwayError as error:
            key = (stage, variant)
            if isinstance(error, NotStarted):
                self.recording.not_started.setdefault(stage, str(error))
            if key in self._workers:
                await self._workers.pop(key).stop(0.0)
            self._deaths[key] = self._deaths.get(key, 0) + 1
            return Result(error=Failure(type(error).__name__, str(error)))

    async def _worker(self, model: Model) -> Worker:
        key = (model.stage, model.variant)
        if self._deaths.get(key, 0) >= _MAX_DEATHS:
            raise WorkerDied(f"{model.label} failed {_MAX_DEATHS} times and is not started again")
        if model.stage not in self._hardware:
            raise ServeError(f"{model.label} cannot run: none of its hardware is on this machine")
        if key not in self._workers:
            hardware = self._hardware[model.stage]
            name, log = f"{model.label} on {hardware.name}", self._said.get(model.stage)
            started_s = time.perf_counter()
            try:
                self._workers[key] = await started(model, hardware, name=name, timeout_s=self._timeout_s, log=log)
            finally:
                self.starting_s += time.perf_counter() - started_s
        return self._workers[key]

    async def _feed_the_starving(self, samples: Sequence[Payload], choice: Mapping[str, str]) -> None:
        """A rarely taken edge may have been drawn for no sample; its stage is to be measured all the same."""
        starving = frozenset(name for name, inputs in self.recording.inputs.items() if not inputs)
        if not starving or self.recording.problems or self.recording.not_started:
            return
        always = Graph.build(
            {n: {edge.parent: Edge() for edge in self._graph.parents[n]} for n in self._graph.order},
            gathering={n for n in self._graph.joins if len(self._graph.parents[n]) == 1},
        )
        for number, sample in enumerate(samples[:_FORCED_SAMPLES]):
            await self._walk(always, number, sample, choice, {}, starving)

    def _keep(self, stage: str, payload: Input) -> None:
        """Keep a random choice of `MAX_INPUTS` of all inputs (Vitter 1985, algorithm R)."""
        kept = self.recording.inputs[stage]
        self._seen[stage] += 1
        if len(kept) < MAX_INPUTS:
            kept.append(payload)
        elif (place := self._rng.randrange(self._seen[stage])) < MAX_INPUTS:
            kept[place] = payload

    def _note(self, stage: str, text: str) -> None:
        if stage not in self.recording.not_started:
            self.recording.problems.setdefault(stage, text)


def ancestors(graph: Graph, stage: str) -> tuple[str, ...]:
    """Return all stages above a stage, in topological order.

    >>> ancestors(Graph.build({"a": {}, "b": {"a": Edge()}, "c": {"b": Edge()}}), "c")
    ('a', 'b')
    """
    found = {edge.parent for edge in graph.parents[stage]}
    for name in reversed(graph.order):
        if name in found:
            found |= {edge.parent for edge in graph.parents[name]}
    return tuple(name for name in graph.order if name in found)


def combinations(graph: Graph, stages: Mapping[str, Mapping[str, Model]]) -> list[dict[str, str]]:
    """Return the choices of variants to record: of stages that others follow and that have a choice.

    All of them, or when they are more than `MAX_COMBINATIONS` every change of one stage from the first of each.
    """
    choosing = [n for n in graph.order if graph.children[n] and _chooses(stages.get(n, {}))]
    total = 1
    for name in choosing:
        total *= len(stages[name])
    if total <= MAX_COMBINATIONS:
        picks: Iterator[tuple[str, ...]] = itertools.product(*(stages[name] for name in choosing))
        return [dict(zip(choosing, pick, strict=True)) for pick in picks]
    first = {name: next(iter(stages[name])) for name in choosing}
    changes = [{**first, name: v} for name in choosing for v in list(stages[name])[1:]]
    return [first, *changes][:MAX_COMBINATIONS]


def _chooses(variants: Mapping[str, Model]) -> bool:
    """Whether a stage has variants to choose from: a family's models are all there, and the first stands for them."""
    return len(variants) > 1 and all(model.answer is None for model in variants.values())


def _answer_of(result: Result, model: Model) -> Result:
    """What a result is to the stages that follow."""
    if model.answer is None or result.branches is None:
        return result
    return Result(value=result.branches[model.answer][0])
