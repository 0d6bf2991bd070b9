"""The demo's real models: pages in, text out, and what happens to input that is not a page."""

from __future__ import annotations

import importlib
import io
import pickle
import subprocess
import sys
import zlib
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")
pytest.importorskip("skimage")
image_lib: ModuleType = pytest.importorskip("PIL.Image")

from headway.demo import document, pages  # noqa: E402

pytestmark = pytest.mark.demo


@dataclass(frozen=True)
class OneThread:
    name: str = "cpu"
    threads: int = 1
    device: str | None = None


def ready(stage: Any) -> Any:
    stage.setup(OneThread())
    return stage


@pytest.fixture(scope="module")
def detect() -> Any:
    return ready(document.Detect(size=736))


@pytest.fixture(scope="module")
def orient() -> Any:
    return ready(document.Orient())


@pytest.fixture(scope="module")
def recognise() -> Any:
    return ready(document.Recognise())


def encoded(image: Any, format_: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def blank(width: int, height: int) -> bytes:
    return encoded(image_lib.new("L", (width, height), 255))


def test_pages_are_read_end_to_end(detect: Any, orient: Any, recognise: Any) -> None:
    label, listing, *_, scan = pages.pages(count=12, seed=1)
    for page in (label, listing, scan):
        (found,) = detect.predict([page.image])
        results = recognise.predict(orient.predict(found["orient"]))
        assert pages.accuracy([result["text"] for result in results], page.lines) > 0.95
        assert all(0.0 <= result["confidence"] <= 1.0 for result in results)


def test_garbage_fails_alone(detect: Any) -> None:
    page = pages.pages(count=1)[0]
    garbage = [
        b"",
        b"not an image",
        page.image[: len(page.image) // 2],
        blank(8, 8)[:40],
        b"GIF89a" + bytes(64),
        "text",
    ]
    results = detect.predict([*garbage, page.image])
    assert all(isinstance(result, document.DocumentError) for result in results[:-1])
    assert str(pickle.loads(pickle.dumps(results[0]))) == str(results[0])  # it crosses a process boundary
    assert len(results[-1]["orient"]) == len(page.lines)


def test_a_batch_of_garbage_only_is_answered(detect: Any) -> None:
    assert isinstance(detect.predict([b"?"])[0], document.DocumentError)


@pytest.mark.parametrize(("width", "height"), [(4001, 4000), (100_000, 100_000)])
def test_too_many_pixels_are_refused_before_they_are_decoded(detect: Any, width: int, height: int) -> None:
    header = bytearray(blank(1, 1))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (result,) = detect.predict([bytes(header)])
    assert isinstance(result, document.DocumentError)
    assert "pixels" in str(result)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3000, 2), (2, 3000), (400, 600)])
def test_a_page_without_text_has_no_lines(detect: Any, width: int, height: int) -> None:
    assert detect.predict([blank(width, height)]) == [{"orient": []}]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_accepted(detect: Any, mode: str) -> None:
    assert detect.predict([encoded(image_lib.new(mode, (40, 40)))]) == [{"orient": []}]


def test_crops_are_small_contiguous_and_independent_of_the_batch(detect: Any, orient: Any) -> None:
    first, second = pages.pages(count=2)
    together = detect.predict([first.image, second.image])
    alone = [detect.predict([page.image])[0] for page in (first, second)]
    for one, other in zip(together, alone, strict=True):
        for crop, twin in zip(one["orient"], other["orient"], strict=True):
            np.testing.assert_array_equal(crop, twin)
            assert (crop.dtype, crop.ndim, crop.shape[0]) == (np.uint8, 2, document.LINE_HEIGHT_PX)
            assert crop.flags.c_contiguous
    assert all(crop.flags.c_contiguous for crop in orient.predict(together[0]["orient"]))


def test_a_line_on_its_head_is_turned_upright(detect: Any, orient: Any) -> None:
    (found,) = detect.predict([pages.pages(count=12)[-1].image])
    upright = orient.predict(found["orient"])
    turned = orient.predict([np.ascontiguousarray(crop[::-1, ::-1]) for crop in upright])
    for one, other in zip(upright, turned, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_slanted_line_is_cut_along_its_slant() -> None:
    ink = np.zeros((100, 200), np.float32)
    for x in range(20, 180):
        ink[40 + x // 10 : 46 + x // 10, x] = 0.9
    (line,) = document.text_lines(ink)
    assert line.rise / (line.right - line.left) == pytest.approx(0.1, abs=0.01)
    assert line.bottom - line.top < 30


def test_a_larger_input_reads_small_print_better() -> None:
    (receipt,) = (page for page in pages.pages(count=3) if page.name.startswith("receipt"))
    small, large = (pages.measure_accuracy([receipt], size) for size in (320, 736))
    assert large > 0.9 > small


def test_pages_repeat_and_a_longer_list_starts_with_the_shorter() -> None:
    longer = pages.pages(count=24, seed=3)
    assert pages.pages(count=5, seed=3) == longer[:5]
    assert pages.pages(count=5, seed=4) != longer[:5]
    assert all(page.lines for page in longer)
    assert {page.name.split("-")[0] for page in longer} == {"label", "list", "receipt", "scan"}


@pytest.mark.parametrize(
    ("texts", "truth", "expected"),
    [
        (["ab", "cd"], ("cd", "ab"), 1.0),
        (["a b"], ("ab",), 1.0),
        ([], ("ab",), 0.0),
        (["ab", "zz"], ("ab",), 0.0),
        (["abcd", "xfgh"], ("abcd", "efgh"), 7 / 8),
    ],
)
def test_accuracy_counts_characters_in_any_order(texts: list[str], truth: tuple[str, ...], expected: float) -> None:
    assert pages.accuracy(texts, truth) == pytest.approx(expected)


def test_the_models_need_no_opencv() -> None:
    """OpenCV's wheel does not import on a machine without libGL, so the demo must not touch it."""
    code = """
import sys, types
sys.modules["cv2"] = None
from headway.demo import document
for stage in (document.Detect(), document.Orient(), document.Recognise()):
    stage.setup(types.SimpleNamespace(name="cpu", threads=1, device=None))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_device_that_is_not_there_is_named() -> None:
    for device in ("tpu:0", "cuda:x"):
        with pytest.raises(document.DocumentError, match=device):
            document.Orient().setup(OneThread(device=device))


def test_every_variant_of_the_spec_can_be_built() -> None:
    spec = yaml.safe_load((resources.files("headway.demo") / "document.yaml").read_text(encoding="utf-8"))
    assert list(spec["stages"]) == ["detect", "orient", "recognise"]
    for stage in spec["stages"].values():
        module, _, name = stage["model"].partition(":")
        for variant in stage.get("variants", {"default": {}}).values():
            model = getattr(importlib.import_module(module), name)(**variant.get("options", {}))
            assert callable(model.setup)
            assert callable(model.predict)
