"""Errors a user can act on: one sentence that says where, what is wrong and what would be valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadwayError(Exception):
    """Base of every error that Headway raises on purpose. Its text is meant for the user as it stands."""


class SpecError(HeadwayError):
    """A spec cannot be read or contradicts itself."""


class TraceError(HeadwayError):
    """A trace cannot be read, generated or transformed."""


class ProfileError(HeadwayError):
    """A profile cannot be read, lacks a needed row, or could not be measured."""


class PlanError(HeadwayError):
    """A plan cannot be read, or does not fit the spec and profile it is used with."""


class CascadeError(HeadwayError):
    """A cascade cannot be declared, judged, certified or run as asked."""


class ServeError(HeadwayError):
    """A plan cannot be served, or a server cannot be reached."""


class WorkerDied(ServeError):
    """A worker process ended, or was stopped, before it answered."""


class WorkerTimeout(ServeError):
    """A worker process did not answer in time and was killed."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest valid name, or an empty string when none is close.

    >>> nearest("percentil", ["percentile", "latency"])
    "; did you mean 'percentile'?"
    """
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
