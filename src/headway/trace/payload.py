"""Which sample payload each request of a trace carries: one rule for the simulator and the replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError

if TYPE_CHECKING:
    from headway.trace.trace import Trace

_STREAM = 0x7061796C


def payload_index(trace: Trace, count: int, seed: int) -> NDArray[np.int64]:
    """Return for each request the number (0 to `count - 1`) of the sample payload that it carries.

    A column `payload` of the trace decides; without one the payloads are drawn evenly with `seed`. Raises TraceError
    when the column names a payload that is not there.
    """
    column = trace.columns.get("payload")
    if column is not None:
        index = column.astype(np.int64)
        if index.size and (index.min() < 0 or index.max() >= count or np.any(index != column)):
            raise TraceError(f"trace: column payload must hold whole numbers from 0 to {count - 1}, one per sample")
        return index
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    return rng.integers(0, count, trace.requests)
