"""Three models that read a handwritten digit, from quick to thorough; each returns a score for each of the ten digits.

An image is 64 shades from 0 to 16, row by row, as scikit-learn has them. What a model has learned is a file of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.serve.model_ref import HardwareView

Floats: TypeAlias = NDArray[Any]

SIDE: Final = 8
DARKEST: Final = 16
SHIFTS: Final = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
CLASSES: Final = 10
AT_ONCE: Final = 8
"""Images that are compared together: more take memory and gain nothing."""


class _Learned:
    """A model whose arrays are in an `.npz` file; nothing in it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def setup(self, hardware: HardwareView) -> None:
        """Load the arrays."""
        with np.load(self.path, allow_pickle=False) as file:
            self.prepare({name: file[name] for name in file.files})

    def predict(self, batch: Sequence[Any]) -> list[Any]:
        """Return scores for each image; what is no image gets an error of its own."""
        read = [_image(value) for value in batch]
        images = [image for image in read if not isinstance(image, HeadwayError)]
        scores = iter(self.scores(np.stack(images))) if images else iter(())
        return [image if isinstance(image, HeadwayError) else next(scores) for image in read]

    def prepare(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take what was learned."""
        raise NotImplementedError

    def scores(self, images: Floats) -> Floats:
        """Return `[image, digit]` for `[image, row, column]`."""
        raise NotImplementedError


class Linear(_Learned):
    """Weighs the sixteen shades of a thumbnail.

    >>> Linear("small.npz").path
    'small.npz'
    """

    def prepare(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take a matrix of weights and a bias."""
        self._weight, self._bias = arrays["weight"], arrays["bias"]

    def scores(self, images: Floats) -> Floats:
        """Return probabilities of digits."""
        return softmax(thumbnails(images) @ self._weight + self._bias)


class Network(_Learned):
    """A network with one hidden layer.

    >>> Network("medium.npz").path
    'medium.npz'
    """

    def prepare(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take weights and biases of two layers."""
        self._layers = [(arrays[f"weight_{at}"], arrays[f"bias_{at}"]) for at in (0, 1)]

    def scores(self, images: Floats) -> Floats:
        """Return probabilities of digits."""
        (first, first_bias), (second, second_bias) = self._layers
        hidden = np.maximum(images.reshape(len(images), -1) @ first + first_bias, 0)
        return softmax(hidden @ second + second_bias)


class Matched(_Learned):
    """Compares an image with every known one, letting each bit of a stroke move a little to where it fits best.

    The image distortion model (Keysers et al. 2007, "Deformation models for image recognition", IEEE PAMI 29, section
    3.4): it is slow because it is thorough, for every pixel of every known image nine places are tried.

    >>> Matched("large.npz").path
    'large.npz'
    """

    def prepare(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take known images with their labels, and how fast a score falls with the distance."""
        self._labels, self._fall = arrays["labels"], float(arrays["fall"])
        self._known = around(arrays["images"].astype(np.float32) / DARKEST, moved=True)
        self._length = np.square(self._known).sum(axis=-1)

    def scores(self, images: Floats) -> Floats:
        """Return scores of digits by the nearest known image of each."""
        distance = self.distances(images)
        nearest = np.stack([distance[self._labels == digit].min(axis=0) for digit in range(CLASSES)], axis=1)
        return softmax(-nearest / self._fall)

    def distances(self, images: Floats) -> Floats:
        """Return `[known image, image]`, but for what all known images have in common."""
        parts = [self._apart(images[begin : begin + AT_ONCE]) for begin in range(0, len(images), AT_ONCE)]
        return np.concatenate(parts, axis=1)

    def _apart(self, images: Floats) -> Floats:
        asked = around(images, moved=False)  # [pixel, image, neighborhood]
        apart = self._known @ asked.transpose(0, 2, 1)
        apart *= -2
        apart += self._length[:, :, None]
        spots, count = len(asked), len(self._labels)
        return np.asarray(apart.reshape(spots, len(SHIFTS), count, len(images)).min(axis=1).sum(axis=0))


def around(images: Floats, *, moved: bool) -> Floats:
    """Return the 3 x 3 neighborhood of every pixel of enlarged images, `[pixel, image, 9]`.

    With `moved` also of the eight pixels around it: `[pixel, shift and image, 9]`.
    """
    large = enlarged(images)
    near = np.stack([shifted(large, *shift) for shift in SHIFTS], axis=-1)
    views = [shifted(near, *shift) for shift in SHIFTS] if moved else [near]
    side = large.shape[1]
    every = np.concatenate(views).reshape(-1, side * side, len(SHIFTS))
    return np.ascontiguousarray(every.transpose(1, 0, 2))


def shifted(images: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    """Return images `[image, row, column, ...]` moved by so many pixels; white comes in at the border."""
    out = np.zeros_like(images)
    rows, columns = images.shape[1:3]
    source = images[:, max(0, -down) : rows - max(0, down), max(0, -right) : columns - max(0, right)]
    out[:, max(0, down) : rows - max(0, -down), max(0, right) : columns - max(0, -right)] = source
    return out


def enlarged(images: Floats) -> Floats:
    """Return images with twice as many rows and columns, so that strokes can move by half a pixel.

    Shades in between are means of their neighbors; beyond the border it is white.
    """
    out = images
    for axis in (1, 2):
        before = np.moveaxis(out, axis, 0)
        after = np.concatenate([before[1:], np.zeros_like(before[:1])])
        between = np.stack([before, (before + after) / 2], axis=1)
        out = np.moveaxis(between.reshape(-1, *before.shape[1:]), 0, axis)
    return out


def thumbnails(images: Floats) -> Floats:
    """Return the means of 2 x 2 pixels, `[image, 16]`."""
    half = SIDE // 2
    return np.asarray(images.reshape(-1, half, 2, half, 2).mean(axis=(2, 4)).reshape(-1, half * half))


def softmax(x: Floats) -> Floats:
    """Return positive shares of each row that grow with the exponential of its values."""
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def _image(value: Any) -> Floats | HeadwayError:
    try:
        image = np.asarray(value, np.float32).reshape(SIDE, SIDE) / DARKEST
    except (TypeError, ValueError) as error:
        return HeadwayError(f"digit: an image is {SIDE * SIDE} shades from 0 to {DARKEST}: {error}")
    return np.asarray(image, np.float32)
