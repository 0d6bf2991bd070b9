"""What does a stage's work: a Python class, an ONNX file, or, when profile-only, a sleep of the profiled time."""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from headway.errors import SpecError

if TYPE_CHECKING:
    from headway.profile.service import ServiceTime

_DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")


class HardwareView(msgspec.Struct, frozen=True, array_like=True):
    """What a model's `setup` may know of the hardware it runs on: threads it may use, a device such as `cuda:0`.

    >>> HardwareView("cpu").threads
    1
    """

    name: str
    threads: int = 1
    device: str | None = None


class ModelRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a model is, in a form that a worker process can load it from.

    `python`: `path` (a file) or `module` (a dotted name) and `class_name`; `onnx`: `path`; `sleep`: `table_s[n]`, the
    equally likely service times of a batch of `n` (index 0 unused), drawn with `seed`. `folder` stands first among the
    places that a Python model imports from.
    """

    kind: Literal["python", "onnx", "sleep"]
    path: str = ""
    module: str = ""
    class_name: str = ""
    folder: str = ""
    table_s: tuple[tuple[float, ...], ...] = ()
    seed: int = 0

    @property
    def text(self) -> str:
        """The reference as a person would write it."""
        if self.kind == "sleep":
            return "sleep"
        place = self.path or self.module
        return f"{place}:{self.class_name}" if self.kind == "python" else place

    @property
    def fingerprint(self) -> str:
        """A short hash of the model's own file (its imports are not followed), or of the table it sleeps by."""
        if self.kind == "sleep":
            raw = repr((self.table_s, self.seed)).encode()
        else:
            path = self.path or _module_file(self.module, self.folder)
            raw = Path(path).read_bytes() if path else b""
        return hashlib.sha256(raw + f"\0{self.kind}\0{self.class_name}".encode()).hexdigest()[:16]


def resolve(model: str, folder: str | os.PathLike[str], where: str = "model") -> ModelRef:
    """Return where `model` (`file.py:Class`, `package.module:Class`, `file.onnx`) is; files are found from `folder`.

    Nothing is imported. Raises SpecError, naming `where`, for another form or a missing file.

    >>> resolve("headway.serve.builtin:SleepModel", ".").class_name
    'SleepModel'
    """
    base = Path(folder).resolve()
    place, colon, class_name = model.rpartition(":")
    if not colon and model.endswith(".onnx"):
        return ModelRef("onnx", path=str(_existing(base / model, model, where)), folder=str(base))
    if colon and class_name.isidentifier():
        if place.endswith(".py"):
            file = _existing(base / place, place, where)
            return ModelRef("python", path=str(file), class_name=class_name, folder=str(file.parent))
        if _DOTTED.match(place):
            return ModelRef("python", module=place, class_name=class_name, folder=str(base))
    raise SpecError(f"{where}: {model!r} is not a model; write file.py:Class, package.module:Class or file.onnx")


def sleeping(service: ServiceTime, max_batch_size: int, *, sampled: bool, seed: int = 0) -> ModelRef:
    """Return a model that only takes the profiled time: the mean, or one drawn from its quantiles if `sampled`."""
    rows: Sequence[Sequence[float]] = service.table(max_batch_size, sampled).tolist()
    return ModelRef("sleep", table_s=tuple(tuple(row) for row in rows), seed=seed)


def _existing(path: Path, written: str, where: str) -> Path:
    if not path.is_file():
        raise SpecError(
            f"{where}: there is no file {written!r} in {path.parent}; paths are relative to the spec's folder "
            "(headway serve takes another as --folder)"
        )
    return path


def _module_file(module: str, folder: str) -> str | None:
    """The file of a dotted module name, found without importing it or its packages."""
    places: list[str] | None = [folder, *sys.path]
    found = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = importlib.machinery.PathFinder.find_spec(name, places)
        if found is None:
            return None
        places = list(found.submodule_search_locations or ())
    return found.origin if found is not None else None
