"""What engines tell of themselves, by the names that they give it. What is not told is unknown, never zero."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)", re.M)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_RANKS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Labels that tell apart processes which work on the same requests."""

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

    >>> parse("vllm", 'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n').load
    3.0
    """
    names = NAMES[kind]
    wanted = {name for group in names.values() for name in group} | {"vllm:cache_config_info", *_CAPACITY}
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    info: dict[str, str] = {}
    for match in _SAMPLE.finditer(text):
        name = match[1]
        if name not in wanted:
            continue
        labels = dict(_LABEL.findall(match[2] or ""))
        if name == "vllm:cache_config_info":
            info = labels
        value = _number(match[3])
        if value is not None:
            group = tuple(sorted(pair for pair in labels.items() if pair[0] not in _RANKS))
            series = found.setdefault(name, {})
            series[group] = max(value, series.get(group, 0.0))
    values = {field: next((found[n] for n in group if n in found), None) for field, group in names.items()}
    running, waiting, usage = values["running"], values["waiting"], values["kv_usage"]
    return Report(
        None if running is None else sum(running.values()),
        None if waiting is None else sum(waiting.values()),
        None if usage is None else max(usage.values()),
        _kv_tokens(found, info),
    )


_CAPACITY: Final = ("sglang:max_total_num_tokens",)


def _kv_tokens(
    found: Mapping[str, Mapping[tuple[tuple[str, str], ...], float]], info: Mapping[str, str]
) -> float | None:
    for name in _CAPACITY:
        if name in found:
            return sum(found[name].values())
    blocks, size = _number(info.get("num_gpu_blocks", "")), _number(info.get("block_size", ""))
    return None if blocks is None or size is None else blocks * size


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None
