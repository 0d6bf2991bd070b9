"""What the server needs of whatever does a stage's work, driven on one event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class LiveStation(Protocol):
    """A configured stage on the server's side, driven on one event loop."""

    async def start(self) -> None:
        """Start whatever does the work; return when it can take items."""
        ...

    def submit(self, item: Any, done: Callable[[Any], None]) -> None:
        """Take one item; call `done(result)` on the event loop when it is finished. Raises ServeError when full."""
        ...

    async def stop(self) -> None:
        """Finish what was taken, then stop."""
        ...
