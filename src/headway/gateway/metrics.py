"""Prometheus metrics, collected from the gateway's own counters when asked for, so that requests pay nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.gateway.gateway import Gateway
from headway.serve.metrics import CONTENT_TYPE, add
from headway.serve.record import STATUSES

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(gateway: Gateway) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(gateway))
    return generate_latest(registry)


class GatewayCollector(Collector):
    """The metrics of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        yield from self._requests()
        yield from self._upstreams()
        yield from self._keys()

    def _requests(self) -> Iterator[Metric]:
        gateway, stats, counts = self._gateway, self._gateway.stats, self._gateway.counts
        yield CounterMetricFamily("headway_requests_offered", "Requests offered.", value=counts.offered)
        requests = CounterMetricFamily("headway_requests", "Requests by what became of them.", labels=["status"])
        for status in STATUSES:
            requests.add_metric([status], counts.by_status[status])
        yield requests
        yield GaugeMetricFamily("headway_requests_in_flight", "Requests not yet answered.", value=counts.in_flight)
        yield GaugeMetricFamily("headway_queue_depth", "Requests that wait in the gateway.", value=gateway.queue.size)
        yield CounterMetricFamily("headway_requests_cancelled", "Clients that went away.", value=stats.cancelled)
        yield CounterMetricFamily("headway_retries", "Requests sent to another upstream.", value=stats.retries)
        for name, text, histogram in (
            (
                "headway_request_duration_seconds",
                "From arrival to the end of the answer.",
                stats.latency.histogram,
            ),
            (
                "headway_first_token_seconds",
                "From arrival to the first byte of the answer.",
                stats.first_token.histogram,
            ),
            ("headway_queue_wait_seconds", "From arrival to when it was sent.", stats.queue_wait.histogram),
        ):
            family = HistogramMetricFamily(name, text, labels=[])
            add(family, [], histogram)
            yield family

    def _upstreams(self) -> Iterator[Metric]:
        gateway = self._gateway
        now_s = gateway.clock()
        labels = ["upstream"]
        up = GaugeMetricFamily("headway_upstream_up", "1 while it may be asked.", labels=[*labels, "state"])
        busy = GaugeMetricFamily("headway_upstream_in_flight", "Requests that it holds of this gateway.", labels=labels)
        sent = CounterMetricFamily("headway_upstream_requests", "Requests by what it did.", labels=[*labels, "result"])
        load = GaugeMetricFamily("headway_upstream_load", "Requests in its last report.", labels=labels)
        memory = GaugeMetricFamily("headway_upstream_kv_usage", "Share of its KV memory in use.", labels=labels)
        age = GaugeMetricFamily("headway_upstream_report_age_seconds", "Age of its last report.", labels=labels)
        for replica in gateway.replicas:
            name = [replica.name]
            up.add_metric([*name, replica.state], float(replica.up))
            busy.add_metric(name, replica.in_flight)
            for result in ("sent", "answered", "failed", "retried"):
                sent.add_metric([*name, result], getattr(replica, result))
            if (report := replica.report) is not None:
                age.add_metric(name, now_s - replica.report_s)
                if report.load is not None:
                    load.add_metric(name, report.load)
                if report.kv_usage is not None:
                    memory.add_metric(name, report.kv_usage)
        yield from (up, busy, sent, load, memory, age)

    def _keys(self) -> Iterator[Metric]:
        labels = ["key"]
        offered = CounterMetricFamily("headway_key_requests", "Requests by key.", labels=labels)
        limited = CounterMetricFamily(
            "headway_key_limited", "Requests refused because a key had used up its share.", labels=labels
        )
        tokens = CounterMetricFamily("headway_key_tokens", "Tokens by key and kind.", labels=[*labels, "kind"])
        for account in self._gateway.accounts.all:
            offered.add_metric([account.name], account.offered)
            limited.add_metric([account.name], account.limited)
            tokens.add_metric([account.name, "prompt"], account.prompt_tokens)
            tokens.add_metric([account.name, "completion"], account.completion_tokens)
        yield from (offered, limited, tokens)
