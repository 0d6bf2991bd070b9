"""What serving adds to the work that was profiled: a constant per batch, and a constant per request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.errors import ProfileError, nearest

_FIELDS = ("request_s", "batch_s", "utilization", "low_confidence")


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that a live server adds to what the rows of a profile say, as `headway calibrate` observed them.

    `request_s` is added to the latency of every request: the way in, between stages and out, which no replica waits
    for. `batch_s[stage]` is added to the service time of every batch of a stage, and occupies the replica. A stage that
    is not named was not observed. `utilization[stage]` is the load under which they were. `low_confidence` are the
    reasons to doubt that observation, which every prediction that uses it repeats.

    >>> Overheads(0.001, {"detect": 0.0005}).to_dict()
    {'request_s': 0.001, 'batch_s': {'detect': 0.0005}}
    """

    request_s: float
    batch_s: Mapping[str, float] = field(default_factory=dict)
    utilization: Mapping[str, float] = field(default_factory=dict)
    low_confidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("request_s", self.request_s, "a number of seconds")
        for stage, seconds in self.batch_s.items():
            _check(f"batch_s.{stage}", seconds, "a number of seconds")
        for stage, share in self.utilization.items():
            _check(f"utilization.{stage}", share, "a fraction")

    def to_dict(self) -> dict[str, Any]:
        """Return the overheads as JSON values."""
        known: dict[str, Any] = {"request_s": self.request_s, "batch_s": dict(self.batch_s)}
        if self.utilization:
            known["utilization"] = dict(self.utilization)
        return {**known, "low_confidence": list(self.low_confidence)} if self.low_confidence else known

    @classmethod
    def from_dict(cls, value: Any) -> Overheads:
        """Return the overheads that JSON values describe. Raises ProfileError naming the field."""
        if not isinstance(value, Mapping) or not all(
            isinstance(value.get(name, {}), Mapping) for name in ("batch_s", "utilization")
        ):
            raise ProfileError("profile: overheads must be {request_s: .., batch_s: {stage: ..}, utilization: {..}}")
        for name in value:
            if name not in _FIELDS:
                raise ProfileError(f"profile: overheads: unknown field {name!r}{nearest(str(name), _FIELDS)}")
        for name in ("request_s", "batch_s"):
            if name not in value:
                raise ProfileError(f"profile: overheads.{name} is missing; calibrate again, or leave overheads out")
        doubts = value.get("low_confidence", [])
        if not isinstance(doubts, list) or not all(isinstance(doubt, str) and doubt for doubt in doubts):
            raise ProfileError(f"profile: overheads.low_confidence is {doubts!r}; it must be a list of sentences")
        return cls(value["request_s"], dict(value["batch_s"]), dict(value.get("utilization", {})), tuple(doubts))

    def only(self, stages: frozenset[str]) -> Overheads:
        """Return the overheads of some stages."""
        batch_s, utilization = (
            {stage: value for stage, value in named.items() if stage in stages}
            for named in (self.batch_s, self.utilization)
        )
        return Overheads(self.request_s, batch_s, utilization, self.low_confidence)


def _check(name: str, value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ProfileError(f"profile: overheads.{name} is {value!r}; it must be {what}, at least 0")
