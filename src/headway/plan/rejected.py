"""Requests that no engine takes, in a sentence: which, and how many tokens they may need of how many there are."""

from __future__ import annotations

from collections.abc import Mapping


def rejected_text(told: Mapping[str, int]) -> str:
    """Return why requests were rejected, from what an outcome's stage tells of them.

    >>> rejected_text({"requests": 1, "first": 4, "input_tokens": 90000, "context_tokens": 94096, "kv_tokens": 80000})
    '1 request rejected: request 4 (from 0) may need 94,096 tokens, 90,000 in its prompt; an engine holds 80,000'
    """
    first = f"request {told['first']} (from 0)"
    which = first if told["requests"] == 1 else f"the first, {first},"
    many = "1 request" if told["requests"] == 1 else f"{told['requests']:,} requests"
    return (
        f"{many} rejected: {which} may need {told['context_tokens']:,} tokens, "
        f"{told['input_tokens']:,} in its prompt; an engine holds {told['kv_tokens']:,}"
    )
