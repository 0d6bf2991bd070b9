"""Who may use the gateway, and how much: API keys with token buckets, and what each has been served."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Final

from headway.gateway.ask import ApiError
from headway.gateway.declare import OPERATOR, ApiKey
from headway.policy.scheduling import INPUT_WEIGHT, OUTPUT_WEIGHT, returning

OPEN_PATHS: Final = frozenset({"/health", "/healthz", "/ready"})
"""Probes are open to everyone."""


class Bucket:
    """A token bucket: `rate_per_s` flow in, up to `burst`. What is taken on credit has to flow in first.

    >>> bucket = Bucket(rate_per_s=2.0, burst=4.0, now_s=0.0)
    >>> bucket.wait_s(4.0, now_s=0.0), bucket.wait_s(1.0, now_s=0.0)
    (0.0, 0.0)
    >>> bucket.take(5.0)
    >>> bucket.wait_s(1.0, now_s=0.0), bucket.wait_s(1.0, now_s=1.0)
    (1.0, 0.0)
    """

    __slots__ = ("_at_s", "_burst", "_level", "_rate")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate = rate_per_s
        self._burst = max(burst, 1.0)
        self._level = self._burst
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return after how many seconds so much may be taken; more than a whole bucket when it is full."""
        self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return max(0.0, min(amount, self._burst) - self._level) / self._rate

    def take(self, amount: float) -> None:
        """Take an amount, or give one back when it is negative."""
        self._level = min(self._burst, self._level - amount)


class Account:
    """What is kept of one key: its buckets, and what it was served."""

    def __init__(self, key: ApiKey, now_s: float) -> None:
        self.name = key.name
        self.weight = key.weight
        self.active = 0
        """Requests that wait or are worked on."""
        self.offered = 0
        self.limited = 0
        self.prompt_tokens = 0.0
        self.completion_tokens = 0.0
        self.served = 0.0
        """Weighted tokens, the counter of fair sharing."""
        self._requests = _bucket(key.requests_per_s, key.request_burst, now_s)
        self._tokens = _bucket(key.tokens_per_s, key.token_burst, now_s)
        self.bounded = self._requests is not None or self._tokens is not None

    def admit(self, tokens: float, now_s: float) -> None:
        """Take a request with so many prompt tokens from the buckets. Raises ApiError when they do not hold it."""
        wait_s, what = 0.0, "requests"
        if self._requests is not None:
            wait_s = self._requests.wait_s(1.0, now_s)
        if self._tokens is not None and (longer_s := self._tokens.wait_s(tokens, now_s)) > wait_s:
            wait_s, what = longer_s, "tokens"
        if wait_s > 0.0:
            self.limited += 1
            raise ApiError(
                429,
                f"key {self.name!r} has used up its {what} for now",
                retry_after(wait_s),
                code="rate_limit_exceeded",
            )
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def give_back(self, estimated: float) -> None:
        """Give the tokens back that were taken for a request which no upstream has seen."""
        if self._tokens is not None:
            self._tokens.take(-estimated)

    def settle(self, estimated: float, prompt: float, completion: float) -> None:
        """Take note of the tokens that a request took in the end, and of what was taken for it before."""
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.served += (INPUT_WEIGHT * (prompt - estimated) + OUTPUT_WEIGHT * completion) / self.weight
        if self._tokens is not None:
            self._tokens.take(prompt + completion - estimated)


class Accounts:
    """All keys. Also what a server's connections ask: whether a request is let in at all."""

    def __init__(self, keys: Iterable[ApiKey], token: str | None, now_s: float) -> None:
        self._by_digest: dict[bytes, Account] = {}
        named = [*keys, *([ApiKey(OPERATOR, token)] if token is not None else [])]
        for key in named:
            self._by_digest[_digest(key.secret.encode())] = Account(key, now_s)
        self.active = bool(named)
        self.operator = None if token is None else self._by_digest[_digest(token.encode())]
        """Who shows the gateway's own token, beside keys."""
        self._anyone = Account(ApiKey("anyone", "-"), now_s)
        self.all = list(self._by_digest.values()) if named else [self._anyone]

    def come(self, account: Account) -> None:
        """Take note that a request of a key is let in; one of which nothing waits or runs has no older claim."""
        if not account.active and len(self.all) > 1:
            others = [one.served for one in self.all if one.active]
            account.served = returning(min(others, default=account.served), account.served)
        account.active += 1

    def begin(self, account: Account, tokens: float) -> None:
        """Count the prompt of a request that is sent in its key's account."""
        account.served += INPUT_WEIGHT * tokens / account.weight

    def refusal(self, path: str, headers: Mapping[bytes, bytes]) -> ApiError | None:
        """Return why a request is not let in, or None."""
        if not self.active or path in OPEN_PATHS or self._found(headers) is not None:
            return None
        text = "this gateway needs a key; send it as the header Authorization: Bearer KEY"
        return ApiError(401, text, ((b"www-authenticate", b"Bearer"),), code="invalid_api_key")

    def of(self, headers: Mapping[bytes, bytes]) -> Account:
        """Return whose request this is, one that was let in."""
        if not self.active:
            return self._anyone
        return self._found(headers) or self._anyone

    def _found(self, headers: Mapping[bytes, bytes]) -> Account | None:
        # By digest, so that how long the look-up takes tells nothing of the secrets.
        scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
        return self._by_digest.get(_digest(secret.strip())) if scheme.lower() == b"bearer" else None


def retry_after(wait_s: float) -> tuple[tuple[bytes, bytes]]:
    """Return the header that says when to come back, in whole seconds.

    >>> retry_after(0.2)
    ((b'retry-after', b'1'),)
    """
    return ((b"retry-after", b"%d" % max(1, math.ceil(wait_s))),)


def _bucket(rate_per_s: float, burst: float, now_s: float) -> Bucket | None:
    return Bucket(rate_per_s, burst or rate_per_s, now_s) if rate_per_s > 0.0 else None


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
