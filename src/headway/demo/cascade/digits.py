"""The digits that scikit-learn ships, and what the three models learn from them.

1,797 images (Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI repository).
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.demo.cascade.models import DARKEST, SIDE, Matched, thumbnails
from headway.files import write_atomic

VALIDATION, REPLAYED = 500, 500
HIDDEN, EPOCHS = 24, 60
NEAR = 0.02
"""The share of known images whose mutual distances say how fast a score falls."""


@dataclass(frozen=True)
class Digits:
    """Images `[image, 64]` of shades from 0 to 16 with their labels, in three parts of which no image is in two.

    `known`: what models learn from. `validation`: what the table is made of. `replayed`: what requests carry.
    """

    known: NDArray[np.uint8]
    known_labels: NDArray[np.int64]
    validation: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]
    replayed: NDArray[np.uint8]
    replayed_labels: NDArray[np.int64]


def digits(seed: int, known: int | None = None) -> Digits:
    """Return the images, shuffled by the seed; `known` limits what is learned from."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, SIDE]).permutation(len(labels))
    images, labels = images[order].astype(np.uint8), labels[order].astype(np.int64)
    a, b = VALIDATION, VALIDATION + REPLAYED
    end = None if known is None else b + known
    return Digits(images[b:end], labels[b:end], images[:a], labels[:a], images[a:b], labels[a:b])


def learn(data: Digits, folder: Path, seed: int) -> dict[str, Path]:
    """Fit the three models and write what they learned; return the files by the names of the models."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    images = data.known.reshape(-1, SIDE, SIDE).astype(np.float32) / DARKEST
    with warnings.catch_warnings():
        # That a fit ends at its last allowed step is meant.
        warnings.simplefilter("ignore")
        linear = LogisticRegression(C=0.5, max_iter=200).fit(thumbnails(images), data.known_labels)
        network = MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=EPOCHS, random_state=seed)
        network.fit(images.reshape(-1, SIDE * SIDE), data.known_labels)
    layers = zip(network.coefs_, network.intercepts_, strict=True)
    learned: dict[str, dict[str, Any]] = {
        "small": {"weight": linear.coef_.T, "bias": linear.intercept_},
        "medium": {f"{what}_{at}": array for at, pair in enumerate(layers)
                   for what, array in zip(("weight", "bias"), pair, strict=True)},
    }  # fmt: skip
    files = {name: _write(folder / f"{name}.npz", arrays) for name, arrays in learned.items()}
    known: dict[str, Any] = {"images": data.known.reshape(-1, SIDE, SIDE), "labels": data.known_labels}
    files["large"] = _write(folder / "large.npz", {**known, "fall": np.float64(_fall(known))})
    return files


def _fall(known: dict[str, Any]) -> float:
    """A tenth of what nearby images differ by: shares of the nearest digits then tell sure from doubtful."""
    matched = Matched("")
    matched.prepare({**known, "fall": np.ones(())})
    few = known["images"][:: max(1, len(known["images"]) // 40)].astype(np.float32) / DARKEST
    distance = matched.distances(few)
    near, middle = np.quantile(distance, (NEAR, 0.5), axis=0)
    return max(1e-6, float(np.median(middle - near)) / 10)


def _write(path: Path, arrays: dict[str, Any]) -> Path:
    buffer = io.BytesIO()
    narrowed: dict[str, Any] = {name: _narrow(np.asarray(array)) for name, array in arrays.items()}
    np.savez(buffer, **narrowed)
    os.makedirs(path.parent, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float64 else array
