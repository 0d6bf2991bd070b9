"""Whether what comes still is what the gears were made for, found out without labels while serving.

Four signs. Against the validation table: how certain the model is that sees every item, how hard items are where that
is known beforehand, and how often answers of cheaper models agree with the dearest one, which is asked about a few of
them when nothing else is to do. Against the plan: whether more comes than its gears are made to serve.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade import ValidationTable
from headway.domains.cascade.live_spread import Odd, Spread, Z, beyond_chance
from headway.domains.cascade.rows import GearRow
from headway.policy.cascading import answers, first_step
from headway.serve.record import Histogram

log = logging.getLogger(__name__)

CHECKS = 200
"""How many checks are looked at together."""
SPAN_S = 10.0
"""Over how long arrivals are counted: a burst is what gears are for."""


class Drift:
    """What is seen of items and their answers, and what of it the table and the plan do not explain.

    `warnings` says in a sentence each what has drifted. Without a table everything is counted, and of it only the rate
    is judged.
    """

    def __init__(self, table: ValidationTable | None, models: Sequence[str], stage: str) -> None:
        self._table, self._models, self._stage = table, models, stage
        self._certainty = [Spread(None if table is None else table.certainty[name]) for name in models]
        self._hardness = Spread(None if table is None else table.hardness)
        self.checked = [[0, 0] for _ in models]
        """Per model that answered: checks in which the dearest one said something else, and the same."""
        self.warnings: dict[str, str] = {}
        self._agreed: dict[tuple[GearRow, int, int], list[int]] = {}
        self._expected: dict[tuple[GearRow, int, int], tuple[float, int] | None] = {}
        self._came = 0.0
        self._since_s = math.inf

    @property
    def certainty(self) -> list[Histogram]:
        """How certain each model was, as histograms."""
        return [spread.histogram for spread in self._certainty]

    def came(self, now_s: float, carried_per_s: float, items: float = 1.0) -> None:
        """Count an arrival of some items, where the gears are made for a rate."""
        if self._since_s == math.inf:
            self._since_s = now_s
        if now_s >= self._since_s + SPAN_S:
            span_s = now_s - self._since_s
            most = carried_per_s * span_s
            text = ""
            if self._came > most + Z * math.sqrt(most):
                text = (
                    f"{self._came / span_s:.4g} requests/s came for {span_s:.0f} s, where the gears are made for up to "
                    f"{carried_per_s:.4g}/s; plan again with a higher max_rate"
                )
            self._tell("rate", text)
            self._since_s, self._came = now_s, 0.0
        self._came += items

    def hard(self, hardness: float) -> None:
        """Count how hard an item is, before any model is asked."""
        odd = self._hardness.judged(hardness)
        if odd is not None:
            self._tell("hardness", _shares(odd, "items are {0.low} to {0.high} hard in {0.seen:.1%} of cases"))

    def certain(self, model: int, certainty: float, first: bool) -> None:
        """Count how certain a model was; `first` where it sees every item, whatever the load."""
        spread = self._certainty[model]
        if not first:
            spread.observe(certainty)
            return
        odd = spread.judged(certainty)
        if odd is not None:
            name = self._models[model]
            said = f"model {name!r} is {{0.low}} to {{0.high}} certain of {{0.seen:.1%}} of the items that come"
            self._tell(f"certainty of {name}", _shares(odd, said))

    def check(self, row: GearRow, model: int, dearest: int, agreed: bool) -> None:
        """Count whether the dearest model gave the answer that `model` gave in the gear `row`."""
        self.checked[model][agreed] += 1
        key = row, model, dearest
        if self._expect(*key) is None:
            return
        counts = self._agreed.setdefault(key, [0, 0])
        counts[agreed] += 1
        if sum(sum(pair) for pair in self._agreed.values()) >= CHECKS:
            self._judge_agreement()
            self._agreed = {}

    def to_dict(self) -> dict[str, Any]:
        """Return counts and warnings as JSON values."""
        return {
            "checks": {
                name: {"agreed": same, "disagreed": other}
                for name, (other, same) in zip(self._models, self.checked, strict=True)
                if same + other
            },
            "drift": list(self.warnings.values()),
        }

    def _judge_agreement(self) -> None:
        expected = variance = seen = total = 0.0
        for key, (other, same) in self._agreed.items():
            found = self._expect(*key)
            assert found is not None
            share, size = found
            n = other + same
            expected += n * share
            variance += n * share * (1 - share) * (1 + n / size)
            seen += same
            total += n
        text = ""
        if beyond_chance(seen, expected, variance):
            dearest = ", ".join(sorted({repr(self._models[dearest]) for _, _, dearest in self._agreed}))
            text = (
                f"{dearest} agrees with {seen / total:.1%} of the answers of cheaper models, where the validation "
                f"table has {expected / total:.1%}"
            )
        self._tell("agreement", text)

    def _expect(self, row: GearRow, model: int, dearest: int) -> tuple[float, int] | None:
        """Return on what share of the samples that a model answers in a gear the dearest agrees, and of how many."""
        key = row, model, dearest
        if key not in self._expected:
            self._expected[key] = None
            if self._table is not None and self._table.predicted is not None:
                here = _answered(self._table, self._models, row, model)
                said = self._table.predicted
                same = int((said[self._models[model]] == said[self._models[dearest]])[here].sum())
                size = int(here.sum())
                self._expected[key] = ((same + 1) / (size + 2), size) if size else None
        return self._expected[key]

    def _tell(self, what: str, text: str) -> None:
        if text and what not in self.warnings:
            log.warning("stage %s: drift: %s; what was planned may not be had", self._stage, text)
        if text:
            self.warnings[what] = text
        else:
            self.warnings.pop(what, None)


def _shares(odd: Sequence[Odd], said: str) -> str:
    if not odd:
        return ""
    return f"{said.format(odd[0])}, where the validation table has {odd[0].expected:.1%}"


def _answered(table: ValidationTable, models: Sequence[str], row: GearRow, model: int) -> NDArray[np.bool_]:
    """Which samples a model answers in a gear."""
    here = np.zeros(table.samples, np.bool_)
    if model not in row.steps:
        return here
    begin = np.zeros(table.samples, np.int64)
    if row.skip and table.hardness is not None:
        begin[:] = [first_step(hardness, row.skip) for hardness in table.hardness.tolist()]
    for at, step in enumerate(row.steps):
        here |= begin == at
        sure = answers(table.certainty[models[step]], row.threshold[step])
        if step == model:
            return here & sure
        here &= ~sure
    return here
