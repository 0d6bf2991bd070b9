"""Fleets in reports: what requests get behind one latency, class by class, and a page on engines that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.plan.rejected import rejected_text
from headway.report import format as fmt
from headway.report import words
from headway.report.charts import legend
from headway.report.markup import Markup, table, tag
from headway.report.sections import figure, section
from headway.report.story import Story
from headway.report.svg import Frame, dot, drawing, line, polyline, rect, stepped, text
from headway.sim.estimate import Estimate
from headway.sim.outcome import percentile

Floats = NDArray[np.float64]
Value = Mapping[str, Any]

NAMES = {
    "ttft_mean_s": "first token, mean", "ttft_p99_s": "first token, P99", "tpot_mean_s": "token after it, mean",
    "tpot_p99_s": "token after it, P99", "e2e_mean_s": "whole, mean", "e2e_p99_s": "whole, P99",
    "per_token_mean_s": "whole per token, mean", "slowdown_p99": "slowdown, P99", "wait_max_s": "longest wait",
    "goodput_per_s": "within their promises", "preemptions": "preemptions", "wasted_ratio": "wasted prompt tokens",
    "cached_ratio": "cached prompt tokens", "tenant_fairness": "fairness among tenants",
}  # fmt: skip
"""What a fleet tells of itself, as a report calls it."""

CLASS_NAMES = {
    "kept_ratio": "kept", "ttft_p99_s": "first token P99", "tpot_p99_s": "token P99", "e2e_p99_s": "whole P99",
    "slowdown_p99": "slowdown P99",
}  # fmt: skip

_ABOUT = (
    "What one latency hides. A slowdown is the time that a request takes over the least that it takes alone; a wait "
    "ends when a request is first computed on. Means and the longest wait are those of what was answered; in "
    "percentiles and promises a request that was not answered is a miss."
)


def fleets(story: Story) -> Markup | None:
    """What the fleets of a plan do with their requests, over all and by class."""
    before, after = words.summary(story.predicted).get("stages", {}), words.summary(story.measured).get("stages", {})
    planned = story.plan.stage_predictions
    body: list[Markup] = []
    stages = {name: (before.get(name) or planned.get(name, {}), after.get(name, {})) for name in story.plan.stages}
    for name, (here, there) in stages.items():
        told = [dict(each.get("figures", {})) for each in (here, there)]
        if not any("e2e_p99_s" in figures for figures in told):
            continue
        if len(stages) > 1:
            body.append(tag("h3", name))
        body += _figures(told, story, name)
        body += [tag("p", f"{rejected_text(each['rejected'])}.") for each in (here, there) if each.get("rejected")]
    return section("Fleet", _ABOUT, *body) if body else None


def _figures(told: Sequence[Value], story: Story, name: str) -> Iterator[Markup]:
    both = all(told)
    rows = [
        [label, *(_figure(key, figures) for figures in told if figures)]
        for key, label in NAMES.items()
        if any(key in figures for figures in told)
    ]
    yield table(["", "predicted", "measured"] if both else ["", "predicted" if told[0] else "measured"], rows)
    classes = getattr(story.plan.spec.stages.get(name), "classes", {})
    for who, figures in zip(("predicted", "measured"), told, strict=True):
        kinds = [kind for kind in classes if f"{kind}.kept_ratio" in figures]
        if kinds:
            keys = [key for key in CLASS_NAMES if any(f"{kind}.{key}" in figures for kind in kinds)]
            cells = [[kind, _promised(classes[kind]), *(_figure(f"{kind}.{key}", figures) for key in keys)]
                     for kind in kinds]  # fmt: skip
            yield tag("h3", f"Classes, {who}" if both else "Classes")
            yield table(
                ["class", "promised", *(CLASS_NAMES[key] for key in keys)], cells, numeric=2, phrases=("promised",)
            )


def _promised(promise: Any) -> str:
    parts = [
        f"{name} {fmt.duration(getattr(promise, f'{field}_s'))}"
        for field, name in (("ttft", "first token"), ("tpot", "token"), ("e2e", "whole"))
        if getattr(promise, f"{field}_s") is not None
    ]
    return ", ".join(parts)


def _figure(key: str, figures: Value) -> str:
    if key not in figures:
        return fmt.DASH
    value = figures[key]
    if key.endswith("_per_s"):
        return fmt.rate(value)
    if key.endswith("_s"):
        return fmt.duration(math.inf if value is None else value)
    if key.endswith("_ratio"):
        return fmt.percent(value)
    if key.endswith("slowdown_p99"):
        return fmt.times(math.inf if value is None else value)
    return fmt.DASH if value is None else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Compared:
    """One time of every request in seconds, simulated and measured, in the same order."""

    name: str
    simulated: Floats
    measured: Floats

    @property
    def off(self) -> Estimate:
        """By how much the measured mean is above the simulated one, relative to it; the interval is over requests."""
        base = float(self.simulated.mean())
        return Estimate.of(((self.measured - self.simulated) / base).tolist())

    def row(self) -> list[str]:
        """What a table says of it."""
        off = self.off
        half = "" if math.isnan(off.low) else f" ±{50 * (off.high - off.low):.0f} points"
        cells = [f"{fmt.duration(float(self.simulated.mean()))}", f"{fmt.duration(float(self.measured.mean()))}"]
        cells += [
            " → ".join(fmt.duration(percentile(each, percent)) for each in (self.simulated, self.measured))
            for percent in (50, 95)
        ]
        return [self.name, *cells[:2], f"{fmt.change(off.mean)}{half}", *cells[2:]]


def within(compared: Compared, width: float) -> Markup:
    """Return the share of requests that had a time within so many seconds, simulated and measured."""
    frame = Frame(width, 280 if width > 500 else 240, left=48, right=24, top=28, bottom=44)
    both = [np.sort(values[values > 0.0]) for values in (compared.simulated, compared.measured)]
    low, high = min(float(values[0]) for values in both), max(float(values[-1]) for values in both)
    x, y = frame.x(low / 1.1, high * 1.1, log=True), frame.y(0.0, 1.0)
    parts = frame.y_axis(y, [0.0, 0.25, 0.5, 0.75, 1.0], fmt.whole_percent)
    parts += frame.x_axis(x, x.ticks(7 if width > 500 else 4), fmt.duration, compared.name)
    parts.append(text(0, 14, "requests within", "axis-title"))
    for values, class_ in zip(both, ("a", "b"), strict=True):
        corners = [(x(at), y(n / values.size)) for n, at in enumerate(values.tolist())]
        parts.append(polyline([*stepped(corners), (corners[-1][0], y(1.0)), (frame.x1, y(1.0))], f"curve {class_}"))
        who = "simulated" if class_ == "a" else "measured"
        for percent in (50, 95):
            at = percentile(values, percent)
            tip = f"{who} P{percent}: {fmt.duration(at)}"
            parts.append(dot((x(at), y(percent / 100)), 4.5, f"point {class_}", tip))
    return drawing(frame.width, frame.height, f"Share of requests by {compared.name}, simulated and measured", parts)


def shares(rows: Sequence[tuple[str, float, float]], width: float, unit: str) -> Markup:
    """Return two bars for each name, simulated and measured, with their figures behind them."""
    left, room = (150.0, 96.0) if width > 500 else (96.0, 88.0)
    most = max((max(pair) for _, *pair in rows), default=0.0) or 1.0
    parts: list[Markup] = []
    for at, (name, *pair) in enumerate(rows):
        top = at * 52.0
        parts.append(text(0, top + 22, name, "label"))
        for row, (value, class_, who) in enumerate(zip(pair, ("a", "b"), ("simulated", "measured"), strict=True)):
            long = max(1.5, (width - left - room) * value / most)
            tip = tag("title", f"{name}, {who}: {fmt.count(value)} {unit}")
            parts.append(rect(left, top + 4 + 18 * row, long, 14, f"bar {class_}", tip, rx=2))
            parts.append(text(left + long + 8, top + 16 + 18 * row, f"{fmt.count(value)} {unit}", "figure small"))
    parts.append(line(left, 0, left, 52.0 * len(rows) - 8, "axis"))
    return drawing(width, 52.0 * len(rows) - 4, f"{unit} by engine, simulated and measured", parts)


def measured_page(told: Value, compared: Sequence[Compared], loads: Sequence[tuple[str, float, float]]) -> list[Markup]:
    """Return what a page says of engines that were measured beside their simulation: its head and its sections.

    `told` is the JSON of the demo, `loads` the tokens that each engine read and wrote, simulated and measured.
    """
    keys = legend([("a", "simulated"), ("b", "measured")])
    head = ["", "mean simulated", "measured", "off", "P50", "P95"]
    times = [figure(lambda width, each=each: within(each, width), key=keys) for each in compared]  # type: ignore[misc]
    went = [[name, fmt.count(each["simulated"]), fmt.count(each["measured"])] for name, each in told["routed"].items()]
    reasons = [[name, fmt.count(count)] for name, count in told["why"].items()]
    engines = [
        [name, fmt.duration(each["floor_s"] + each["overhead_s"]), fmt.duration(each["token_s"]),
         fmt.duration(1e3 * each["kv_token_s"]), fmt.percent(each["error_ratio"])]
        for name, each in told["engines"].items()
    ]  # fmt: skip
    policies = [
        [f"{name} (sent)" if name == told["policy"] else name,
         *(fmt.duration(each[key]) for key in ("ttft_mean_s", "ttft_p95_s", "e2e_mean_s", "e2e_p95_s"))]
        for name, each in told["policies"].items()
    ]  # fmt: skip
    sections = [
        section(
            "Measured against simulated",
            "Every request was sent through the gateway and simulated with the tokens that the engines counted. The "
            "mean's error has a 95 % interval over requests; percentiles stand as simulated → measured.",
            table(head, [each.row() for each in compared]), *times,
        ),
        section(
            "Where requests went",
            f"The gateway routed by {told['policy']}, the simulator by the same function.",
            figure(lambda width: shares(loads, width, "tokens"), key=keys),
            table(["engine", "requests simulated", "measured"], went), tag("h3", "Why, in the gateway"),
            table(["when it was sent", "requests"], reasons),
        ),
        section(
            "The engines", "What an iteration takes, fitted to requests alone and in groups before the trace was sent.",
            table(["engine", "iteration", "each token", "1,000 of context", "fit off"], engines),
        ),
        section(
            "Policies, simulated", "What each policy would do with the same traffic.",
            table(["policy", "TTFT mean", "P95", "E2E mean", "P95"], policies),
        ),
    ]  # fmt: skip
    if told.get("classes"):
        rows = [[name, *(fmt.percent(each[who]) for who in ("simulated", "measured"))]
                for name, each in told["classes"].items()]  # fmt: skip
        about = "The share of requests whose first token came in time."
        sections.insert(1, section("Promises", about, table(["promise", "simulated", "measured"], rows)))
    return [_head(told, compared), *sections]


def _head(told: Value, compared: Sequence[Compared]) -> Markup:
    offered, answered = told["requests"]["offered"], told["requests"]["answered"]
    tiles = [
        ("Tokens written", fmt.count(told["tokens"]["output"]), f"{fmt.count(told['tokens']['input'])} read"),
        *((each.name, fmt.duration(float(each.measured.mean())),
           f"mean; {fmt.duration(float(each.simulated.mean()))} simulated") for each in compared),
    ]  # fmt: skip
    good = told["within"]
    said = "Predicted within 15 %" if good else "Predicted worse than within 15 %"
    return tag(
        "header",
        tag("p", "Headway demo · language models", class_="eyebrow"),
        tag("h1", f"{fmt.plural(len(told['engines']), 'engine')} behind one gateway"),
        tag("p", f"{fmt.count(answered)} of {fmt.plural(offered, 'request')} answered by {told['model']} in "
            f"{fmt.duration(told['duration_s'])}. One answer begins: “{told['sample']}”", class_="lede"),
        tag("p", said, class_=f"verdict {'good' if good else 'bad'}"),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", sub, class_="sub"))
                    for name, value, sub in tiles), class_="figures"),
    )  # fmt: skip
