"""What decides the speed of a model and of an accelerator: sizes and peak figures as their makers publish them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

WEIGHT_BYTES = 2.0


class Model(NamedTuple):
    """What of a model decides its speed."""

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def hidden_bytes(self) -> float:
        """Bytes of what a layer hands on for one token."""
        return self.heads * self.head_dim * WEIGHT_BYTES

    @property
    def kv_bytes(self) -> float:
        """Bytes of one token's keys and values."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * WEIGHT_BYTES

    def kv_bytes_over(self, ways: int) -> float:
        """Bytes of one token's keys and values on so many accelerators together: beyond its heads they are repeated.

        >>> model = models()["llama-3-70b"]
        >>> [model.kv_bytes_over(ways) / model.kv_bytes for ways in (1, 8, 16)]
        [1.0, 1.0, 2.0]
        """
        return self.kv_bytes * max(1.0, ways / self.kv_heads)

    def unsplit(self, ways: int) -> str | None:
        """Return why engines cannot split the model over so many accelerators, None where they can.

        Each has as many attention heads as any other, and as many with keys and values, or several have the same one
        (Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3; vLLM and SGLang refuse anything else).

        >>> models()["llama-2-7b"].unsplit(4) is None, models()["llama-2-7b"].unsplit(3)[:23]
        (True, '32 attention heads (32 ')
        """
        valid = [
            n for n in range(1, self.heads + 1) if self.heads % n == 0 and 0 in (self.kv_heads % n, n % self.kv_heads)
        ]
        if ways in valid:
            return None
        return (
            f"{self.heads} attention heads ({self.kv_heads} with keys and values) cannot be split evenly over {ways} "
            f"accelerators, as engines do; valid: {', '.join(map(str, valid))}"
        )


class Gpu(NamedTuple):
    """Peak figures of an accelerator; without a `link_bytes_per_s` of its own it reaches others as it does the host."""

    memory_bytes: float
    bandwidth_bytes_per_s: float
    flops_per_s: float
    host_bytes_per_s: float
    link_bytes_per_s: float | None = None


@cache
def models() -> dict[str, Model]:
    """Return the models that are known by name.

    >>> round(models()["llama-2-7b"].kv_bytes)
    524288
    """
    return {
        row["model"]: Model(float(row["parameters"]), *(int(row[name]) for name in Model._fields[1:]))
        for row in table("models.csv")
    }


@cache
def gpus() -> dict[str, Gpu]:
    """Return the accelerators that are known by name.

    >>> "a100-80gb" in gpus()
    True
    """
    return {row["gpu"]: Gpu(*(float(row[name]) for name in Gpu._fields)) for row in table("gpus.csv")}


def table(name: str) -> list[dict[str, str]]:
    """Return the rows of a table that is shipped in `data`."""
    text = resources.files("headway.fleet").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(without_comments(text.splitlines())))


def without_comments(lines: Iterable[str]) -> Iterable[str]:
    """Return the lines of a table without those that are empty or start with `#`."""
    return (line for line in lines if line.strip() and not line.startswith("#"))
