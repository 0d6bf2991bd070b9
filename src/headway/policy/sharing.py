"""Which stage goes first when several wait for the cores of one pool."""

from __future__ import annotations


def stage_at(rank: int, stages: int) -> int:
    """Return the stage (its place in topological order) that is asked at `rank` whether it can start a batch.

    Downstream stages come first: work that is nearly finished leaves, so that fewer requests are open at once.

    >>> [stage_at(rank, 3) for rank in range(3)]
    [2, 1, 0]
    """
    return stages - 1 - rank


def fits(free_cores: int, threads: int) -> bool:
    """Return whether a batch that computes with `threads` threads may start while `free_cores` are idle.

    >>> fits(free_cores=1, threads=2)
    False
    """
    return threads <= free_cores
