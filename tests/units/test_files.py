"""Writing a file when the disk, or the process, gives up in the middle of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.errors import HeadwayError
from headway.files import write_atomic, write_together
from headway.testing.examples import tiny_plan

STEPS = {"create": "tempfile.mkstemp", "write": "os.fdopen", "rights": "os.chmod", "rename": "os.replace"}


def failing_on(call: int, real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    calls = iter(range(1_000_000))

    def act(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return real(*args, **options)

    return act


class FullDisk:
    """A file on which nothing fits: the system tells so when data are written, or only when they are flushed."""

    def __init__(self, handle: Any, late: bool) -> None:
        self._handle, self._late = handle, late

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *args: object) -> None:
        self._handle.close()
        if self._late and args[0] is None:
            raise no_space()

    def write(self, data: bytes) -> int:
        self._handle.write(data[: len(data) // 2])
        if not self._late:
            raise no_space()
        return len(data)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [no_space(), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_former_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "plan.json"
    write_atomic(path, "former")
    module, _, name = STEPS[step].partition(".")
    real = getattr(sys.modules[module], name)
    monkeypatch.setattr(f"headway.files.{module}.{name}", failing_on(0, real, error))
    with pytest.raises(HeadwayError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_atomic(path, "latter")
    monkeypatch.undo()
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["plan.json"]
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot write: No space left on device; nothing was changed"


@pytest.mark.parametrize("late", [False, True])
def test_a_disk_that_is_full_in_the_middle_is_noticed_whenever_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "former")
    real = os.fdopen
    monkeypatch.setattr("headway.files.os.fdopen", lambda *args: FullDisk(real(*args), late))
    with pytest.raises(HeadwayError, match="No space left on device"):
        write_atomic(path, "latter" * 1000)
    monkeypatch.undo()
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize("call", range(2))
@pytest.mark.parametrize("step", ["create", "write", "rights"])
def test_files_that_belong_together_change_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    paths = [tmp_path / "profile.csv", tmp_path / "profile.json"]
    write_together(dict.fromkeys(paths, "former"))
    module, _, name = STEPS[step].partition(".")
    real = getattr(sys.modules[module], name)
    monkeypatch.setattr(f"headway.files.{module}.{name}", failing_on(call, real, no_space()))
    with pytest.raises(HeadwayError):
        write_together(dict.fromkeys(paths, "latter"))
    monkeypatch.undo()
    assert [path.read_text() for path in paths] == ["former", "former"]
    assert sorted(os.listdir(tmp_path)) == ["profile.csv", "profile.json"]


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("former")
    (tmp_path / "link.json").symlink_to("real.json")
    write_atomic(tmp_path / "link.json", "latter")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "latter"
    assert sorted(os.listdir(tmp_path)) == ["link.json", "real.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    read = os.open(tmp_path / "pipe.json", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(tmp_path / "pipe.json", "whole")
        assert os.read(read, 100) == b"whole"
    finally:
        os.close(read)
    assert (tmp_path / "pipe.json").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_a_device_that_is_full_says_so_and_stays_and_nothing_else_is_changed(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    (tmp_path / "profile.csv").write_text("former")
    with pytest.raises(HeadwayError, match="full: cannot write: No space left on device; nothing was changed"):
        write_together({tmp_path / "profile.csv": "latter", tmp_path / "full": "latter"})
    assert Path("/dev/full").is_char_device()
    assert (tmp_path / "profile.csv").read_text() == "former"
    assert sorted(os.listdir(tmp_path)) == ["full", "profile.csv"]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from headway.cli.app import main
sys.argv = ["headway", "report", "plan.json", "-o", "report.html"]
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes are those of Linux")
def test_a_report_that_the_system_does_not_let_grow_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    tiny_plan().write(tmp_path / "plan.json")
    (tmp_path / "report.html").write_text("former")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().splitlines() == ["error: report.html: cannot write: File too large; nothing was changed"]
    assert (tmp_path / "report.html").read_text() == "former"
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "report.html"]
