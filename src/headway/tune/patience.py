"""How a tuner outlives a server that says nothing for a while: it asks again, with growing pauses, and says so once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from headway.errors import ServeError

ATTEMPTS = 3
"""How often a question is asked at least, even when the time is over."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""How long it is waited before a question is asked again: doubling, from the first up to the longest."""
PATIENCE_S = 3600.0
"""How long a server may say nothing until it counts as gone."""

Answer = TypeVar("Answer")


class Silent(ServeError):
    """A server did not answer, though it may later."""


class Gone(ServeError):
    """Nothing listens where a server did: its process has ended."""


@dataclass(frozen=True)
class Patience:
    """For how long the same is asked again. `pause` waits for so many seconds; False when the time is over.

    `silent` hears once why there is no answer, `back` after how many seconds there was one again.
    """

    pause: Callable[[float], bool]
    silent: Callable[[str], None]
    back: Callable[[float], None]

    def outlast(self, ask: Callable[[], Answer]) -> Answer:
        """Return what `ask` returns once it does. Raises Silent after `PATIENCE_S` or when the time is over, and Gone.

        >>> Patience(lambda seconds: True, print, print).outlast(lambda: 7)
        7
        """
        began_s, tried, pause_s = time.monotonic(), 0, FIRST_PAUSE_S
        while True:
            tried += 1
            try:
                answer = ask()
            except Silent as error:
                if tried == 1:
                    self.silent(str(error))
                if time.monotonic() - began_s >= PATIENCE_S:
                    raise Silent(f"{error}; given up after {PATIENCE_S:g} s") from None
                if not self.pause(pause_s) and tried >= ATTEMPTS:
                    raise
                pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
            else:
                if tried > 1:
                    self.back(time.monotonic() - began_s)
                return answer
