"""A cache of rows that were fetched by key, which counts what it was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import CascadeError

Key = Hashable


@dataclass(frozen=True, slots=True)
class CacheCount:
    """What a cache was asked: `hits` and `misses` add up to the distinct keys looked up; `entries` it holds now.

    >>> CacheCount(hits=3, misses=1, entries=1).hit_rate
    0.75
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0

    @property
    def lookups(self) -> int:
        """How many distinct keys were asked for, batch by batch."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """The share of look-ups that needed no fetch; None before the first."""
        return self.hits / self.lookups if self.lookups else None


class Cache:
    """The least recently used rows go first, and none is served once it is `ttl_s` seconds old.

    A row's age counts from the moment at which its source was asked, not from when it answered: what is served was
    true at most `ttl_s` ago. `ttl_s` None: rows do not age. Safe to share between threads. `clock` is in seconds.
    A copy or a pickle begins empty and uncounted: another process has another clock.
    Raises CascadeError for less than one entry, and for a `ttl_s` that is not positive.

    >>> cache = Cache(max_entries=2, ttl_s=60.0, clock=lambda: 0.0)
    >>> cache.put({"a": 1.0, "b": 2.0, "c": 3.0}, asked_s=0.0)
    >>> cache.get(["a", "c"]), cache.count
    ({'c': 3.0}, CacheCount(hits=1, misses=1, entries=2))
    """

    def __init__(
        self, max_entries: int, ttl_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_entries < 1:
            raise CascadeError(f"cache: max_entries is {max_entries}; at least 1 is needed, or no cache at all")
        if ttl_s is not None and not ttl_s > 0:
            raise CascadeError(f"cache: ttl_s is {ttl_s}; it must be above 0 seconds, or None for rows that do not age")
        try:
            from cachetools import LRUCache
        except ModuleNotFoundError:
            raise CascadeError("cache: cachetools is not installed; pip install 'headway[learn]'") from None
        self.max_entries, self.ttl_s, self.clock = max_entries, ttl_s, clock
        self._rows: Any = LRUCache(max_entries)
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_entries, self.ttl_s, self.clock)

    @property
    def count(self) -> CacheCount:
        """Hits, misses and entries so far."""
        with self._lock:
            return CacheCount(self._hits, self._misses, len(self._rows))

    def get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Return the rows at hand of these distinct keys; every key that is not returned counts as a miss."""
        oldest_s = -np.inf if self.ttl_s is None else self.clock() - self.ttl_s
        found: dict[Key, Any] = {}
        asked = 0
        with self._lock:
            for key in keys:
                asked += 1
                entry = self._rows.get(key)
                if entry is None:
                    continue
                if entry[1] > oldest_s:
                    found[key] = entry[0]
                else:
                    del self._rows[key]
            self._hits += len(found)
            self._misses += asked - len(found)
        return found

    def put(self, rows: Mapping[Key, Any], asked_s: float) -> None:
        """Keep rows that were asked for at `asked_s`, by the cache's own clock."""
        with self._lock:
            for key, row in rows.items():
                self._rows[key] = (row, asked_s)
