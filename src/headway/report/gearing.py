"""The gears of a plan and what was made of them in a run, as rows and phrases for the terminal and the HTML file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headway.cascade.model import digits
from headway.plan.plan import Plan
from headway.report import format as fmt

GEAR_COLUMNS = ("gear", "load", "asks", "queue", "util.", "P95", "right", "time")
USE_COLUMNS = ("model", "answered", "share", "handed on")


@dataclass(frozen=True)
class Gearing:
    """A plan's stage of kind cascade: its name, its configuration as JSON values, and what was predicted of it.

    `used` is what it did in the planner's own simulation, as `stages.NAME.cascade` of a plan; empty where not known.
    """

    stage: str
    fields: Mapping[str, Any]
    used: Mapping[str, Any]
    cost_usd_per_hour: float

    @property
    def gears(self) -> Sequence[Mapping[str, Any]]:
        """The gears from the dearest to the cheapest."""
        gears: Sequence[Mapping[str, Any]] = self.fields["gears"]
        return gears

    @property
    def models(self) -> list[str]:
        """The models that are placed, from cheap to dear."""
        return list(self.fields["max_batch_sizes"])

    @property
    def names(self) -> list[str]:
        """What each gear asks, as a person writes it."""
        return [asks(gear["steps"]) for gear in self.gears]

    @property
    def ranges_per_s(self) -> list[tuple[float, float]]:
        """From which rate to which each gear serves; the last one whatever comes beyond."""
        return list(itertools.pairwise([0.0, *(float(gear["up_to_per_s"]) for gear in self.gears)]))


def gearings(plan: Plan) -> list[Gearing]:
    """Return the stages of a plan that have gears, in the graph's order.

    >>> from headway.testing.examples import tiny_plan
    >>> gearings(tiny_plan())
    []
    """
    found = []
    for name in plan.spec.graph.order:
        fields = plan.stages[name].to_dict()
        if "gears" in fields:
            used = plan.stage_predictions.get(name, {}).get("cascade", {})
            found.append(Gearing(name, fields, used, plan.stage_cost_usd_per_hour(name)))
    return found


def asks(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return a cascade's steps as a person writes them; a step that never answers is left out.

    >>> asks([{"model": "small", "threshold": 0.834651}, {"model": "large"}])
    'small ≥ 0.835 → large'
    """
    said = [step for step in steps if step.get("threshold") != "inf"]
    return " → ".join(
        s["model"] if s.get("threshold") is None else f"{s['model']} ≥ {s['threshold']:.3g}" for s in said
    )


def gear_rows(gearing: Gearing) -> list[list[str]]:
    """Return one row per gear in the order of `GEAR_COLUMNS`; what is not predicted is a dash."""
    times = held(gearing.used)
    rows = []
    for at, (gear, (low, high)) in enumerate(zip(gearing.gears, gearing.ranges_per_s, strict=True)):
        skips = [f", from hardness {level:.3g}" for level in gear.get("skip", ())]
        rows.append([
            str(at + 1),
            f"{low:.3g}–{fmt.rate(high)}",
            gearing.names[at] + (f"{skips[0]} not {gear['steps'][0]['model']}" if skips else ""),
            " ".join(map(str, gear["min_queue"])),
            fmt.whole_percent(gear.get("utilization")),
            fmt.duration(gear.get("latency_s")),
            fmt.percent(gear.get("accuracy")),
            fmt.whole_percent(times.get((False, at))),
        ])  # fmt: skip
    return rows


def gear_facts(gearing: Gearing) -> list[tuple[str, str]]:
    """Return what holds of all gears of a stage, by name: where the models are, what is certified, a lost device."""
    fields, devices = gearing.fields, int(gearing.fields["devices"])
    placed = "; ".join(f"{fmt.listing(group['models'])} on {group['devices']}" for group in fields["placement"])
    facts = [("devices", f"{devices} of {fields['hardware']}, {fmt.usd_per_hour(gearing.cost_usd_per_hour)}: {placed}")]
    batches = fmt.listing([f"{size} of {name}" for name, size in fields["max_batch_sizes"].items()])
    facts.append(("batches", f"at most {batches}"))
    facts.append(("certified", certified(fields.get("guarantee"))))
    if devices > 1:
        less = fields.get("gears_less_one") or ()
        lost = f"{fmt.plural(len(less), 'gear')} up to {fmt.rate(less[-1]['up_to_per_s'])}" if less else "no gears"
        facts.append(("a device lost", lost))
    return facts + [(name, said) for name, said in use_facts(gearing.used) if name != "gears"]


def certified(guarantee: Mapping[str, Any] | None) -> str:
    """Return to which bound gears are certified, as a phrase.

    >>> certified({"reference": "large", "loss_bound": 0.012, "confidence": 0.95, "samples": 400})
    'at most 1.2 points less right than large, with 95% confidence, on 400 samples'
    """
    if guarantee is None:
        return "no: accuracies are estimates (no tolerance is declared)"
    sure = guarantee["confidence"]
    return (
        f"at most {100 * guarantee['loss_bound']:.3g} points less right than {guarantee['reference']}, with "
        f"{100 * sure:.{digits(sure)}g}% confidence, on {fmt.count(guarantee['samples'])} samples"
    )


def held(used: Mapping[str, Any]) -> dict[tuple[bool, int], float]:
    """Return the share of the time in each gear, by whether it is one for a lost device and its number; {} if unknown.

    >>> held({"gears": [{"gear": 0, "less_one": False, "held_s": 3.0}, {"gear": 1, "less_one": False, "held_s": 1.0}]})
    {(False, 0): 0.75, (False, 1): 0.25}
    """
    seconds = {(bool(each["less_one"]), int(each["gear"])): float(each["held_s"]) for each in used.get("gears", ())}
    whole = sum(seconds.values())
    return {gear: held_s / whole for gear, held_s in seconds.items()} if whole > 0 else {}


def exits(used: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of the answers that each model gave; {} without answers.

    >>> exits({"exits": {"small": 3, "large": 1}})
    {'small': 0.75, 'large': 0.25}
    """
    counts: Mapping[str, int] = used.get("exits", {})
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.items()} if whole else {}


def use_facts(used: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a cascade did in a run as phrases by name: time in gears, who answered, how rightly; [] for None."""
    if not used:
        return []
    whole = {gear: share for gear, share in held(used).items() if share > 0}
    parts = [f"{at + 1} {fmt.whole_percent(share)}" for (less, at), share in whole.items() if not less]
    lost = [f"{at + 1} {fmt.whole_percent(share)}" for (less, at), share in whole.items() if less]
    if lost:
        parts.append(f"with a device lost: {', '.join(lost)}")
    changes = fmt.plural(int(used["switches"]), "change")
    facts = [("gears", f"{', '.join(parts) or fmt.DASH}; {changes}")]
    answered = [f"{name} {fmt.percent(share)}" for name, share in exits(used).items()]
    facts.append(("answered by", ", ".join(answered) or fmt.DASH))
    if used.get("skipped"):
        facts.append(("passed over", f"the first step, for {fmt.plural(int(used['skipped']), 'hard item')}"))
    if used.get("accuracy") is not None:
        facts.append(("right", fmt.percent(used["accuracy"])))
    return facts


def use_rows(used: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per model in the order of `USE_COLUMNS`."""
    shares = exits(used)
    return [
        [name, fmt.count(count), fmt.percent(shares.get(name)), fmt.count(used["escalations"].get(name))]
        for name, count in used["exits"].items()
    ]
