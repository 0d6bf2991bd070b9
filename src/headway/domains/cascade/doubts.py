"""What a plan's accuracy rests on: the samples of the validation table that are asked about, and how many they are."""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import NormalDist

from headway.cascade import ValidationTable
from headway.domains.cascade.halves import LEAST, judged_on
from headway.domains.cascade.station import SAMPLE

CONFIDENCE = 0.95
WIDEST = 0.05
"""Without a floor to hold it against, an accuracy that is known to no more than so much to either side is doubted."""


def interval(accuracy: float, samples: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return between which shares an accuracy lies that was seen on so many samples (Wilson, JASA 22, 1927).

    >>> [round(edge, 3) for edge in interval(0.9, 400)]
    [0.867, 0.926]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    middle = (accuracy + z * z / (2 * samples)) / (1 + z * z / samples)
    spread = z / (1 + z * z / samples) * math.sqrt(accuracy * (1 - accuracy) / samples + (z / (2 * samples)) ** 2)
    return middle - spread, middle + spread


def asked(table: ValidationTable, columns: Collection[str] = ()) -> int:
    """Return about how many samples simulations ask: the half that chose nothing, or all where the trace says which.

    `columns` are those of the trace.
    """
    return table.samples if SAMPLE in columns else judged_on(table).size


def doubts(table: ValidationTable, accuracy: float, floor: float | None, columns: Collection[str] = ()) -> list[str]:
    """Return why a simulated accuracy is not to be trusted to keep a floor, or to be what it is.

    >>> table = ValidationTable([0, 1] * 50, {"a": [0, 1] * 50}, {"a": [0.9] * 100})
    >>> doubts(table, 0.92, 0.90)
    ['its accuracy of 92.0% is an estimate on 50 samples: 81.2% to 96.8% with 95% confidence, where 90.0% is the floor']
    """
    samples = asked(table, columns)
    low, high = interval(accuracy, samples)
    known = (
        f"its accuracy of {accuracy:.1%} is an estimate on {samples:,} samples: {low:.1%} to {high:.1%} with "
        f"{CONFIDENCE:.0%} confidence"
    )
    said = []
    if floor is not None and low < floor <= accuracy + 1e-12:
        said.append(f"{known}, where {floor:.1%} is the floor")
    elif floor is None and (high - low) / 2.0 > WIDEST:
        said.append(known)
    if table.samples < LEAST:
        said.append(
            f"the same {table.samples} samples chose its gears and judge them, so that its accuracy is less than "
            f"simulated; of {LEAST} samples or more one half chooses and the other judges"
        )
    return said
