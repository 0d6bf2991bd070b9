"""A small family of models for tests: labels, what three models say of them, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headway.cascade import ValidationTable
from headway.profile import Profile, Row
from headway.spec.model import Spec

MODELS = {"small": (0.001, 0.80), "medium": (0.004, 0.88), "large": (0.016, 0.93)}
"""Seconds for one item, and accuracy."""
SIZES = (1, 2, 4, 8, 16)


def table(samples: int = 600, seed: int = 0) -> ValidationTable:
    """Certainties tell right from wrong answers rather well, as margins of trained models do."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, samples)
    hardness = rng.random(samples)
    predicted, certainty = {}, {}
    for name, (_, accuracy) in MODELS.items():
        right = hardness + rng.normal(0, 0.03, samples) < accuracy
        predicted[name] = np.where(right, labels, (labels + 1) % 4)
        certainty[name] = np.clip(accuracy + 0.25 - hardness + rng.normal(0, 0.1, samples), 0, 1)
    return ValidationTable(labels, predicted, certainty)


def profile(stage: str = "answer", hardware: str = "gpu") -> Profile:
    return Profile.from_rows(
        Row(stage, hardware, size, mean_s * (0.4 + 0.6 * size), variant=name, memory_mb=100.0 * (at + 1), startup_s=2.0)
        for at, (name, (mean_s, _)) in enumerate(MODELS.items()) for size in SIZES
    )  # fmt: skip


def spec(folder: Path, slo: dict[str, Any] | None = None, supply: dict[str, Any] | None = None, **fields: Any) -> Spec:
    """Return a spec of one cascade alone; its validation table is written to the folder."""
    path = folder / "validation.csv"
    if not path.exists():
        table().write(path)
    return Spec.from_dict(
        {
            "kind": "cascade",
            "slo": {"latency": "100ms", "percentile": 95, **(slo or {})},
            "supply": {"gpu": {"price": "$1/h", **(supply or {})}},
            "models": {name: {} for name in MODELS},
            "table": str(path),
            "max_rate": "400/s",
            **fields,
        }
    )
