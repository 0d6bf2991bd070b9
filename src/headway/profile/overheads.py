"""What serving adds to the work that was profiled: a constant per batch, and a constant per request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.errors import ProfileError, nearest

_FIELDS = ("request_s", "batch_s")


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that a live server adds to what the rows of a profile say, as `headway calibrate` observed them.

    `request_s` is added to the latency of every request: the way in, between stages and out, which no replica waits
    for. `batch_s[stage]` is added to the service time of every batch of a stage, and occupies the replica. A stage that
    is not named was not observed.

    >>> Overheads(0.001, {"detect": 0.0005}).to_dict()
    {'request_s': 0.001, 'batch_s': {'detect': 0.0005}}
    """

    request_s: float
    batch_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("request_s", self.request_s)
        for stage, seconds in self.batch_s.items():
            _check(f"batch_s.{stage}", seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return the overheads as JSON values."""
        return {"request_s": self.request_s, "batch_s": dict(self.batch_s)}

    @classmethod
    def from_dict(cls, value: Any) -> Overheads:
        """Return the overheads that JSON values describe. Raises ProfileError naming the field."""
        if not isinstance(value, Mapping) or not isinstance(value.get("batch_s"), Mapping):
            raise ProfileError("profile: overheads must be {request_s: seconds, batch_s: {stage: seconds}}")
        for name in value:
            if name not in _FIELDS:
                raise ProfileError(f"profile: overheads: unknown field {name!r}{nearest(str(name), _FIELDS)}")
        if "request_s" not in value:
            raise ProfileError("profile: overheads.request_s is missing; calibrate again, or leave overheads out")
        return cls(value["request_s"], dict(value["batch_s"]))

    def only(self, stages: frozenset[str]) -> Overheads:
        """Return the overheads of some stages."""
        return Overheads(self.request_s, {stage: s for stage, s in self.batch_s.items() if stage in stages})


def _check(name: str, seconds: Any) -> None:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds < 0:
        raise ProfileError(f"profile: overheads.{name} is {seconds!r}; it must be a number of seconds, at least 0")
