"""A cascade over time: a section of the report, and a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.report import format as fmt
from headway.report import gear_charts
from headway.report.charts import legend
from headway.report.markup import Markup, join, table, tag
from headway.report.sections import figure, section
from headway.report.story import Story
from headway.report.tables import table as terminal_table
from headway.report.timeline import Timeline, Window

if TYPE_CHECKING:
    from rich.table import Table

WHAT_IT_SHOWS = (
    "Charts over one clock. As the load rises the cascade takes a cheaper gear: more is answered by cheap models, and "
    "a little less rightly. The stronger a color, the dearer, and the better the answers."
)
_BAR_WIDTH = 16
_BLOCKS = " ▁▂▃▄▅▆▇█"


def gears(story: Story) -> Markup | None:
    """What a cascade did as the load changed."""
    timeline = story.timeline
    if timeline is None or not timeline.windows:
        return None
    changes = f"{fmt.plural(timeline.switches, 'change')} of gear in {fmt.duration(timeline.duration_s)}."
    about = [WHAT_IT_SHOWS, f"{changes} {_accuracy(timeline)}"]
    keys = join([
        gear_charts.key("gears", timeline.gears, "ramp"),
        gear_charts.key("models", timeline.models[::-1], "ramp ink"),
        legend([("a", "predicted"), ("b", "measured")]),
    ])  # fmt: skip
    chart = figure(lambda width: gear_charts.over_time(timeline, width), key=keys, data=_windows(timeline))
    held = [[name, fmt.whole_percent(share)] for name, share in zip(timeline.gears, timeline.held(), strict=True)]
    exits = list(zip(timeline.models, timeline.exits(), strict=True))
    answered = sum(count for _, count in exits)
    answers = [[name, fmt.count(n), fmt.whole_percent(n / answered if answered else None)] for name, n in exits]
    return section(
        "Gears over time", about, chart, tag("h3", "Time in each gear"), table(["gear", "of the time"], held),
        tag("h3", "Who answered"), table(["model", "answers", "share"], answers),
    )  # fmt: skip


def timeline_view(timeline: Timeline) -> Table:
    """Return a cascade over time to be printed with Rich: a line for each window."""
    most = max(window.rate_per_s for window in timeline.windows) or 1.0
    rows = []
    for window in timeline.windows:
        bar = "█" * max(1, round(_BAR_WIDTH * window.rate_per_s / most)) if window.requests else ""
        rows.append([
            fmt.clock(window.start_s), f"{window.rate_per_s:.3g}/s", bar, _number(window),
            _mix(window), fmt.percent(window.accuracy), fmt.duration(window.latency_s), _verdict(timeline, window),
        ])  # fmt: skip
    head = ["from", "load", "", "gear", "answers", "right", f"P{timeline.percentile:g}", " "]
    return terminal_table(head, rows, text_columns=("", "answers", " "))


def mix_words(timeline: Timeline) -> str:
    """Return what the columns of that table stand for."""
    models = fmt.listing(list(timeline.models))
    return f"gear: the one most of the time, 1 is the dearest; answers: shares of {models}, in this order"


def _number(window: Window) -> str:
    """The gear of most of a window, counted from 1."""
    return str(1 + max(range(len(window.held)), key=window.held.__getitem__)) if any(window.held) else fmt.DASH


def _main_gear(timeline: Timeline, window: Window) -> str:
    return timeline.gears[int(_number(window)) - 1] if any(window.held) else fmt.DASH


def _mix(window: Window) -> str:
    """A block for each model, as high as its share of the answers."""
    if not window.answered:
        return fmt.DASH
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * count / window.answered)] for count in window.exits)


def _verdict(timeline: Timeline, window: Window) -> str:
    return "late" if window.latency_s is not None and window.latency_s > timeline.slo_s else ""


def _windows(timeline: Timeline) -> Markup:
    rows = [
        [
            fmt.clock(window.start_s),
            f"{window.rate_per_s:.3g}",
            _main_gear(timeline, window),
            fmt.percent(window.accuracy),
            fmt.duration(window.predicted_s),
            fmt.duration(window.latency_s),
        ]
        for window in timeline.windows
    ]
    name = f"P{timeline.percentile:g}"
    return table(["from", "requests/s", "gear", "right", f"{name} predicted", f"{name} measured"], rows)


def _accuracy(timeline: Timeline) -> str:
    if timeline.accuracy is None:
        return ""
    promised = "" if timeline.floor is None else f", at least {fmt.percent(timeline.floor)} promised"
    return f"{fmt.percent(timeline.accuracy)} of all answers were right{promised}."
