"""Prometheus metrics, collected from the engine's own counters when asked for, so that requests pay nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from headway.serve.engine import Engine
from headway.serve.record import STATUSES, Histogram
from headway.serve.station import TellsMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(engine: Engine) -> bytes:
    """Return the metrics in Prometheus' text format. Names are listed in `EngineCollector`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(engine))
    return generate_latest(registry)


class EngineCollector(Collector):
    """The metrics of one engine. A histogram's `stage` is empty where the whole request is meant."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        yield from self._requests()
        yield from self._latencies()
        yield from self._stages()
        yield from self._stations()
        yield from self._plan()

    def _plan(self) -> Iterator[Metric]:
        engine = self._engine
        info = InfoMetricFamily("headway_plan", "The plan that is live.", labels=["pipeline"])
        info.add_metric([engine.plan.spec.name], {"plan_hash": engine.plan_hash})
        yield info
        changes = CounterMetricFamily(
            "headway_plan_changes", "Changes of plan by result.", labels=["pipeline", "result"]
        )
        for result, count in engine.swaps.results.items():
            changes.add_metric([engine.plan.spec.name, result], count)
        yield changes
        tuner = GaugeMetricFamily("headway_tuner_running", "Whether a tuner runs beside.", labels=["pipeline"])
        tuner.add_metric([engine.plan.spec.name], engine.tuner is not None and engine.tuner()["state"] == "running")
        yield tuner

    def _requests(self) -> Iterator[Metric]:
        engine, counts = self._engine, self._engine.counts
        name = engine.plan.spec.name
        offered = CounterMetricFamily("headway_requests_offered", "Requests offered.", labels=["pipeline"])
        offered.add_metric([name], counts.offered)
        yield offered
        requests = CounterMetricFamily(
            "headway_requests", "Requests by what became of them.", labels=["pipeline", "status"]
        )
        for status in STATUSES:
            requests.add_metric([name, status], counts.by_status[status])
        yield requests
        in_flight = GaugeMetricFamily("headway_requests_in_flight", "Requests not yet answered.", labels=["pipeline"])
        in_flight.add_metric([name], counts.in_flight)
        yield in_flight
        ended = counts.offered - counts.in_flight
        good = counts.by_status["answered"] - counts.late
        missed = CounterMetricFamily(
            "headway_slo_violations", "Requests that were late, rejected, dropped or failed.", labels=["slo"]
        )
        missed.add_metric(["latency"], ended - good)
        yield missed
        goodput = GaugeMetricFamily("headway_goodput_ratio", "Share of requests answered in time.", labels=["slo"])
        if ended:
            goodput.add_metric(["latency"], good / ended)
        yield goodput

    def _latencies(self) -> Iterator[Metric]:
        engine = self._engine
        name = engine.plan.spec.name
        duration = HistogramMetricFamily(
            "headway_request_duration_seconds",
            "From arrival to completion, of answered requests and of items at each stage.",
            labels=["pipeline", "stage"],
        )
        wait = HistogramMetricFamily(
            "headway_queue_wait_seconds",
            "From arrival at a stage to the start of the batch.",
            labels=["pipeline", "stage"],
        )
        size = HistogramMetricFamily(
            "headway_batch_size", "Items worked on together, per item.", labels=["pipeline", "stage"]
        )
        add(duration, [name, ""], engine.latency)
        for stage, record in engine.records.items():
            add(duration, [name, stage], record.duration)
            add(wait, [name, stage], record.queue_wait)
            add(size, [name, stage], record.batch_size)
        yield from (duration, wait, size)

    def _stages(self) -> Iterator[Metric]:
        engine = self._engine
        plan, now_s = engine.plan, engine.clock()
        labels = ["pipeline", "stage"]
        depth = GaugeMetricFamily("headway_queue_depth", "Items that wait.", labels=labels)
        replicas = GaugeMetricFamily("headway_replicas", "Replicas by state.", labels=["stage", "hardware", "state"])
        batches = CounterMetricFamily("headway_batches", "Batches worked on.", labels=labels)
        busy = CounterMetricFamily("headway_busy_seconds", "Replica seconds spent on batches.", labels=labels)
        restarts = CounterMetricFamily("headway_worker_restarts", "Workers that died and were replaced.", labels=labels)
        retries = CounterMetricFamily("headway_retries", "Items put back because their worker died.", labels=labels)
        cost = CounterMetricFamily("headway_cost_dollars", "Price of the capacity held so far.", labels=["pipeline"])
        dollars = 0.0
        for stage, station in engine.stations.items():
            state = station.stats(now_s)
            config = plan.stages[stage].to_dict()
            depth.add_metric([plan.spec.name, stage], state.queued)
            for name, count in state.replicas.items():
                replicas.add_metric([stage, str(config.get("hardware", "")), name], count)
            batches.add_metric([plan.spec.name, stage], state.batches)
            busy.add_metric([plan.spec.name, stage], state.busy_s)
            restarts.add_metric([plan.spec.name, stage], state.restarts)
            retries.add_metric([plan.spec.name, stage], state.retries)
            dollars += engine.cost_usd(stage, state)
        cost.add_metric([plan.spec.name], dollars)
        yield from (depth, replicas, batches, busy, restarts, retries, cost)

    def _stations(self) -> Iterator[Metric]:
        """What stations of some kind tell beside: one family for all stages."""
        engine = self._engine
        families: dict[str, Metric] = {}
        for stage, station in engine.stations.items():
            if isinstance(station, TellsMetrics):
                labels = {"pipeline": engine.plan.spec.name, "stage": stage}
                for family in station.metrics(labels, engine.clock()):
                    if (known := families.setdefault(family.name, family)) is not family:
                        known.samples += family.samples
        yield from families.values()


def add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    """Add a histogram of the server to a family of metrics."""
    family.add_metric(labels, histogram.cumulative(), histogram.total)
