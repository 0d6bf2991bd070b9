"""What so many devices do not carry, in words: which range of rates, and which model takes most of them."""

from __future__ import annotations

from dataclasses import dataclass

from headway.errors import PlanError


@dataclass(frozen=True)
class Unserved:
    """What devices carry at most, what they were to carry, and the model that takes most of them."""

    from_per_s: float
    to_per_s: float
    model: str
    cascade: str = "the cheapest cascade"

    def text(self, devices: int) -> str:
        """Return it as a sentence: which range of rates is not served, or is served only when requests come evenly."""
        many = f"{devices} device{'s' if devices != 1 else ''}"
        if self.from_per_s < self.to_per_s:
            return (
                f"{many} cannot serve {self.from_per_s:.4g} to {self.to_per_s:.4g} requests/s; model {self.model!r} of "
                f"{self.cascade} takes most of them"
            )
        return (
            f"{many} serve up to {self.from_per_s:.4g} requests/s when they come evenly; what is beyond in a burst "
            f"waits, most of it for model {self.model!r} of {self.cascade}"
        )


class TooFew(PlanError):
    """So many devices do not carry the highest rate; `unserved` says which range and which model."""

    def __init__(self, where: str, devices: int, unserved: Unserved) -> None:
        super().__init__(f"{where}: {unserved.text(devices)}")
        self.unserved = unserved
