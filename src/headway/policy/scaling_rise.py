"""The rise that the requests of the last minute tell of: how the rate went up, and whether it still does.

Every rise considered starts from a steady rate, goes up evenly, and then either stays where it is or still goes up. A
step is one that took no time. All of them are fitted to the counts by least squares, in closed form, and the likeliest
is taken: what is no more than a step, or has ended, must not be carried on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.policy.envelopes import ALARM_Z, Floats

SHORTEST_S, KNOTS_PER_OCTAVE = 0.25, 8
"""How long ago a rise may have begun or ended, at the least, and how many such moments there are to a doubling: with
fewer, a strong rise that began between two of them would seem to have ended."""
TREND_S = 1.0
"""A rise that has lasted for less is taken for a step; it is over before one could act on it."""
ENDED_Z = 1.64
"""Standard deviations by which an end has to fit better than none: an end always fits a little better, as it is one
parameter more. One rise in 20 that goes on is taken for ended."""


@dataclass(frozen=True, slots=True)
class Rise:
    """A rate that has been going up for `lasted_s`, to `rate_per_s` now, by `slope_per_s2` more every second.

    >>> Rise(lasted_s=4.0, rate_per_s=140.0, slope_per_s2=10.0).rate_in(3.0)
    170.0
    """

    lasted_s: float
    rate_per_s: float
    slope_per_s2: float

    def rate_in(self, seconds: float) -> float:
        """Return the rate to be expected by then; what goes on at a moment like any other lasts as long again.

        That is the median where nothing is known of how long rises take (Gott, "Implications of the Copernican
        principle for our future prospects", Nature 363, 1993).
        """
        return self.rate_per_s + self.slope_per_s2 * min(seconds, self.lasted_s)


def rise_under_way(arrival_s: Floats, now_s: float, span_s: float, dispersion: float) -> Rise | None:
    """Return the rise that goes on now, None when there is none beyond chance or it has ended.

    It is judged on the last `span_s`; `dispersion` is the variance of counts over their mean when the rate is steady.
    """
    ages = _knots(span_s)
    if ages.size < 2 or not arrival_s.size:
        return None
    before, height, explained = _fits(arrival_s, now_s, ages, dispersion)
    going_on = np.where(ages >= TREND_S, explained[:, 0], 0.0)
    best = int(np.argmax(going_on))
    if going_on[best] < max(ALARM_Z**2, float(explained[:, 1:].max()) - ENDED_Z**2):
        return None
    lasted_s = float(ages[best])
    return Rise(lasted_s, float(before[best, 0] + height[best, 0]), float(height[best, 0]) / lasted_s)


def _knots(span_s: float) -> Floats:
    """Seconds ago at which a rise may have begun or ended, in geometric steps down from the span, and now."""
    if span_s <= SHORTEST_S:
        return np.zeros(1)
    steps = np.arange(int(KNOTS_PER_OCTAVE * np.log2(span_s / SHORTEST_S)), -1, -1)
    return np.append(0.0, span_s * 2.0 ** (-steps / KNOTS_PER_OCTAVE))


def _fits(arrival_s: Floats, now_s: float, ages: Floats, dispersion: float) -> tuple[Floats, Floats, Floats]:
    """Fit a steady rate and a rise upon it that began `ages[i]` and ended `ages[j]` ago, for every i and j.

    Returns the steady rate, the height of the rise, and the square of the standard deviations that it explains (0 where
    there is no such rise), as matrices. The rise is 1 up to its end's age, falls evenly to 0 at its beginning's, and is
    0 before: its inner product with the requests follows from their number and the sum of their ages up to each knot.
    """
    at = np.searchsorted(arrival_s, now_s - ages, side="right")
    older_s = np.append(0.0, np.cumsum(now_s - arrival_s))
    count, age_s = (arrival_s.size - at).astype(np.float64), older_s[-1] - older_s[at]
    span_s, total = float(ages[-1]), float(count[-1])
    began, ended = ages[:, np.newaxis], ages[np.newaxis, :]
    width = began - ended
    rising = began * (count[:, np.newaxis] - count) - (age_s[:, np.newaxis] - age_s)
    inside = count + np.divide(rising, width, out=np.zeros_like(width), where=width > 0.0)
    size, square = (began + ended) / 2, ended + width / 3
    # The part of the rise that a steady rate over the whole span does not explain.
    own = square - size**2 / span_s
    valid = (width >= 0.0) & (own > 1e-9 * span_s)
    height = np.divide(inside - size * total / span_s, own, out=np.zeros_like(own), where=valid)
    explained = np.where(height > 0.0, height**2 * own / (dispersion * max(total, 1.0) / span_s), 0.0)
    return (total - height * size) / span_s, height, explained
