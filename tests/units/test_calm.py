"""What a virtual machine's host takes from it is noticed, said, and measured around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headway.bench import calm
from headway.serve import system
from headway.serve.replay import _stolen
from headway.serve.system import ProcessorTimes

STAT = "cpu  100 20 30 400 50 6 7 {stolen} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_times_are_read_from_the_system_or_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(system, "_STAT", stat)
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    assert ProcessorTimes.now() is None
    stat.write_text(STAT.format(stolen=300))
    assert ProcessorTimes.now() == ProcessorTimes(16.3, 45.0, 30.0)
    stat.write_text("cpu  1 2\n")
    assert ProcessorTimes.now() is None


def test_the_share_is_of_the_time_that_passed() -> None:
    before = ProcessorTimes(10.0, 10.0, 10.0)
    assert ProcessorTimes(11.0, 12.0, 11.0).stolen_share(before) == 0.25
    assert before.stolen_share(before) == 0.0


def test_a_replay_says_what_the_host_took() -> None:
    assert _stolen(None) == _stolen(0.01) == ()
    assert _stolen(0.163) == ("client: the host of its machine gave 16% of the processors' time to others",)


@pytest.mark.parametrize(
    ("stolen_s", "attempts", "chosen", "share"),
    [
        ([0.0], 4, 1, 0.0),
        ([5.0, 0.0, 9.0], 4, 2, 0.0),
        ([5.0, 2.0, 3.0], 3, 2, 0.2),
        ([5.0], 1, 1, 0.5),
    ],
)
def test_the_first_undisturbed_attempt_is_kept_else_the_least_disturbed(
    monkeypatch: pytest.MonkeyPatch, stolen_s: list[float], attempts: int, chosen: int, share: float
) -> None:
    def times() -> Iterator[ProcessorTimes]:
        total_s, stolen = 0.0, 0.0
        for lost_s in stolen_s:
            yield ProcessorTimes(total_s - stolen, 0.0, stolen)
            total_s, stolen = total_s + 10.0, stolen + lost_s
            yield ProcessorTimes(total_s - stolen, 0.0, stolen)

    seen = times()
    monkeypatch.setattr(calm, "PAUSE_S", 0.0)
    monkeypatch.setattr(ProcessorTimes, "now", lambda: next(seen))
    made: list[int] = []

    def attempt() -> int:
        made.append(len(made) + 1)
        return made[-1]

    kept, stolen = calm.calmest(attempt, attempts)
    assert kept == chosen
    assert stolen == pytest.approx(share)


def test_where_the_system_does_not_tell_the_first_attempt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessorTimes, "now", lambda: None)
    assert calm.calmest(lambda: 7) == (7, 0.0)
