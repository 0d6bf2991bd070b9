"""One self-contained HTML file that tells a plan's whole story: opens offline, prints, and needs no script."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from headway.files import write_atomic
from headway.report import format as fmt
from headway.report import gearing_sections, sections, words
from headway.report.fleets import fleets
from headway.report.gearing import gearings
from headway.report.gears import gears
from headway.report.markup import Markup, join, tag
from headway.report.story import Story, story_from_files

__all__ = ["Story", "render", "story_from_files", "write"]

SECTIONS = (
    sections.pipeline,
    gearing_sections.planned,
    gears,
    gearing_sections.used,
    sections.latency,
    fleets,
    sections.queue_waits,
    sections.costs,
    sections.frontier,
    sections.traffic,
    sections.reasons,
    sections.profile,
    sections.provenance,
)


def render(story: Story) -> str:
    """Return the report as an HTML document. Equal stories give equal bytes; whatever comes from outside is escaped.

    >>> from headway.testing.examples import tiny_plan
    >>> render(Story("One plan", tiny_plan())).splitlines()[0]
    '<!doctype html>'
    """
    found = [markup for build in SECTIONS if (markup := build(story)) is not None]
    return document(story.title, _answer(story), *found)


def document(title: str, *parts: Markup) -> str:
    """Return a self-contained page of these parts.

    >>> document("A < B").count("<title>A &lt; B</title>")
    1
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="generator", content="Headway"),
        tag("title", title),
        tag("style", Markup(_asset("page.css"))),
    )
    body = tag("body", tag("main", *parts), tag("script", Markup(_asset("page.js"))))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def write(story: Story, path: str | os.PathLike[str]) -> None:
    """Write the report, whole or not at all. Raises HeadwayError when the file cannot be written."""
    write_atomic(path, render(story))


def _asset(name: str) -> str:
    return files("headway.report").joinpath(name).read_text(encoding="utf-8")


def _answer(story: Story) -> Markup:
    """The headline: what to deploy, what it costs, whether it keeps the promise, how far from optimal it can be."""
    plan, tone_and_text = story.leading, _verdict(story)
    parts = [
        tag("p", join(["Headway report", plan.spec.name], " · "), class_="eyebrow"),
        tag("h1", story.title),
        tag("p", _lede(story), class_="lede"),
        tag("p", tone_and_text[1], class_=f"verdict {tone_and_text[0]}".strip()),
        tag("dl", *_key_figures(story), class_="figures"),
    ]
    doubts = list(dict.fromkeys([*plan.predicted.get("low_confidence", ()), *_doubts(story)]))
    if doubts:
        parts.append(tag("ul", *(tag("li", f"Low confidence: {doubt}") for doubt in doubts), class_="warnings"))
    return tag("header", *parts)


def _doubts(story: Story) -> list[str]:
    told = words.summary(story.predicted), words.summary(story.measured)
    return [str(doubt) for figures in told for doubt in figures.get("low_confidence", ())]


def _lede(story: Story) -> Markup:
    plan = story.leading
    cost = tag("strong", f"{fmt.usd(plan.cost_usd_per_hour)} an hour")
    what, promised = words.capacity(plan), words.promise(plan.spec.slo)
    if story.timeline is not None and plan.spec.slo.accuracy is not None:
        promised = f"{promised} and be right in {fmt.percent(plan.spec.slo.accuracy)} of the answers"
    first = join([f"Deploy {what} for ", cost, f" to answer {promised}"])
    if not plan.feasible:
        first = join([f"The promise, {promised}, is not kept by {what} for ", cost])
    return join([first, f"; {words.optimality(plan)}. ", _against_baselines(story)])


def _against_baselines(story: Story) -> str:
    """The cheapest baseline that keeps the promise, as a sentence."""
    kept = [
        (facts["cost_usd_per_hour"], name)
        for name, facts in story.baselines
        if facts.get("feasible") and facts.get("cost_usd_per_hour") is not None
    ]
    if not story.baselines:
        return ""
    if not kept:
        return "No baseline keeps the promise."
    cost, name = min(kept)
    ratio = words.relative(story.leading.cost_usd_per_hour, cost)
    how = "the same"
    if ratio is not None and abs(ratio) >= 5e-4:
        how = f"{fmt.change(abs(ratio)).lstrip('+')} {'more' if ratio > 0 else 'less'}"
    return f"The cheapest baseline that keeps the promise, {name}, costs {how}."


def _verdict(story: Story) -> tuple[str, str]:
    """Tone and text of the judgement: by what was measured where there is a measurement, else by the prediction."""
    figures = words.summary(story.measured)
    measured = words.kept(story.plan.spec.slo, figures)
    if measured is not None:
        where = "measured on this machine" if story.production_plan else "measured"
        floor, accuracy = story.plan.spec.slo.accuracy, figures.get("accuracy")
        if floor is not None and accuracy is not None and accuracy < floor:
            told = f"{fmt.percent(accuracy)} of the answers right where {fmt.percent(floor)} are promised"
            return "bad", f"Promise broken when {where}: {told}"
        windows = figures.get("windows_kept")
        by_windows = "" if windows is None else f"in {fmt.percent(windows)} of the windows, "
        said = f"when {where}: {by_windows}{fmt.percent(figures.get('miss_rate'))} missed"
        return ("good", f"Promise kept {said}") if measured else ("bad", f"Promise broken {said}")
    predicted = _predicted_to_keep(story)
    if predicted is None:
        return "", "Not yet simulated"
    return ("good", "Predicted to keep the promise") if predicted else ("bad", "Predicted to break the promise")


def _predicted_to_keep(story: Story) -> bool | None:
    """The simulated outcome's word for it where it is about the leading plan, else the planner's."""
    plan = story.leading
    outcome = words.kept(plan.spec.slo, words.summary(story.predicted)) if plan is story.plan else None
    if outcome is not None or not plan.feasible:
        return bool(outcome) and plan.feasible
    return True if plan.predicted else None


def _key_figures(story: Story) -> list[Markup]:
    plan, slo = story.leading, story.leading.spec.slo
    key = words.percentile_key(slo.percentile) or "p99_s"
    name = key[:-2].upper()
    own = words.summary(story.predicted) if story.production_plan is None else {}
    predicted, measured = own or plan.predicted, words.summary(story.measured)
    bound = plan.lower_bound_usd_per_hour
    limit = "no lower bound is known" if bound is None else f"lower bound {fmt.usd_per_hour(bound)}"
    tiles = [
        _tile("Cost", fmt.usd_per_hour(plan.cost_usd_per_hour), limit, False),
        _tile(
            f"{name} predicted",
            words.latency_text(predicted, key),
            ", ".join(part for part in (f"SLO {fmt.duration(slo.latency_s)}", words.missed(slo, predicted)) if part),
            _predicted_to_keep(story) is False,
        ),
    ]
    if measured:
        offered = measured.get("requests", {}).get("offered")
        sub = ", ".join(part for part in (f"{fmt.count(offered)} requests", words.missed(slo, measured)) if part)
        if story.production_plan is not None:
            # Another plan than the leading one, so that its own prediction has to stand beside it.
            sub = f"on this machine; {words.latency_text(words.summary(story.predicted), key)} predicted there"
        tiles.append(
            _tile(f"{name} measured", words.latency_text(measured, key), sub, words.kept(slo, measured) is False)
        )
    if gearings(story.plan) or measured.get("labeled"):
        tiles += _right(slo.accuracy, predicted, measured)
    if len(tiles) == 4:
        return tiles
    first = words.breaks_first(plan)
    breaks = f"then {first} breaks first" if first else "the traffic at which it still holds"
    tiles.append(_tile("Headroom", fmt.times(plan.headroom_ratio), breaks, (plan.headroom_ratio or math.inf) < 1))
    if len(tiles) < 4 and plan.accuracy is not None:
        tiles.append(_tile("Accuracy", fmt.percent(plan.accuracy), "over the path of the chosen variants", False))
    return tiles


def _right(floor: float | None, predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> list[Markup]:
    """How rightly cascades answer: as measured where labels are known, else as predicted; nothing where neither is."""
    for told, who, other in ((measured, "measured", predicted), (predicted, "predicted", {})):
        accuracy = told.get("accuracy")
        if accuracy is not None:
            beside = "" if other.get("accuracy") is None else f"{fmt.percent(other['accuracy'])} predicted"
            promised = "" if floor is None else f"at least {fmt.percent(floor)} promised"
            said = ", ".join(part for part in (promised, beside) if part) or "of all answers are right"
            return [_tile(f"Accuracy {who}", fmt.percent(accuracy), said, floor is not None and accuracy < floor)]
    return []


def _tile(label: str, value: str, sub: str, bad: bool) -> Markup:
    parts = tag("dt", label), tag("dd", value, class_="value bad" if bad else "value"), tag("dd", sub, class_="sub")
    return tag("div", *parts)
