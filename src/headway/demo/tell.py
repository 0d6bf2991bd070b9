"""What the demo says and leaves behind: results on stdout, a paragraph at the end, and files in one folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from headway.demo.scenario import used
from headway.errors import HeadwayError
from headway.files import canonical_json, write_atomic
from headway.plan.plan import Plan
from headway.profile.stamp import machine
from headway.report import format as fmt
from headway.report import html, words
from headway.report.story import Story
from headway.report.terminal import comparison_view, plan_view, predicted_measured_view

if TYPE_CHECKING:
    from headway.demo.run import Run
    from headway.sim.outcome import Outcome

SCHEMA = "headway.demo/1"
TITLE = "Reading document pages"
PERCENTS = (50, 95, 99)
WITHIN = 0.15
"""How far a percentile may be measured from its predicted interval, relative to it, to count as predicted well."""


class Printer:
    """Prints results as they come, unless the whole is wanted as JSON; knows the folder and the report's file."""

    def __init__(self, folder: Path, report: Path | None, as_json: bool) -> None:
        self.folder = folder
        self.report = report or folder / "report.html"
        self.as_json = as_json
        self._console = Console(highlight=False)

    def prepare(self) -> None:
        """Make the folders now: a path that cannot be written should not be found out at the end."""
        for folder in (self.folder, self.report.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HeadwayError(f"{folder}: cannot make the folder: {error.strerror}") from None

    def keep(self, values: Mapping[str, Any]) -> None:
        """Write JSON values into the folder, each into the file of its name."""
        for name, value in values.items():
            write_atomic(self.folder / name, canonical_json(value))

    def print(self, *parts: Any) -> None:
        """Print parts below each other."""
        if not self.as_json:
            for part in parts:
                self._console.print(part)


class Teller(Printer):
    """Tells each result of the document demo, and writes the files."""

    def profile(self, run: Run) -> None:
        """Keep the profile: whatever happens later, it took the longest."""
        run.profile.write(self.folder / "profile.csv")

    def production(self, run: Run) -> None:
        """Tell the plan at production scale and what it was weighed against."""
        self.print(
            "", plan_view(run.production), "", heading("what others would deploy"), comparison_view(_side_by_side(run))
        )

    def here(self, run: Run) -> None:
        """Tell the plan for this machine."""
        cores = fmt.plural(run.cores, "core")
        self.print("", heading(f"the same pipeline on the {cores} of this machine"), plan_view(run.plan))

    def write(self, run: Run) -> Path:
        """Write all files; return where the report is."""
        for name, plan in (("production-plan.json", run.production), ("plan.json", run.plan)):
            plan.write(self.folder / name)
        run.trace.write(self.folder / "trace.csv")
        self.keep(
            {"predicted.json": run.predicted.to_dict(), "measured.json": run.measured.to_dict(),
             "demo.json": told(run, self.report)}
        )  # fmt: skip
        html.write(_story(run), self.report)
        return self.report

    def result(self, run: Run) -> None:
        """Tell how far the prediction was off, and end with a paragraph; or print everything as JSON."""
        if self.as_json:
            sys.stdout.write(canonical_json(told(run, self.report)))
            return
        compared = predicted_measured_view(run.predicted, run.measured, run.interval)
        self.print("", heading("predicted and measured"), compared, Text(explanation(run)), "")
        self.print(Text(paragraph(run, self.report)))


def told(run: Run, report: Path) -> dict[str, Any]:
    """Return the whole run as JSON values."""
    return {
        "schema": SCHEMA,
        "production": _plan_summary(run.production),
        "others": {name: dict(facts) for name, facts in run.others.items()},
        "plan": _plan_summary(run.plan),
        "predicted": run.predicted.to_dict(),
        "interval": run.interval,
        "measured": run.measured.to_dict(),
        "utilization": {"predicted": used(run.plan, run.predicted, run.cores),
                        "measured": used(run.plan, run.measured, run.cores)},
        "fidelity": fidelity(run),
        "slowdowns": run.slowdowns,
        "explained": run.explained.to_dict(),
        "neighbors": run.neighbors,
        "cores": run.cores,
        "machine": machine(),
        "date": run.date,
        "seed": run.seed,
        "notes": list(run.notes),
        "report": str(report),
        "summary": paragraph(run, report),
    }  # fmt: skip


def fidelity(run: Run) -> dict[str, Any]:
    """Return by percentile how far the measured value is from the predicted one, and whether it was predicted well."""
    found: dict[str, Any] = {}
    for percent in PERCENTS:
        before, after = run.predicted.p(percent), run.measured.p(percent)
        low, high = run.interval[f"p{percent}_s"]
        off = after / before - 1
        well = low * (1 - WITHIN) <= after <= high * (1 + WITHIN)
        found[f"p{percent}"] = {"error": off if abs(off) < float("inf") else None, "within": well}
    return found


def paragraph(run: Run, report: Path) -> str:
    """Return what would be deployed, what it costs, whether the promise was kept and how far prediction was off."""
    plan, measured = run.production, run.measured
    kept = "kept" if measured.holds else "broken"
    off = differences(measured, run.predicted)
    hits = fidelity(run)
    well = hits["p50"]["within"] and hits["p95"]["within"]
    busy = max(run.neighbors.values(), default=0.0)
    verdict = "" if well else " That is more than it should be."
    if busy > 0.1:
        verdict += f" Other programs took up to {fmt.whole_percent(busy)} of this machine meanwhile."
    return (
        f"To answer {words.promise(plan.spec.slo)} at {fmt.rate(plan.provenance['rate_per_s'])}, deploy "
        f"{words.capacity(plan)} with the {plan.variants['detect']} detector for "
        f"{fmt.usd_per_hour(plan.cost_usd_per_hour)}; {words.optimality(plan)}. On this machine "
        f"{fmt.count(measured.requests)} pages were read over HTTP; the promise of {words.promise(run.plan.spec.slo)} "
        f"was {kept} ({fmt.percent(measured.miss_rate)} missed) for {fmt.usd(measured.cost_usd)}. Against the "
        f"prediction, measured latency was {off}.{verdict} The whole story: {report}"
    )


def explanation(run: Run) -> str:
    """Return how much of the error is due to the service times, which the profile measured at another moment."""
    seen = fmt.listing([f"{name} {fmt.change(ratio - 1)}" for name, ratio in run.slowdowns.items()])
    given = [f"P{p} {words.answered(run.explained.p(p))}" for p in PERCENTS]
    return (
        f"In the replay a batch did not take as long as in the profile: {seen}. With the service times of the replay "
        f"the simulator gives {fmt.listing(given)}; against these, measured latency was "
        f"{differences(run.measured, run.explained)}."
    )


def differences(measured: Outcome, predicted: Outcome) -> str:
    """How measured percentiles differ from predicted ones, one after the other."""
    return fmt.listing([f"{_off(measured.p(p), predicted.p(p))} at P{p}" for p in PERCENTS])


def _off(measured_s: float, predicted_s: float) -> str:
    if math.isinf(measured_s):
        return words.answered(measured_s) + (", as predicted," if math.isinf(predicted_s) else "")
    return "unlike predicted, answered in time" if math.isinf(predicted_s) else fmt.change(measured_s / predicted_s - 1)


def _side_by_side(run: Run) -> dict[str, Mapping[str, Any]]:
    plan = run.production
    mine = {"cost_usd_per_hour": plan.cost_usd_per_hour, **plan.predicted, "feasible": plan.feasible,
            "gap_ratio": plan.gap_ratio}  # fmt: skip
    return {"headway": mine, **run.others}


def _plan_summary(plan: Plan) -> dict[str, Any]:
    whole = plan.to_dict()
    left_out = ("spec", "profile", "schema", "envelope")
    return {key: value for key, value in whole.items() if key not in left_out}


def _story(run: Run) -> Story:
    return Story(
        title=TITLE,
        plan=run.plan,
        production_plan=run.production,
        baselines=list(run.others.items()),
        predicted=run.predicted,
        measured=run.measured,
        interval=run.interval,
        trace=run.trace,
        profile=run.profile,
        notes=[paragraph(run, Path("report.html")).rpartition(" The whole story")[0], explanation(run), *run.notes],
        provenance={"machine": machine(), "date": run.date, "seed": run.seed, "pool cores": run.cores},
    )


def heading(text: str) -> Text:
    """Return a title above what follows."""
    return Text(text, style="bold")
