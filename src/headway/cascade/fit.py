"""Learn a cascade from a pipeline and labeled rows: chosen on some of them, certified on others, then left as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.adapt import Parts, Scorer, adapt
from headway.cascade.calibrate import Learn, learner
from headway.cascade.candidates import FULL, Candidate, Places, Trained, Truth, candidates, costs, out_of_fold, scores
from headway.cascade.certainty import Certainty
from headway.cascade.costs import Costs
from headway.cascade.features import Clock
from headway.cascade.guarantee import by_safety, certify
from headway.cascade.model import Cascade, Step
from headway.cascade.rows import Rows, count, take
from headway.cascade.run import Evidence, FittedCascade, same_classes
from headway.cascade.search import Judged, credit, judge, search
from headway.cascade.table import ValidationTable, few
from headway.errors import CascadeError, nearest

MODES = ("batch", "point")
LEVELS = 48
"""Thresholds tried per model: quantiles of its certainty about two percent apart."""
POWER = 0.8
"""The chance that calibration certifies the cascade that was chosen, as far as the selection can tell."""
TESTED = 4
"""Cascades that are certified one after the other, the safest first; the last is the one that was chosen."""


def fit_cascade(
    pipeline: Any,
    rows: Rows,
    labels: Any,
    *,
    models: Mapping[str, Any] | None = None,
    tolerance: float = 0.01,
    confidence: float = 0.95,
    expected_loss: float | None = None,
    calibration: float | tuple[Rows, Any] = 0.4,
    how_certain: str | Certainty = "margin",
    mode: str = "batch",
    batch_size: int = 1000,
    max_steps: int = 3,
    folds: int = 5,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> FittedCascade:
    """Return a fitted cascade that answers as well as `pipeline` but cheaper, with a certificate of how well.

    `pipeline` is a scikit-learn Pipeline, or `Parts`. Cheap steps are its model on subsets of its features, and
    `models`, by name, on these and on all. `calibration` is the share of rows that is kept from learning, each class by
    its share, or rows and labels of their own. Steps are chosen by what they say of learning rows held out in turn
    (`folds`), and then fitted on all of these. On the calibration rows the fitted steps are certified: the accuracy
    lost against the full pipeline, fitted on the same rows, is at most `tolerance` with this `confidence`. Nothing is
    fitted after that. Test rows are the caller's to keep apart.

    Among cascades that are seen to lose at most `expected_loss`, a standard error included (a fifth of the tolerance
    unless given), the one of least cost is chosen, for batches of `batch_size` rows, or single ones when `mode` is
    "point". Where none is cheaper than the full pipeline, that is returned alone. Costs are measured, so that two runs
    may choose differently; a `clock` that is given decides them.

    `how_certain` says how scores become a certainty: by name ("margin", "highest", "entropy"; "calibrated" and
    "calibrated-by-class" are learned from the rows that cascades are chosen on), or a function.

    Raises CascadeError when no cascade can be certified, naming the samples needed, and for labels or arguments that
    cannot be used. Willump (Kraft et al., MLSys 2020, section 4) with a bound in place of a point estimate.

    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from headway.cascade.features import Feature, Features
    >>> rows = np.random.default_rng(1).normal(size=(4000, 2)) + np.repeat([[-1.0], [1.0]], 2000, axis=0)
    >>> each = Features({"near": Feature(lambda rows: rows[:, :1]), "both": Feature(lambda rows: rows)})
    >>> pipeline = Parts(each, ("near", "both"), LogisticRegression())
    >>> fitted = fit_cascade(pipeline, rows, np.repeat([0, 1], 2000), tolerance=0.05)
    >>> fitted.evidence.certificate.loss_bound <= 0.05
    True
    """
    _check(tolerance, confidence, mode, folds)
    for name, value in (("batch_size", batch_size), ("max_steps", max_steps)):
        if value < 1:
            raise CascadeError(f"fit_cascade: {name} is {value}; at least 1 is needed")
    parts, truth = adapt(pipeline, rows), _truth(labels, count(rows))
    learn, learned, held, held_truth = _apart(rows, truth, calibration, seed)
    at_once = batch_size if mode == "batch" else 1
    settings = _Settings(learner(how_certain), folds, max_steps, at_once, seed, clock)
    selection = _select(parts, models or {}, learn, learned, settings)
    expected = tolerance / 5 if expected_loss is None else expected_loss
    chosen = selection.sequence(tolerance, expected, confidence, count(held))
    trained = Trained.fit(parts, learn, learned)
    names = dict.fromkeys([*(name for cascade in chosen for name in cascade.models), FULL])
    needed = {name: selection.candidates[name] for name in names}
    fitted = {name: trained.model(candidate) for name, candidate in needed.items()}
    table = _table(held_truth, fitted, scores(trained.features, fitted, needed, held), selection.sure)
    evidence = _evidence(table, chosen, selection, parts, (tolerance, confidence), seed)
    if evidence.slower:
        evidence = _evidence(table, [selection.alone], selection, parts, (tolerance, confidence), seed)
    certificate = evidence.certificate
    return FittedCascade(certificate.cascade, trained.features, fitted, selection.sure, evidence=evidence, clock=clock)


def _evidence(
    table: ValidationTable,
    chosen: list[Cascade],
    selection: _Selection,
    parts: Parts,
    sure: tuple[float, float],
    seed: int,
) -> Evidence:
    """What is certain of the cheapest cascade that is certified; `sure` is the tolerance and the confidence."""
    tolerance, confidence = sure
    certificate = certify(table, chosen, FULL, tolerance=tolerance, confidence=confidence, seed=seed)[-1]
    reached = judge(table, [certificate.cascade], selection.step_s).reaching[0]
    return Evidence(certificate, selection.costs, tuple(reached.tolist()), selection.at_once, parts.inputs)


@dataclass(frozen=True, slots=True)
class _Settings:
    """How cascades are searched for."""

    learn: Learn
    folds: int
    max_steps: int
    at_once: int
    seed: int
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Selection:
    """What the choice rests on: candidates, what they said of rows that they had not seen, and what they cost."""

    candidates: Mapping[str, Candidate]
    sure: Mapping[str, Certainty]
    table: ValidationTable
    judged: Judged
    costs: Costs
    at_once: int

    @property
    def alone(self) -> Cascade:
        """The full pipeline alone."""
        return Cascade((Step(FULL, self.candidates[FULL].features),))

    def step_s(self, models: tuple[str, ...]) -> list[float]:
        """Seconds per row of each step of these models."""
        return self.costs.steps_s(models, self.at_once)

    def sequence(self, tolerance: float, expected_loss: float, confidence: float, samples: int) -> list[Cascade]:
        """The cascades to certify on `samples` rows, the safest first: the last is the cheapest that should pass.

        The others have the same steps and higher thresholds. The reference alone where nothing that should pass is
        cheaper. Raises CascadeError when all others lose too much.
        """
        judged, reference = self.judged, self.table.credit[FULL]
        alone = (judged.model[:, 0] == self.table.models.index(FULL)) & (judged.model[:, 1:] < 0).all(axis=1)
        full_s = self.step_s((FULL,))[0]
        if not (~alone & (judged.cost_s <= full_s)).any():
            return [self.alone]
        seen = np.flatnonzero(~alone & (judged.accuracy >= reference.mean() - expected_loss - 1e-12))
        z = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
        least, target = math.inf, -1
        for at in seen[np.argsort(judged.cost_s[seen], kind="stable")]:
            lost = reference - credit(self.table, judged.cascade(int(at)))
            # The cheapest of many is cheapest by luck too: a standard error is added (Breiman et al., CART, 1984, 3.4).
            if lost.mean() + lost.std() / math.sqrt(lost.size) > expected_loss + 1e-12:
                continue
            limit = lost.mean() + z * math.sqrt((lost.var() + z * z / samples) / samples)
            if limit < least:
                least, target = limit, int(at)
            if limit <= tolerance:
                break
        if target < 0:
            raise CascadeError(
                f"cascade: every cheaper one is seen to lose more than {100 * expected_loss:.2g} points against the "
                "full pipeline; allow a larger loss, or give models or features that are cheap and agree with it"
            )
        return self._up_to(target) if judged.cost_s[target] <= full_s else [self.alone]

    def _up_to(self, target: int) -> list[Cascade]:
        """The target after a few cascades of the same steps that are safer and dearer."""
        judged = self.judged
        alike = (judged.model == judged.model[target]).all(axis=1) & (judged.threshold >= judged.threshold[target]).all(
            axis=1
        )
        places = [*np.flatnonzero(alike & (np.arange(len(judged)) != target)), target]
        safest = by_safety(self.table, [judged.cascade(int(at)) for at in places], self.step_s, FULL)
        chosen = judged.cascade(target)
        before = safest[: safest.index(chosen)] if chosen in safest else safest
        few = (
            [before[at] for at in np.unique(np.linspace(0, len(before) - 1, TESTED - 1).astype(int))] if before else []
        )
        return [*few, chosen]


def _select(parts: Parts, models: Mapping[str, Any], rows: Rows, truth: Truth, settings: _Settings) -> _Selection:
    """Judge all cascades of the candidates on rows that these have not seen."""
    found: dict[str, Candidate] = {}
    said: dict[str, NDArray[np.float64]] = {}
    at_once, seed, clock = settings.at_once, settings.seed, settings.clock
    for train, held in _folds(truth, settings.folds, seed):
        trained, rest = Trained.fit(parts, take(rows, train), truth[train]), take(rows, held)
        found = found or candidates(parts, models, trained, rest, truth[held], at_once=at_once, seed=seed, clock=clock)
        fold = out_of_fold(trained, found, rest, held)
        for name, columns in fold.said.items():
            said.setdefault(name, np.zeros((len(truth), columns.shape[1])))[fold.held] = columns
    spent = costs(fold, found, rest, at_once=at_once, seed=seed, clock=clock)
    sure = {
        name: settings.learn(columns, fold.models[name].classes[columns.argmax(axis=1)] == truth)
        for name, columns in said.items()
    }
    table = _table(truth, fold.models, said, sure)
    judged = search(
        table,
        lambda names: spent.steps_s(names, at_once),
        max_steps=settings.max_steps,
        levels=LEVELS,
        seed=seed,
        features={name: candidate.features for name, candidate in found.items()},
    )
    return _Selection(found, sure, table, judged, spent, at_once)


def _table(
    truth: Truth,
    models: Mapping[str, Scorer],
    said: Mapping[str, NDArray[np.float64]],
    sure: Mapping[str, Certainty],
) -> ValidationTable:
    same_classes(models)
    predicted = {name: models[name].classes[columns.argmax(axis=1)] for name, columns in said.items()}
    return ValidationTable(truth, predicted, {name: sure[name](columns) for name, columns in said.items()})


def _apart(
    rows: Rows, truth: Truth, calibration: float | tuple[Rows, Any], seed: int
) -> tuple[Rows, Truth, Rows, Truth]:
    """Rows and labels to learn from, and those to certify on."""
    if isinstance(calibration, tuple):
        held, labels = calibration
        held_truth = _truth(labels, count(held))
        unknown = sorted(set(held_truth.tolist()) - set(truth.tolist()), key=str)
        if unknown:
            raise CascadeError(
                f"calibration: the label {unknown[0]!r} is none of those learned from ({few(truth.tolist())}); leave "
                "its rows out, or give rows of it to learn from"
            )
        return rows, truth, held, held_truth
    if not 0.0 < calibration < 1.0:
        raise CascadeError(f"fit_cascade: calibration is {calibration}; a share lies between 0 and 1")
    split = _splitting().train_test_split
    try:
        learn, rest = split(np.arange(len(truth)), test_size=calibration, stratify=truth, random_state=seed)
    except ValueError as error:
        raise CascadeError(
            f"labels: {len(truth)} rows cannot be split by {calibration:g} with each class in both parts: {error}"
        ) from None
    learn, rest = np.sort(learn), np.sort(rest)
    return take(rows, learn), truth[learn], take(rows, rest), truth[rest]


def _folds(truth: Truth, folds: int, seed: int) -> list[tuple[Places, Places]]:
    if np.unique(truth, return_counts=True)[1].min() < folds:
        raise CascadeError(f"labels: a class has fewer rows to learn from than the {folds} folds; give more rows of it")
    return list(_splitting().StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(truth)), truth))


def _splitting() -> Any:
    try:
        from sklearn import model_selection
    except ModuleNotFoundError:
        raise CascadeError("fit_cascade: scikit-learn is not installed; pip install 'headway[learn]'") from None
    return model_selection


def _truth(labels: Any, rows: int) -> Truth:
    """Labels as a vector, none missing."""
    if labels is None:
        raise CascadeError(f"labels: none are given for {rows:,} rows; one label per row is needed")
    truth = np.asarray(labels)
    if truth.shape != (rows,):
        raise CascadeError(f"labels: {truth.shape} for {rows:,} rows; one label per row is needed")
    missing = sum(value is None or value != value for value in truth.tolist())
    if missing:
        raise CascadeError(f"labels: {missing:,} of {rows:,} are missing; leave these rows out")
    broken = next((value for value in truth.tolist() if not _names_class(value)), None)
    if broken is not None:
        raise CascadeError(f"labels: {broken!r} is no class; text, whole numbers, or True and False are needed")
    if len(set(truth.tolist())) < 2:
        raise CascadeError(f"labels: all {rows:,} rows have the same one; at least two classes are needed")
    return truth


def _names_class(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and value.is_integer())


def _check(tolerance: float, confidence: float, mode: str, folds: int) -> None:
    for name, value in (("tolerance", tolerance), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise CascadeError(f"fit_cascade: {name} is {value}; it must lie between 0 and 1")
    if mode not in MODES:
        raise CascadeError(f"fit_cascade: unknown mode {mode!r}{nearest(mode, MODES)}; known: {', '.join(MODES)}")
    if folds < 2:
        raise CascadeError(f"fit_cascade: folds is {folds}; at least 2 are needed")
