"""What the demo of a cascade says and leaves behind: results on stdout, a paragraph at the end, files in one folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from headway.demo.cascade.scenario import DEAREST
from headway.demo.tell import Printer, differences, heading
from headway.files import canonical_json
from headway.profile.stamp import machine
from headway.report import format as fmt
from headway.report import html, words
from headway.report.gears import mix_words, timeline_view
from headway.report.story import Story
from headway.report.tables import table
from headway.report.terminal import predicted_measured_view

if TYPE_CHECKING:
    from headway.demo.cascade.run import Run

SCHEMA = "headway.demo.cascade/1"
TITLE = "Reading digits in gears"


class CascadeTeller(Printer):
    """Tells each result of the demo, and writes the files."""

    def profile(self, run: Run) -> None:
        """Keep the profile: whatever happens later, it took long. The validation table lies beside it."""
        run.profile.write(self.folder / "profile.csv")

    def plan(self, run: Run) -> None:
        """Tell the gears, and what the same devices would do without."""
        from headway.demo.cascade.watch import gear_name

        rows = [
            [str(at), gear_name(gear.cascade), fmt.rate(gear.up_to_per_s), fmt.percent(gear.accuracy)]
            for at, gear in enumerate(run.chosen.gears.gears, start=1)
        ]
        slo = run.plan.spec.slo
        promised = f"{words.promise(slo)}, and at least {fmt.percent(slo.accuracy)} of the answers right"
        self.print("", heading(f"gears of {words.capacity(run.plan)}"), Text(f"promise: {promised}"))
        self.print(table(["gear", "asks", "up to", "right"], rows, text_columns=("asks",)))
        self.print(heading("what single models would do on the same day, simulated"), _others(run))

    def write(self, run: Run) -> Path:
        """Write all files; return where the report is."""
        run.plan.write(self.folder / "plan.json")
        run.trace.write(self.folder / "trace.csv")
        self.keep(
            {"predicted.json": run.predicted.to_dict(), "measured.json": run.measured.to_dict(),
             "demo.json": told(run, self.report)}
        )  # fmt: skip
        html.write(story(run), self.report)
        return self.report

    def result(self, run: Run) -> None:
        """Tell the day window by window and how far the prediction was off; or print everything as JSON."""
        if self.as_json:
            sys.stdout.write(canonical_json(told(run, self.report)))
            return
        self.print("", heading("the day, as it was served"), timeline_view(run.timeline))
        self.print(Text(mix_words(run.timeline), style="dim"), "", heading("predicted and measured"))
        self.print(predicted_measured_view(run.predicted, run.measured, run.interval), "")
        self.print(*(Text(each) for each in run.notes), Text(f"{paragraph(run)} The whole story: {self.report}"))


def told(run: Run, report: Path) -> dict[str, Any]:
    """Return the whole run as JSON values."""
    whole = run.plan.to_dict()
    return {
        "schema": SCHEMA,
        "plan": {key: value for key, value in whole.items() if key not in ("spec", "profile", "schema", "envelope")},
        "slo": whole["spec"]["slo"],
        "others": {name: dict(facts) for name, facts in run.others.items()},
        "rates_per_s": {"night": run.rates.night_per_s, "day": run.rates.day_per_s, "spike": run.rates.spike_per_s},
        "predicted": {**run.predicted.to_dict(), "accuracy": run.predicted.accuracy},
        "interval": run.interval,
        "measured": run.measured.to_dict(),
        "timeline": run.timeline.to_dict(),
        "kept": kept(run),
        "neighbors": run.neighbors,
        "devices": run.devices,
        "machine": machine(),
        "date": run.date,
        "seed": run.seed,
        "notes": list(run.notes),
        "report": str(report),
        "summary": paragraph(run),
    }


def kept(run: Run) -> bool:
    """Return whether both promises were kept as measured, of latency and of accuracy."""
    floor, accuracy = run.plan.spec.slo.accuracy or 0.0, run.timeline.accuracy
    return run.measured.holds and accuracy is not None and accuracy >= floor


def paragraph(run: Run) -> str:
    """Return what was served, whether the promises were kept, what gears saved, and how far prediction was off."""
    slo, measured = run.plan.spec.slo, run.measured
    busy = max(run.neighbors.values(), default=0.0)
    beside = f" Other programs took up to {fmt.whole_percent(busy)} of this machine meanwhile." if busy > 0.1 else ""
    return (
        f"{words.capacity(run.plan)} read {fmt.count(measured.requests)} images over HTTP for "
        f"{fmt.usd_per_hour(run.plan.cost_usd_per_hour)}, from {fmt.rate(run.rates.night_per_s)} at night to "
        f"{fmt.rate(run.rates.spike_per_s)} in the spike, and changed gear {fmt.count(run.timeline.switches)} times. "
        f"The promise of {words.promise(slo)} and {fmt.percent(slo.accuracy)} right was "
        f"{'kept' if kept(run) else 'broken'}: "
        f"{fmt.percent(measured.miss_rate)} missed, {fmt.percent(run.timeline.accuracy)} right. {_without_gears(run)} "
        f"Against the prediction, measured latency was {differences(measured, run.predicted)}.{beside}"
    )


def _without_gears(run: Run) -> str:
    """What the most accurate model alone would take for the same promise, or do on the same devices."""
    same = run.others[f"{DEAREST} alone"]
    late = words.latency_text(same, "p95_s")
    here = f"With {DEAREST} alone its P95 would be {late}"
    more = next((name for name, facts in run.others.items() if name.startswith(f"{DEAREST} alone,")), None)
    if more is None:
        return f"{here}."
    cost = fmt.usd_per_hour(run.others[more]["cost_usd_per_hour"])
    return f"{here}; to keep the promise it would need {more.rpartition(', ')[2]}, {cost}."


def story(run: Run) -> Story:
    """Return what the report shows."""
    return Story(
        title=TITLE,
        plan=run.plan,
        baselines=list(run.others.items()),
        predicted=run.predicted,
        measured=run.measured,
        interval=run.interval,
        trace=run.trace,
        profile=run.profile,
        timeline=run.timeline,
        notes=[paragraph(run), f"Right of the labeled images: {run.table}.", *run.notes],
        provenance={"machine": machine(), "date": run.date, "seed": run.seed, "devices": run.devices},
    )


def _others(run: Run) -> Any:
    mine = run.predicted.to_dict()
    rows = [["gears", fmt.usd_per_hour(run.plan.cost_usd_per_hour), fmt.percent(run.predicted.accuracy),
             words.latency_text(mine, "p95_s"), fmt.percent(mine["miss_rate"])]]  # fmt: skip
    rows += [
        [name, fmt.usd_per_hour(facts["cost_usd_per_hour"]), fmt.percent(facts["accuracy"]),
         words.latency_text(facts, "p95_s"), fmt.percent(facts["miss_rate"])]
        for name, facts in run.others.items()
    ]  # fmt: skip
    return table(["plan", "cost", "right", "P95", "misses"], rows)
