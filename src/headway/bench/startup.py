"""How long the command line takes to say what it can do, and the package to be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

from headway.bench import BenchOptions, Row
from headway.errors import HeadwayError

RUNS = 20
_IMPORT_S = "import time; at = time.perf_counter(); import headway; print(time.perf_counter() - at)"


def startup(options: BenchOptions) -> list[Row]:
    """Time `headway --help` as a user sees it, and `import headway` within a fresh interpreter; the best of several.

    The baseline of the first is the bare interpreter, which no program written in Python can undercut.
    """
    runs = 3 if options.quick else RUNS
    help_ms = _best_ms([_wall_s(["-m", "headway", "--help"]) for _ in range(runs)])
    bare_ms = _best_ms([_wall_s(["-c", "pass"]) for _ in range(runs)])
    import_ms = _best_ms([float(_run(["-c", _IMPORT_S])) for _ in range(runs)])
    return [
        Row("startup/help", help_ms, "ms", baseline=bare_ms, bar="<= 250"),
        Row("startup/import", import_ms, "ms", bar="<= 120"),
    ]


def _wall_s(arguments: Sequence[str]) -> float:
    begun = perf_counter()
    _run(arguments)
    return perf_counter() - begun


def _run(arguments: Sequence[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise HeadwayError(f"bench startup: {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def _best_ms(seconds: Sequence[float]) -> float:
    # Cold file caches and the machine's other load only ever add time.
    return min(seconds) * 1e3
