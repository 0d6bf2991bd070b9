"""The parts of the gateway: what it reads, what it remembers, and when it trusts whom."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.upstreams import engine

from headway.errors import ServeError
from headway.gateway.ask import ApiError, read, with_priority
from headway.gateway.breaker import CLOSED, OPEN, TRIAL, Breaker
from headway.gateway.declare import ApiKey, GatewayOptions, Upstream, checked
from headway.gateway.keys import Account, Bucket
from headway.gateway.relay import usage_of
from headway.gateway.reports import parse
from headway.gateway.urgency import priority
from headway.gateway.written import read_keys, upstream_of

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp"])
def test_a_report_holds_what_the_engine_tells(kind: str) -> None:
    full = parse(kind, engine(kind, running=3, waiting=2, kv_usage=0.5))
    assert (full.running, full.waiting, full.kv_usage, full.load) == (3.0, 2.0, 0.5, 5.0)
    part = parse(kind, engine(kind, running=3))
    assert (part.running, part.waiting, part.load) == (3.0, None, None)


@given(st.text(), st.sampled_from(["vllm", "sglang", "llama.cpp"]))
def test_no_page_of_metrics_makes_a_load_out_of_nothing(text: str, kind: str) -> None:
    found = parse(kind, text)
    assert found.load is None or "num_" in text or "requests_" in text


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "x", ""])
def test_what_is_no_number_of_requests_is_unknown(value: str) -> None:
    page = f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 0\n"
    assert parse("vllm", page).load is None


def test_engines_of_one_server_add_up_and_ranks_do_not() -> None:
    page = "".join(f'vllm:num_requests_running{{engine="{n}"}} 2.0\n' for n in range(3))
    assert parse("vllm", page).running == 6.0
    page = "".join(f'sglang:num_running_reqs{{tp_rank="{n}",model_name="a"}} 2.0\n' for n in range(8))
    assert parse("sglang", page).running == 2.0
    page = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0\n'
    assert parse("vllm", page).kv_tokens == 16_000.0
    row = 'vllm:cache_config_info{{block_size="16",engine="{}",num_gpu_blocks="1000"}} 1.0\n'
    assert parse("vllm", row.format(0) + row.format(1) + row.format(1)).kv_tokens == 32_000.0


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("said", ["NaN", None])
def test_what_one_of_several_engines_does_not_tell_is_unknown_of_all(kind: str, said: str | None) -> None:
    names = {"vllm": ("num_requests_running", "num_requests_waiting"), "sglang": ("num_running_reqs", "num_queue_reqs")}
    label = {"vllm": "engine", "sglang": "dp_rank"}[kind]
    running, waiting = (f"{kind}:{name}" for name in names[kind])
    page = "".join(f'{running}{{{label}="{n}"}} 2\n' for n in range(2)) + f'{waiting}{{{label}="0"}} 1\n'
    found = parse(kind, page if said is None else page + f'{waiting}{{{label}="1"}} {said}\n')
    assert (found.running, found.waiting, found.load) == (4.0, None, None)


def test_requests_by_priority_are_not_counted_beside_all_of_them() -> None:
    rows = [("", 5), ("0", 3), ("1", 2)]
    page = "".join(f'sglang:num_queue_reqs{{priority="{one}",dp_rank="0"}} {count}\n' for one, count in rows)
    assert parse("sglang", page).waiting == 5.0
    assert parse("sglang", page.split("\n", 1)[1]).waiting == 5.0


@given(st.dictionaries(st.text(), JSON_VALUES), st.integers(0, 2**40), st.sampled_from(["", " ", "\n"]))
def test_a_priority_is_all_that_changes_in_a_body(body: dict[str, Any], value: int, space: str) -> None:
    written = json.dumps(body).encode() + space.encode()
    assert json.loads(with_priority(written, value)) == {**body, "priority": value}


def test_priorities_let_short_work_go_first_but_nobody_wait_for_ever() -> None:
    assert priority(0.0, 100.0, 30.0) < priority(0.0, 10_000.0, 30.0)
    assert priority(0.0, 1e9, 30.0) <= priority(30.0, 0.0, 30.0)


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (b'{"usage": {"prompt_tokens": 7, "completion_tokens": 5}}', (7, 5)),
        (b'data: {"usage":{"prompt_tokens":7,"total_tokens":7}}\n\ndata: [DONE]\n\n', (7, 0)),
        (b'{"usage":{"prompt_tokens":1}} {"usage":{"prompt_tokens":2,"completion_tokens":3}}', (2, 3)),
        (b'data: {"choices":[],"usage":null}', None),
        (b'{"text": "\\"usage\\": {\\"prompt_tokens\\": 9}"}', None),
        (b'{"usage": {"prompt_tokens": 7}, "prompt_logprobs": [{"decoded_token":"usage"}]}', (7, 0)),
        (b'{"usage": {"prompt_tokens": 7}, "usage": null}', (7, 0)),
        (b'{"usage": {"prompt_tokens": 7, "completion_tokens": 4}} {"usage": {"prompt_tokens": 7, "comp', (7, 4)),
        (b'{"usage": {"prompt_tokens": 7, "details": {"cached": 1}, "completion_tokens": 4}}', (7, 4)),
        (b"", None),
    ],
)
def test_what_was_used_is_read_from_the_end_of_an_answer(tail: bytes, found: tuple[int, int] | None) -> None:
    assert usage_of(tail) == found


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.1, 20.0)), max_size=40))
def test_no_more_is_taken_from_a_bucket_than_flowed_in(asked: list[tuple[float, float]]) -> None:
    bucket = Bucket(rate_per_s=2.0, burst=10.0, now_s=0.0)
    now_s = taken = 0.0
    for gap_s, amount in asked:
        now_s += gap_s
        if bucket.wait_s(amount, now_s) == 0.0:
            bucket.take(min(amount, 10.0))
            taken += min(amount, 10.0)
        assert taken <= 10.0 + 2.0 * now_s + 1e-6


def test_whoever_waits_as_long_as_told_is_let_in() -> None:
    account = Account(ApiKey("a", "s", tokens_per_s=10.0, token_burst=20.0), 0.0)
    account.admit(20.0, 0.0)
    with pytest.raises(ApiError) as refused:
        account.admit(5.0, 0.0)
    [(_, value)] = [pair for pair in refused.value.headers if pair[0] == b"retry-after"]
    account.admit(5.0, float(value))
    account.settle(5.0, 5.0, 30.0)
    with pytest.raises(ApiError, match="used up its tokens"):
        account.admit(1.0, float(value) + 1.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 3.0)), max_size=60))
def test_a_breaker_is_only_closed_by_an_answer(events: list[tuple[bool, float]]) -> None:
    breaker = Breaker(failures=3, open_s=1.0, open_most_s=8.0, slow_start_s=5.0)
    now_s, row = 0.0, 0
    for good, gap_s in events:
        now_s += gap_s
        before = breaker.check(now_s)
        if good:
            breaker.succeeded(now_s)
        else:
            breaker.failed(now_s)
        row = 0 if good and before != OPEN else row + (not good)
        if before == TRIAL:
            assert breaker.state == (CLOSED if good else OPEN)
        elif before == OPEN:
            assert breaker.state == OPEN
        else:
            assert breaker.state == (OPEN if row >= 3 else CLOSED)
        row = 0 if breaker.state == CLOSED and good else row
        assert 0.1 <= breaker.share(now_s) <= 1.0


def test_an_upstream_that_stays_broken_is_tried_ever_more_rarely() -> None:
    breaker = Breaker(failures=1, open_s=1.0, open_most_s=4.0, slow_start_s=1.0)
    now_s, waits = 0.0, []
    for _ in range(4):
        breaker.failed(now_s)
        begun_s = now_s
        while breaker.check(now_s) == OPEN:
            now_s += 0.25
        waits.append(now_s - begun_s)
    assert waits == [1.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Upstream("127.0.0.1:8000"), "is not an address of a server"),
        (lambda: Upstream("ftp://host"), "is not an address of a server"),
        (lambda: Upstream("http://host:99999"), "Port out of range"),
        (lambda: Upstream("http://host/v1"), "leave out /v1"),
        (lambda: Upstream("http://me@host"), "has no place in it"),
        (lambda: Upstream("http://host\r\nx: y"), "write it like"),
        (lambda: Upstream("http://host", kind="vlm"), "did you mean 'vllm'"),
        (lambda: Upstream("http://host", max_in_flight=0), "at least 1"),
        (lambda: Upstream("http://host", speed=0.0), "above 0"),
        (lambda: Upstream("http://host", token="a\r\nb"), "that a header cannot"),
        (lambda: Upstream("http://host", name="a;b"), "without a semicolon"),
        (lambda: ApiKey("a", ""), "the secret must be"),
        (lambda: ApiKey("a", "s", weight=0.0), "above 0"),
        (lambda: ApiKey("a", "s", requests_per_s=-1.0), "0 or more"),
        (lambda: GatewayOptions(timeout_s=0.0), "above 0"),
        (lambda: GatewayOptions(attempts=0), "at least 1"),
        (lambda: GatewayOptions(keys=(ApiKey("a", "s"), ApiKey("b", "s"))), "the same secret"),
        (lambda: checked([]), "there is no upstream"),
        (lambda: checked([Upstream("http://a"), Upstream("http://a")]), "two upstreams are called a"),
        (lambda: upstream_of("http://a,knd=vllm"), "did you mean 'kind'"),
        (lambda: upstream_of("http://a,in-flight=many"), "in-flight is 'many'"),
        (lambda: upstream_of("http://a,token-env=HEADWAY_NO_SUCH"), "is not set"),
    ],
)
def test_what_is_declared_wrong_says_so(make: Any, says: str) -> None:
    with pytest.raises(ServeError, match=says):
        make()


def test_a_body_that_is_no_request_is_refused_in_the_words_of_the_protocol() -> None:
    with pytest.raises(ApiError) as refused:
        read(b'{"model": 3}')
    assert json.loads(refused.value.body)["error"]["type"] == "invalid_request_error"


def test_keys_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_TEST_SECRET", "s3cret")
    file = tmp_path / "keys.yaml"
    file.write_text("alice: {secret-env: HEADWAY_TEST_SECRET, requests: 5/s, tokens: 120/m, weight: 2}\n")
    [key] = read_keys(file)
    assert (key.name, key.secret, key.requests_per_s, key.tokens_per_s, key.weight) == (
        "alice",
        "s3cret",
        5.0,
        2.0,
        2.0,
    )
    for text, says in (
        ("[]", "a mapping from names"),
        ("alice: 3", "a mapping is needed"),
        ("alice: {requests: 5/s}", "the secret is missing"),
        ("alice: {secret: a, request: 5/s}", "did you mean 'requests'"),
        ("alice: {secret: a, requests: often}", "requests is 'often'"),
        ("alice: {secret: a, requests: 5}", "requests is '5': '5' is not a rate"),
        ("alice: {secret: a, requests: 0/s}", "requests is '0/s': that would let nothing through"),
        ("alice: {secret: a, tokens: 5/s, request-burst: 3}", "request-burst is how much of requests"),
        ("alice: {secret: on}", "secret is 'True': YAML reads it as no text"),
        ("alice: {secret: a, weight: yes}", "weight is 'True': a number is needed"),
        ("a: [", "cannot read the keys"),
    ):
        file.write_text(text)
        with pytest.raises(ServeError, match=says):
            read_keys(file)
    with pytest.raises(ServeError, match="No such file"):
        read_keys(tmp_path / "absent.yaml")


def test_a_share_that_grows_ends_where_it_should() -> None:
    breaker = Breaker(1, 1.0, 1.0, slow_start_s=4.0)
    assert breaker.share(0.0) == 1.0
    breaker.returned(0.0)
    shares = [breaker.share(at / 10) for at in range(50)]
    assert shares == sorted(shares)
    assert math.isclose(shares[20], 0.5)
    assert shares[-1] == 1.0


def test_nobody_is_taken_for_whoever_runs_the_gateway() -> None:
    for key in (ApiKey("a", "geheim"), ApiKey("token", "other")):
        with pytest.raises(ServeError, match="the secret of the gateway's own token, or the name 'token'"):
            GatewayOptions(token="geheim", keys=(key,))
    with pytest.raises(ServeError, match="a model has no name"):
        upstream_of("http://127.0.0.1:1,models=")
    assert read(b'{"max_tokens": 5.0}').most_tokens == 5
