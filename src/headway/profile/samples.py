"""Sample inputs from files: what a profile is measured with and what a replay sends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from headway.errors import ProfileError
from headway.serve.wire import Payload

MAX_SAMPLES: Final = 10_000
MAX_SAMPLE_BYTES: Final = 64 * 2**20
MAX_TOTAL_BYTES: Final = 2**30

_LINES: Final = (".jsonl", ".ndjson")
_CODECS: Final = {".txt": "text", ".json": "json"}


def read_samples(path: str | os.PathLike[str]) -> list[Payload]:
    """Return sample inputs: a folder's files in order of name, the lines of a JSONL file, or one file of any kind.

    A file becomes `text` (.txt), `json` (.json), `tensor` (.npy) or else `raw` bytes; a line becomes `text` when it is
    a JSON string, else `json`. Hidden files and folders within are left out. At most 10,000 samples of 64 MiB, 1 GiB
    together. Raises ProfileError naming the file and line.

    >>> read_samples("nowhere")
    Traceback (most recent call last):
    headway.errors.ProfileError: nowhere: cannot read the samples: No such file or directory
    """
    return list(named_samples(path).values())


def named_samples(path: str | os.PathLike[str]) -> dict[str, Payload]:
    """Return the same with a name for each: the name of its file, or the number of its line from 1 on."""
    target = Path(path)
    try:
        if target.is_dir():
            files = sorted(f for f in target.iterdir() if f.is_file() and not f.name.startswith("."))
            found: Iterable[tuple[str, Payload]] = ((file.name, _of_file(file)) for file in files)
        elif target.suffix.lower() in _LINES:
            found = _of_lines(target)
        else:
            found = [(target.name, _of_file(target))]
        samples = _within_limits(found, target)
    except OSError as error:
        raise ProfileError(f"{target}: cannot read the samples: {error.strerror or error}") from None
    if not samples:
        raise ProfileError(f"{target}: there are no samples; put files into the folder or lines into the file")
    return samples


def samples_hash(samples: Sequence[Payload]) -> str:
    """Return a short stable hash of the samples and their order.

    >>> samples_hash([Payload("text", b"a")]) == samples_hash([Payload("raw", b"a")])
    False
    """
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.codec} {len(sample.data)}\n".encode())
        digest.update(sample.data)
    return digest.hexdigest()[:16]


def _of_file(path: Path) -> Payload:
    size = path.stat().st_size
    if size > MAX_SAMPLE_BYTES:
        raise ProfileError(f"{path}: {size} bytes; a sample has at most {MAX_SAMPLE_BYTES}")
    if path.suffix.lower() == ".npy":
        return _of_array(path)
    codec = _CODECS.get(path.suffix.lower(), "raw")
    data = path.read_bytes()
    if codec == "json":
        _check_json(data, str(path))
    return Payload(codec, data)


def _of_array(path: Path) -> Payload:
    import numpy as np

    from headway.serve.values import DATATYPES, tensor_bytes

    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ProfileError(f"{path}: cannot read the array: {error}") from None
    for name, code in DATATYPES.items():
        if np.dtype(code) == array.dtype:
            return Payload("tensor", tensor_bytes(name, list(array.shape), np.ascontiguousarray(array).tobytes()))
    raise ProfileError(f"{path}: an array of {array.dtype} cannot be sent; valid: {', '.join(DATATYPES)}")


def _of_lines(path: Path) -> Iterable[tuple[str, Payload]]:
    with path.open("rb") as handle:
        for number in range(1, 2**62):
            where = f"{path}:{number}"
            line = handle.readline(MAX_SAMPLE_BYTES + 1)
            if len(line) > MAX_SAMPLE_BYTES:
                raise ProfileError(f"{where}: a sample has at most {MAX_SAMPLE_BYTES} bytes")
            if not line:
                return
            if line.strip():
                value = _check_json(line, where)
                yield (
                    str(number),
                    Payload("text", value.encode()) if isinstance(value, str) else Payload("json", line.strip()),
                )


def _check_json(data: bytes, where: str) -> object:
    try:
        value: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{where}: not JSON: {error}") from None
    return value


def _within_limits(found: Iterable[tuple[str, Payload]], path: Path) -> dict[str, Payload]:
    samples: dict[str, Payload] = {}
    total = 0
    for name, sample in found:
        samples[name] = sample
        total += len(sample.data)
        if len(samples) > MAX_SAMPLES or total > MAX_TOTAL_BYTES:
            where = path / name if path.is_dir() else f"{path}:{name}"
            raise ProfileError(
                f"{where}: at most {MAX_SAMPLES} samples and {MAX_TOTAL_BYTES} bytes are read; give fewer"
            )
    return samples
