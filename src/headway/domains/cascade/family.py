"""A declared family of models on one hardware: what it costs, what it takes of memory, and which cascades it makes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade, Certificate, ValidationTable, certify, judge, samples_needed
from headway.cascade.guarantee import NotCertified, by_safety
from headway.cascade.search import Judged, search
from headway.domains.cascade.declare import CascadeStage
from headway.domains.cascade.gears import Gear, Guarantee
from headway.domains.cascade.halves import SELECTION, chosen_on, judged_on
from headway.domains.cascade.route import certified_skips, skips
from headway.errors import PlanError, nearest
from headway.plan.config import StageContext
from headway.plan.promise import duration_text
from headway.profile.service import ServiceTime

Floats = NDArray[np.float64]

LEVELS = 24
"""Thresholds of each model that are looked at."""
MOST_STEPS = 3
LATE = 0.05
"""The share of samples that a cascade may answer late when nothing waits: what a 95th percentile leaves."""
BUDGET = 20_000


@dataclass(frozen=True)
class Choice:
    """The cascades worth a gear, and with a tolerance what is certain of each."""

    judged: Judged
    certificates: Mapping[Cascade, Certificate]


@dataclass(frozen=True)
class Family:
    """The models of a stage on one hardware. `memory_mb` is None where every device holds every model.

    `routed`: whether items may pass over steps by their hardness. `among`: from the plans of how many planners one is
    chosen, of other hardware for instance; what is certified shall hold whichever it is.
    """

    where: str
    hardware: str
    table: ValidationTable
    table_hash: str
    service: Mapping[str, ServiceTime]
    memory_mb: Mapping[str, float] | None
    device_mb: float
    max_rate_per_s: float
    tolerance: float | None
    confidence: float
    routed: bool = False
    among: int = 1

    @classmethod
    def of(cls, context: StageContext, hardware: str, among: int = 1) -> Family:
        """Return the family that a stage declares. Raises PlanError, ProfileError or CascadeError for what it lacks."""
        stage = cascade_stage(context)
        where = f"stages.{context.name}"
        table, table_hash = declared_table(stage, where)
        service = {name: context.profile.service(context.name, name, hardware) for name in stage.models}
        memory_mb = None if stage.device_memory_mb is None else _memory_mb(context, stage, hardware)
        return cls(
            where, hardware, table, table_hash, service, memory_mb, stage.device_memory_mb or 0.0,
            stage.max_rate_per_s, stage.tolerance, stage.confidence, stage.hardness is not None, among,
        )  # fmt: skip

    def batch_sizes(self, slice_s: float) -> dict[str, int]:
        """Return per model the largest profiled batch that takes at most `slice_s`, at least 1; cheap models first."""
        fitting = {
            name: max((size for size in times.batch_sizes if times.mean_at(size) <= slice_s), default=1)
            for name, times in self.service.items()
        }
        cost_s = self.cost_s(fitting)
        return {name: fitting[name] for name in sorted(fitting, key=lambda name: (cost_s[name], name))}

    def cost_s(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return device-seconds per item of each model in full batches."""
        return {name: self.service[name].mean_at(size) / size for name, size in sizes.items()}

    def cascades(
        self, sizes: Mapping[str, int], max_steps: int = MOST_STEPS, within_s: float | None = None, sequences: int = 1
    ) -> Choice:
        """Return the cascades worth a gear on the half that chooses: none is both more accurate and cheaper.

        Of those, where given, that are done `within_s` for all but `LATE` of the samples when nothing waits; where none
        is, of all. With a tolerance only those whose loss is certified on the other half, as one of so many `sequences`
        of tests, which all shall hold. Raises PlanError when none can be certified.
        """
        cost_s = self.cost_s(sizes)
        chosen, others = _parts(self.table, tuple(sizes), apart=self.tolerance is not None)
        found = _searched(chosen, max_steps)
        found = replace(found, cost_s=work_s(found, tuple(sizes), cost_s).sum(axis=1))
        if within_s is not None:
            found = _some(found, self._late(found, tuple(sizes), within_s) <= LATE)
        kept = [found.cascade(row) for row in found.pareto()]
        certificates: dict[Cascade, Certificate] = {}
        if self.tolerance is not None:
            certificates = self._certified(kept, chosen, others, cost_s, self._confidence(sequences))
            kept = list(certificates)
        judged = judge(chosen, kept, cost_s)
        return Choice(judge(chosen, [judged.cascade(row) for row in judged.pareto()], cost_s), certificates)

    def too_slow(self, accuracy: float, within_s: float) -> str | None:
        """Say why no cascade that is right so often answers in time though nothing waits; None where one does.

        It is judged on the half that chooses. None, too, where no cascade is right so often.
        """
        models = tuple(self.service)
        chosen, _ = _parts(self.table, models, apart=self.tolerance is not None)
        found = _searched(chosen, MOST_STEPS)
        able = found.accuracy >= accuracy
        if not able.any():
            return None
        found = _some(found, able)
        late = self._late(found, models, within_s)
        row = int(np.argmin(late))
        if late[row] <= LATE:
            return None
        cascade, alone_s = found.cascade(row), {name: self.service[name].mean_at(1) for name in models}
        slowest = max(cascade.models, key=alone_s.__getitem__)
        return (
            f"of what is right in {accuracy:.4g} of all cases, {cascade} is late least often, for {late[row]:.1%} of "
            f"them even when nothing waits: model {slowest!r} takes {duration_text(alone_s[slowest])} for one alone"
        )

    def skips(self, judged: Judged, sizes: Mapping[str, int], sequences: int = 1) -> dict[Cascade, tuple[float, ...]]:
        """Return from which hardness items pass over steps, of the cascades in which they do.

        With a tolerance only where the loss is certified with it, too, as one of so many `sequences` of tests.
        """
        if not self.routed:
            return {}
        chosen, others = _parts(self.table, tuple(sizes), apart=self.tolerance is not None)
        cascades, cost_s = [judged.cascade(row) for row in range(len(judged))], self.cost_s(sizes)
        if self.tolerance is None:
            return {cascade: skips(cascade, chosen, cost_s) for cascade in cascades}
        confidence = self._confidence(sequences)
        return certified_skips(cascades, chosen, others, cost_s, chosen.models, self.tolerance, confidence)

    def guarantee(self, gears: Sequence[Gear], choice: Choice) -> Guarantee | None:
        """Return what is certain of gears of these cascades; None without a tolerance."""
        if self.tolerance is None:
            return None
        found = [choice.certificates[gear.cascade] for gear in gears]
        # With steps passed over a gear is another cascade, which was certified to the tolerance itself.
        bounds = [self.tolerance if g.skip else one.loss_bound for g, one in zip(gears, found, strict=True)]
        # Certified together they share a bound: the model to name is then the one against which most was lost.
        bound, _, reference = max((b, one.loss, one.reference) for b, one in zip(bounds, found, strict=True))
        return Guarantee(reference, bound, self.confidence, found[0].samples)

    def _confidence(self, sequences: int) -> float:
        """How sure each sequence of tests must be, so that all hold together: the chance of error is split evenly.

        With skips there are two sequences of each.
        """
        return 1.0 - (1.0 - self.confidence) / (sequences * self.among * (2 if self.routed else 1))

    def _late(self, judged: Judged, models: tuple[str, ...], within_s: float) -> Floats:
        """Of each cascade, the share of samples whose steps alone, one sample at a time, take longer than that."""
        alone_s = np.array([self.service[name].mean_at(1) for name in models])
        place = np.array([models.index(name) for name in judged.table.models])
        asked = judged.model >= 0
        path_s = np.cumsum(np.where(asked, alone_s[place[judged.model]], 0.0), axis=1)
        leaving = judged.reaching - np.pad(judged.reaching[:, 1:], ((0, 0), (0, 1)))
        return np.asarray(np.where(asked & (path_s > within_s), leaving, 0.0).sum(axis=1), np.float64)

    def _certified(
        self,
        kept: list[Cascade],
        chosen_on: ValidationTable,
        certified_on: ValidationTable,
        cost_s: Mapping[str, float],
        confidence: float,
    ) -> dict[Cascade, Certificate]:
        """What is certain of those cascades whose loss is within the tolerance against every model of the family.

        Which model is the most accurate is not known: the one that is so on a few samples need not be.
        """
        assert self.tolerance is not None
        order = by_safety(chosen_on, kept, cost_s, chosen_on.models, confidence)
        try:
            passed = certify(certified_on, order, chosen_on.models, tolerance=self.tolerance, confidence=confidence)
        except NotCertified as error:
            raise PlanError(f"{self.where}.tolerance: {self._uncertified(error, confidence)}") from None
        return {certificate.cascade: certificate for certificate in passed}

    def _uncertified(self, error: NotCertified, confidence: float) -> str:
        """Why a tolerance is refused, and how many labeled samples or which tolerance would do."""
        assert self.tolerance is not None
        needed = error.needed or samples_needed(self.tolerance, 0.0, confidence=confidence)
        whole = math.ceil(needed / (1 - SELECTION))
        rows = f"which half of the table does: {whole:,} in all, where it has {self.table.samples:,}"
        largest = f"a tolerance of {math.ceil(1e4 * error.bound) / 100:g}% can be declared with these"
        if error.needed is not None:
            return f"{error} to certify, {rows}; {largest}"
        return (
            f"{error.found}; even a cascade that never differs takes {needed:,} labeled samples to certify, {rows}, "
            f"and one that loses less; {largest}"
        )


def work_s(judged: Judged, models: tuple[str, ...], cost_s: Mapping[str, float]) -> Floats:
    """Return the device-seconds per item that each cascade asks of each model, `[cascade, model]`.

    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> rows = [Cascade.from_dict({"steps": [{"model": "a", "threshold": 0.8}, {"model": "b"}]})]
    >>> work_s(judge(table, rows, {"a": 1.0, "b": 10.0}), ("a", "b"), {"a": 1.0, "b": 10.0}).tolist()
    [[1.0, 5.0]]
    """
    out = np.zeros((len(judged), len(models)))
    place = np.array([models.index(name) if name in models else -1 for name in judged.table.models])
    cost = np.array([cost_s[name] for name in models])
    for step in range(judged.model.shape[1]):
        rows = np.flatnonzero(judged.model[:, step] >= 0)
        model = place[judged.model[rows, step]]
        out[rows, model] += judged.reaching[rows, step] * cost[model]
    return out


def _some(judged: Judged, kept: NDArray[np.bool_]) -> Judged:
    """Some of the cascades; all of them where none is kept."""
    if not kept.any():
        return judged
    columns = {name: getattr(judged, name)[kept] for name in ("model", "threshold", "accuracy", "reaching", "cost_s")}
    return replace(judged, **columns)


def cascade_stage(context: StageContext) -> CascadeStage:
    """Return what a stage declares. Raises PlanError for one of another kind."""
    stage = context.stage
    if not isinstance(stage, CascadeStage):
        raise PlanError(f"stages.{context.name}: kind {stage.kind!r} is not planned by the cascade domain")
    return stage


def read_table(path: str) -> tuple[ValidationTable, str]:
    """Return a validation table and the hash of its file, which is read again only when it has changed."""
    target = Path(path).resolve()
    try:
        state = target.stat()
    except OSError as error:
        raise PlanError(f"{path}: cannot read the validation table: {error.strerror}") from None
    return _read_table(str(target), state.st_mtime_ns, state.st_size)


def declared_table(stage: CascadeStage, where: str) -> tuple[ValidationTable, str]:
    """Return the validation table of a stage and the hash of its file.

    Raises PlanError or CascadeError, beginning with `where` or the file, for one that cannot be read or lacks what the
    stage declares.
    """
    table, table_hash = read_table(stage.table)
    if stage.hardness is not None and table.hardness is None:
        raise PlanError(
            f"{where}.hardness: the table {stage.table} does not say how hard its samples are; give it the column "
            "hardness (headway profile writes it)"
        )
    for name in stage.models:
        if name not in table.models:
            raise PlanError(
                f"{where}.models.{name}: the table {stage.table} has no such model{nearest(name, table.models)}; "
                f"it has {', '.join(table.models)}"
            )
    return table, table_hash


def planned_table(path: str, planned: str, where: str) -> ValidationTable:
    """Return the validation table that gears were made with, by the hash that their plan has of it, if any.

    Raises PlanError, beginning with `where`, when the file holds another one.
    """
    table, table_hash = read_table(path)
    if planned and planned != table_hash:
        raise PlanError(
            f"{where}: {path} is not the validation table that the gears were made with (hash {table_hash}, not "
            f"{planned}); plan again"
        )
    return table


@lru_cache(maxsize=8)
def _parts(table: ValidationTable, names: tuple[str, ...], apart: bool) -> tuple[ValidationTable, ValidationTable]:
    """What these models said of the samples that choose, and of the others; `apart` even where both are few."""
    known = ValidationTable(
        table.labels,
        None if table.predicted is None else {name: table.predicted[name] for name in names},
        {name: table.certainty[name] for name in names},
        None if table.score is None else {name: table.score[name] for name in names},
        table.hardness,
    )
    if apart:
        chosen, others = known.split((SELECTION, 1 - SELECTION), seed=0)
        return chosen, others
    return known.take(chosen_on(table)), known.take(judged_on(table))


@lru_cache(maxsize=8)
def _searched(table: ValidationTable, max_steps: int) -> Judged:
    """The cascades of a table's models, asked in their order; what they cost is for others to say."""
    place = {name: float(at) for at, name in enumerate(table.models)}
    return search(table, place, max_steps=max_steps, levels=LEVELS, budget=BUDGET)


@lru_cache(maxsize=8)
def _read_table(path: str, changed_ns: int, size: int) -> tuple[ValidationTable, str]:
    return ValidationTable.read(path), hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _memory_mb(context: StageContext, stage: CascadeStage, hardware: str) -> dict[str, float]:
    """What each model takes of a device's memory, declared or else measured."""
    out = {}
    for name, model in stage.models.items():
        rows = [
            row.memory_mb
            for row in context.profile.rows
            if (row.stage, row.variant, row.hardware) == (context.name, name, hardware) and row.memory_mb is not None
        ]
        known = model.memory_mb if model.memory_mb is not None else max(rows, default=None)
        where = f"stages.{context.name}.models.{name}"
        if known is None:
            raise PlanError(f"{where}: nothing says how much memory it takes; give memory, or memory_mb in the profile")
        if stage.device_memory_mb is not None and known > stage.device_memory_mb:
            raise PlanError(f"{where}: takes {known:g} MB where a device has {stage.device_memory_mb:g} MB")
        out[name] = known
    return out
