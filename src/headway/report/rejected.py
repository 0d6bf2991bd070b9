"""Requests that no engine takes, in a sentence: which, and how many tokens they may need of how many there are."""

from __future__ import annotations

from collections.abc import Mapping

from headway.report import format as fmt


def rejected_text(told: Mapping[str, int]) -> str:
    """Return why requests were rejected, from what an outcome's stage tells of them.

    >>> rejected_text({"requests": 1, "first": 4, "input_tokens": 90000, "context_tokens": 94096, "kv_tokens": 80000})
    '1 request rejected: request 4 (from 0) may need 94,096 tokens, 90,000 in its prompt; an engine holds 80,000'
    """
    first = f"request {told['first']} (from 0)"
    which = first if told["requests"] == 1 else f"the first, {first},"
    return (
        f"{fmt.plural(told['requests'], 'request')} rejected: {which} may need "
        f"{fmt.count(told['context_tokens'])} tokens, "
        f"{fmt.count(told['input_tokens'])} in its prompt; an engine holds {fmt.count(told['kv_tokens'])}"
    )
