"""What the gateway costs: CPU time per request and per event of a stream, and what it adds to latency.

The proxy has a core of its own; load and upstreams share another. CPU time is what `/proc` says of the proxy's process,
so that what else the machine does matters little; every proxy is measured in the same run. Where latency counts, what
the machine's host disturbs is measured again.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from headway.bench import BenchOptions, Row
from headway.bench.calm import CALM_WINDOWS, MOST_WINDOWS, are_calm, calmest, in_calmest
from headway.bench.fleets.gateway_load import Streamed, streams
from headway.bench.fleets.gateway_rivals import HAPROXY, HEADWAY, NGINX, NONE, PATH, installed, proxy, upstreams
from headway.bench.load import Load, closed_loop, open_loop, post
from headway.errors import HeadwayError
from headway.gateway.splice import Splice
from headway.serve.system import descriptors

BODY = b'{"model": "small", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}'
STREAM_BODY = b'{"model": "small", "messages": [{"role": "user", "content": "Say hello."}], "stream": true}'
CONNECTIONS = 32
WINDOWS = 3
STREAMS = 1000
SETTLE_S = 5.0
"""In which a proxy does what it does once for many streams."""


def gateway(options: BenchOptions) -> Iterator[Row]:
    """CPU time per small request, not streamed, against NGINX and HAProxy; and the P99 added at half load."""
    seconds = 0.5 if options.quick else 4.0
    rivals = [name for name in (NGINX, HAPROXY) if _is_there(name)]
    with _cores() as (own, other), upstreams(other) as ports:
        loads: dict[str, list[Load]] = {name: [] for name in (HEADWAY, *rivals)}
        # In turns, so that what else the machine does falls on all alike.
        for _ in range(1 if options.quick else WINDOWS):
            for name in loads:
                with proxy(name, ports, own) as server:
                    loads[name].append(_full(server.url, seconds, server.cpu_s))
        cpu_us = {name: statistics.median(_cpu_us(load) for load in found) for name, found in loads.items()}
        for name in rivals:
            bar = "<= 3.5" if name == NGINX else None
            ratio = cpu_us[HEADWAY] / cpu_us[name]
            yield Row(f"gateway/cpu/{name}", cpu_us[HEADWAY], "us/request", cpu_us[name], ratio, bar)
        if not rivals:
            yield Row("gateway/cpu", cpu_us[HEADWAY], "us/request")
        rate_per_s = statistics.median(load.rate_per_s for load in loads[HEADWAY])
        yield Row("gateway/rate", rate_per_s, "requests/s")
        p99_ms = _half((NONE, HEADWAY, *rivals), ports, own, rate_per_s / 2, options)
    if p99_ms[NONE] > min(p99_ms.values()):
        print("bench gateway: the machine was disturbed, no P99 is judged: a proxy was quicker than none",
              file=sys.stderr)  # fmt: skip
    for name in (HEADWAY, *rivals):
        bar = "<= 1" if name == HEADWAY and p99_ms[NONE] <= min(p99_ms.values()) else None
        yield Row(f"gateway/p99-added/{name}", p99_ms[name] - p99_ms[NONE], "ms", p99_ms[NONE], bar=bar)


def gateway_stream(options: BenchOptions) -> Iterator[Row]:
    """CPU time per event of 1,000 streams at 30 tokens a second each, and the P99 added to when an event is seen."""
    count, settle_s, windows = (
        (100, 1.0, (1, 1)) if options.quick else (STREAMS, SETTLE_S, (CALM_WINDOWS, MOST_WINDOWS))
    )
    if not options.quick:
        # So that it is compiled, which is done once and for all.
        splice = Splice(())
        splice.load()
        splice.close()
    rivals = [name for name in (NGINX, HAPROXY) if _is_there(name)]
    with descriptors(2 * count + 100), _cores() as (own, other), upstreams(other) as ports:
        found: dict[str, Streamed] = {}
        for name in (NONE, HEADWAY, *rivals):
            with proxy(name, ports, own) as server:
                meter = server.cpu_s if name != NONE else lambda: None
                found[name] = streams(server.url, post(PATH, STREAM_BODY), count, windows, meter, settle_s)
    direct_ms = 1e3 * found[NONE].late_p99_s
    for name in (HEADWAY, *rivals):
        one, ours = found[name], name == HEADWAY
        if one.cpu_us is not None:
            yield Row(f"gateway-stream/cpu/{name}", one.cpu_us, "us/event", bar="<= 15" if ours else None)
        added_ms = 1e3 * one.late_p99_s - direct_ms
        yield Row(f"gateway-stream/p99-added/{name}", added_ms, "ms", direct_ms, bar="<= 10" if ours else None)
        yield Row(f"gateway-stream/rate/{name}", one.events / one.span_s, "events/s")
        yield Row(f"gateway-stream/events-per-read/{name}", one.events / max(1, one.reads), "")


def _full(url: str, seconds: float, meter: object) -> Load:
    return _good(
        closed_loop(url, post(PATH, BODY), connections=CONNECTIONS, seconds=seconds, warmup_s=1.0, meter=meter)  # type: ignore[arg-type]
    )


def _half(
    names: Sequence[str], ports: list[int], core: int | None, rate_per_s: float, options: BenchOptions
) -> dict[str, float]:
    """Return the P99 of latency at a rate behind each proxy, in milliseconds: the median over its calmest windows.

    They are in turns, so that what else the machine does falls on all alike.
    """
    seconds, most, enough = (0.5, 1, 1) if options.quick else (1.0, MOST_WINDOWS, CALM_WINDOWS)
    frame = post(PATH, BODY)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(proxy(name, ports, core)) for name in names}
        for window in range(most):
            for name, server in servers.items():
                once = partial(
                    open_loop, server.url, frame, rate_per_s=rate_per_s, seconds=seconds, seed=options.seed + window
                )
                load, stolen_share = calmest(once, attempts=1)
                found[name].append((stolen_share, _good(load).p_ms(99)))
            if all(are_calm(windows, enough) for windows in found.values()):
                break
    return {name: statistics.median(in_calmest(windows, enough)) for name, windows in found.items()}


def _good(load: Load) -> Load:
    if load.failed or not len(load.latency_s):
        raise HeadwayError(f"bench: {load.failed} requests were left without a good answer")
    return load


def _cpu_us(load: Load) -> float:
    if load.cpu_ms is None:
        raise HeadwayError("bench gateway: this system does not tell the CPU time of a process (no /proc)")
    return 1e3 * load.cpu_ms


def _is_there(name: str) -> bool:
    if installed(name):
        return True
    print(f"bench gateway: {name} is not installed (Debian package {name}); its rows are skipped", file=sys.stderr)
    return False


@contextmanager
def _cores() -> Iterator[tuple[int | None, int | None]]:
    """Yield a core for the proxy and one for all else, this process among it; none where they cannot be chosen."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield None, None
        return
    before = os.sched_getaffinity(0)
    own, other, *_ = sorted(before)
    os.sched_setaffinity(0, {other})
    try:
        yield own, other
    finally:
        os.sched_setaffinity(0, before)
