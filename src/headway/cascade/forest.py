"""Trees as flat arrays that one compiled loop walks: for a single row, checking the input is dearer than the walk.

Importing this imports the compiler; `compiled` does so when it compiles trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.rows import Block
from headway.sim.jit import kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_LEAF, _NUMERIC = 0, 1
"""Kinds of nodes, as treelite numbers them."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees one after the other: a row goes left where its value is at most `threshold`, and where `left` is negative
    it is at a leaf, whose value `threshold` is. `default_left`: where it goes when its value is missing.

    The leaves that a row reaches are summed by `group`, the column that each tree adds to, on top of `base`.
    """

    root: Ints
    group: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    default_left: NDArray[np.bool_]
    base: Floats

    def __call__(self, block: Block) -> Floats:
        """Return the sums of a dense block, of shape (rows, groups)."""
        rows = np.ascontiguousarray(block, dtype=np.float64)
        out = np.empty((rows.shape[0], self.base.size))
        out[:] = self.base
        _walk(rows, self.root, self.group, self.feature, self.threshold, self.left, self.right, self.default_left, out)
        return out


def flattened(model: Any) -> Forest | None:
    """Return treelite's `model` as flat arrays; None where it has more than sums of numbers behind numeric splits."""
    header = model.get_header_accessor()
    if int(header.get_field("average_tree_output")[0]) or header.get_field("leaf_vector_shape").max() > 1:
        return None
    trees = [model.get_tree_accessor(place) for place in range(model.num_tree)]
    kinds = [tree.get_field("node_type") for tree in trees]
    if any((kind > _NUMERIC).any() for kind in kinds):
        return None
    sizes = np.array([kind.size for kind in kinds])
    root = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int32)
    leaf = np.concatenate(kinds) == _LEAF
    compared = np.concatenate([tree.get_field("cmp") for tree in trees])[~leaf]
    if compared.size and (compared != _AT_MOST).any():
        return None

    def joined(name: str, dtype: Any) -> Any:
        return np.concatenate([tree.get_field(name) for tree in trees]).astype(dtype)

    shift = np.repeat(root, sizes)
    return Forest(
        root,
        np.maximum(header.get_field("class_id"), 0).astype(np.int32),
        np.where(leaf, 0, joined("split_index", np.int32)).astype(np.int32),
        np.where(leaf, joined("leaf_value", np.float64), joined("threshold", np.float64)),
        np.where(leaf, -1, joined("cleft", np.int32) + shift).astype(np.int32),
        np.where(leaf, -1, joined("cright", np.int32) + shift).astype(np.int32),
        joined("default_left", np.bool_),
        # A copy: what treelite shows is gone with its model.
        np.array(header.get_field("base_scores"), dtype=np.float64),
    )


_AT_MOST = 3
"""The comparison "at most", as treelite numbers it."""


@kernel
def _walk(
    rows: Floats,
    root: Ints,
    group: Ints,
    feature: Ints,
    threshold: Floats,
    left: Ints,
    right: Ints,
    default_left: NDArray[np.bool_],
    out: Floats,
) -> None:
    """Add to `out` the leaves that rows reach."""
    for tree in range(root.size):
        column = group[tree]
        for row in range(rows.shape[0]):
            at = root[tree]
            while left[at] >= 0:
                value = rows[row, feature[at]]
                goes_left = value <= threshold[at] or (default_left[at] and np.isnan(value))
                at = left[at] if goes_left else right[at]
            out[row, column] += threshold[at]
