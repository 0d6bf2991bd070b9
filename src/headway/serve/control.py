"""What operators and tuners ask of a server over HTTP: its statistics, its plan, and to run another plan."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headway.errors import HeadwayError, PlanError, nearest
from headway.plan.plan import Plan
from headway.serve.infer import Refused
from headway.serve.swap import SwapRefused
from headway.serve.watch import Seen, Watch
from headway.sim.outcome import number, percentile
from headway.spec.units import duration_s

if TYPE_CHECKING:
    from headway.serve.app import App
    from headway.serve.engine import Engine

MAX_PLAN_BYTES = 8 * 2**20
_LONGEST_WATCH, _LONGEST_PAUSE = "1h", "10m"


def routes(app: App) -> list[Route]:
    """Return the routes of `/plan` and `/stats`."""
    engine = app.engine

    async def plan(request: Request) -> Response:
        return Response(engine.plan.to_json(), media_type="application/json")

    async def change(request: Request) -> Response:
        watch, supersede, wait, pause_s = _how(request)
        body = await app.read(dict(request.scope["headers"]), request.receive, MAX_PLAN_BYTES)
        # Thousands of profile rows take a while to check; requests are served meanwhile.
        new = await asyncio.to_thread(_parse, body)
        answer = await engine.swap(new, watch, supersede=supersede, wait=wait, pause_s=pause_s)
        return _json(answer, 200 if answer["committed_s"] is not None else 202)

    async def stats(request: Request) -> Response:
        asked = _query(request, "samples", "since_s", "timings", "arrivals_after", "promise_since")
        since_s = _time_s(asked, "since_s") if "since_s" in asked else -math.inf
        found = engine.stats(since_s, _flag(asked, "samples", False), _flag(asked, "timings", True))
        if "arrivals_after" in asked:
            found["arrivals"] = _arrivals(engine, asked["arrivals_after"])
        if "promise_since" in asked:
            found["promise"] = _promise(engine, _time_s(asked, "promise_since"))
        return _json(found)

    return [
        Route("/plan", plan),
        Route("/plan", _refusing(change), methods=["PUT"]),
        Route("/stats", _refusing(stats)),
    ]


def _query(request: Request, *valid: str) -> Mapping[str, str]:
    """Return the query's parameters. Raises Refused for one that is not asked for here, or is given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in valid:
            raise Refused(400, f"{name[:40]!r} is not asked for here{nearest(name, valid)}; valid: {', '.join(valid)}")
        if names.count(name) > 1:
            raise Refused(400, f"{name} is given {names.count(name)} times; give it once")
    return request.query_params


def _how(request: Request) -> tuple[Watch, bool, bool, float]:
    """Read `watch` and `pause` (durations), `supersede` and `wait` from the query."""
    asked = _query(request, "watch", "supersede", "wait", "pause")
    window_s = _duration_s(asked, "watch", f"{Watch().window_s:g}s", _LONGEST_WATCH)
    pause_s = _duration_s(asked, "pause", "0s", _LONGEST_PAUSE)
    return Watch(window_s), _flag(asked, "supersede", False), _flag(asked, "wait", True), pause_s


def _duration_s(asked: Mapping[str, str], name: str, default: str, most: str) -> float:
    text = asked.get(name, default)
    try:
        found_s = duration_s(text)
    except ValueError as error:
        raise Refused(400, f"{name}: {error}") from None
    if not 0 <= found_s <= duration_s(most):
        raise Refused(400, f"{name} is {text}; it must be from 0s to {most}")
    return found_s


def _time_s(asked: Mapping[str, str], name: str) -> float:
    try:
        found_s = float(asked[name])
    except ValueError:
        found_s = math.nan
    if not math.isfinite(found_s):
        raise Refused(400, f"{name} is {asked[name][:40]!r}; it must be a number of seconds of the server's clock")
    return found_s


def _flag(asked: Mapping[str, str], name: str, default: bool) -> bool:
    text = asked.get(name, str(default).lower())
    if text not in ("true", "false"):
        raise Refused(400, f"{name} is {text[:40]!r}; valid: true, false")
    return text == "true"


def _arrivals(engine: Engine, cursor: str) -> dict[str, Any]:
    """Return when requests came after those that were counted before: the first time, and the gaps between them."""
    if not cursor.isdecimal() or len(cursor) > 15:
        raise Refused(400, "arrivals_after must be a number of requests, as `arrivals.cursor` of an earlier answer")
    found_us = np.rint(engine.arrivals.after(int(cursor))[:, 0] * 1e6).astype(np.int64)
    return {
        "cursor": engine.arrivals.count,
        "missed": max(0, engine.arrivals.count - int(cursor)) - found_us.size,
        "first_s": float(found_us[0]) / 1e6 if found_us.size else None,
        "gaps_us": np.diff(found_us).tolist(),
    }


def _promise(engine: Engine, since_s: float) -> dict[str, Any]:
    """Return how the promise was kept for the requests that came since a moment.

    How many came; how many of them have ended, or are late already; how many of these missed, and their latency at the
    promised percentile.
    """
    slo, now_s = engine.plan.spec.slo, engine.clock()
    ended, overdue = engine.ended.rows(), engine.overdue(since_s, slo.latency_s)
    seen = Seen.of((since_s, now_s), engine.arrivals.rows()[:, 0], ended, slo.latency_s, overdue)
    latency_s = np.append(ended[ended[:, 0] > since_s, 1], np.full(overdue, np.inf))
    return {
        "offered": seen.offered,
        "judged": seen.judged,
        "missed": seen.missed,
        "latency_s": number(percentile(latency_s, slo.percentile)),
    }


def _parse(body: bytes) -> Plan:
    try:
        return Plan.from_dict(json.loads(body))
    except (ValueError, RecursionError):
        raise PlanError("the body is not JSON; send a plan as `headway plan` writes it") from None


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _refusing(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await route(request)
        except Refused as refused:
            return Response(refused.body, refused.status, {k.decode(): v.decode() for k, v in refused.headers})
        except SwapRefused as refused:
            return _json({"error": str(refused)}, refused.status)
        except HeadwayError as error:
            return _json({"error": str(error)}, 400)

    return answer
