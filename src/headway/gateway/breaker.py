"""When an upstream is left alone, tried again, and trusted with its full share again."""

from __future__ import annotations

import math

CLOSED, OPEN, TRIAL = "closed", "open", "trial"
LEAST_SHARE = 0.1
"""Of its full load that an upstream gets at once when it is back."""


class Breaker:
    """Counts failures in a row. Times are those of the caller's clock, in seconds.

    >>> breaker = Breaker(failures=2, open_s=1.0, open_most_s=30.0, slow_start_s=10.0)
    >>> for _ in range(2):
    ...     breaker.failed(now_s=5.0)
    >>> breaker.state, breaker.check(now_s=5.5), breaker.check(now_s=6.0)
    ('open', 'open', 'trial')
    """

    __slots__ = ("_failures", "_most", "_most_s", "_open_s", "_slow_s", "_until_s", "_wait_s", "since_s", "state")

    def __init__(self, failures: int, open_s: float, open_most_s: float, slow_start_s: float) -> None:
        self._most = failures
        self._open_s = self._wait_s = open_s
        self._most_s = max(open_s, open_most_s)
        self._slow_s = slow_start_s
        self._failures = 0
        self._until_s = -math.inf
        self.state = CLOSED
        self.since_s = -math.inf
        """When it was last closed again."""

    @property
    def troubled(self) -> bool:
        """Whether an answer would change anything: it has failed since the last one."""
        return self._failures > 0

    def failed(self, now_s: float) -> None:
        """Take note of a failure. A trial that fails doubles the time for which it stays open."""
        self._failures += 1
        if self.state == TRIAL:
            self._wait_s = min(2.0 * self._wait_s, self._most_s)
        elif self.state == OPEN or self._failures < self._most:
            return
        self.state = OPEN
        self._until_s = now_s + self._wait_s

    def forgiven(self) -> None:
        """Take note that the last failure was not the upstream's; one that opened it stays for its time."""
        if self.state == CLOSED and self._failures:
            self._failures -= 1

    def on_trial(self, sent_s: float) -> bool:
        """Whether a request that was sent then is the trial: one from before it opened says nothing."""
        return self.state == TRIAL and sent_s >= self._until_s

    def succeeded(self, now_s: float) -> None:
        """Take note of an answer."""
        if self.state == OPEN:
            return
        self._failures = 0
        if self.state == TRIAL:
            self.state = CLOSED
            self._wait_s = self._open_s
            self.since_s = now_s

    def check(self, now_s: float) -> str:
        """Return the state at a time: an open one is tried when its time is over."""
        if self.state == OPEN and now_s >= self._until_s:
            self.state = TRIAL
        return self.state

    def returned(self, now_s: float) -> None:
        """Take note that an upstream which was away for another reason is back."""
        self.since_s = now_s

    def share(self, now_s: float) -> float:
        """Return what share of its full load an upstream gets: all, but for a while after it is back.

        >>> breaker = Breaker(1, 1.0, 30.0, slow_start_s=10.0)
        >>> breaker.returned(100.0)
        >>> [breaker.share(now_s) for now_s in (100.0, 105.0, 110.0)]
        [0.1, 0.5, 1.0]
        """
        age_s = now_s - self.since_s
        if age_s >= self._slow_s:
            return 1.0
        return max(LEAST_SHARE, age_s / self._slow_s)
