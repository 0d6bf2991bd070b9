"""What is let in and what is given up: bounded queues and deadlines."""

from __future__ import annotations


def full(queued: int, queue_limit: int) -> bool:
    """Return whether a request that arrives now must be refused. A limit of 0 or less means no limit.

    >>> full(queued=10, queue_limit=10)
    True
    """
    return queue_limit > 0 and queued >= queue_limit


def expired(deadline_s: float, now_s: float) -> bool:
    """Return whether a queued request is given up instead of being put into the batch that starts now.

    >>> expired(deadline_s=2.0, now_s=2.0)
    False
    """
    return now_s > deadline_s
