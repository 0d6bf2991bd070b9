"""How urgent a request is, for an engine that orders by a number of its own: vLLM's `priority`, the least first."""

from __future__ import annotations

PREFILL_TOKENS_PER_S = 10_000.0
"""Tokens of a prompt that count as a second of waiting: about what an engine computes in that time."""


def priority(arrived_s: float, prompt_tokens: float, max_wait_s: float) -> int:
    """Return a request's priority in milliseconds: when it should have begun, which short work should sooner.

    It ages by itself, since it counts from the arrival: no request goes behind one that came `max_wait_s` later.

    >>> priority(10.0, 5_000.0, 30.0) < priority(10.0, 50_000.0, 30.0)
    True
    """
    return int(1e3 * (arrived_s + min(max_wait_s, prompt_tokens / PREFILL_TOKENS_PER_S)))
