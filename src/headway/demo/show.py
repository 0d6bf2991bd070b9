"""Progress of the demo for a person, on stderr: a bar per step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

REDRAW_S = 0.25


class Step:
    """One step on its way. `result` is what the step's closing line says."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self.result = ""
        self._bar = bar
        self._task = task
        self._drawn_s = 0.0

    def show(self, done: float, total: float, text: str = "") -> None:
        """Show how far the step is; may be called as often as wanted."""
        now_s = time.monotonic()
        if self._bar is None or self._task is None or (now_s - self._drawn_s < REDRAW_S and done < total):
            return
        self._drawn_s = now_s
        self._bar.update(self._task, completed=done, total=total or None, text=text)
        # Drawn from here, not by a thread that would take its time from what is being measured.
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Show what is being done, where it is not known how far it is."""
        self.show(0, 0, text)


class Steps:
    """The steps of a whole run, numbered; use it as a context."""

    def __init__(self, count: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._count = count
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt:
            self._console.print("stopped; whatever was started has been ended", markup=False)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Begin a step; its closing line is printed when it ends well."""
        self._number += 1
        begun_s = time.monotonic()
        name = f"{self._number}/{self._count} {title}"
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(24), TimeElapsedColumn(),
                       TextColumn("{task.fields[text]}", markup=False, style="dim"))  # fmt: skip
            with Progress(*columns, console=self._console, transient=True, auto_refresh=False) as bar:
                step = Step(bar, bar.add_task(name, total=None, text=""))
                bar.refresh()
                yield step
        else:
            self._console.print(name, markup=False, soft_wrap=True)
            step = Step(None, None)
            yield step
        took = f"{time.monotonic() - begun_s:.0f} s"
        closing = f"{name}: {step.result} ({took})" if step.result else f"{name} ({took})"
        self._console.print(closing, markup=False, soft_wrap=True)
