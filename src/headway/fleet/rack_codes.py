"""Small whole numbers with a meaning: what the kernel of a rack is told, and where it keeps its counts."""

from __future__ import annotations

REPORTED, REPORTED_SENT, LEAST_REPORTED, WORK, WORK_SENT, COUNTED, EXACT = range(7)
"""What a balancer goes by: RackSched's INT1; with what was sent since; INT2; INT3; with what was sent; Proactive."""

ONE_QUEUE, BY_SLO, BY_PRIORITY = range(3)
"""What a free worker takes: the longest queued; of a queue per type, the head that waits longest for its SLO; or the
head of the first type."""

DRAIN, JOIN, FAIL, DECLARE_DEAD, BALANCER_DOWN, BALANCER_UP = range(6)
"""What happens to a server, or to the balancer, at a given time."""

PENDING, ANSWERED, REFUSED, LOST = range(4)
"""What became of a request."""

(
    NEXT_ARRIVAL, HELD_HEAD, HELD_TAIL, WIRE_HEAD, WIRE_TAIL, REPLY_HEAD, REPLY_TAIL, HEAP, SLICES, EVENTS, QUEUED,
    RUNNING, ANSWERS, REFUSALS, LOSSES, OVERFLOWS, PREEMPTIONS, TOUCHED, DOWN, ASK, COUNTERS,
) = range(21)  # fmt: skip
"""Entries of `State.counters`, and how many there are. `ASK`: what is held is tried again although nothing happened."""

LOSS_KEY = 0x51ED270B
"""Sets the draws of lost reports apart from those of policies."""

WAYS = 3
"""In how many places of the table of sessions one may stand, as in RackSched's switch."""
