"""How fast requests are served: Headway, Ray Serve and LitServe, one after the other, under the same load.

Every server gets the same model classes, bodies, batch sizes, threads and cores, and every answer comes from a worker
process. What the machine's host disturbs is measured again. MLServer is left out: its last release (1.7.1) wants
FastAPI below 0.116 and cannot be installed beside these.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from headway.bench import BenchOptions, Row
from headway.bench.calm import ATTEMPTS, calmest
from headway.bench.load import Load, closed_loop, open_loop, post
from headway.bench.rivals import HEADWAY, RIVALS, Server, running
from headway.bench.served import Case, case_of
from headway.errors import HeadwayError

WINDOWS = 3
QUICK_S = 0.5
OPEN_RATE_PER_S = 100.0
Bars = Mapping[str, tuple[str, str]]
Rows = Generator[Row, None, dict[str, None]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server did: medians over windows under closed-loop load, and latency under light open-loop load."""

    rate_per_s: float
    p99_ms: float
    cpu_ms: float | None = None
    light_p50_ms: float | None = None
    light_p99_ms: float | None = None


def serving_echo(options: BenchOptions) -> Iterator[Row]:
    """What a server adds to a model that takes no time: 64 requests at a time, in batches of up to 32, then singly."""
    bars = {"ray-serve": (">= 15", "<= 1"), "litserve": (">= 3", "<= 1")}
    lacking = yield from _compare("echo", options, bars, light=True)
    lacking |= yield from _compare("echo-single", options, {})
    _check_complete(lacking)


def serving_onnx(options: BenchOptions) -> Iterator[Row]:
    """One real network with dynamic batches: PaddleOCR's line orientation, from the rapidocr wheel."""
    _check_complete((yield from _compare("onnx", options, {})))


def serving_pipeline(options: BenchOptions) -> Iterator[Row]:
    """The three networks of the demo, each in two workers; LitServe, which has no stages, runs all three in each."""
    _check_complete((yield from _compare("pipeline", options, {})))


def serving_hop(options: BenchOptions) -> list[Row]:
    """What a stage adds, one request at a time: the client's latency through three stages that echo, a third of it.

    HTTP and the client itself are in it.
    """
    case = case_of("hop")
    with running(HEADWAY, case) as server:
        loads, _ = _load(server, case, options)
    hops = len(case.stages)
    rows = []
    for percent, bar in ((50, "<= 0.3"), (99, "<= 2")):
        hop_ms = statistics.median(load.p_ms(percent) for load in loads) / hops
        rows.append(Row(f"serving-hop/p{percent}", hop_ms, "ms", bar=bar))
    return rows


def _compare(name: str, options: BenchOptions, bars: Bars, light: bool = False) -> Rows:
    """Rows of requests per second, P99 and CPU time per request, ours with each rival's as the baseline.

    A rival that cannot be measured costs its own rows alone; what comes back is why, each reason once.
    """
    case = case_of(name)
    ours = _measure(HEADWAY, case, options, light)
    lacking: dict[str, None] = {}
    for rival in RIVALS:
        try:
            theirs = _measure(rival, case, options, light)
        except HeadwayError as error:
            lacking[str(error)] = None
            continue
        yield from _beside(f"serving-{name}/{{}}/{rival}", ours, theirs, bars.get(rival, (None, None)))
    return lacking


def _check_complete(lacking: Iterable[str]) -> None:
    """Raise HeadwayError when rivals could not be measured, after the rows of those that could."""
    if reasons := "; ".join(lacking):
        raise HeadwayError(reasons)


def _beside(where: str, ours: Measured, theirs: Measured, bars: tuple[str | None, str | None]) -> Iterator[Row]:
    at_least, at_most = bars
    ratio = ours.rate_per_s / theirs.rate_per_s
    yield Row(where.format("rate"), ours.rate_per_s, "requests/s", theirs.rate_per_s, ratio, at_least)
    for what, mine, other, bar in (
        ("p99", ours.p99_ms, theirs.p99_ms, at_most),
        ("cpu", ours.cpu_ms, theirs.cpu_ms, None),
        ("light-p50", ours.light_p50_ms, theirs.light_p50_ms, None),
        ("light-p99", ours.light_p99_ms, theirs.light_p99_ms, None),
    ):
        if mine is not None and other is not None:
            yield Row(where.format(what), mine, "ms", other, mine / other, bar)


def _measure(server: str, case: Case, options: BenchOptions, light: bool) -> Measured:
    with running(server, case) as found:
        loads, calm = _load(found, case, options, light)
    cpu_ms = [load.cpu_ms for load in loads if load.cpu_ms is not None]
    return Measured(
        statistics.median(load.rate_per_s for load in loads),
        statistics.median(load.p_ms(99) for load in loads),
        statistics.median(cpu_ms) if cpu_ms else None,
        None if calm is None else calm.p_ms(50),
        None if calm is None else calm.p_ms(99),
    )


def _load(server: Server, case: Case, options: BenchOptions, light: bool = False) -> tuple[list[Load], Load | None]:
    seconds = QUICK_S if options.quick else case.window_s
    url, frame = server.url, post(server.path, case.body())

    def full() -> Load:
        return closed_loop(
            url, frame, connections=case.connections, seconds=seconds, warmup_s=seconds / 2, meter=server.cpu_s
        )

    def some() -> Load:
        return open_loop(url, frame, rate_per_s=OPEN_RATE_PER_S, seconds=seconds, seed=options.seed)

    windows, attempts = (1, 1) if options.quick else (WINDOWS, ATTEMPTS)
    loads = [calmest(full, attempts)[0] for _ in range(windows)]
    calm = calmest(some, attempts)[0] if light else None
    for load in [*loads, *([calm] if calm is not None else [])]:
        if load.failed or not len(load.latency_s):
            raise HeadwayError(f"{url} left {load.failed} requests without a good answer")
    return loads, calm
