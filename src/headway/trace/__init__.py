"""When requests come: columnar traces, their file formats, generators and traffic envelopes."""

from __future__ import annotations

from headway.trace.envelope import envelope, peak_rate_per_s, windows
from headway.trace.trace import Trace

__all__ = ["Trace", "envelope", "peak_rate_per_s", "windows"]
