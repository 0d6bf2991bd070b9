"""Feature generators by name, as a graph: each is computed when it is asked for, once, for the rows that need it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from headway.cascade.lookup import Lookup, fetch_together
from headway.cascade.refused import VALUE_ERRORS, refused, unlearned
from headway.cascade.rows import Block, Columns, Index, Rows, as_block, count, select, stack, take
from headway.errors import CascadeError, nearest

Clock = Callable[[], float]
"""Tells seconds, as `time.perf_counter` does."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature generator: what computes it, and from what.

    `compute` is a callable or a transformer with `fit` and `transform`, as scikit-learn's. It is given the columns `of`
    of the rows, then the blocks of the features it `needs`; the rows themselves when neither is named. It returns one
    line per row: a block (2-D NumPy array, sparse matrix, or a vector as one column), or anything with a line per row
    when only other features need it. A transformer takes one input. Generators are Willump's (section 3): the unit in
    which features are left out.

    >>> Feature(len, of="text").needs
    ()
    """

    compute: Any
    needs: tuple[str, ...] = ()
    of: Columns | None = None

    @property
    def learns(self) -> bool:
        """Whether it is a transformer, to be fitted on training rows."""
        return hasattr(self.compute, "fit") and hasattr(self.compute, "transform")

    def __call__(self, *inputs: Any) -> Any:
        """Return what it computes from its inputs."""
        if hasattr(self.compute, "transform"):
            return self.compute.transform(*inputs)
        return self.compute(*inputs)


@dataclass(slots=True)
class Spent:
    """Seconds spent in each generator, itself alone, and how many rows it was computed for.

    >>> Spent().seconds
    {}
    """

    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, seconds: float, rows: int) -> None:
        """Count one computation."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.rows[name] = self.rows.get(name, 0) + rows


class Features(Mapping[str, Feature]):
    """Generators by name; those that others need are computed once for all of them.

    Raises CascadeError for a feature that needs an unknown one or, in a circle, itself, and for a transformer with more
    than one input.

    >>> features = Features({"words": Feature(lambda texts: [t.split() for t in texts]),
    ...                      "length": Feature(lambda words: [len(w) for w in words], needs=("words",))})
    >>> features.known(["a b c"]).block("length").tolist()
    [[3]]
    """

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self._features = dict(features)
        for name, feature in self._features.items():
            _check(name, feature, self._features)
        self._closures: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.lookups = frozenset(name for name, feature in features.items() if isinstance(feature.compute, Lookup))
        try:
            self._order = tuple(TopologicalSorter({name: f.needs for name, f in features.items()}).static_order())
        except CycleError as error:
            raise CascadeError(f"features: {' -> '.join(error.args[1])} need each other in a circle") from None

    def __getitem__(self, name: str) -> Feature:
        """Return the generator of that name."""
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order in which they were given."""
        return iter(self._features)

    def __len__(self) -> int:
        """Return the number of generators."""
        return len(self._features)

    def closure(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these features and all that they need, each once, what is needed first.

        Raises CascadeError for an unknown name.

        >>> Features({"b": Feature(len, needs=("a",)), "a": Feature(len)}).closure(["b"])
        ('a', 'b')
        """
        asked = tuple(names)
        if asked in self._closures:
            return self._closures[asked]
        wanted: set[str] = set()
        ahead = list(asked)
        while ahead:
            name = ahead.pop()
            if name not in self._features:
                raise CascadeError(f"features: none is called {name!r}{nearest(name, self)}; {', '.join(self)}")
            if name not in wanted:
                wanted.add(name)
                ahead.extend(self._features[name].needs)
        found = self._closures[asked] = tuple(name for name in self._order if name in wanted)
        return found

    def known(self, rows: Rows, *, spent: Spent | None = None, clock: Clock = time.perf_counter) -> Known:
        """Return what is known of rows: nothing yet, until a block is asked for."""
        return Known(self, rows, Spent() if spent is None else spent, clock)

    def fit(self, rows: Rows, labels: Any = None) -> tuple[Features, Known]:
        """Return these features with all transformers fitted, as copies, and the blocks of the training rows.

        A transformer that shall stay as it was fitted elsewhere is given by its method: `Feature(fitted.transform)`.
        Raises CascadeError where one cannot be fitted on the rows.
        """
        fitted: dict[str, Feature] = {}
        known = Known(self, rows, Spent(), time.perf_counter)
        for name in self._order:
            feature = self._features[name]
            fitted[name] = feature
            if feature.learns:
                transformer = copied(feature.compute)
                fitted[name] = Feature(transformer, feature.needs, feature.of)
                known.put(name, _fit_transform(name, transformer, known.inputs(name)[0], labels))
        features = Features({name: fitted[name] for name in self._features})
        return features, known.of(features)


class Known:
    """What is known of some rows: the blocks computed so far, each when it was first asked for.

    `only` narrows to some of the rows; what was known of them stays known and is cut out when it is asked for.

    >>> import numpy as np
    >>> known = Features({"double": Feature(lambda rows: [2 * row for row in rows])}).known([1, 2, 3])
    >>> known.block("double").ravel().tolist(), known.only(np.array([2])).block("double").tolist()
    ([2, 4, 6], [[6]])
    """

    def __init__(self, features: Features, rows: Rows, spent: Spent, clock: Clock) -> None:
        self.features = features
        self.spent = spent
        self.clock = clock
        self._rows = rows
        self._count = count(rows)
        self._values: dict[str, Any] = {}
        self._of: tuple[Known, Index] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    @property
    def rows(self) -> Rows:
        """The rows themselves."""
        if self._rows is None and self._of is not None:
            wider, index = self._of
            self._rows = take(wider.rows, index)
        return self._rows

    def only(self, index: Index) -> Known:
        """Return what is known of the rows at these places, in this order."""
        narrow = Known(self.features, (), self.spent, self.clock)
        narrow._rows, narrow._count, narrow._of = None, len(index), (self, index)
        return narrow

    def origin(self, at: int) -> tuple[int, Rows]:
        """Return the place of a row among the rows that all began with, and these."""
        if self._of is None:
            return at, self._rows
        wider, index = self._of
        return wider.origin(int(index[at]))

    def has(self, name: str) -> bool:
        """Return whether a feature need not be computed any more."""
        return name in self._values or (self._of is not None and self._of[0].has(name))

    def block(self, name: str) -> Block:
        """Return a feature's block.

        Raises CascadeError for a row that it cannot be computed of, and when it has another number of rows.
        """
        return as_block(self.value(name), name)

    def stacked(self, names: Iterable[str]) -> Block:
        """Return the blocks of features side by side, in the order of the names."""
        names = tuple(names)
        self.compute(names)
        return stack([self.block(name) for name in names])

    def compute(self, names: Sequence[str]) -> None:
        """Compute features that are not known yet; what their look-ups have to fetch, at the same time."""
        due = [name for name in names if name not in self._values]
        if due and self.features.lookups:
            fetch_together(self, [name for name in self.features.closure(due) if name in self.features.lookups])
        for name in due:
            self.value(name)

    def value(self, name: str) -> Any:
        """Return what a feature gave, in its own form."""
        if name not in self._values:
            if self._of is not None and self._of[0].has(name):
                wider, index = self._of
                self._values[name] = take(wider.value(name), index)
            else:
                self.put(name, self._compute(name))
        return self._values[name]

    def put(self, name: str, value: Any) -> None:
        """Set what is known of a feature."""
        if count(value) != len(self):
            raise CascadeError(f"feature {name!r}: gave {count(value):,} rows for {len(self):,}; give a line per row")
        self._values[name] = value

    def of(self, features: Features) -> Known:
        """Return the same knowledge for other features of the same names."""
        other = Known(features, self._rows, self.spent, self.clock)
        other._values = dict(self._values)
        return other

    def inputs(self, name: str) -> list[Any]:
        """Return what a feature is given: its columns of the rows, then the features it needs."""
        feature = self.features[name]
        needed = [self.value(need) for need in feature.needs]
        if feature.of is not None:
            return [select(self.rows, feature.of), *needed]
        return needed or [self.rows]

    def _compute(self, name: str) -> Any:
        inputs, feature = self.inputs(name), self.features[name]
        # Which row has a key that cannot be looked up is found without asking the source again.
        again = feature.compute.ask if isinstance(feature.compute, Lookup) else feature
        began = self.clock()
        try:
            value = feature(*inputs)
        except VALUE_ERRORS as error:
            raise refused(f"feature {name!r}", self, again, inputs, error) from error
        except CascadeError as error:
            if again is feature:
                raise
            raise CascadeError(f"feature {name!r}: {error}") from error
        except Exception as error:
            error.add_note(f"while feature {name!r} was computed for {len(self):,} rows")
            raise
        self.spent.add(name, self.clock() - began, len(self))
        return value


def _check(name: str, feature: Feature, features: Mapping[str, Feature]) -> None:
    for need in feature.needs:
        if need not in features:
            raise CascadeError(f"feature {name!r}: needs {need!r}, which is none{nearest(need, features)}")
    if feature.learns and len(feature.needs) + (feature.of is not None) > 1:
        raise CascadeError(f"feature {name!r}: a transformer takes one input; stack its needs in another feature")


def copied(transformer: Any) -> Any:
    """Return an unfitted copy of a transformer or model."""
    if hasattr(transformer, "get_params"):
        from sklearn.base import clone

        return clone(transformer)
    import copy

    return copy.deepcopy(transformer)


def _fit_transform(name: str, transformer: Any, rows: Any, labels: Any) -> Any:
    try:
        return _fitted(transformer, rows, labels)
    except VALUE_ERRORS as error:
        raise unlearned(f"feature {name!r}", count(rows), error) from error


def _fitted(transformer: Any, rows: Any, labels: Any) -> Any:
    if hasattr(transformer, "fit_transform"):
        return transformer.fit_transform(rows, labels)
    transformer.fit(rows, labels)
    return transformer.transform(rows)
