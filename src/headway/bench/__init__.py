"""Benchmarks: every figure in the documentation is a row of `headway bench NAME --json`.

A benchmark is a function `(BenchOptions) -> Iterable[Row]` in a module of this folder, named in `BENCHES`. One that
takes long yields its rows as it measures them, so that those are not lost when it cannot go on.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from headway.errors import HeadwayError, nearest

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["BENCHES", "BY_NAME_ONLY", "Bench", "BenchOptions", "Row", "choose", "machine", "run", "table"]

_BAR = re.compile(r"^(>=|<=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)(\s*%)?$")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    `value` is in `unit`; `baseline` is the same figure of what it is compared with, in the same unit; `ratio` relates
    the two. `bar` is what has to hold, `">= 130"` or `"<= 45%"`: of the ratio where there is one, else of the value.
    A value that cannot be measured here is not a number, and meets no bar.
    `met` follows from the bar unless given. `seed`, `machine` and `date` are filled in by `run`.
    Raises HeadwayError for a bar that is no comparison and comes without `met`.

    >>> Row("sim", 20.0, "ns", baseline=3000.0, ratio=150.0, bar=">= 130").met
    True
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    bar: str | None = None
    met: bool | None = None
    seed: int | None = None
    machine: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        if self.bar is None or self.met is not None:
            return
        match = _BAR.match(self.bar)
        if not match:
            raise HeadwayError(f"bench row {self.name!r}: bar {self.bar!r} is not like '>= 130' or '<= 45%'; give met")
        limit = float(match[2]) / (100.0 if match[3] else 1.0)
        judged = self.value if self.ratio is None else self.ratio
        object.__setattr__(self, "met", judged >= limit if match[1] == ">=" else judged <= limit)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values; null for a value that cannot be measured."""
        return asdict(self) | {"value": None if math.isnan(self.value) else self.value}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What every benchmark is told: the seed, a real trace instead of generated ones, and whether to be quick.

    A quick run uses small sizes, to see that a benchmark works; its figures mean nothing.
    """

    seed: int = 1
    trace_path: Path | None = None
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark by name; its module is imported when it is called."""

    name: str
    target: str

    def __call__(self, options: BenchOptions) -> Iterable[Row]:
        module, _, function = self.target.partition(":")
        try:
            measure = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            raise HeadwayError(
                f"bench {self.name}: {error.name} is not installed; pip install 'headway[bench,demo]'"
            ) from None
        return cast("Iterable[Row]", measure(options))


BENCHES: dict[str, Callable[[BenchOptions], Iterable[Row]]] = {
    name: Bench(name, target)
    for name, target in {
        "startup": "headway.bench.startup:startup",
        "sim-tandem": "headway.bench.sim:sim_tandem",
        "sim-mgc": "headway.bench.sim:sim_mgc",
        "sim-incremental": "headway.bench.sim:sim_incremental",
        "sim-memory": "headway.bench.sim:sim_memory",
        "planner": "headway.bench.planner:planner",
        "planner-robust": "headway.bench.planner:planner_robust",
        "fidelity": "headway.bench.fidelity:fidelity",
        "serving-echo": "headway.bench.serving:serving_echo",
        "serving-hop": "headway.bench.serving:serving_hop",
        "serving-onnx": "headway.bench.serving:serving_onnx",
        "serving-pipeline": "headway.bench.serving:serving_pipeline",
        "tuner": "headway.bench.tuner:tuners",
        "calibration": "headway.bench.calibration:calibration",
        "faults-kill": "headway.bench.faults:kill",
        "faults-overload": "headway.bench.faults:overload",
        "soak": "headway.bench.soak:soak",
        "features-cascade": "headway.bench.cascades.text:features_cascade",
        "features-topk": "headway.bench.cascades.topk:features_topk",
        "features-all": "headway.bench.cascades.joins:features_all",
        "gears-cost": "headway.bench.cascades.gears:gears_cost",
        "gears-planning": "headway.bench.cascades.gears:gears_planning",
        "gear-decision": "headway.bench.cascades.gears:gear_decision",
        "gears-spike": "headway.bench.cascades.spike:gears_spike",
        "inferline": "headway.bench.inferline.evaluate:inferline",
        "sim-rack": "headway.bench.fleets.rack:sim_rack",
        "rack-carried": "headway.bench.fleets.rack:rack_carried",
        "sim-llm": "headway.bench.fleets.llm:sim_llm",
        "sim-llm-vidur": "headway.bench.fleets.llm:sim_llm_vidur",
        "llm-routing": "headway.bench.fleets.llm:llm_routing",
        "llm-fidelity": "headway.bench.fleets.llm_fidelity:llm_fidelity",
        "gateway": "headway.bench.fleets.gateway:gateway",
        "gateway-stream": "headway.bench.fleets.gateway:gateway_stream",
    }.items()
}

BY_NAME_ONLY = frozenset(
    {
        "calibration", "features-all", "features-cascade", "features-topk", "gears-cost", "inferline", "llm-fidelity",
        "llm-routing", "rack-carried", "sim-llm-vidur", "sim-rack", "soak",
    }
)  # fmt: skip
"""Benchmarks that take so long that they run only when they are named."""


def choose(names: Iterable[str]) -> list[str]:
    """Return the names of benchmarks to run: those given, else all but those that run `BY_NAME_ONLY`.

    Raises HeadwayError for an unknown one.

    >>> "soak" in choose([]), "soak" in choose(["soak"])
    (False, True)
    """
    chosen = list(names) or [name for name in BENCHES if name not in BY_NAME_ONLY]
    for name in chosen:
        if name not in BENCHES:
            raise HeadwayError(f"bench: no benchmark is called {name!r}{nearest(name, BENCHES)}; {', '.join(BENCHES)}")
    return chosen


def run(name: str, options: BenchOptions, date: str) -> Iterator[Row]:
    """Run a benchmark and yield its rows, stamped with seed, machine and `date` (of the run, ISO-8601).

    Raises HeadwayError when it cannot be run here, or not further.
    """
    where = machine()
    for row in BENCHES[name](options):
        yield replace(row, seed=options.seed if row.seed is None else row.seed, machine=where, date=date)


def machine() -> str:
    """Return the processor's name, the cores at hand and the Python version.

    >>> "Python 3" in machine()
    True
    """
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, Python {platform.python_version()}"


def table(rows: Iterable[Row]) -> Table:
    """Return what `rich` prints for rows: one line each, and whether the bar is met."""
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    out.add_column("name", no_wrap=True)
    for heading in ("value", "unit", "baseline", "ratio", "bar"):
        out.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    out.add_column("met")
    for row in rows:
        met = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("")}[row.met]
        figures = [_short(row.value), row.unit, _short(row.baseline), _short(row.ratio), row.bar or ""]
        out.add_row(row.name, *figures, met)
    return out


def _short(value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "cannot be measured"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
