"""Why each request went where it went: a line in its answer's headers, and a log of the last decisions."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from headway.errors import ServeError

if TYPE_CHECKING:
    from headway.gateway.choose import Chooser
    from headway.gateway.relay import Relay
    from headway.gateway.replica import Replica

log = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_FIELDS: Final = (
    "request", "at_s", "key", "model", "upstream", "policy", "in_flight", "load", "report_age_s", "attempt",
    "failed", "waited_s", "first_token_s", "total_s", "status", "answered", "pieces", "why",
)  # fmt: skip


class Journal:
    """Keeps the last `entries` decisions, and appends all to a file where one is named. Raises ServeError.

    Times in it count from 1970, or are seconds of the request. `load` is what the policy saw of the chosen upstream,
    `report_age_s` how old its report was.
    """

    def __init__(self, entries: int, path: Path | None, clock: Callable[[], float]) -> None:
        self._ring: deque[tuple[Any, ...]] = deque(maxlen=max(1, entries))
        self._unwritten: deque[tuple[Any, ...]] | None = None
        self._offset_s = time.time() - clock()
        self._file: IO[bytes] | None = None
        if path is not None:
            try:
                self._file = path.open("ab")
            except OSError as error:
                raise ServeError(f"{path}: cannot write the decision log: {error.strerror}") from None
            self._unwritten = deque()

    def sent(self, relay: Relay, replica: Replica, chooser: Chooser) -> None:
        """Take note of a decision, with what the policy saw."""
        servers, number = chooser.servers, replica.number
        relay.decision = (
            replica.name,
            chooser.name,
            replica.in_flight,
            servers.reported[number] + servers.sent[number],
            relay.sent_s - servers.reported_at_s[number],
        )

    def why(self, relay: Relay, replica: Replica) -> bytes:
        """Return why a request went where it went, as a line of its answer's head."""
        waited_ms = int(1e3 * (relay.sent_s - relay.arrival_s))
        return replica.route_line % (relay.decision[2], relay.attempts, waited_ms)

    def failed(self, relay: Relay, why: str) -> None:
        """Take note that an upstream failed a request."""
        relay.failures += (f"{relay.decision[0]}: {why}",)

    def refused(self, number: int, now_s: float, status: int, why: str) -> None:
        """Take note of a request that was not let in."""
        at_s = now_s + self._offset_s
        self._keep((number, at_s, None, None, (), 0, (), None, None, 0.0, status, "rejected", 0, why))

    def ended(self, relay: Relay, status: str, now_s: float, why: str = "") -> None:
        """Take note of what became of a request."""
        arrival_s, first_s = relay.arrival_s, relay.first_s
        self._keep(
            (
                relay.number,
                arrival_s + self._offset_s,
                relay.account.name,
                relay.ask.model,
                relay.decision,
                relay.attempts,
                relay.failures,
                relay.sent_s - arrival_s if relay.sent_s else None,
                first_s - arrival_s if first_s else None,
                now_s - arrival_s,
                relay.status,
                status,
                relay.pieces,
                why,
            )
        )

    def _keep(self, entry: tuple[Any, ...]) -> None:
        self._ring.append(entry)
        if self._unwritten is not None:
            self._unwritten.append(entry)

    def last(self, count: int, key: str | None = None) -> list[dict[str, Any]]:
        """Return the last decisions, oldest first, as JSON values; only those of a key where one is named."""
        entries = [entry for entry in self._ring if key is None or entry[2] == key]
        return [_entry(entry) for entry in entries[max(0, len(entries) - count) :]]

    def flush(self) -> None:
        """Write what has not been written yet."""
        if self._file is None or not self._unwritten:
            return
        lines = [_encode(_entry(entry)) + b"\n" for entry in self._unwritten]
        self._unwritten.clear()
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
        except OSError as error:
            # A full disk must not keep requests from being served.
            log.warning("the decision log cannot be written any more: %s", error.strerror)
            self._unwritten = None
            self._end()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.flush()
        self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _entry(entry: tuple[Any, ...]) -> dict[str, Any]:
    number, at_s, key, model, decision, *rest = entry
    chosen = decision or (None, None, None, None, None)
    flat = (number, at_s, key, model, *chosen, *rest)
    return {name: _finite(value) for name, value in zip(_FIELDS, flat, strict=True)}


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: a load that is not known is null."""
    if isinstance(value, float):
        return round(value, 6) if abs(value) < 1e300 else None
    return value
