"""A stage's configuration in a plan, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from headway.profile import Profile
from headway.spec.model import Spec, Stage


@runtime_checkable
class Config(Protocol):
    """A stage's configuration in a plan: an immutable, hashable value."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; keys are stable names with units."""
        ...

    def __hash__(self) -> int: ...


ACCURACY_EVIDENCE = ("certified", "estimated")
"""How an accuracy is known: to a bound that holds with a confidence, or as what was seen."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a configuration's times rest on: `kind` as in profiles (`measured`, `observed`, `imported`, `prior`), a
    sentence without the stage, and by how much they were off where that is known, as a share. Or what its accuracy
    rests on, by `ACCURACY_EVIDENCE`."""

    kind: str
    text: str
    error_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class OwnPromise:
    """A promise that a stage makes of its own: its name in the declaration, what it `means`, how long it may take, and
    the least that the promised share of requests takes with no other request there, on the quickest that is declared.

    >>> OwnPromise("chat.ttft", "a first token", promised_s=0.005, least_s=0.009).beyond
    True
    """

    name: str
    means: str
    promised_s: float
    least_s: float

    @property
    def beyond(self) -> bool:
        """Whether nothing can keep it."""
        return self.least_s > self.promised_s

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"promise": self.name, "promised_s": self.promised_s, "least_s": self.least_s}


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where a configuration stands: the stage's name and declaration, in its spec, with its profile."""

    name: str
    stage: Stage
    spec: Spec
    profile: Profile
