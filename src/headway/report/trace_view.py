"""A trace at a glance: rate over time, burstiness and envelope, as a terminal picture or as a dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.report.format import plural
from headway.trace import Trace, envelope, peak_rate_per_s, windows

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

Floats = NDArray[np.float64]

PEAK_WINDOWS_S = (1, 10, 60)
SMALLEST_WINDOW_S = 0.1
PICTURE_ROWS = 8
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " ..::||##"


def trace_summary(trace: Trace) -> dict[str, Any]:
    """Return the figures of a trace as JSON values; None where a figure has no meaning (too few requests, too short).

    `interarrival_cv`: standard deviation over mean of the gaps (Poisson: 1). `index_of_dispersion`: variance over mean
    of the requests per `dispersion_bucket_s` (Poisson: 1). `envelope`: the most requests in any window of each length.

    >>> trace_summary(Trace.from_arrivals([0.0, 1.0, 2.0], duration_s=4.0))["rate_per_s"]
    0.75
    """
    duration = trace.duration_s
    gap_s, gap_at_s = _longest_gap(trace)
    bucket_s = _bucket(duration) if trace.has_length else None
    lengths = [float(length) for length in windows(SMALLEST_WINDOW_S) if length <= duration]
    counts = envelope(trace.arrival_s, lengths).tolist()
    return {
        "name": trace.name,
        "hash": trace.hash,
        "start": trace.start,
        "requests": trace.requests,
        "skipped": trace.skipped,
        "duration_s": duration,
        "rate_per_s": trace.rate_per_s if trace.has_length else None,
        "peak_rate_per_s": {
            f"{window}s": peak_rate_per_s(trace.arrival_s, window) if window <= duration else None
            for window in PEAK_WINDOWS_S
        },
        "interarrival_cv": _spread(np.diff(trace.arrival_s), power=1),
        "index_of_dispersion": _spread(_per_bucket(trace, bucket_s), power=2) if bucket_s else None,
        "dispersion_bucket_s": bucket_s,
        "longest_gap_s": gap_s,
        "longest_gap_at_s": gap_at_s,
        "columns": {name: _figures(values) for name, values in trace.columns.items() if len(values)},
        "envelope": [
            {"window_s": length, "requests": count, "rate_per_s": count / length}
            for length, count in zip(lengths, counts, strict=True)
        ],
    }


def trace_table(trace: Trace) -> TraceView:
    """Return what `rich` prints for a trace: the rate over time as wide as the terminal, figures, and the envelope.

    >>> trace_table(Trace.from_arrivals([0.0, 1.0])).trace.requests
    2
    """
    return TraceView(trace)


@dataclass(frozen=True, slots=True)
class TraceView:
    """A renderable for `rich`; where the output is not UTF-8 it draws with ASCII characters."""

    trace: Trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        summary = trace_summary(self.trace)
        yield Text(_title(summary), style="bold")
        if self.trace.has_length:
            yield Text("")
            lines = rate_picture(self.trace, options.max_width, ascii_only=options.ascii_only)
            yield Text("\n".join(lines), style="cyan", no_wrap=True, overflow="crop")
        yield Text("")
        yield _facts(summary)
        if summary["columns"]:
            yield Text("")
            yield _columns_table(summary)
        if summary["envelope"]:
            yield Text("")
            yield _envelope_table(summary, options.max_width, options.ascii_only)


def rate_picture(trace: Trace, width: int, *, ascii_only: bool = False) -> list[str]:
    """Return lines of text, at most `width` wide: bars of the mean rate over time, with the scale beside and below.

    >>> len(rate_picture(Trace.from_arrivals([0.0, 1.0], duration_s=2.0), 40)) == PICTURE_ROWS + 1
    True
    """
    bars = max(min(width - 11, 160), 8)
    edges = np.linspace(0.0, trace.duration_s, bars + 1)
    rates = np.histogram(trace.arrival_s, edges)[0] / np.diff(edges)
    top = float(rates.max()) or 1.0
    levels = np.ceil(rates / top * PICTURE_ROWS * 8).astype(int)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    lines = []
    for row in reversed(range(PICTURE_ROWS)):
        label = {PICTURE_ROWS - 1: f"{_short(top)}/s", 0: "0"}.get(row, "")
        filled = np.clip(levels - 8 * row, 0, 8)
        lines.append(f"{label:>9} " + "".join(blocks[level] for level in filled))
    end = f"{_short(trace.duration_s)} s"
    return [*lines, f"{'':9} 0 s" + end.rjust(bars - 3)]


def _title(summary: dict[str, Any]) -> str:
    parts = [
        summary["name"] or "trace",
        f"{plural(summary['requests'], 'request')} in {_short(summary['duration_s'])} s",
    ]
    if summary["start"]:
        parts.append(f"from {summary['start']}")
    if summary["skipped"]:
        parts.append(f"{summary['skipped']:,} malformed rows left out")
    return ", ".join(parts)


def _facts(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    peaks = [
        f"{_short(rate)}/s over {window}" for window, rate in summary["peak_rate_per_s"].items() if rate is not None
    ]
    bucket, dispersion = summary["dispersion_bucket_s"], summary["index_of_dispersion"]
    rows = {
        "mean rate": f"{_or_dash(summary['rate_per_s'])}/s",
        "peak rate": ", ".join(peaks) or "-",
        "gaps": f"coefficient of variation {_or_dash(summary['interarrival_cv'])} (Poisson: 1)",
        "counts": f"index of dispersion {_or_dash(dispersion)}, {_or_dash(bucket)} s each (Poisson: 1)",
        "longest gap": f"{_short(summary['longest_gap_s'])} s, from {_short(summary['longest_gap_at_s'])} s on",
    }
    for name, text in rows.items():
        grid.add_row(name, text)
    return grid


def _columns_table(summary: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("column", overflow="fold")
    for name in ("min", "mean", "p50", "p99", "max"):
        table.add_column(name, justify="right", overflow="fold")
    for name, figures in summary["columns"].items():
        table.add_row(Text(name), *(_short(figures[key]) for key in ("min", "mean", "p50", "p99", "max")))
    return table


def _envelope_table(summary: dict[str, Any], width: int, ascii_only: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # Cropped, since what does not fit would otherwise end in an ellipsis, which ASCII does not have.
    for name in ("window", "most requests", "rate", "of the mean"):
        table.add_column(name, justify="right", no_wrap=True, overflow="crop")
    table.add_column("", no_wrap=True, overflow="crop")
    rows, mean = summary["envelope"], summary["rate_per_s"]
    longest = max(min(width - 50, 60), 4)
    top = max((row["rate_per_s"] for row in rows), default=0.0) or 1.0
    for row in rows:
        bar = ("#" if ascii_only else "█") * math.ceil(row["rate_per_s"] / top * longest)
        share = f"{row['rate_per_s'] / mean:.3g}x" if mean else "-"
        rate = f"{_short(row['rate_per_s'])}/s"
        table.add_row(f"{_short(row['window_s'])} s", f"{row['requests']:,}", rate, share, f"[cyan]{bar}[/cyan]")
    return table


def _longest_gap(trace: Trace) -> tuple[float, float]:
    marks = np.concatenate([[0.0], trace.arrival_s, [trace.duration_s]])
    lengths = np.diff(marks)
    at = int(np.argmax(lengths))
    return float(lengths[at]), float(marks[at])


def _bucket(duration_s: float) -> float:
    """Return the bucket for counting: 1 s, or less for a short trace so that there are at least 20."""
    return min(1.0, duration_s / 20.0)


def _per_bucket(trace: Trace, bucket_s: float) -> Floats:
    full = int(np.floor(trace.duration_s / bucket_s * (1.0 + 1e-12)))
    index = (trace.arrival_s / bucket_s).astype(np.int64)
    return np.bincount(index[index < full], minlength=full).astype(np.float64)


def _spread(values: Floats, power: int) -> float | None:
    """Return deviation over mean (power 1) or variance over mean (power 2); None when there is no mean."""
    if len(values) < 2 or not values.mean() > 0.0:
        return None
    return float(values.std() ** power / values.mean())


def _figures(values: Floats) -> dict[str, float]:
    median, high = np.quantile(values, [0.5, 0.99], method="inverted_cdf").tolist()
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        "p50": median,
        "p99": high,
        "max": float(values.max()),
    }


def _short(value: float) -> str:
    """Return three digits, or all digits before the point: 0.125, 14.4, 3,502."""
    return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else _short(value)
