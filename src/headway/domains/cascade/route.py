"""Pre-router edges: from which hardness on items pass over the cheap steps of a gear.

An item that the cheap model would hand on anyway costs its time there for nothing. Where hardness tells such items
beforehand, they begin at a later step (HADIS, 2025, routes before it cascades). It pays when of the items so hard the
cheap model answers a smaller share than its cost is of the next one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade, ValidationTable, certify
from headway.cascade.guarantee import by_safety
from headway.errors import CascadeError
from headway.policy.cascading import answers

Floats = NDArray[np.float64]

LEVELS = 20
"""Quantiles of hardness that are looked at."""
LEAST_SAVED = 0.02
"""The share of a cascade's work that must be saved: less may be chance, and would be a rule for nothing."""


def skips(cascade: Cascade, table: ValidationTable, cost_s: Mapping[str, float]) -> tuple[float, ...]:
    """Return from which hardness items pass over each step, as `policy.cascading.first_step` takes it.

    `cost_s`: device-seconds per item of each model; `table`: the samples to choose by. Without a hardness nothing is
    passed over. Step by step, the level is taken that saves most work of those with which no fewer answers are right.

    >>> from headway.cascade import Step
    >>> sure = {"a": [0.9] * 50 + [0.1] * 50, "b": [1.0] * 100}
    >>> said = {"a": [0, 1] * 50, "b": [0, 1] * 50}
    >>> table = ValidationTable([0, 1] * 50, said, sure, hardness=np.arange(100.0))
    >>> skips(Cascade((Step("a", threshold=0.5), Step("b"))), table, {"a": 1.0, "b": 4.0})
    (49.5,)
    """
    hardness = table.hardness
    if hardness is None:
        return ()
    work_s, credit = _from_each_step(cascade, table, cost_s)
    levels = np.unique(np.quantile(hardness, np.arange(LEVELS) / LEVELS))
    least_s = LEAST_SAVED * float(work_s[0].sum())
    out: list[float] = []
    for step in range(len(cascade) - 1):
        usable = levels[levels >= out[-1]] if out else levels
        best, saved_s = None, least_s
        for level in usable.tolist():
            hard = hardness >= level
            gain_s = float((work_s[step] - work_s[step + 1])[hard].sum())
            if gain_s > saved_s and float((credit[step + 1] - credit[step])[hard].sum()) >= 0.0:
                best, saved_s = level, gain_s
        if best is None:
            break
        out.append(best)
    return tuple(out)


def certified_skips(
    cascades: Sequence[Cascade],
    chosen: ValidationTable,
    others: ValidationTable,
    cost_s: Mapping[str, float],
    references: Sequence[str],
    tolerance: float,
    confidence: float,
) -> dict[Cascade, tuple[float, ...]]:
    """Return `skips` by cascade, of those with which it is certified to lose at most `tolerance` against each of the
    models `references`.

    Chosen by the samples of one table and certified by those of another, as cascades without are: a step that is passed
    over is one that is never certain.
    """
    found = {cascade: skip for cascade in cascades if (skip := skips(cascade, chosen, cost_s))}
    passing = {_passing(cascade, skip): cascade for cascade, skip in found.items()}
    added = {
        _never(step.model, level): (step.model, level)
        for cascade, skip in found.items()
        for step, level in zip(cascade.steps, skip, strict=False)
    }
    if not found:
        return {}
    cost = {**cost_s, **{name: cost_s[model] for name, (model, _) in added.items()}}
    order = by_safety(_with(chosen, added), passing, cost, references, confidence)
    try:
        passed = certify(_with(others, added), order, references, tolerance=tolerance, confidence=confidence)
    except CascadeError:
        return {}
    kept = [passing[certificate.cascade] for certificate in passed]
    return {cascade: found[cascade] for cascade in kept}


def _never(model: str, level: float) -> str:
    return f"{model}, never from hardness {level!r} on"


def _passing(cascade: Cascade, skip: tuple[float, ...]) -> Cascade:
    """The cascade whose steps are never certain of what would pass over them."""
    steps = [replace(step, model=_never(step.model, at)) for step, at in zip(cascade.steps, skip, strict=False)]
    return Cascade((*steps, *cascade.steps[len(skip) :]))


def _with(table: ValidationTable, added: Mapping[str, tuple[str, float]]) -> ValidationTable:
    """The table with models that are never certain of samples from a hardness on."""
    assert table.hardness is not None
    certainty, predicted, score = (dict(each or {}) for each in (table.certainty, table.predicted, table.score))
    for name, (model, level) in added.items():
        certainty[name] = np.where(table.hardness >= level, -np.inf, certainty[model])
        for column in (predicted, score):
            if model in column:
                column[name] = column[model]
    return ValidationTable(table.labels, predicted or None, certainty, score or None)


def _from_each_step(
    cascade: Cascade, table: ValidationTable, cost_s: Mapping[str, float]
) -> tuple[list[Floats], list[Floats]]:
    """What each sample costs and is worth when it begins at each step."""
    work_s: list[Floats] = []
    credit: list[Floats] = []
    for name, threshold in zip(reversed(cascade.models), reversed(cascade.thresholds), strict=True):
        sure = answers(table.certainty[name], threshold)
        onward_s, onward = (work_s[0], credit[0]) if work_s else (np.zeros(table.samples), table.credit[name])
        work_s.insert(0, cost_s[name] + np.where(sure, 0.0, onward_s))
        credit.insert(0, np.where(sure, table.credit[name], onward))
    return work_s, credit
