"""Whom a tuner beside a server tells what: a person, and its journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headway.tune.journal import Journal
from headway.tune.loop import Entry
from headway.tune.patience import PATIENCE_S


@dataclass(frozen=True)
class Told:
    """A listener of `headway.tune.loop`: `tell` hears every decision, `say` what else a person should know."""

    journal: Journal | None
    tell: Callable[[Entry], None]
    say: Callable[[str], None]

    def started(self, about: Mapping[str, Any]) -> None:
        """Hear that a run begins, and of what."""
        if self.journal is not None:
            self.journal.started({**about, "simulated": False})

    def asking(self, entry: Entry) -> None:
        """Hear of a decision before it is asked for."""
        if self.journal is not None:
            self.journal.asking(entry)

    def decided(self, entry: Entry) -> None:
        """Hear of a decision and what was done for it."""
        self.tell(entry)
        if self.journal is not None:
            self.journal.decided(entry)

    def reviewed(self, number: int, at_s: float, happened: Mapping[str, Any]) -> None:
        """Hear what happened after decision `number`."""
        if self.journal is not None:
            self.journal.reviewed(number, at_s, happened)

    def silent(self, at_s: float, why: str) -> None:
        """Hear that the server, heard last at `at_s`, does not answer."""
        self.say(f"{why}; asked again for up to {PATIENCE_S:g} s")
        if self.journal is not None:
            self.journal.silent(at_s, why)

    def back(self, at_s: float, after_s: float) -> None:
        """Hear that it answers again, and after how long."""
        self.say(f"the server answers again, after {after_s:.0f} s")
        if self.journal is not None:
            self.journal.back(at_s, after_s)

    def ended(self, at_s: float, why: str) -> None:
        """Hear that the run is over, and why."""
        if self.journal is not None:
            self.journal.ended(at_s, why)
