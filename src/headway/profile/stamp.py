"""Where a measurement comes from: versions, machine, date and samples."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from headway.profile.samples import samples_hash
from headway.serve.wire import Payload

_LIBRARIES: Final = (
    "numpy", "scipy", "onnxruntime", "onnxruntime-gpu", "torch", "scikit-learn", "lightgbm", "pillow", "transformers",
)  # fmt: skip


def stamp(samples: Sequence[Payload], date: str | None) -> dict[str, Any]:
    """Return the provenance of what is measured now; `date` is the caller's to give, who may read a clock."""
    versions = {name: version for name in _LIBRARIES if (version := _version(name)) is not None}
    found = {
        "headway": _version("headway"),
        "python": platform.python_version(),
        "libraries": versions,
        **machine(),
        "samples": {"count": len(samples), "hash": samples_hash(samples)},
    }
    return found if date is None else {**found, "date": date}


def machine() -> dict[str, Any]:
    """Return what tells this machine from others of its kind: system, processor, cores.

    >>> sorted(machine())
    ['cores', 'cpu', 'platform']
    """
    return {"platform": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()
