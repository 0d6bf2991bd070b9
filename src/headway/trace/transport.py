"""Text lines out of plain and compressed files, within limits, and bytes back into them."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, cast

from headway.errors import TraceError
from headway.trace.trace import Readable

MAX_BYTES = 4 << 30
"""Largest file, after decompression, that is read: a small archive cannot fill the memory."""

MAX_LINE_BYTES = 64 << 20
"""Longest line that is read."""


@contextmanager
def open_text(path: Readable) -> Iterator[Iterator[str]]:
    """Open a UTF-8 file, seen to be gzip, bzip2 or plain by its first bytes, as an iterator over its lines.

    A file that is open already is left open. Bytes that are not UTF-8 come out as replacement characters.
    Raises TraceError when the file cannot be opened, is
    damaged, or is larger than `MAX_BYTES`.
    """
    try:
        with (
            nullcontext(path) if isinstance(path, io.BufferedReader) else open(path, "rb") as file,
            _plain(file) as data,
            io.BufferedReader(_Limited(data, path), 1 << 20) as limited,
        ):
            yield io.TextIOWrapper(limited, encoding="utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise TraceError(f"{label(path)}: cannot be read: {reason}") from error


def label(path: Readable) -> str:
    """Return how errors name what a trace is read from.

    >>> label("requests.csv")
    'requests.csv'
    """
    return str(path.name) if isinstance(path, io.BufferedReader) else os.fspath(path)


def pack(data: bytes, path: str) -> bytes:
    """Compress as the ending of `path` says (.gz, .bz2, else not at all); equal data give equal bytes."""
    if path.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return bz2.compress(data) if path.endswith(".bz2") else data


def _plain(file: io.BufferedReader) -> IO[bytes]:
    magic = file.peek(3)[:3]
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return bz2.BZ2File(file) if magic == b"BZh" else file


class _Limited(io.RawIOBase):
    """Passes bytes on, and refuses a file or a line that is too long."""

    def __init__(self, data: IO[bytes], path: Readable) -> None:
        self._data, self._path, self._total, self._line = data, label(path), 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._data.read(len(buffer))
        buffer[: len(part)] = part
        self._total += len(part)
        newline = part.rfind(b"\n")
        self._line = self._line + len(part) if newline < 0 else len(part) - newline - 1
        if self._total > MAX_BYTES:
            raise TraceError(f"{self._path}: holds more than {MAX_BYTES:,} bytes after decompression; split the file")
        if self._line > MAX_LINE_BYTES:
            raise TraceError(f"{self._path}: a line is longer than {MAX_LINE_BYTES:,} bytes; is it a trace?")
        return len(part)
