"""Upstreams and keys as a person writes them: on a command line, in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from headway.errors import ServeError, nearest
from headway.gateway.declare import ApiKey, Upstream
from headway.spec.units import duration_s, rate_per_s

_UPSTREAM: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "kind": ("kind", str),
    "name": ("name", str),
    "in-flight": ("max_in_flight", int),
    "speed": ("speed", float),
    "models": ("models", lambda text: tuple(text.split("+"))),
    "budget": ("token_budget", float),
    "iteration": ("iteration_s", duration_s),
}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("YAML reads it as no text; put it in quotes")
    return value


def _limit_per_s(value: Any) -> float:
    found = rate_per_s(str(value))
    if not found:
        raise ValueError("that would let nothing through; leave it out where there is no limit")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return float(value)


_KEY: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "secret": ("secret", _text),
    "requests": ("requests_per_s", _limit_per_s),
    "request-burst": ("request_burst", _number),
    "tokens": ("tokens_per_s", _limit_per_s),
    "token-burst": ("token_burst", _number),
    "weight": ("weight", _number),
}
_BURSTS: Final = {"request-burst": "requests", "token-burst": "tokens"}


def _secret(variable: str, where: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise ServeError(f"{where}: the environment variable {variable!r} is not set")
    return value


def upstream_of(text: str, *, secret: Callable[[str, str], str] = _secret, **defaults: Any) -> Upstream:
    """Return the upstream that `URL,WHAT=VALUE,...` describes; `defaults` are for fields not given.

    `secret` returns what an environment variable holds, and is told where it is named. Raises ServeError.

    >>> upstream_of("http://127.0.0.1:8001,kind=sglang,in-flight=8").max_in_flight
    8
    """
    url, *rest = text.split(",")
    given: dict[str, Any] = {}
    for part in rest:
        what, _, value = part.partition("=")
        if what == "token-env":
            given["token"] = secret(value, f"upstream {url}")
        else:
            field, read = _known(what, _UPSTREAM, f"upstream {url}", "token-env")
            given[field] = _read(read, value, f"upstream {url}: {what}")
    return Upstream(url, **{**defaults, **given})


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys that a YAML file describes: a mapping from names to what each may. Raises ServeError."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).replace("\n", " ")
        raise ServeError(f"{path}: cannot read the keys: {reason}") from None
    if not isinstance(found, dict) or not found:
        raise ServeError(f"{path}: a mapping from names to keys is needed, such as alice: {{secret-env: ALICE_KEY}}")
    return tuple(_key(str(name), value, f"{path}: {name}") for name, value in found.items())


def _key(name: str, value: Any, where: str) -> ApiKey:
    if not isinstance(value, dict):
        raise ServeError(f"{where}: a mapping is needed, such as {{secret-env: ALICE_KEY, requests: 5/s}}")
    given: dict[str, Any] = {}
    for what, item in value.items():
        if what == "secret-env":
            given["secret"] = _secret(str(item), where)
        else:
            field, read = _known(str(what), _KEY, where, "secret-env")
            given[field] = _read(read, item, f"{where}: {what}")
    for burst, rate in _BURSTS.items():
        if burst in value and rate not in value:
            raise ServeError(f"{where}: {burst} is how much of {rate} may come at once; say their rate too")
    if "secret" not in given:
        raise ServeError(f"{where}: the secret is missing; name the environment variable that holds it as secret-env")
    return ApiKey(name, **given)


def _known(what: str, valid: Mapping[str, tuple[str, Any]], where: str, more: str) -> tuple[str, Any]:
    if what not in valid:
        names = [*valid, more]
        raise ServeError(f"{where}: {what!r} is not known{nearest(what, names)}; valid: {', '.join(names)}")
    return valid[what]


def _read(read: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ServeError(f"{where} is {str(value)[:60]!r}: {error}") from None
