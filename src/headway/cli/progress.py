"""Progress for a person: one line on stderr that is rewritten, and nothing when stderr is not a terminal."""

from __future__ import annotations

import shutil
import sys
from time import monotonic
from types import TracebackType
from typing import Self, TextIO

REDRAW_S = 0.1
BAR_WIDTH = 24


class Progress:
    """One line that says how far a verb is. Use it as a context; it may be told as often as wanted."""

    def __init__(self, verb: str, stream: TextIO | None = None) -> None:
        self._verb = verb
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._drawn_s = -REDRAW_S
        self._width = 0

    def step(self, done: int, total: int, text: str = "") -> None:
        """Show a bar: `done` of `total` steps, and what is going on."""
        filled = BAR_WIDTH * min(done, total) // total if total > 0 else 0
        self.report(f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done:,}/{total:,} {text}")

    def report(self, state: object) -> None:
        """Show the text of `state` in place of what was shown before."""
        now_s = monotonic()
        if not self._shown or now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        line = f"{self._verb}: {state}"[: shutil.get_terminal_size().columns - 1]
        self._write(f"\r{line:{self._width}}")
        self._width = len(line)

    def note(self, text: str) -> None:
        """Print a line that stays, on a terminal or not."""
        self.close()
        self._write(f"{self._verb}: {text}\n")

    def close(self) -> None:
        """Clear the line."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
