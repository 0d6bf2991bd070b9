"""Open-loop replay of a trace against a server: each request goes out at its scheduled time, whatever happened before.

Latency counts from the scheduled arrival, so that a server (or a client) that stalls cannot hide it. The client reports
its own lateness, so that its share in what was measured is visible.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError, ServeError
from headway.plan.contract import TellsRun
from headway.plan.plan import Plan
from headway.serve.http1 import Client, Reply
from headway.serve.judged import Judge, Labels
from headway.serve.payloads import as_payloads, encode
from headway.serve.system import ProcessorTimes, descriptors, precise_loop
from headway.sim.confidence import near_saturation, peak_utilization
from headway.sim.outcome import (
    ANSWERED,
    DROPPED,
    FAILED,
    IN_FLIGHT,
    REJECTED,
    Outcome,
    StageOutcome,
    combined_accuracy,
    number,
    percentile,
)
from headway.sim.simulation import startup_cost_usd
from headway.spec.kinds import load_domain
from headway.trace import Trace
from headway.trace.payload import payload_index

LEAD_S = 0.2
OPEN_AHEAD = 16
LATE_SHARE, LATE_S = 0.1, 0.005
"""A client that sends 1 % of the requests later than this, of the median latency and at all, blurs what it measures."""
STOLEN_SHARE = 0.01
"""A host that takes more of the client's machine from it than this blurs what is measured there."""
MAX_CONNECTIONS = 4096
_STATUS = {200: ANSWERED, 429: REJECTED, 503: REJECTED, 504: DROPPED}

OnReply = Callable[[int, Reply], None]
OnStats = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Sent:
    """What became of every request; times are seconds after the first second of the trace."""

    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    code: NDArray[np.int16]
    errors: dict[str, int]
    waited: NDArray[np.bool_]
    """Which requests found every connection of the client in use."""
    begun_s: float = 0.0
    """The first second of the trace, by the client's clock."""


def replay(
    url: str,
    trace: Trace,
    *,
    payloads: Sequence[Any] | str | os.PathLike[str] | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    token: str | None = None,
    timeout_s: float = 60.0,
    max_connections: int = MAX_CONNECTIONS,
    on_reply: OnReply | None = None,
    on_stats: OnStats | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Send a trace's requests to a Headway server and return what was measured.

    `payloads`: a folder, a list (text, bytes, arrays, JSON values), or None for an empty text; which one a request
    carries is decided by `headway.trace.payload`. `labels` are the payloads' right answers (`serve.judged`): what is
    answered is held against them. A request unanswered after `timeout_s` failed. `on_reply(i, reply)`
    sees every reply with its body; `on_stats(before, after)` is given the server's `/stats` around the replay, with the
    samples of its items; `progress(done, requests)` is called about twice a second. At most `max_connections` requests
    are outstanding, fewer where the system allows fewer open files; `low_confidence` says how many waited for
    that. Run it in a process of its own when the server is on the same machine. Raises ServeError when the server
    cannot be reached or is another, and ProfileError for labels that do not fit.
    """
    given = as_payloads(payloads)
    bodies = [encode(payload) for payload in given.values()]
    index = payload_index(trace, len(bodies), seed)
    judge = None if labels is None else Judge.of(labels, list(given), index.tolist())

    def receive(number: int, reply: Reply) -> None:
        for told in (on_reply, None if judge is None else judge.keep):
            if told is not None:
                told(number, reply)

    async def main(connections: int) -> Outcome:
        client = Client(url, token=token, max_connections=connections)
        try:
            plan = Plan.from_dict(await _get(client, "/plan"))
            path = f"/v2/models/{plan.spec.name}/infer"
            frames = [
                client.frame(
                    "POST", path, body.data,
                    {} if body.header_length is None else {"inference-header-content-length": str(body.header_length)},
                )
                for body in bodies
            ]  # fmt: skip
            loop = asyncio.get_running_loop()
            asked_s = loop.time()
            before = await _get(client, "/stats")
            ahead_s = before["now_s"] - (asked_s + loop.time()) / 2
            await client.open(min(OPEN_AHEAD, connections))
            client.keep_body = on_reply is not None or judge is not None
            begun = ProcessorTimes.now()
            sent = await send_all(client, trace, [frames[i] for i in index], timeout_s, receive, progress)
            ended = ProcessorTimes.now()
            stolen_share = None if begun is None or ended is None else ended.stolen_share(begun)
            client.keep_body = True
            after = await _get(client, f"/stats?samples=true&since_s={before['now_s']!r}", tolerant=True)
            if on_stats is not None and after is not None:
                on_stats(before, after)
            zero_s = sent.begun_s + ahead_s
            measured = _outcome(plan, trace, sent, before, after, zero_s, seed, client.opened, stolen_share)
            return measured if judge is None else _labeled(measured, judge, plan)
        finally:
            await client.close()

    # One connection carries one request at a time, so that a trace never needs more of them than it has requests.
    wanted = max(1, min(max_connections, trace.requests))
    with descriptors(wanted) as connections, asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(main(connections))


async def _get(client: Client, path: str, tolerant: bool = False) -> Any:
    reply = await client.request("GET", path)
    if reply.status == 200:
        return json.loads(reply.body)
    if tolerant:
        return None
    if reply.status == 0:
        raise ServeError(reply.error)
    hint = "; pass its token" if reply.status == 401 else "; is it a Headway server?"
    raise ServeError(f"GET {path} was answered with status {reply.status}{hint}")


async def send_all(
    client: Client,
    trace: Trace,
    frames: Sequence[bytes],
    timeout_s: float,
    on_reply: OnReply | None,
    progress: Progress | None,
) -> Sent:
    """Send a request for each arrival of a trace at its time; return what became of them when all have ended.

    It goes out at once over the client: no answer is waited for. The other arguments are as in `replay`.
    """
    loop = asyncio.get_running_loop()
    n = trace.requests
    sent = Sent(np.full(n, np.nan), np.full(n, np.inf), np.zeros(n, np.int16), {}, np.zeros(n, np.bool_))
    finished = asyncio.Event()
    gc.collect()
    gc.freeze()
    sent.begun_s = start_s = loop.time() + LEAD_S
    due_s = (trace.arrival_s + start_s).tolist()
    position = done = 0

    def receive(i: int, reply: Reply) -> None:
        nonlocal done
        sent.done_s[i] = loop.time() - start_s
        sent.sent_s[i] = reply.sent_s - start_s
        sent.code[i] = reply.status
        sent.waited[i] = reply.waited
        if reply.error:
            sent.errors[reply.error] = sent.errors.get(reply.error, 0) + 1
        done += 1
        if on_reply is not None:
            on_reply(i, reply)
        if done == n:
            finished.set()

    def send_due() -> None:
        nonlocal position
        while position < n and due_s[position] <= loop.time():
            i = position
            position += 1
            client.send(frames[i], partial(receive, i), due_s[i] + timeout_s - loop.time())
        if position < n:
            loop.call_at(due_s[position], send_due)

    send_due()
    while n and not finished.is_set():
        try:
            await asyncio.wait_for(finished.wait(), 0.5)
        except TimeoutError:
            if progress is not None:
                progress(done, n)
    if progress is not None:
        progress(n, n)
    gc.unfreeze()
    return sent


def _outcome(
    plan: Plan,
    trace: Trace,
    sent: Sent,
    before: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    zero_s: float,
    seed: int,
    connections: int,
    stolen_share: float | None,
) -> Outcome:
    status = np.array([_STATUS.get(int(code), FAILED) for code in sent.code], np.int8)
    # What the client sent too late, or never, says nothing of the server when it stays unanswered.
    held_back = sent.waited & (sent.code == 0)
    status[held_back] = IN_FLIGHT
    latency_s = np.where(status == ANSWERED, sent.done_s - trace.arrival_s, np.inf)
    # As simulated outcomes have it: from the first scheduled arrival to the last completion of anything.
    done_s = sent.done_s[sent.code > 0]
    start_s = float(trace.arrival_s[0]) if trace.requests else 0.0
    span_s = (float(done_s.max()) if done_s.size else trace.duration_s) - start_s
    slo = plan.spec.slo
    late_s = sent.sent_s - trace.arrival_s
    late_s = late_s[~np.isnan(late_s)]
    late_p99_s = percentile(late_s, 99)
    client = {
        "lateness_p50_s": number(percentile(late_s, 50)),
        "lateness_p99_s": number(late_p99_s),
        "connections": connections,
        "stolen_share": stolen_share,
        "errors": dict(sorted(sent.errors.items(), key=lambda pair: -pair[1])[:10]),
    }
    stages = {} if after is None else _stages(plan, before, after, zero_s, span_s)
    doubts = _client_limits(int(sent.waited.sum()), int(held_back.sum()))
    doubts += _lateness(late_p99_s, percentile(latency_s, 50)) + _stolen(stolen_share)
    return Outcome(
        trace.arrival_s,
        latency_s,
        status,
        slo.latency_s,
        slo.percentile,
        stages=stages,
        cost_usd=sum(s.cost_usd for s in stages.values()) if stages else plan.cost_usd_per_hour * span_s / 3600.0,
        startup_cost_usd=startup_cost_usd(plan),
        accuracy=combined_accuracy([_of_variants(plan), *(stage.accuracy for stage in stages.values())]),
        kind="measured",
        low_confidence=(*doubts, *near_saturation(stages)),
        provenance={"plan_hash": plan.hash, "trace_hash": trace.hash, "seed": seed, "client": client},
        window_s=slo.window_s,
        objective=slo.objective,
    )


def _of_variants(plan: Plan) -> float | None:
    try:
        return plan.accuracy
    except HeadwayError:
        return None


def _labeled(measured: Outcome, judge: Judge, plan: Plan) -> Outcome:
    """Return the outcome with the accuracy of the answers whose label is known, and what the plan predicts of it."""
    predicted, told = plan.predicted.get("accuracy"), judge.told()
    return replace(
        measured,
        accuracy=told["right"] / told["answers"] if told["answers"] else None,
        labeled={**told, "predicted_accuracy": _of_variants(plan) if predicted is None else predicted},
        low_confidence=(*measured.low_confidence, *judge.doubts()),
    )


def _lateness(late_p99_s: float, p50_s: float) -> tuple[str, ...]:
    """Return why latencies hold more of the client's machine than they should; NaN when nothing was sent."""
    if not late_p99_s > max(LATE_SHARE * p50_s, LATE_S):
        return ()
    return (f"client: 1% of the requests were sent {late_p99_s * 1e3:.3g} ms after their time, or later",)


def _stolen(share: float | None) -> tuple[str, ...]:
    """Return why latencies hold what other guests of the machine's host did."""
    if share is None or share <= STOLEN_SHARE:
        return ()
    return (f"client: the host of its machine gave {100 * share:.2g}% of the processors' time to others",)


def _client_limits(waited: int, held_back: int) -> tuple[str, ...]:
    """Return why the load was not the one that was asked for."""
    if not waited:
        return ()
    late = f"client: {waited} requests were sent late, or never, because all its connections were in use"
    return (f"{late}; {held_back} of them stayed unanswered and count as in flight",)


def _stage_cost_usd(plan: Plan, name: str, before: Mapping[str, Any], after: Mapping[str, Any], span_s: float) -> float:
    """Return what a stage costs over the span: the plan's price, or what was held where the plan changed meanwhile."""
    between_s = after["now_s"] - before["now_s"]
    if before["swap"] == after["swap"] or between_s <= 0:
        return plan.stage_cost_usd_per_hour(name) * span_s / 3600.0
    paid_usd = float(after["stages"][name]["cost_usd"]) - float(before["stages"][name]["cost_usd"])
    return paid_usd / float(between_s) * span_s


def _stages(
    plan: Plan, before: Mapping[str, Any], after: Mapping[str, Any], zero_s: float, span_s: float
) -> dict[str, StageOutcome]:
    """Return what the server counted; replicas are those it held on average, over the span that is paid for."""
    out: dict[str, StageOutcome] = {}
    between_s = after["now_s"] - before["now_s"]
    for name, now in after["stages"].items():
        then = before["stages"][name]
        busy_s = now["busy_s"] - then["busy_s"]
        replicas = (now["held_s"] - then["held_s"]) / between_s if between_s > 0 else 0.0
        capacity_s = replicas * span_s
        domain = load_domain(plan.spec.stages[name].kind)
        told, accuracy = domain.told_between(then, now, zero_s) if isinstance(domain, TellsRun) else ({}, None)
        out[name] = StageOutcome(
            items=now["items"] - then["items"],
            batches=now["batches"] - then["batches"],
            queue_wait_s=np.array(now["queue_wait_s"], np.float64),
            utilization=busy_s / capacity_s if capacity_s > 0 else 0.0,
            capacity_s=capacity_s,
            cost_usd=_stage_cost_usd(plan, name, before, after, span_s),
            service_s=busy_s,
            peak_utilization_10s=peak_utilization(
                plan, name, np.sort(np.array(now["arrival_s"], np.float64)), busy_s, max(1, round(replicas))
            ),
            accuracy=accuracy,
            told=told,
        )
    return out
