"""What models print while they are measured: a traceback that comes with every input is shown once, and counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

_START: Final = "Traceback (most recent call last):"
_JOINS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_MAX_FOLLOWING: Final = 20


class Said:
    """Passes the printed lines of one stage's workers on, without tracebacks that have been shown.

    Two are the same when they come from the same place with the same type of exception, whatever its text.

    >>> shown = []
    >>> said = Said("a", shown.append)
    >>> for line in 3 * ["[a] Traceback (most recent call last):", "[a]   here", "[a] ValueError: odd"]:
    ...     said(line)
    >>> said.finish()
    >>> shown[3:]
    ['[a] 2 more tracebacks like those above']
    """

    def __init__(self, stage: str, log: Callable[[str], None] | None = None) -> None:
        self._stage = stage
        self._log = log or (lambda line: print(line, file=sys.stderr))
        self._open: list[str] = []
        self._shown: set[tuple[str, ...]] = set()
        self._following: dict[str, None] = {}
        self._repeating = False
        self._repeated = 0

    def __call__(self, line: str) -> None:
        """Take one line, which begins with its worker's name in brackets."""
        text = _without_name(line)
        if text == _START or self._open:
            self._open.append(line)
            if text != _START and not text.startswith(" "):
                self._close()
            return
        # The further lines of an exception's text, and what joins it to its cause, stand behind the traceback.
        self._repeating = self._repeating and (text in self._following or text in _JOINS)
        if self._repeating:
            return
        if self._shown and len(self._following) < _MAX_FOLLOWING:
            self._following[text] = None
        self._log(line)

    def finish(self) -> None:
        """Pass on what is left of a traceback that its process did not live to finish, and how many were left out."""
        left, self._open = self._open, []
        for line in left:
            self._log(line)
        if self._repeated:
            more = "1 more traceback" if self._repeated == 1 else f"{self._repeated} more tracebacks"
            self._log(f"[{self._stage}] {more} like those above")

    def _close(self) -> None:
        block, self._open = self._open, []
        *frames, last = map(_without_name, block)
        key = (*frames, last.partition(":")[0])
        self._repeating = key in self._shown
        self._repeated += self._repeating
        if not self._repeating:
            self._shown.add(key)
            for line in block:
                self._log(line)


def _without_name(line: str) -> str:
    return line.partition("] ")[2]
