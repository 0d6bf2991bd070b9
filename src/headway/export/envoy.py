"""Envoy: a static bootstrap of one listener and one cluster, as YAML. Written for Envoy 1.30 and later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headway.export.rules import (
    BUSY,
    PATHS,
    ROOTS,
    ROUTE_HEADER,
    SESSION_HEADER,
    Balance,
    Exported,
    Rules,
    Server,
    heading,
    one_scheme,
    rules,
    silence_s,
    span,
)
from headway.gateway.declare import GatewayOptions, Upstream

MOST_WEIGHT = 128
"""The largest weight that Envoy takes."""

_UNSAID = (
    "a queue for all: a request that no upstream has room for waits at one of them",
    "429 where too many wait: Envoy answers 503",
    "the largest request body",
)
_POLICIES = {
    Balance.RANDOM: ("random", "Random"),
    Balance.TURNS: ("round_robin", "RoundRobin"),
    Balance.SAMPLE: ("least_request", "LeastRequest"),
    Balance.LEAST: ("least_request", "LeastRequest"),
    Balance.HASH: ("ring_hash", "RingHash"),
}


def envoy(upstreams: Iterable[Upstream], options: GatewayOptions) -> Exported:
    """Return a bootstrap configuration. Raises HeadwayError as `rules` does."""
    import yaml

    found = rules(upstreams, options, MOST_WEIGHT)
    unsaid = (*found.unsaid, *_beyond(found))
    document = {"static_resources": {"listeners": [_listener(found, options)], "clusters": [_cluster(found, options)]}}
    text = yaml.safe_dump(document, sort_keys=False, width=1000)
    return Exported(f"{heading('Envoy', unsaid)}\n{text}", unsaid)


def _beyond(found: Rules) -> Iterator[str]:
    yield from _UNSAID
    if found.weighted and found.balance is Balance.RANDOM:
        yield "that some upstreams are faster: its random choice knows no weights"
    if found.weighted and found.balance in (Balance.SAMPLE, Balance.LEAST):
        yield "the least loaded where upstreams differ: it then takes turns, by weight over requests in flight"


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(found: Rules, options: GatewayOptions) -> dict[str, Any]:
    connections = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="headway",
        # The route says how long a stream may be silent.
        stream_idle_timeout="0s",
        route_config={
            "name": "headway",
            "virtual_hosts": [{"name": "engines", "domains": ["*"], "routes": [_route(found, options)]}],
        },
        http_filters=[
            {"name": "envoy.filters.http.router", "typed_config": _typed("extensions.filters.http.router.v3.Router")}
        ],
    )
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}
    return {
        "name": "headway",
        "address": _address(options.host, options.port),
        "filter_chains": [{"filters": [manager]}],
    }


def _route(found: Rules, options: GatewayOptions) -> dict[str, Any]:
    route: dict[str, Any] = {
        "cluster": "engines",
        "auto_host_rewrite": True,
        "timeout": span(options.timeout_s, "s"),
        "idle_timeout": span(silence_s(options), "s"),
    }
    if options.attempts > 1:
        route["retry_policy"] = {
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [429, *BUSY],
            "num_retries": options.attempts - 1,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": _typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                }
            ],
            "host_selection_retry_max_attempts": len(found.servers),
        }
    if found.balance is Balance.HASH:
        route["hash_policy"] = [{"header": {"header_name": SESSION_HEADER}}]
    said = {"key": ROUTE_HEADER, "value": f"%UPSTREAM_HOST%; {_POLICIES[found.balance][0]}"}
    return {
        "match": {"safe_regex": {"regex": PATHS}},
        "route": route,
        "request_headers_to_remove": ["authorization"],
        "response_headers_to_add": [{"header": said}],
    }


def _cluster(found: Rules, options: GatewayOptions) -> dict[str, Any]:
    in_flight = [server.in_flight for server in found.servers]
    ejection = {
        # That a request breaks an engine (500) says nothing of the others' requests: 502, 503 and 504 count alone.
        "enforcing_consecutive_5xx": 0,
        "consecutive_gateway_failure": options.failures,
        "enforcing_consecutive_gateway_failure": 100,
        "base_ejection_time": span(options.open_s, "s"),
        "max_ejection_time": span(options.open_most_s, "s"),
        "max_ejection_percent": 100,
    }
    cluster: dict[str, Any] = {
        "name": "engines",
        "type": "STRICT_DNS",
        "connect_timeout": span(options.connect_s, "s"),
        "load_balancing_policy": {"policies": [{"typed_extension_config": _policy(found, options)}]},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": sum(in_flight),
                    "max_requests": sum(in_flight),
                    "max_pending_requests": options.queue_limit,
                    "max_retries": sum(in_flight),
                }
            ],
            # Over HTTP/1.1 a connection is a request in flight. Envoy has one limit for all upstreams.
            "per_host_thresholds": [{"max_connections": max(in_flight)}],
        },
        "outlier_detection": ejection,
        "load_assignment": {
            "cluster_name": "engines",
            "endpoints": [{"lb_endpoints": [_endpoint(server, found) for server in found.servers]}],
        },
    }
    if found.health_path is not None:
        cluster["health_checks"] = [
            {
                "timeout": span(options.connect_s, "s"),
                "interval": span(options.health_every_s, "s"),
                "unhealthy_threshold": options.failures,
                "healthy_threshold": 1,
                "http_health_check": {"path": found.health_path},
            }
        ]
    if one_scheme(found.servers, "Envoy"):
        roots = {"trusted_ca": {"filename": ROOTS}}
        context = _typed(
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            auto_host_sni=True,
            auto_sni_san_validation=True,
            common_tls_context={"validation_context": roots},
        )
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return cluster


def _policy(found: Rules, options: GatewayOptions) -> Mapping[str, Any]:
    name, message = _POLICIES[found.balance]
    fields: dict[str, Any] = {}
    if found.balance is Balance.SAMPLE:
        fields["choice_count"] = found.policy.choices
    elif found.balance is Balance.LEAST:
        fields["selection_method"] = "FULL_SCAN"
    elif found.balance is Balance.HASH:
        fields["consistent_hashing_lb_config"] = {"hash_balance_factor": round(100 * found.policy.bound)}
    if found.balance in (Balance.TURNS, Balance.SAMPLE, Balance.LEAST):
        fields["slow_start_config"] = {"slow_start_window": span(options.slow_start_s, "s")}
    kind = f"extensions.load_balancing_policies.{name}.v3.{message}"
    return {"name": f"envoy.load_balancing_policies.{name}", "typed_config": _typed(kind, **fields)}


def _endpoint(server: Server, found: Rules) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"hostname": server.host, "address": _address(server.host, server.port)}
    if found.health_path is not None and server.health_path is None:
        endpoint["health_check_config"] = {"disable_active_health_check": True}
    return {"endpoint": endpoint, **({"load_balancing_weight": server.weight} if found.weighted else {})}
