"""Compile plain Python kernels with numba, with a cache that notices edits in any file a kernel may call.

numba's own cache looks only at the file a function stands in; kernels call policies from other files. So the cache
folder is named after a hash of all sources of fleets, policies and simulator. `HEADWAY_JIT=0` runs the same uncompiled.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def enabled() -> bool:
    """Return whether kernels are compiled; the environment variable HEADWAY_JIT=0 turns it off."""
    return os.environ.get("HEADWAY_JIT", "1") != "0"


@cache
def cache_dir() -> str:
    """Return the folder of compiled kernels for exactly these sources (and this user)."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    folders = [package / name for name in ("fleet", "policy", "sim")]
    for source in sorted(file for folder in folders for file in folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    base = os.environ.get("HEADWAY_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "headway"
    )
    folder = os.path.join(base, "kernels", digest.hexdigest()[:16])
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="headway-kernels-")


def kernel(function: F) -> F:
    """Return `function` compiled by numba (no GIL, cached on disk), or itself when compiling is turned off.

    The uncompiled source stays at hand as `.py_func`.

    >>> kernel(lambda a: a + 1)(1)
    2
    """
    if not enabled():
        function.py_func = function  # type: ignore[attr-defined]
        return function
    import numba

    settings: Any = numba.config
    before = settings.CACHE_DIR
    # numba reads the folder when a function is decorated; other users of numba in this process keep theirs.
    settings.CACHE_DIR = cache_dir()
    try:
        on_disk = function.__name__ != "<lambda>"
        compiled: Any = numba.njit(nogil=True, cache=on_disk)(function)
        return cast(F, compiled)
    finally:
        settings.CACHE_DIR = before
