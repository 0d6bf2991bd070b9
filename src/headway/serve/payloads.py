"""What a replay sends: sample payloads from a folder or from Python, as bodies of inference requests."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.errors import ServeError
from headway.serve.values import DATATYPES

MAX_FILES = 100_000
_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class InferBody:
    """The body of an inference request; `header_length` is that of its JSON part when binary data follow."""

    data: bytes
    header_length: int | None = None


def encode(payload: Any) -> InferBody:
    """Return the request that carries a payload: text, bytes, a NumPy array, or any JSON value.

    A mapping with `inputs` is sent as it stands. Raises ServeError for what cannot be sent.

    >>> encode("hi").data
    b'{"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}'
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        raw = bytes(payload)
        return _with_binary("BYTES", [1], struct.pack("<I", len(raw)) + raw)
    if isinstance(payload, np.ndarray):
        for name, code in DATATYPES.items():
            if np.dtype(code) == payload.dtype:
                return _with_binary(name, list(payload.shape), np.ascontiguousarray(payload).tobytes())
        raise ServeError(f"payload: an array of {payload.dtype} cannot be sent; valid: {', '.join(DATATYPES)}")
    try:
        if isinstance(payload, Mapping) and "inputs" in payload:
            return InferBody(json.dumps(payload, allow_nan=False).encode())
        tensor: dict[str, Any] = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [payload]}
        if not isinstance(payload, str):
            tensor.update(data=[json.dumps(payload, allow_nan=False)], parameters={"content_type": "json"})
        return InferBody(json.dumps({"inputs": [tensor]}, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        raise ServeError(f"payload: a {type(payload).__name__} cannot be sent: {error}") from None


def read_payloads(place: str | os.PathLike[str]) -> list[Any]:
    """Return the payloads in a folder (in the order of the files' names), in the lines of a JSONL file, or in one file.

    `.txt` is text, `.json` JSON (a whole request when it has `inputs`), `.npy` an array; all else is sent as bytes.
    Raises ServeError when there is nothing, or a file cannot be read.
    """
    return list(named_payloads(place).values())


def named_payloads(place: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the same with a name for each, as samples have them: that of its file, or the number of its line."""
    base = Path(place)
    if base.suffix.lower() in _LINES and not base.is_dir():
        return _read_lines(base)
    try:
        inside = base.iterdir() if base.is_dir() or not base.exists() else [base]
        files = sorted(path for path in inside if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise ServeError(f"{base}: cannot read the payloads: {error.strerror}") from None
    if not 0 < len(files) <= MAX_FILES:
        raise ServeError(f"{base}: {len(files)} files; between 1 and {MAX_FILES} payloads are needed")
    return {path.name: _read(path) for path in files}


def as_payloads(given: Sequence[Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return payloads by name, given as a list, as a folder or file, or not at all: then one empty text."""
    if isinstance(given, str | os.PathLike):
        return named_payloads(given)
    if given is not None and not len(given):
        raise ServeError("payloads: the list is empty; give at least one payload, or None for an empty text")
    return {str(number): payload for number, payload in enumerate([""] if given is None else given, 1)}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return path.read_text(encoding="utf-8") if path.suffix == ".txt" else path.read_bytes()
    except (OSError, ValueError) as error:
        raise ServeError(f"{path}: cannot read the payload: {error}") from None


def _read_lines(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    found[str(number)] = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ServeError(f"{path}:{number}: not JSON: {error}") from None
                if len(found) > MAX_FILES:
                    raise ServeError(f"{path}:{number}: at most {MAX_FILES} payloads are read; give fewer")
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"{path}: cannot read the payloads: {error}") from None
    if not found:
        raise ServeError(f"{path}: there are no payloads; put one JSON value on each line")
    return found


def _with_binary(datatype: str, shape: list[int], blob: bytes) -> InferBody:
    tensor = {
        "name": "input",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(blob)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return InferBody(head + blob, len(head))
