"""Pages to read in the demo, with their text, and the measure of how well they were read.

Most pages are rendered with Pillow from the text below; every twelfth is the scanned page that the scikit-image wheel
ships. Print, ink, paper, noise and blur vary, some lines lie on their head, and small print is lost on a detector with
a small input, so that the choice of the detector's size is a real one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from headway.errors import HeadwayError

# Titles of works in the public domain, and plain trade words.
_TITLES: Final = (
    "Pride and Prejudice", "Moby Dick", "Great Expectations", "Walden", "Middlemarch", "The Time Machine",
    "Treasure Island", "Dracula", "Little Women", "Jane Eyre", "Emma", "The Jungle Book", "Peter Pan", "Frankenstein",
    "The Secret Garden", "Robinson Crusoe", "Black Beauty", "Heidi", "Gulliver's Travels", "Leaves of Grass",
)  # fmt: skip
_NOTICES: Final = (
    "Please keep this door closed", "Office opens at nine", "Mind the step", "Ring twice for service",
    "Handle with care", "This side up", "Store in a cool place", "Meeting moved to noon", "Return by Friday",
    "Room for three more", "Deliver to the back gate", "Wet paint", "Tickets on the left", "Quiet please",
    "Lost one grey glove", "Fresh bread every morning", "Last train at midnight", "Answer within two days",
)  # fmt: skip
_GOODS: Final = (
    "Apples", "Brown bread", "Candles", "Copper wire", "Envelopes", "Flour", "Ginger tea", "Honey", "Ink, black",
    "Lamp oil", "Notebook", "Olive oil", "Paper, white", "Pencils", "Rope", "Salt", "Soap", "String", "Wool socks",
)  # fmt: skip

# The scan of scikit-image as two pieces (first row, end row, text); whole, it would cost as much as three other pages.
_SCANNED: Final = (
    (
        (0, 85),
        (
            "Region-based segmentation",
            "Let us first determine markers of the coins and the",
            "background. These markers are pixels that we can label",
        ),
    ),
    (
        (84, 142),
        (
            "unambiguously as either object or background. Here,",
            "the markers are found at the two extreme parts of the",
            "histogram of grey values:",
        ),
    ),
)


@dataclass(frozen=True)
class Page:
    """An image file and the lines of text on it; no lines when they are not known."""

    image: bytes
    lines: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class _Style:
    """How a kind of page is printed; ranges are inclusive."""

    lines: tuple[int, int]
    font_px: tuple[int, int]
    page_px: tuple[int, int]


_STYLES: Final[dict[str, _Style]] = {
    "label": _Style(lines=(3, 4), font_px=(30, 40), page_px=(560, 320)),
    "list": _Style(lines=(5, 8), font_px=(20, 26), page_px=(520, 640)),
    "receipt": _Style(lines=(8, 13), font_px=(11, 14), page_px=(480, 840)),
}
_ORDER: Final = ("label", "list", "receipt")
_SCAN_EVERY: Final = 12


def pages(count: int = 12, seed: int = 1) -> list[Page]:
    """Return `count` pages; a longer list of the same seed starts with the shorter one.

    >>> first, second = pages(count=2, seed=1)
    >>> first == pages(count=1, seed=1)[0]
    True
    """
    if count < 1:
        raise HeadwayError(f"pages: count must be at least 1, not {count}")
    return [
        _scanned(number) if number % _SCAN_EVERY == _SCAN_EVERY - 1 else _rendered(number, seed)
        for number in range(count)
    ]


def accuracy(texts: Sequence[str], truth: Sequence[str]) -> float:
    """Return the share of characters read rightly, from 0 to 1, whatever the order of the lines.

    Each true line takes the closest text still free; its edit distance, the whole of a line that was missed and the
    whole of a text that belongs to none count as errors, over the true characters. Spaces do not count: a detector
    that splits a line where the gap is wide has still read it.

    >>> accuracy(["two", "0ne"], ["one", "two"])
    0.8333333333333334
    """
    free = [_squeezed(text) for text in texts]
    wanted = sorted((_squeezed(line) for line in truth), key=len, reverse=True)
    errors = 0
    for line in wanted:
        distances = [_edit_distance(line, text) for text in free]
        best = min(range(len(free)), key=distances.__getitem__, default=None)
        if best is None or distances[best] >= len(line):
            errors += len(line)
        else:
            errors += distances[best]
            free.pop(best)
    total = sum(map(len, wanted))
    if total == 0:
        raise HeadwayError("accuracy: the true text is empty, so there is nothing to compare with")
    return max(0.0, 1.0 - (errors + sum(map(len, free))) / total)


def measure_accuracy(pages: Sequence[Page], size: int) -> float:
    """Return the mean `accuracy` over the pages whose text is known, with a detector input of `size` pixels.

    The three stages run in this process, one page at a time.
    """
    from headway.demo.document import Detect, Orient, Recognise
    from headway.serve.model_ref import HardwareView

    detect, orient, recognise = Detect(size=size), Orient(), Recognise()
    for stage in (detect, orient, recognise):
        stage.setup(HardwareView("cpu"))
    scores = []
    for page in (page for page in pages if page.lines):
        (found,) = detect.predict([page.image])
        if isinstance(found, Exception):
            raise HeadwayError(f"page {page.name!r} cannot be read: {found}") from found
        results = recognise.predict(orient.predict(found["orient"]))
        scores.append(accuracy([result["text"] for result in results], page.lines))
    if not scores:
        raise HeadwayError("measure_accuracy: no page with known text was given")
    return float(np.mean(scores))


def _rendered(number: int, seed: int) -> Page:
    rng = np.random.default_rng([seed, number])
    kind = _ORDER[number % len(_ORDER)]
    style = _STYLES[kind]
    lines = _text(kind, int(rng.integers(style.lines[0], style.lines[1] + 1)), rng)
    font = ImageFont.load_default(size=int(rng.integers(style.font_px[0], style.font_px[1] + 1)))
    paper = _print(lines, font, style.page_px, rng)
    image = _worn(paper, rng)
    format_: Literal["PNG", "JPEG"] = "JPEG" if rng.random() < 0.7 else "PNG"
    return Page(_encoded(image, format_), lines, f"{kind}-{number}")


def _text(kind: str, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    if kind == "label":
        return tuple(str(line) for line in rng.choice(_NOTICES, count, replace=False))
    if kind == "list":
        return tuple(f"{rng.integers(1, 99)} {title}" for title in rng.choice(_TITLES, count, replace=False))
    goods = [f"{item}  {rng.integers(100, 9999) / 100:.2f}" for item in rng.choice(_GOODS, count - 2, replace=False)]
    return (f"Receipt {rng.integers(10_000, 99_999)}", *goods, f"Total  {rng.integers(1000, 99_999) / 100:.2f}")


def _print(
    lines: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, page_px: tuple[int, int],
    rng: np.random.Generator,
) -> Image.Image:  # fmt: skip
    """Set the lines evenly on a page, each at its own indent, about one in six on its head."""
    width, height = page_px
    ink, paper = int(rng.integers(0, 70)), int(rng.integers(215, 256))
    page = Image.new("L", page_px, paper)
    pitch = height / (len(lines) + 1)
    for row, line in enumerate(lines, start=1):
        left, top, right, bottom = (round(edge) for edge in font.getbbox(line))
        strip = Image.new("L", (right - left + 8, bottom - top + 8), paper)
        ImageDraw.Draw(strip).text((4 - left, 4 - top), line, font=font, fill=ink)
        if rng.random() < 1 / 6:
            strip = strip.transpose(Image.Transpose.ROTATE_180)
        slack = max(width - strip.width - 24, 1)
        page.paste(strip, (12 + int(rng.integers(0, min(slack, 60))), round(row * pitch - strip.height / 2)))
    return page


def _worn(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur the print and add the grain of a scanner."""
    blurred = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.7))))
    grain = rng.normal(0.0, rng.uniform(1.0, 8.0), (page.height, page.width))
    return Image.fromarray(np.clip(np.asarray(blurred) + grain, 0, 255).astype(np.uint8))


def _scanned(number: int) -> Page:
    (top, bottom), lines = _SCANNED[number // _SCAN_EVERY % len(_SCANNED)]
    scan = Image.fromarray(import_module("skimage.data").page())
    return Page(_encoded(scan.crop((0, top, scan.width, bottom)), "PNG"), lines, f"scan-{number}")


def _encoded(image: Image.Image, format_: Literal["PNG", "JPEG"]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, quality=88)
    return buffer.getvalue()


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _edit_distance(first: str, second: str) -> int:
    """Levenshtein distance, one row at a time (Wagner and Fischer 1974)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
