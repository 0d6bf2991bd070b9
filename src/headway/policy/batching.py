"""When an idle replica takes requests from its stage's queue, and how many."""

from __future__ import annotations


def take(
    queued: int, oldest_arrival_s: float, now_s: float, max_batch_size: int, max_wait_s: float
) -> tuple[int, float]:
    """Return `(n, wake_at_s)`: how many queued requests an idle replica takes now; if 0, when to ask again.

    A replica takes a full batch at once, and a partial one as soon as the oldest request has waited `max_wait_s`
    (opportunistic batching, InferLine section 4.2, when that is 0). With nothing queued there is no time to ask again:
    `wake_at_s` is infinite and the next arrival asks.

    >>> take(queued=3, oldest_arrival_s=1.0, now_s=1.0, max_batch_size=8, max_wait_s=0.0)
    (3, 1.0)
    >>> take(queued=3, oldest_arrival_s=1.0, now_s=1.0, max_batch_size=8, max_wait_s=0.5)
    (0, 1.5)
    """
    if queued <= 0:
        return 0, float("inf")
    if queued >= max_batch_size:
        return max_batch_size, now_s
    wake_at_s = oldest_arrival_s + max_wait_s
    if now_s >= wake_at_s:
        return queued, now_s
    return 0, wake_at_s
