"""The progress line: seen on a terminal only, cut to its width, gone at the end."""

from __future__ import annotations

import io

import pytest

from headway.cli import progress
from headway.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> str:
        """What stands on the last line after all carriage returns."""
        line = ""
        for part in self.getvalue().rpartition("\n")[2].split("\r"):
            line = part + line[len(part) :]
        return line.rstrip()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)
    monkeypatch.setenv("COLUMNS", "60")


def test_nothing_is_written_where_nobody_looks() -> None:
    stream = io.StringIO()
    with Progress("plan", stream) as shown:
        shown.report("12 plans tried")
        shown.step(1, 2, "half")
    assert stream.getvalue() == ""


def test_what_has_to_be_known_is_written_everywhere() -> None:
    stream = io.StringIO()
    Progress("profile", stream).note("detect on gpu: skipped")
    assert stream.getvalue() == "profile: detect on gpu: skipped\n"


def test_a_line_replaces_the_one_before_it_and_is_cleared_at_the_end() -> None:
    terminal = Terminal()
    with Progress("plan", terminal) as shown:
        shown.report("a long state of the search")
        shown.report("short")
        assert terminal.screen == "plan: short"
    assert terminal.screen == ""


def test_a_bar_says_how_far_it_is() -> None:
    terminal = Terminal()
    shown = Progress("replay", terminal)
    shown.step(500, 1000, "sent")
    assert terminal.screen == "replay: [############............] 500/1,000 sent"
    shown.step(0, 0)
    assert terminal.screen == "replay: [........................] 0/0"


def test_a_line_never_wraps() -> None:
    terminal = Terminal()
    Progress("plan", terminal).report("x" * 200)
    assert len(terminal.screen) < 60
