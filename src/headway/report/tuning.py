"""A tuner's decisions and what came of them, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headway.report import format as fmt
from headway.report import words
from headway.report.tables import heading, pairs, table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

MOST_DECISIONS = 40
"""Decisions shown; a journal has them all."""


def tuning_view(advice: Mapping[str, Any]) -> Group:
    """Return what `headway.tune.advise` found, to be printed with Rich: outcomes side by side, then the decisions."""
    from rich.console import Group

    rows = []
    for label, key in (("plan left alone", "without"), (f"tuner {advice['tuner']}", "with")):
        figures = advice[key]
        kept = "kept" if figures.get("slo_holds") else "broken"
        latency = words.latency_text(figures, "p99_s")
        rows.append([label, fmt.percent(figures.get("miss_rate")), latency, kept, fmt.usd(figures.get("cost_usd"))])
    parts: list[RenderableType] = [table(["", "misses", "P99", "promise", "cost"], rows)]
    decisions = advice["decisions"]
    if not decisions:
        return Group(*parts, f"\nno decision: {_why_none(advice)}")
    shown = [(f"{d['at_s']:.1f} s", decision_lines(d)[0]) for d in decisions[:MOST_DECISIONS]]
    parts += [heading(f"\n{fmt.plural(len(decisions), 'decision')}"), pairs(shown)]
    if len(decisions) > MOST_DECISIONS:
        parts.append(f"and {len(decisions) - MOST_DECISIONS} more: --json or --journal has all of them")
    parts += [f"plan again: {d['replan']}" for d in decisions if "replan" in d]
    return Group(*parts)


def _why_none(advice: Mapping[str, Any]) -> str:
    """Return why a tuner decided nothing: because it never does, or saw no reason, whether or not the promise held."""
    name, kept = advice["tuner"].partition(",")[0], advice["with"].get("slo_holds")
    if name == "none":
        return "this tuner leaves the plan as it is" + ("" if kept else ", and the plan breaks the promise here")
    if kept:
        return "the traffic stays within what the plan was made for"
    return f"tuner {name} saw no reason to change replicas, though the promise is broken"


def watched_view(found: Mapping[str, Any]) -> str:
    """Return what `headway.tune.live` found, in a few lines of text."""
    happened, decisions = found["happened"], found["decisions"]
    verb = "taken" if found["acts"] else "advised"
    missed = f"{happened['misses']} of {fmt.plural(happened['requests'], 'request')} missed the promise"
    lines = [f"{fmt.plural(len(decisions), 'decision')} {verb} in {found['seconds']:.0f} s; {missed}"]
    lines += [f"  {line}" for d in decisions[:MOST_DECISIONS] for line in decision_lines(d)]
    return "\n".join(lines)


def decision_lines(decision: Mapping[str, Any]) -> list[str]:
    """Return what a decision changes and why, and why another plan is due: a line each, where there is such.

    >>> decision_lines({"from": {"a": 2}, "to": {"a": 2}, "why": "as planned", "replan": "supply is at its end"})
    ['plan again: supply is at its end']
    """
    again = [f"plan again: {decision['replan']}"] if "replan" in decision else []
    what = changed(decision)
    return again if again and what == fmt.DASH else [f"{what}: {decision['why']}", *again]


def changed(decision: Mapping[str, Any]) -> str:
    """Return what a decision changes, stage by stage.

    >>> changed({"from": {"a": 2, "b": 1}, "to": {"a": 3, "b": 1}})
    'a 2 → 3'
    """
    before, after = decision["from"], decision["to"]
    moves = [f"{name} {before[name]} → {after[name]}" for name in after if after[name] != before[name]]
    if "gear" in decision:
        moves.append(f"gear {decision['gear']}")
    return ", ".join(moves) or fmt.DASH
