"""The demo's three readers of digits: what each computes, on images that a person can check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.demo.cascade.models import DARKEST, SIDE, Matched, enlarged, shifted, softmax, thumbnails
from headway.errors import HeadwayError
from headway.serve.model_ref import HardwareView


def random(images: int) -> np.ndarray:
    """Images of random shades."""
    return np.random.default_rng(1).integers(0, DARKEST + 1, (images, SIDE, SIDE)).astype(np.uint8)


def matched(tmp_path: Path, images: np.ndarray) -> Matched:
    labels = np.arange(len(images)) % 10
    np.savez(tmp_path / "large.npz", images=images, labels=labels, fall=np.float32(0.05))
    model = Matched(str(tmp_path / "large.npz"))
    model.setup(HardwareView("cpu"))
    return model


def test_images_move_and_white_comes_in() -> None:
    image = np.arange(9.0).reshape(1, 3, 3) + 1
    assert shifted(image, 1, 0)[0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert shifted(image, 0, -1)[0].tolist() == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert np.array_equal(shifted(image, 0, 0), image)


def test_sizes_are_changed_by_means() -> None:
    image = np.zeros((1, SIDE, SIDE), np.float32)
    image[0, 2, 3] = 1.0
    large = enlarged(image)
    assert large.shape == (1, 2 * SIDE, 2 * SIDE)
    assert np.array_equal(large[:, ::2, ::2], image)
    assert large[0, 3, 6] == large[0, 4, 5] == 0.5
    assert thumbnails(image)[0, 1 * 4 + 1] == 0.25


def test_a_known_image_is_nearest_to_itself_and_a_moved_one_stays_near(tmp_path: Path) -> None:
    images = random(10)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    model = matched(tmp_path, images)
    scores = np.array(model.predict([image.reshape(-1) for image in images]))
    assert scores.argmax(axis=1).tolist() == list(range(10))
    assert scores.sum(axis=1) == pytest.approx(np.ones(10))
    # Half a pixel is within reach of every bit of a stroke, so that moving all of them costs little.
    small = images[:1] / DARKEST
    halfway = (small + shifted(small, 0, 1)) / 2
    distance = model.distances(halfway.astype(np.float32))[:, 0]
    assert distance.argmin() == 0


def test_what_is_no_image_fails_alone(tmp_path: Path) -> None:
    model = matched(tmp_path, random(10))
    good, bad = model.predict([np.zeros(64, np.uint8), [1, 2, 3]])
    assert len(good) == 10
    assert isinstance(bad, HeadwayError)
    assert "an image is 64 shades" in str(bad)


def test_shares_are_positive_and_whole() -> None:
    shares = softmax(np.array([[0.0, 1000.0], [3.0, 3.0]], np.float32))
    assert shares.tolist() == [[0.0, 1.0], [0.5, 0.5]]
