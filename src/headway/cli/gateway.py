"""Options of `headway serve` that are for a fleet of LLM engines alone: those of the gateway in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headway.cli.frame import duration

KeysFile = Annotated[Path | None, typer.Option("--keys", metavar="FILE", help="Fleet: who may use it, and how much.")]
DecisionLog = Annotated[
    Path | None, typer.Option("--decision-log", metavar="FILE", help="Fleet: append every decision, one JSON per line.")
]
Priority = Annotated[bool, typer.Option("--priority", help="Fleet: tell vLLM how urgent each request is.")]
Attempts = Annotated[
    int | None, typer.Option("--attempts", min=1, help="Fleet: upstreams tried before the first token (3).")
]
FirstToken = Annotated[
    float | None,
    typer.Option("--first-token", parser=duration, metavar="TIME", help="Fleet: longest wait for a first token (2m)."),
]


def gateway_options(
    keys: Path | None, decision_log: Path | None, priority: bool, attempts: int | None, first_token_s: float | None
) -> dict[str, Any]:
    """Return those that were given, as fields of GatewayOptions; paths are those of the folder that this runs in."""
    given = {
        "keys": None if keys is None else _read_keys(keys),
        "decision_log": None if decision_log is None else decision_log.absolute(),
        "priority": priority or None,
        "attempts": attempts,
        "first_token_s": first_token_s,
    }
    return {field: value for field, value in given.items() if value is not None}


def default_timeout_s() -> float:
    """Return the deadline of requests to a gateway that bring none themselves."""
    from headway.gateway.declare import GatewayOptions

    return GatewayOptions().timeout_s


def _read_keys(path: Path) -> Any:
    from headway.gateway.written import read_keys

    return read_keys(path)
