"""A guarantee instead of a point estimate: which cascades lose no more accuracy than was allowed, and how sure that is.

The samples that certify must not have been used to choose: candidates come from a selection split, in an order fixed
there; the certificate rests on the calibration split alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from headway.cascade.graded import mean_loss_bound
from headway.cascade.model import Cascade, digits
from headway.cascade.paired import loss_bound
from headway.cascade.search import StepCosts, credit, judge
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError, nearest

CORRECTIONS = ("sequence", "bonferroni")
MOST_SAMPLES = 1_000_000
"""Up to so many samples their needed number is found with the bound itself, beyond with its normal approximation."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is certain of a cascade's accuracy: `loss_bound` holds with `confidence` for all certified ones together.

    `loss` is the observed loss against the model `reference`, `worse` and `better` the samples answered worse and
    better than by it, of `samples`. `candidates` were tested, with this `correction` for their number. `method` says
    which bound: "exact" of right and wrong answers, "betting" of graded credits, "same" when the cascade answers as the
    reference does by construction. Of several references it is the one that bounds the loss highest; a model alone is
    told against another one than itself.
    """

    cascade: Cascade
    reference: str
    tolerance: float
    loss_bound: float
    loss: float
    accuracy: float
    reference_accuracy: float
    worse: int
    better: int
    samples: int
    confidence: float
    candidates: int
    correction: str
    method: str

    def __str__(self) -> str:
        return (
            f"{self.cascade} loses at most {_points(self.loss_bound)} against {self.reference} with "
            f"{self.confidence:.{digits(self.confidence)}g} confidence (observed: {_points(self.loss)} on "
            f"{self.samples:,} samples)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "cascade": self.cascade.to_dict()}


class NotCertified(CascadeError):
    """No cascade is sure to lose so little; about `needed` samples like these would do, None where no number does.

    `found` says it without advice, and `bound` is the loss that is certain of the nearest.
    """

    def __init__(self, found: str, advice: str, needed: int | None, bound: float) -> None:
        super().__init__(f"{found}; {advice}")
        self.found, self.needed, self.bound = found, needed, bound


def certify(
    table: ValidationTable,
    cascades: Sequence[Cascade],
    reference: str | Sequence[str],
    *,
    tolerance: float = 0.01,
    confidence: float = 0.95,
    correction: str = "sequence",
    seed: int = 0,
) -> tuple[Certificate, ...]:
    """Return certificates of the cascades whose loss of accuracy against `reference` is at most `tolerance`.

    The table must not have been used to choose the cascades. With `correction` "sequence" they are tested in the given
    order, the safest first (`by_safety`), each at full confidence, until one fails (Learn then Test, arXiv 2110.01052);
    all before it are certified, at `tolerance` or, where none fails, at their largest bound (Hsu and Berger, JASA 94,
    1999). With "bonferroni" all are tested, each at 1 - (1 - confidence) / candidates. Raises NotCertified when none
    can be certified; it names the number of samples that would do, or why none would.

    Of several references each must pass: which of them is right most often is not known, so a cascade loses at most so
    much against the best of them where it does against every one (an intersection-union test, which needs no correction
    for their number: Berger, Technometrics 24, 1982).

    >>> table = ValidationTable([0, 1] * 200, {"a": [0, 1] * 200}, {"a": [0.9] * 400})
    >>> certify(table, [Cascade.from_dict({"steps": [{"model": "a"}]})], "a")[0].loss_bound
    0.0
    """
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    _check(table, cascades, references, tolerance, confidence, correction)
    each = 1.0 - (1.0 - confidence) / (len(cascades) if correction == "bonferroni" else 1)
    tested: list[_Tested] = []
    for cascade in cascades:
        tested.append(_nearest_to_fail(_tests(table, cascade, references, each, seed)))
        if correction == "sequence" and tested[-1].bound > tolerance:
            break
    passed = [one for one in tested if one.bound <= tolerance]
    if not passed:
        best = min(tested, key=lambda one: one.bound)
        raise _why_none(_tests(table, best.cascade, references, each, seed), tolerance, each)
    largest = max(one.bound for one in passed)
    together = None if correction != "sequence" else largest if len(passed) == len(cascades) else tolerance
    return tuple(
        Certificate(
            one.cascade,
            one.reference,
            tolerance,
            one.bound if together is None or one.method == "same" else together,
            one.loss,
            one.accuracy,
            table.accuracy(one.reference),
            one.worse,
            one.better,
            table.samples,
            confidence,
            len(cascades),
            correction,
            one.method,
        )
        for one in passed
    )


def by_safety(
    table: ValidationTable,
    cascades: Iterable[Cascade],
    cost_s: StepCosts,
    reference: str | Sequence[str],
    confidence: float = 0.95,
) -> list[Cascade]:
    """Return the order in which to certify: the safest on this table first, then only what is cheaper than all before.

    The table is that of the selection, not the one that certifies. Safety is an approximate upper limit of the loss,
    against the best of several references.

    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> both = [Cascade.from_dict({"steps": [{"model": name}]}) for name in "ab"]
    >>> [str(cascade) for cascade in by_safety(table, both, {"a": 0.001, "b": 0.01}, "b")]
    ['b', 'a']
    """
    listed = list(cascades)
    cost = judge(table, listed, cost_s).cost_s
    z = NormalDist().inv_cdf(confidence)
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    best = np.array([table.credit[table.known(name)] for name in references])
    limit = []
    for cascade in listed:
        lost = best - credit(table, cascade)
        limit.append(float(np.max(lost.mean(1) + z * np.sqrt(lost.var(1) / table.samples + (z / table.samples) ** 2))))
    order: list[Cascade] = []
    least = math.inf
    for at in np.lexsort((np.arange(len(listed)), cost, np.array(limit))):
        if cost[at] < least:
            least = cost[at]
            order.append(listed[at])
    return order


def samples_needed(
    tolerance: float, discordant_share: float, loss: float = 0.0, confidence: float = 0.95, candidates: int = 1
) -> int:
    """Return about how many samples certify a loss of at most `tolerance` when `loss` is observed.

    `discordant_share`: share of samples that the cascade answers worse or better than the reference. `candidates`: by
    how many the error probability is divided (Bonferroni). To 2 percent. Raises CascadeError when no number does.

    >>> samples_needed(tolerance=0.01, discordant_share=0.0) <= 305
    True
    """
    if not (0.0 < tolerance < 1.0 and abs(loss) <= discordant_share <= 1.0 and candidates >= 1):
        raise CascadeError(
            f"samples needed: tolerance {tolerance:g}, loss {loss:g}, discordant share {discordant_share:g}, "
            f"{candidates} candidates; the tolerance lies between 0 and 1, the loss is at most the "
            "discordant share, and there is at least one candidate"
        )
    if loss >= tolerance:
        raise CascadeError(
            f"samples needed: a loss of {_points(loss)} is not below the tolerance of {_points(tolerance)}, so no "
            "number of samples certifies it"
        )
    level = 1.0 - (1.0 - confidence) / candidates
    z = NormalDist().inv_cdf(level)
    none_differ = math.log(1.0 - level) / math.log1p(-tolerance)
    guess = z * z * (discordant_share - loss * loss) / (tolerance - loss) ** 2 + none_differ
    if guess > MOST_SAMPLES:
        return math.ceil(guess)

    def enough(samples: int) -> bool:
        better = round(samples * (discordant_share - loss) / 2.0)
        worse = min(samples - better, round(samples * (discordant_share + loss) / 2.0))
        return loss_bound(worse, better, samples, level) <= tolerance

    low, high = 1, max(2, math.ceil(guess))
    while not enough(high):
        low, high = high, 2 * high
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


class _Tested(NamedTuple):
    """A cascade set against a reference: the bound on its loss alone, and what it rests on."""

    cascade: Cascade
    reference: str
    method: str
    bound: float
    loss: float
    spread: float
    accuracy: float
    worse: int
    better: int
    samples: int


def _tests(
    table: ValidationTable, cascade: Cascade, references: Sequence[str], confidence: float, seed: int
) -> list[_Tested]:
    """A cascade set against each of the references. A model alone loses nothing against itself, and no less in all."""
    others = [name for name in references if cascade.answering != (name,)]
    tests = [_test(table, cascade, name, confidence, seed) for name in others or references]
    return [one._replace(bound=max(one.bound, 0.0)) for one in tests] if len(others) < len(references) else tests


def _nearest_to_fail(tests: Sequence[_Tested]) -> _Tested:
    return max(tests, key=lambda one: (one.bound, one.loss))


def _test(table: ValidationTable, cascade: Cascade, reference: str, confidence: float, seed: int) -> _Tested:
    given = credit(table, cascade)
    lost = table.credit[reference] - given
    worse, better = int((lost > 0.0).sum()), int((lost < 0.0).sum())
    if cascade.answering == (reference,):
        method, bound = "same", 0.0
    elif np.all((lost == 0.0) | (np.abs(lost) == 1.0)):
        method, bound = "exact", loss_bound(worse, better, table.samples, confidence)
    else:
        method, bound = "betting", mean_loss_bound(lost, confidence, seed)
    loss, spread = float(lost.mean()), float((lost * lost).mean())
    return _Tested(cascade, reference, method, bound, loss, spread, float(given.mean()), worse, better, table.samples)


def _check(
    table: ValidationTable,
    cascades: Sequence[Cascade],
    references: Sequence[str],
    tolerance: float,
    confidence: float,
    how: str,
) -> None:
    for reference in references:
        table.known(reference)
    if not references:
        raise CascadeError("certify: there is no reference to lose against; at least one model is needed")
    if not cascades:
        raise CascadeError("certify: there is no cascade to certify; at least one candidate is needed")
    if not 0.0 < tolerance < 1.0 or not 0.0 < confidence < 1.0:
        raise CascadeError(
            f"certify: tolerance is {tolerance} and confidence {confidence}; both must lie between 0 and 1 (a "
            "tolerance of one point is 0.01)"
        )
    if how not in CORRECTIONS:
        raise CascadeError(
            f"certify: unknown correction {how!r}{nearest(how, CORRECTIONS)}; known: " + ", ".join(CORRECTIONS)
        )


def _why_none(tests: Sequence[_Tested], tolerance: float, confidence: float) -> NotCertified:
    """The error for a tolerance that no cascade is sure to keep, by the tests of the nearest, and what would help."""
    best = _nearest_to_fail(tests)
    found = (
        f"certify: no cascade is sure to lose at most {_points(tolerance)}: the nearest, {best.cascade}, answers "
        f"{best.worse:,} of {best.samples:,} samples worse than {best.reference} and {best.better:,} better, which "
        f"bounds its loss at {_points(best.bound)} with {confidence:.4g} confidence"
    )
    most = max(one.loss for one in tests)
    if most >= tolerance:
        advice = f"it was seen to lose {_points(most)}, so raise its thresholds or allow a larger loss"
        return NotCertified(found, advice, None, best.bound)
    needed = max(samples_needed(tolerance, max(one.spread, abs(one.loss)), one.loss, confidence) for one in tests)
    return NotCertified(found, f"about {needed:,} samples like these are needed", needed, best.bound)


def _points(share: float) -> str:
    return f"{100.0 * share:.2f} points"
