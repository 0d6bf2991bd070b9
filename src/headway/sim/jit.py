"""Compile plain Python kernels with numba, with a cache that notices edits in any file a kernel may call.

numba's own cache looks only at the file a function stands in; kernels call policies from other files. So the cache
folder is named after a hash of all sources of fleets, policies and simulator. Of processes that need a kernel at once,
one compiles it. `HEADWAY_JIT=0` runs the same uncompiled.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    return _compiled(function)


def borrowing(function: F) -> F:
    """Return `function` compiled like a kernel, but without counting references: all arrays are its caller's.

    Such a kernel may hand arrays on, but neither make nor return any. Counting is what numba does at every step with
    every array, even atomically; in a kernel of many arrays it takes most of the time, to run and to compile.

    >>> import numpy as np
    >>> int(borrowing(lambda a: a[0] + a[1])(np.array([1, 2])))
    3
    """
    return _compiled(function, _nrt=False)


def step(function: F) -> F:
    """Return `function` itself, as a part of borrowing kernels: each that calls it has it compiled in, at no cost.

    >>> half = step(lambda a: a / 2)
    >>> half(3), borrowing(lambda a: half(a) + 1)(4)
    (1.5, 3.0)
    """
    if not enabled():
        return function
    from numba.extending import register_jitable

    part: F = register_jitable(_nrt=False, forceinline=True, no_cfunc_wrapper=True)(function)
    return part


def _compiled(function: F, **options: Any) -> F:
    if not enabled():
        function.py_func = function  # type: ignore[attr-defined]
        return function
    import numba

    # Said outright: else numba compiles a kernel like the one that happens to call it first.
    options = {"_nrt": True, "forceinline": False} | options
    on_disk = function.__name__ != "<lambda>"
    settings: Any = numba.config
    before = settings.CACHE_DIR
    # numba reads the folder when a function is decorated; other users of numba in this process keep theirs.
    settings.CACHE_DIR = cache_dir()
    try:
        compiled: Any = numba.njit(nogil=True, cache=on_disk, **options)(function)
    finally:
        settings.CACHE_DIR = before
    if on_disk:
        lock = Path(cache_dir(), f"{function.__module__}.{function.__qualname__}.lock")
        compiled.compile = _one_at_a_time(compiled.compile, lock)
    return cast(F, compiled)


def _one_at_a_time(compiles: Callable[[Any], Any], lock: Path) -> Callable[[Any], Any]:
    """Return `compiles` in turns: of all processes the first compiles, and the others load what it left on disk."""
    from numba.core.compiler_lock import global_compiler_lock

    def in_turn(signature: Any) -> Any:
        # The turns of this process's threads come first: in one of them a kernel is compiled with all that it calls.
        with global_compiler_lock, held(lock):
            return compiles(signature)

    return in_turn


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold a lock between processes, which ends with its holder; where files cannot be locked, go on without."""
    with ExitStack() as stack:
        with suppress(OSError):
            fcntl.lockf(stack.enter_context(lock.open("ab")), fcntl.LOCK_EX)
        yield
