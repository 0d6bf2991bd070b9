"""What engines tell of themselves, by the names that they give it. What is not told is unknown, never zero."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)", re.M)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_RANKS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Labels that tell apart processes which work on the same requests."""
_ENGINES: Final = ("engine", "dp_rank")
"""Labels that tell apart engines behind one address, each with requests of its own (vLLM, SGLang)."""

NAMES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "vllm": {
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    },
    "sglang": {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv_usage": ("sglang:token_usage",),
    },
    "llama.cpp": {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        "kv_usage": ("llamacpp:kv_cache_usage_ratio",),
    },
}
"""Under which names engines tell what, the present name first: vLLM 0.32, SGLang 0.5 and llama.cpp (late 2026)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine says of itself: requests that run and wait, and the share of its KV memory in use."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_tokens: float | None = None

    @property
    def load(self) -> float | None:
        """Requests that it holds; None unless both numbers are known.

        >>> Report(running=2.0, waiting=1.0).load, Report(running=2.0).load
        (3.0, None)
        """
        return None if self.running is None or self.waiting is None else self.running + self.waiting


def parse(kind: str, text: str) -> Report:
    r"""Return what an engine's metrics in Prometheus' text format say. Numbers of several engines are added up.

    What one of several does not tell is unknown of all of them.

    >>> parse("vllm", 'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n').load
    3.0
    """
    names = NAMES[kind]
    wanted = {name for group in names.values() for name in group} | {_BLOCKS, _TOKENS}
    found: dict[str, _Series] = {}
    for match in _SAMPLE.finditer(text):
        name = match[1]
        if name not in wanted:
            continue
        labels = dict(_LABEL.findall(match[2] or ""))
        value = _kv_tokens(labels) if name == _BLOCKS else _number(match[3])
        kept = _ENGINES if name == _BLOCKS else labels.keys() - _RANKS
        group = tuple(sorted((label, labels[label]) for label in kept if label in labels))
        series = found.setdefault(name, {})
        told = [one for one in (value, series.get(group, math.nan)) if not math.isnan(one)]
        series[group] = max(told, default=math.nan)
    values = {field: next((_whole(found[n]) for n in group if n in found), {}) for field, group in names.items()}
    capacity = found.get(_TOKENS) or found.get(_BLOCKS) or {}
    engines = {_engine(group) for series in (*values.values(), capacity) for group in series} - {()}
    return Report(
        _known(values["running"], engines, sum),
        _known(values["waiting"], engines, sum),
        _known(values["kv_usage"], engines, max),
        _known(capacity, engines, sum),
    )


_Labels: TypeAlias = tuple[tuple[str, str], ...]
_Series: TypeAlias = dict[_Labels, float]
_TOKENS: Final = "sglang:max_total_num_tokens"
_BLOCKS: Final = "vllm:cache_config_info"


def _whole(series: _Series) -> _Series:
    """Leave out what is counted twice: beside a number of all requests, those of each priority (SGLang)."""
    totals = {group: value for group, value in series.items() if not dict(group).get("priority")}
    return totals or series


def _engine(group: _Labels) -> _Labels:
    return tuple(pair for pair in group if pair[0] in _ENGINES)


def _known(series: _Series, engines: Set[_Labels], together: Callable[[Iterable[float]], float]) -> float | None:
    """Return what all engines tell together; None where one of them tells nothing, or no number."""
    telling = {_engine(group) for group in series} - {()}
    if not series or telling not in (set(), engines) or any(map(math.isnan, series.values())):
        return None
    return together(series.values())


def _kv_tokens(info: Mapping[str, str]) -> float:
    return _number(info.get("num_gpu_blocks", "")) * _number(info.get("block_size", ""))


def _number(text: str) -> float:
    """Return a number of things; NaN where it is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and value >= 0.0 else math.nan
