"""Values that are kept elsewhere and fetched by key: each distinct key once, several sources at a time, cached.

A pipeline that joins tables spends its time on them. A query needs one row of each table: `Lookup` asks for the
distinct keys of a batch in one call, keeps what it has seen (Willump, MLSys 2020, section 5: a cache per feature
generator has more hits than one for whole inputs, since every generator has a key of its own), and
`fetch_together` lets the sources that have to be asked work at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headway.cascade.cache import Cache, CacheCount, Key
from headway.cascade.refused import VALUE_ERRORS, refused
from headway.errors import CascadeError

if TYPE_CHECKING:
    from headway.cascade.features import Known

Found = Mapping[Key, Any] | Sequence[Any]
Fetch = Callable[[list[Key]], Found]
Floats = NDArray[np.float64]
T = TypeVar("T")


class Lookup:
    """A table behind `fetch`, as what a `Feature` computes: given keys, one row of numbers each.

    `fetch` gets a list of distinct keys and returns their rows in the same order, or a mapping; rows are numbers or
    sequences of equal length. A key that the mapping lacks, whose row is None, or that is itself missing (None or NaN)
    is unknown: it gets the row `default` where one is declared, else it is an error, and never zero by accident.
    Unknown keys are cached too. `remote`: fetching waits for something else than this process's cores, so several such
    look-ups are worth doing at the same time (`fetch_together`): in at most `workers` threads each, or without any when
    the source can be asked and heard apart: `fetch.begin(keys)` asks, and returns what waits for the rows.
    A copy or a pickle asks the same source, with an empty cache, and begins counting at zero.
    Raises CascadeError that names the key when fetching fails, or when a key is unknown and there is no default.

    >>> seats = Lookup(lambda keys: {"N14228": [149.0]}, default=[0.0])
    >>> seats(["N14228", "N0", "N14228"]).tolist()
    [[149.0], [0.0], [149.0]]
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        cache: Cache | None = None,
        default: Sequence[float] | float | None = None,
        remote: bool = True,
        workers: int = 4,
    ) -> None:
        self.cache, self.remote = cache, remote
        self._fetch = fetch
        self._default = None if default is None else _row(default, "the default")
        self._threads = Threads(workers)
        self._lock = threading.Lock()
        self._calls = self._asked = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_calls": 0, "_asked": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def count(self) -> CacheCount:
        """Hits, misses and entries of the cache; without one every distinct key is a miss."""
        return CacheCount(0, self._asked, 0) if self.cache is None else self.cache.count

    @property
    def calls(self) -> int:
        """How often the source was asked."""
        return self._calls

    def __call__(self, keys: Any) -> Floats:
        """Return the rows of keys, a block with one line per key in their order."""
        return self.ask(keys).block()

    def ask(self, keys: Any) -> Asked:
        """Return the question: which keys are wanted, and which of them have to be fetched."""
        wanted = as_keys(keys)
        distinct = wanted if len(wanted) == 1 else list(dict.fromkeys(wanted))
        known = {} if self.cache is None else self.cache.get(_real(distinct))
        missing = [key for key in distinct if key not in known] if len(known) < len(distinct) else []
        return Asked(self, wanted, known, missing)

    def fetch(self, keys: list[Key]) -> dict[Key, Floats | None]:
        """Return the rows of distinct keys from the source, past the cache, and keep them in it; None is unknown."""
        real = _real(keys)
        return self._kept(keys, real, lambda: self._fetch(real), self._now_s())

    @property
    def begins(self) -> bool:
        """Whether the source can be asked first and heard later, without a thread."""
        return hasattr(self._fetch, "begin")

    def begin(self, keys: list[Key]) -> Callable[[], dict[Key, Floats | None]]:
        """Ask the source for distinct keys, in its own way or in a thread; what is returned waits for their rows."""
        if not self.begins:
            return self._threads.submit(self.fetch, keys).result
        real, asked_s = _real(keys), self._now_s()
        coming = self._guarded(real, lambda: self._fetch.begin(real)) if real else dict  # type: ignore[attr-defined]
        return lambda: self._kept(keys, real, coming, asked_s)

    def row(self, key: Key, found: Floats | None) -> Floats:
        """Return what a key's row is: what was found, else the default."""
        if found is not None:
            return found
        if self._default is None:
            what = "a row has no key" if key is None else f"there is nothing under the key {key!r}"
            raise CascadeError(f"look-up: {what}; declare a default for unknown keys")
        return self._default

    def _now_s(self) -> float:
        return 0.0 if self.cache is None else self.cache.clock()

    def _kept(
        self, keys: list[Key], real: list[Key], coming: Callable[[], Found], asked_s: float
    ) -> dict[Key, Floats | None]:
        """What comes from the source, kept in the cache."""
        rows = self._guarded(real, lambda: self._rows(real, coming())) if real else {}
        with self._lock:
            self._calls += bool(real)
            self._asked += len(real)
        if self.cache is not None:
            self.cache.put(rows, asked_s)
        return rows if len(real) == len(keys) else {**rows, None: None}

    def _guarded(self, keys: list[Key], ask: Callable[[], T]) -> T:
        try:
            return ask()
        except CascadeError:
            raise
        except Exception as error:
            raise CascadeError(f"look-up: fetching {_shown(keys)} failed: {error!r}") from error

    def _rows(self, keys: list[Key], rows: Found) -> dict[Key, Floats | None]:
        if isinstance(rows, Mapping):
            found = [rows.get(key) for key in keys]
        elif not isinstance(rows, Iterable) or isinstance(rows, str | bytes):
            raise CascadeError(
                f"look-up: the source gave {rows!r:.80} for {_shown(keys)}; a row for each key in their order, or a "
                "mapping from keys to rows, is due"
            )
        else:
            found = list(rows)
            if len(found) != len(keys):
                raise CascadeError(
                    f"look-up: the source gave {len(found)} rows for the {len(keys)} keys {_shown(keys)}; one per key "
                    "is due, or a mapping"
                )
        return {key: None if row is None else _row(row, repr(key)) for key, row in zip(keys, found, strict=True)}


class Asked:
    """A question to a look-up, between the cache's answer and the source's.

    >>> asked = Lookup(lambda keys: [[1.0]] * len(keys)).ask(["a", "a", "b"])
    >>> asked.missing, asked.block().ravel().tolist()
    (['a', 'b'], [1.0, 1.0, 1.0])
    """

    def __init__(self, lookup: Lookup, keys: list[Key], known: dict[Key, Floats | None], missing: list[Key]) -> None:
        self.lookup, self.missing = lookup, missing
        self._keys, self._known = keys, known
        self._coming: Callable[[], dict[Key, Floats | None]] | None = None

    def send(self) -> None:
        """Start to fetch what is missing; `receive` waits for it."""
        self._coming = self.lookup.begin(self.missing)

    def receive(self) -> None:
        """Have what is missing: wait for it, or fetch it here and at once when it was not sent for."""
        if self.missing:
            self._known |= self._coming() if self._coming is not None else self.lookup.fetch(self.missing)
            self.missing = []

    def block(self) -> Floats:
        """Return one line per key. Raises CascadeError for unknown keys without default, and rows of unequal length."""
        self.receive()
        row, known = self.lookup.row, self._known
        if len(self._keys) == 1:
            return row(self._keys[0], known[self._keys[0]])[None, :]
        place = {key: number for number, key in enumerate(known)}
        rows = [row(key, found) for key, found in known.items()]
        for key, line in zip(known, rows, strict=True):
            if line.size != rows[0].size:
                raise CascadeError(
                    f"look-up: the row of {key!r} has {line.size} values, others have {rows[0].size}; all need as many"
                )
        return np.stack(rows)[[place[key] for key in self._keys]] if rows else np.empty((0, 0))


def fetch_together(known: Known, names: Iterable[str]) -> None:
    """Compute the look-ups among these features of some rows; what has to be fetched, at the same time.

    With less than two sources to ask none is asked ahead: handing over to a thread costs more than it saves. What is
    fetched ahead is timed by how long it was waited for.
    """
    asked: dict[str, tuple[Asked, float]] = {}
    for name in names:
        lookup = known.features[name].compute
        if isinstance(lookup, Lookup) and not known.has(name):
            inputs = known.inputs(name)
            began = known.clock()
            try:
                asked[name] = lookup.ask(*inputs), known.clock() - began
            except VALUE_ERRORS as error:
                raise refused(f"feature {name!r}", known, lookup.ask, inputs, error) from error
    remote = [one for one, _ in asked.values() if one.missing and one.lookup.remote]
    for one in remote if len(remote) > 1 else ():
        # The thread that waits for all of them fetches the first of those that need a thread.
        if one.lookup.begins or one is not remote[0]:
            one.send()
    for name, (one, asking_s) in asked.items():
        began = known.clock()
        try:
            known.put(name, one.block())
        except CascadeError as error:
            raise CascadeError(f"feature {name!r}: {error}") from error
        known.spent.add(name, asking_s + known.clock() - began, len(known))


def each(fetch_one: Callable[[Any], Any], workers: int = 8) -> Fetch:
    """Return a `fetch` for a source that is asked for one key at a time: up to `workers` at once, rows in order.

    `fetch_one` returns a row, or None for an unknown key. Raises CascadeError that names the key that failed.

    >>> each(lambda key: [float(key)], workers=2)([3, 1])
    [[3.0], [1.0]]
    """
    return _Each(fetch_one, Threads(workers))


@dataclass(frozen=True, slots=True)
class _Each:
    """Fetches many keys from a source that takes one at a time."""

    fetch_one: Callable[[Any], Any]
    threads: Threads

    def __call__(self, keys: list[Key]) -> list[Any]:
        coming = [self.threads.submit(self._one, key) for key in keys[1:]]
        return [self._one(key) for key in keys[:1]] + [future.result() for future in coming]

    def _one(self, key: Key) -> Any:
        try:
            return self.fetch_one(key)
        except Exception as error:
            raise CascadeError(f"look-up: fetching the key {key!r} failed: {error!r}") from error


class Threads:
    """Threads that begin with the first task and end when nothing refers to them any more; a copy has its own.

    >>> Threads(1).submit(max, 1, 2).result()
    2
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise CascadeError(f"look-up: workers is {workers}; at least 1 thread is needed")
        self._workers = workers
        self._lock = threading.Lock()
        self._executor: Executor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._workers,)

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a task."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="headway-lookup")
        return self._executor.submit(task, *arguments)


def as_keys(keys: Any) -> list[Key]:
    """Return a vector or a table of keys as a list; keys of several columns are tuples, missing ones are None.

    >>> as_keys(np.array([1.0, np.nan])), as_keys([["JFK", 5], ["LGA", 6]])
    ([1.0, None], [('JFK', 5), ('LGA', 6)])
    """
    if hasattr(keys, "columns"):
        values = list(zip(*(keys[column].to_list() for column in keys.columns), strict=True))
    elif hasattr(keys, "tolist"):
        values = keys.tolist()
    else:
        values = keys.to_list() if hasattr(keys, "to_list") else list(keys)
    return [_key(value) for value in values]


def _key(value: Any) -> Key:
    if isinstance(value, list | tuple):
        for part in value:
            if part is None or part != part:
                return None
        return tuple(value)
    return value if value == value else None


def _real(keys: list[Key]) -> list[Key]:
    return [key for key in keys if key is not None]


def _row(values: Any, of: str) -> Floats:
    try:
        row = np.array(values, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError) as error:
        raise CascadeError(f"look-up: the row of {of} is no sequence of numbers: {error}") from None
    if row.ndim != 1:
        raise CascadeError(f"look-up: the row of {of} has {row.ndim} dimensions; one row of numbers per key is due")
    row.setflags(write=False)
    return row


def _shown(keys: Sequence[Key]) -> str:
    return ", ".join(repr(key) for key in keys[:3]) + (f" and {len(keys) - 3:,} more" if len(keys) > 3 else "")
