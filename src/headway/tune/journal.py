"""`decisions.jsonl`: what a tuner decided and why, what it expected, and later what happened.

One JSON object per line, each written by one call and forced to disk. A decision for which a server is asked to change
is on disk before it is asked, and what it answered follows in a line of its own: after a crash in between, the journal
says what was asked for, and not that it was done. A line that a crash cut short is removed when the file is opened
again, and not shown by `read`, so that every line is a whole one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from headway.errors import HeadwayError
from headway.tune.loop import Entry

SCHEMA = "headway.decisions/1"
_BEGINNING = json.dumps({"schema": SCHEMA})[:-1].encode()
"""What a journal begins with; a file that begins otherwise is somebody else's."""


class Journal:
    """An open journal; it goes on at the end of a file that exists, and is locked against a second writer.

    Use it with `with`. Raises HeadwayError.

    >>> with Journal("/tmp/headway-example.jsonl") as journal:
    ...     journal.started({"tuner": "headway"})
    >>> [line["kind"] for line in read("/tmp/headway-example.jsonl")][-1]
    'started'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise HeadwayError(f"{self.path}: cannot open the journal: {error.strerror or error}") from None
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise

    def _take(self) -> None:
        """Lock the file, and remove what a crash left of a line."""
        try:
            # Of the open file, unlike the locks of `lockf`: they would end when this process reads the journal.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _BEGINNING.startswith(os.pread(self._file, len(_BEGINNING), 0)):
                raise HeadwayError(f"{self.path}: not a journal of decisions, and left as it is; give another file")
            os.ftruncate(self._file, _whole_lines(self._file))
        except BlockingIOError:
            raise HeadwayError(f"{self.path}: another tuner writes this journal; give each a file of its own") from None
        except OSError as error:
            raise HeadwayError(f"{self.path}: cannot open the journal: {error.strerror or error}") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def started(self, about: Mapping[str, Any]) -> None:
        """Begin a run: which tuner, which plan, which seed. Numbers of decisions count from 0 in each run."""
        self._append({"schema": SCHEMA, "kind": "started", **about})

    def asking(self, entry: Entry) -> None:
        """Write a decision before anything is asked for it."""
        self._append({"kind": "decided", **entry.to_dict()})

    def decided(self, entry: Entry) -> None:
        """Write what was done for a decision: beside it, or after it where it had to be written before."""
        if entry.asked is None:
            self._append({"kind": "decided", **entry.to_dict()})
        else:
            self._append({"kind": "applied", "number": entry.number, "applied": dict(entry.applied)})

    def reviewed(self, number: int, at_s: float, happened: Mapping[str, Any]) -> None:
        """Write what happened after a decision, beside what was expected of it."""
        self._append({"kind": "happened", "number": number, "at_s": round(at_s, 6), **happened})

    def silent(self, at_s: float, why: str) -> None:
        """Write that the server does not answer; it was heard last at `at_s`."""
        self._append({"kind": "silent", "at_s": round(at_s, 6), "why": why})

    def back(self, at_s: float, after_s: float) -> None:
        """Write that the server, heard last at `at_s`, answers again, and after how long."""
        self._append({"kind": "back", "at_s": round(at_s, 6), "after_s": round(after_s, 3)})

    def ended(self, at_s: float, why: str) -> None:
        """End a run beside a server, and say why."""
        self._append({"kind": "ended", "at_s": round(at_s, 6), "why": why})

    def _append(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise HeadwayError(f"{self.path}: cannot write the journal: {error.strerror or error}") from None


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return a journal's lines; one that is being written, or was cut short, is left out. Raises HeadwayError."""
    return list(_lines(Path(path)))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HeadwayError(f"{path}: cannot read the journal: {error.strerror or error}") from None
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            raise HeadwayError(f"{path}:{number}: not a line of JSON; a journal has one object per line") from None
        if not isinstance(value, dict):
            raise HeadwayError(f"{path}:{number}: not a JSON object; a journal has one object per line")
        yield value


def _whole_lines(file: int, step: int = 1 << 16) -> int:
    """Return the length of a file up to its last end of line."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - step)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
