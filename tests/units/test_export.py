"""Exported configuration: what every proxy is told, and that what it cannot be told is said."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headway.cli import app
from headway.errors import HeadwayError
from headway.export import FORMATS, export
from headway.export.rules import whole_weights
from headway.gateway.declare import ApiKey, GatewayOptions, Upstream
from headway.policy.routing import ROUTERS
from headway.policy.scheduling import ORDERS
from headway.policy.token_routing import TOKEN_ROUTERS
from headway.testing.examples import tiny_plan

GOLDENS = Path(__file__).parent.parent / "goldens" / "export"
POLICIES = sorted([*ROUTERS, *TOKEN_ROUTERS])
FLEET = (
    Upstream("http://gpu-1:8000", max_in_flight=32),
    Upstream("http://gpu-2:8000", max_in_flight=64, speed=1.5),
    Upstream("http://10.0.0.3:9000", kind="hosted"),
)


def options(**named: Any) -> GatewayOptions:
    return GatewayOptions(**{"port": 8080, **named})


FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf", "envoy": "envoy.yaml"}


@pytest.mark.parametrize("name", FORMATS)
def test_goldens(name: str) -> None:
    golden = GOLDENS / FILES[name]
    text = export(name, FLEET, options(policy="power-of-d", order="sjf")).text
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8), st.sampled_from([100, 128, 256]))
def test_weights_are_whole_and_as_near_to_the_speeds_as_allowed(speeds: list[float], most: int) -> None:
    weights = whole_weights(speeds, most)
    assert all(1 <= weight <= most for weight in weights)
    unit = max(weights) / max(speeds)
    for weight, speed in zip(weights, speeds, strict=True):
        assert abs(weight - speed * unit) <= 0.5 + 0.05 * weight or weight == 1
    assert sorted(range(len(speeds)), key=lambda at: (weights[at], speeds[at])) == sorted(
        range(len(speeds)), key=lambda at: (speeds[at], weights[at])
    )


@pytest.mark.parametrize(
    ("speeds", "weights"),
    [([1.0, 1.0], [1, 1]), ([7.0, 4.0], [7, 4]), ([0.5, 1.0, 0.25], [2, 4, 1]), ([1.0, 1000.0], [1, 256])],
)
def test_weights_are_as_small_as_they_can_be(speeds: list[float], weights: list[int]) -> None:
    assert whole_weights(speeds, 256) == weights


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_policy_is_exported_or_said_to_be_replaced(name: str, policy: str) -> None:
    found = export(name, FLEET, options(policy=policy))
    assert any(policy in sentence for sentence in found.unsaid) == (policy in {"jiq", "prequal", *TOKEN_ROUTERS}), (
        found.unsaid
    )
    for sentence in found.unsaid:
        assert f"# - {sentence}" in found.text
    for host in ("gpu-1", "gpu-2", "10.0.0.3"):
        assert host in found.text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("named", "declared", "said"),
    [
        ({"order": "vtc"}, {}, "the order vtc"),
        ({"priority": True}, {}, "how urgent"),
        ({"token": "geheim"}, {}, "who may use it"),
        ({"keys": (ApiKey("alice", "geheim"),)}, {}, "who may use it"),
        ({}, {"token": "geheim"}, "the bearer token of gpu-3:1"),
        ({}, {"models": ("large",)}, "which upstream serves which model"),
        ({"policy": "least-loaded"}, {}, "what engines report"),
        ({"policy": "consistent-hash"}, {}, "x-session-id"),
        ({"stall_s": 5.0}, {}, "two limits for silence: 120s"),
    ],
)
def test_what_a_proxy_cannot_say_is_said(name: str, named: Any, declared: Any, said: str) -> None:
    known = Upstream("http://gpu-1:8000", models=("small",))
    found = export(name, [known, Upstream("http://gpu-3:1", **declared)], options(**named))
    assert any(said in sentence for sentence in found.unsaid)
    assert "geheim" not in found.text
    plain = export(name, [known], options(stall_s=120.0))
    assert not any(said in sentence for sentence in plain.unsaid)


@pytest.mark.parametrize("order", sorted(set(ORDERS) - {"fcfs"}))
def test_no_order_is_lost_in_silence(order: str) -> None:
    assert order in export("nginx", FLEET, options(order=order)).text


@pytest.mark.parametrize(
    ("upstreams", "named", "sentence"),
    [
        ([], {}, "there is no upstream"),
        ([Upstream("http://gpu:1/engine")], {}, "is below the path /engine"),
        ([Upstream("http://gpu:1"), Upstream("http://gpu:1", name="again")], {}, "two upstreams are at gpu:1"),
        ([Upstream("http://gpu:1"), Upstream("https://gpu")], {}, "by http or all by https"),
        ([Upstream("http://gpu{evil:1")], {}, "is not the name or the address of a host"),
        ([Upstream("http://gpu:1")], {"port": 0}, "the port is 0; say on which one"),
        ([Upstream("http://gpu:1")], {"policy": "two"}, "router is 'two'; valid:"),
    ],
)
def test_what_no_proxy_can_do_is_refused(upstreams: list[Upstream], named: Any, sentence: str) -> None:
    with pytest.raises(HeadwayError, match=sentence):
        export("nginx", upstreams, options(**named))


def test_an_unknown_proxy_is_named() -> None:
    with pytest.raises(HeadwayError, match="'ngin' is not known; did you mean 'nginx'"):
        export("ngin", FLEET, options())


def test_the_same_bounds_hold_everywhere() -> None:
    texts = {name: export(name, FLEET, options(queue_limit=77)).text for name in FORMATS}
    assert [int(found) for found in re.findall(r"^    server .* maxconn (\d+)", texts["haproxy"], re.M)] == [32, 64, 64]
    assert [int(found) for found in re.findall(r"max_conns=(\d+)", texts["nginx"])] == [32, 64, 64]
    assert "limit_conn headway 160;" in texts["nginx"]
    assert "queue(engines) ge 77" in texts["haproxy"]
    breakers = yaml.safe_load(texts["envoy"])["static_resources"]["clusters"][0]["circuit_breakers"]
    assert breakers["thresholds"][0]["max_pending_requests"] == 77


def test_a_bounded_queue_lets_an_upstream_have_as_many_as_the_gateway_would() -> None:
    for policy, in_flight in (("jbsq", [64, 128, 128]), ("central", [32, 64, 64])):
        text = export("haproxy", FLEET, options(policy=policy)).text
        assert [int(found) for found in re.findall(r"^    server .* maxconn (\d+)", text, re.M)] == in_flight


@pytest.mark.parametrize("policy", POLICIES)
def test_envoys_configuration_holds_together(policy: str) -> None:
    """Structure only, Envoy is not run: each reference resolves, each extension names its type."""
    text = export("envoy", FLEET, options(policy=policy, attempts=2)).text
    document = yaml.safe_load(text)
    resources = document["static_resources"]
    [cluster], [listener] = resources["clusters"], resources["listeners"]
    assert cluster["load_assignment"]["cluster_name"] == cluster["name"]
    [chain] = listener["filter_chains"]
    [manager] = chain["filters"]
    [host] = manager["typed_config"]["route_config"]["virtual_hosts"]
    assert {route["route"]["cluster"] for route in host["routes"]} == {cluster["name"]}
    assert manager["typed_config"]["http_filters"][-1]["name"] == "envoy.filters.http.router"
    [locality] = cluster["load_assignment"]["endpoints"]
    addresses = [one["endpoint"]["address"]["socket_address"] for one in locality["lb_endpoints"]]
    assert [(one["address"], one["port_value"]) for one in addresses] == [
        ("gpu-1", 8000), ("gpu-2", 8000), ("10.0.0.3", 9000),
    ]  # fmt: skip
    for name, config in extensions(document):
        kind = config["@type"]
        assert kind.startswith("type.googleapis.com/envoy.extensions."), kind
        assert name.startswith("envoy.")
    assert len(list(extensions(document))) == 4


def extensions(value: Any) -> Any:
    """Return all extensions in a configuration, by name."""
    if isinstance(value, dict):
        if "typed_config" in value:
            yield value["name"], value["typed_config"]
        for inner in value.values():
            yield from extensions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from extensions(inner)


def test_upstreams_by_tls_are_verified_by_their_own_names() -> None:
    hosted = [Upstream("https://api.example.com", kind="hosted")]
    haproxy = export("haproxy", hosted, options()).text
    assert (
        "api.example.com:443 maxconn 64 ssl verify required ca-file /etc/ssl/certs/ca-certificates.crt sni" in haproxy
    )
    nginx = export("nginx", hosted, options()).text
    assert "proxy_pass https://engines;" in nginx
    assert "proxy_ssl_verify on;" in nginx
    assert "proxy_set_header host api.example.com;" in nginx
    [cluster] = yaml.safe_load(export("envoy", hosted, options()).text)["static_resources"]["clusters"]
    assert cluster["transport_socket"]["typed_config"]["auto_host_sni"] is True
    assert "health_checks" not in cluster


def test_the_command_writes_text_and_says_on_stderr_what_is_unsaid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["export", "haproxy", "--upstream", "http://gpu-1:8000,speed=2", "--order", "sjf"]
    with pytest.raises(SystemExit) as stop:
        app.main(command)
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert out.startswith("# HAProxy")
    assert "haproxy does not say: the order sjf" in err
    with pytest.raises(SystemExit):
        app.main([*command, "--json", "-o", str(tmp_path / "haproxy.cfg")])
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == out == (tmp_path / "haproxy.cfg").read_text("utf-8")
    assert any("the order sjf" in sentence for sentence in told["unsaid"])


SPEC = """
name: chat
slo: {latency: 60s, percentile: 99}
supply: {a100-80gb: {price: $2.20/h}}
stages:
  answer:
    kind: fleet
    model: llama-2-7b
    routing: power-of-d
    order: sjf
    most_running: 48
    upstreams: [http://gpu-1:8000, "http://gpu-2:8000,speed=2,in-flight=9"]
"""


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    with pytest.raises(SystemExit):
        app.main(arguments)
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_a_plan_of_a_fleet_says_its_upstreams_and_policies_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = tmp_path / "fleet.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    text, err = said(capsys, "export", "haproxy", str(spec))
    assert "balance random(2)" in text
    assert [int(found) for found in re.findall(r"^    server .* maxconn (\d+)", text, re.M)] == [48, 9]
    assert "weight 2" in text
    assert "the order sjf" in err
    text, err = said(capsys, "export", "haproxy", str(spec), "--policy", "round-robin", "--order", "fcfs")
    assert "balance roundrobin" in text
    assert "order" not in err


def test_a_plan_of_something_else_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    tiny_plan().write(plan)
    _, err = said(capsys, "export", "nginx", str(plan))
    assert "a plan whose only stage is a fleet of LLM engines is needed; the stages of" in err
    _, err = said(capsys, "export", "nginx", str(plan), "--upstream", "http://gpu-1:8000")
    assert "exactly one of the two" in err
