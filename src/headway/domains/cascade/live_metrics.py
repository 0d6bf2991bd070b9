"""What a live cascade tells of itself, in `/stats` and to Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from headway.domains.cascade.record import CascadeRecord

if TYPE_CHECKING:
    from headway.domains.cascade.live_station import CascadeLive


def about(station: CascadeLive, now_s: float) -> dict[str, Any]:
    """Return the gear in force, seconds in each, who answered, and what has drifted, as JSON values."""
    gears, models = station.gears, station.models
    gears.advance(now_s, station.queued)
    lost, gear = gears.key
    record = CascadeRecord(
        gears.held_until(now_s),
        gears.switched,
        dict(zip(models, station.exits, strict=True)),
        dict(zip(models, station.escalations, strict=True)),
        station.skipped,
        station.credit if station.rehearsed else None,
    )
    return {
        "cascade": {
            "gear": gear,
            "less_one": lost,
            **record.to_dict(),
            **station.drift.to_dict(),
        }
    }


def families(station: CascadeLive, labels: Mapping[str, str], now_s: float) -> list[Metric]:
    """Return the metrics of a live cascade, each with `labels` and its own."""
    names, values = [*labels], [*labels.values()]
    gears, drift = station.gears, station.drift
    gears.advance(now_s, station.queued)
    current = GaugeMetricFamily("headway_cascade_gear", "The gear in force; 0 is the dearest.", labels=names)
    current.add_metric(values, gears.key[1])
    held = CounterMetricFamily(
        "headway_cascade_gear_seconds", "Seconds in each gear.", labels=[*names, "gear", "less_one"]
    )
    for (less, at), held_s in gears.held_until(now_s).items():
        held.add_metric([*values, str(at), str(less).lower()], held_s)
    switches = CounterMetricFamily("headway_cascade_gear_switches", "Changes of gear.", labels=names)
    switches.add_metric(values, gears.switched)
    exits = CounterMetricFamily("headway_cascade_exits", "Items answered by a model.", labels=[*names, "model"])
    onward = CounterMetricFamily(
        "headway_cascade_escalations", "Items that a model was not certain enough of.", labels=[*names, "model"]
    )
    skipped = CounterMetricFamily(
        "headway_cascade_skipped", "Items so hard that they began beyond the first step.", labels=names
    )
    skipped.add_metric(values, station.skipped)
    sure = HistogramMetricFamily("headway_cascade_certainty", "How certain a model was.", labels=[*names, "model"])
    checks = CounterMetricFamily(
        "headway_cascade_checks",
        "Answers of a model that the dearest one was asked about again.",
        labels=[*names, "model", "agreed"],
    )
    for at, model in enumerate(station.models):
        exits.add_metric([*values, model], station.exits[at])
        onward.add_metric([*values, model], station.escalations[at])
        histogram = drift.certainty[at]
        sure.add_metric([*values, model], histogram.cumulative(), histogram.total)
        for agreed, count in zip(("false", "true"), drift.checked[at], strict=True):
            checks.add_metric([*values, model, agreed], count)
    drifted = GaugeMetricFamily(
        "headway_cascade_drift", "Signs that what comes is not what was planned for.", labels=names
    )
    drifted.add_metric(values, len(drift.warnings))
    return [current, held, switches, exits, onward, skipped, sure, checks, drifted]
