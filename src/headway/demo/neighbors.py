"""How much of this machine other programs use meanwhile: a measurement on a busy machine says little about a model."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_STAT = Path("/proc/stat")


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
        try:
            ticks = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        user, nice, system, _, _, irq, soft_irq, steal = ticks
        busy_s = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), busy_s, sum(usage.ru_utime + usage.ru_stime for usage in used)
