"""How much of this machine other programs use meanwhile: a measurement on a busy machine says little about a model."""

from __future__ import annotations

import os
import resource
import time

from headway.serve.system import ProcessorTimes


class Neighbors:
    """Measures from its making on; children count as one's own once they have ended and been waited for.

    >>> share = Neighbors().share()
    >>> share is None or 0 <= share <= 1
    True
    """

    def __init__(self) -> None:
        self._begun = self._now()

    def share(self) -> float | None:
        """Return the share of this machine's processor time that others took so far; None where it is not known."""
        now = self._now()
        if now is None or self._begun is None:
            return None
        wall_s, busy_s, own_s = (after - before for after, before in zip(now, self._begun, strict=True))
        return min(1.0, max(0.0, (busy_s - own_s) / max(wall_s * (os.cpu_count() or 1), 1e-9)))

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Wall clock, busy seconds of all cores (stolen ones included), and our own processor seconds."""
        times = ProcessorTimes.now()
        if times is None:
            return None
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), times.busy_s + times.stolen_s, sum(usage.ru_utime + usage.ru_stime for usage in used)


NOTED = 0.1
"""From which share of this machine's processor time on it is said that others took it."""


def note(neighbors: Neighbors, what: str, shares: dict[str, float], notes: list[str]) -> None:
    """Keep what others took during `what`, and say so where it was much."""
    share = neighbors.share()
    if share is None:
        return
    shares[what] = round(share, 3)
    if share > NOTED:
        notes.append(
            f"During the {what} other programs took {100 * share:.0f}% of this machine's processors; what was measured "
            "then says more about them than about the models."
        )
