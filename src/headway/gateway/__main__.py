"""`python -m headway.gateway`: an OpenAI-compatible proxy in front of engines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from headway.errors import HeadwayError, ServeError

_EXAMPLES: Final = """\
examples:
  python -m headway.gateway --upstream http://127.0.0.1:8001 --upstream http://127.0.0.1:8002 --port 8000
  python -m headway.gateway --upstream http://gpu-1:30000,kind=sglang,in-flight=128 --upstream http://gpu-2:30000,kind=sglang
  python -m headway.gateway --upstream https://api.example.com,kind=hosted,token-env=API_TOKEN --keys keys.yaml
  python -m headway.gateway --upstream http://127.0.0.1:8001,speed=2 --policy first-token --order aged --max-wait 20s

a plan of a fleet says all of this itself: headway serve plan.json

an upstream is its address, then any of: kind (vllm, sglang, llama.cpp, hosted), name, in-flight, speed,
models (separated by +), token-env (the environment variable that holds its token), budget (tokens per iteration),
iteration (how long a full one takes)

a file of keys, YAML:
  alice: {secret-env: ALICE_KEY, requests: 5/s, tokens: 2000/s, weight: 2}
  bob:   {secret-env: BOB_KEY}
"""

TIMES: Final[Mapping[str, tuple[str, str]]] = {
    "--max-wait": ("max_wait_s", "who has waited so long goes first"),
    "--timeout": ("timeout_s", "deadline of requests that bring none"),
    "--connect": ("connect_s", "longest wait for a connection to an upstream"),
    "--first-token": ("first_token_s", "longest wait for a first token"),
    "--stall": ("stall_s", "longest pause in the middle of an answer"),
    "--health": ("health_every_s", "how often upstreams are asked whether they are well"),
    "--scrape": ("scrape_every_s", "how often engines are asked what they have to do"),
    "--stale": ("stale_s", "how old a load may be that a policy goes by"),
    "--slow-start": ("slow_start_s", "until an upstream that is back has its full share"),
    "--grace": ("grace_s", "how long a drain may take"),
}
"""Options that are durations: the field of GatewayOptions, and what the help says."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from headway.gateway.declare import GatewayOptions
    from headway.policy.routing import ROUTERS
    from headway.policy.scheduling import ORDERS
    from headway.policy.token_routing import TOKEN_ROUTERS

    defaults = GatewayOptions()
    out = argparse.ArgumentParser(
        prog="python -m headway.gateway",
        description="Stand in front of engines that speak the OpenAI protocol: route, queue, retry, limit, explain.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--upstream", action="append", required=True, metavar="URL[,WHAT=VALUE...]", help="repeatable")
    out.add_argument("--host", default=defaults.host, help="address; loopback unless told otherwise")
    out.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (8000)")
    out.add_argument("--policy", default=defaults.policy, help=f"one of {', '.join([*ROUTERS, *TOKEN_ROUTERS])}")
    out.add_argument("--order", default=defaults.order, help=f"of those that wait: {', '.join(ORDERS)}")
    out.add_argument("--queue-limit", type=int, default=defaults.queue_limit, help="requests that may wait; then 429")
    out.add_argument("--attempts", type=int, default=defaults.attempts, help="upstreams tried before the first token")
    out.add_argument("--failures", type=int, default=defaults.failures, help="in a row until one is left alone (3)")
    out.add_argument("--keys", type=Path, metavar="FILE", help="who may use it, and how much")
    out.add_argument("--priority", action="store_true", help="tell vLLM how urgent each request is")
    out.add_argument("--decision-log", type=Path, metavar="FILE", help="append every decision, one JSON per line")
    out.add_argument("--max-body", type=int, default=32, metavar="MIB", help="largest request body (32)")
    for option, (field, text) in TIMES.items():
        default = f"{getattr(defaults, field):g}s"
        out.add_argument(option, dest=field, default=default, metavar="TIME", help=f"{text} ({default})")
    out.add_argument("--end-with-stdin", action="store_true", help="drain and end when standard input is closed")
    out.add_argument("--seed", type=int, default=0)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run a gateway until it is told to stop; its URL is printed on a line of its own."""
    from headway.gateway.server import run
    from headway.gateway.written import read_keys, upstream_of
    from headway.serve.app import HttpLimits
    from headway.serve.parent import end_with_parent
    from headway.serve.run import TOKEN_VARIABLE

    given = parser().parse_args(arguments)
    if given.end_with_stdin:
        end_with_parent()
    try:
        times: dict[str, Any] = {field: _seconds(option, getattr(given, field)) for option, (field, _) in TIMES.items()}
        keys = () if given.keys is None else read_keys(given.keys)
        run(
            [upstream_of(text) for text in given.upstream],
            host=given.host,
            port=given.port,
            token=os.environ.get(TOKEN_VARIABLE),
            policy=given.policy,
            order=given.order,
            queue_limit=given.queue_limit,
            attempts=given.attempts,
            failures=given.failures,
            priority=given.priority,
            decision_log=given.decision_log,
            http=HttpLimits(max_body_bytes=_positive("--max-body", given.max_body) * 2**20),
            seed=given.seed,
            keys=keys,
            **times,
        )
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise ServeError(f"{option} is {value}; it must be at least 1")
    return value


def _seconds(option: str, text: str) -> float:
    from headway.spec.units import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise ServeError(f"{option}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
