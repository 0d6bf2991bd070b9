"""Three real models read a page: find its lines of text, turn each upright, read each.

The networks are those inside the `rapidocr` wheel (PP-OCR by PaddleOCR, Apache-2.0); nothing is downloaded at run time.
The steps around them follow PaddleOCR in NumPy, SciPy and Pillow. OpenCV is avoided on purpose: its PyPI wheel with a
display needs system libraries (libGL) that a bare machine lacks, and it brings a thread pool of its own.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.serve.model_ref import HardwareView

Pixels: TypeAlias = NDArray[np.uint8]
Tensor: TypeAlias = NDArray[np.float32]

LINE_HEIGHT_PX: Final = 48  # both line networks take lines of this height, so a crop is stored at it
MAX_LINE_WIDTH_PX: Final = 1920
MAX_LINES: Final = 200
MAX_PAGE_BYTES: Final = 16 * 2**20
MAX_PAGE_PIXELS: Final = 16_000_000

_INK_PROBABILITY: Final = 0.3  # PaddleOCR's thresh and box_thresh
_LINE_PROBABILITY: Final = 0.5
_GROWTH: Final = 2.4  # PaddleOCR grows its larger boxes by 1.6; with less, spaces between words are lost
_TURN_PROBABILITY: Final = 0.9
_ORIENT_WIDTH_PX: Final = 192
_WIDTH_STEP_PX: Final = 32
_MIN_READ_WIDTH_PX: Final = 96


class DocumentError(HeadwayError):
    """A page cannot be read, or a network of the demo cannot be loaded."""


class Line(NamedTuple):
    """Where a line of text lies on a page, in pixels: `top` and `bottom` hold at `left`, `rise` is added at `right`.

    A slope is kept as a shear, since scanned lines lean by a few degrees at most.
    """

    left: float
    top: float
    right: float
    bottom: float
    rise: float

    def scaled(self, x: float, y: float) -> Line:
        """Return the same line on a page that is `x` times as wide and `y` times as high."""
        return Line(self.left * x, self.top * y, self.right * x, self.bottom * y, self.rise * y)


class _Network:
    """One ONNX network from the rapidocr wheel, ready to run on the given hardware."""

    def __init__(self, role: Literal["det", "cls", "rec"], hardware: HardwareView) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = hardware.threads
        options.inter_op_num_threads = 1
        # A spinning thread would burn the core that another replica of the pool needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(model_file(role)), options, providers=_providers(hardware.device)
        )
        if hardware.device is not None and "CUDAExecutionProvider" not in self.session.get_providers():
            raise DocumentError(
                f"device {hardware.device!r}: CUDA could not be started; see onnxruntime's requirements"
            )
        self._input_name: str = self.session.get_inputs()[0].name
        self._stacks = hardware.device is not None

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the output for each input, in order.

        Equal shapes are stacked on a device only: on a CPU one run over n inputs takes longer than n runs.
        """
        groups: dict[Any, list[int]] = {}
        for index, tensor in enumerate(inputs):
            groups.setdefault(tensor.shape if self._stacks else index, []).append(index)
        outputs: dict[int, Tensor] = {}
        for members in groups.values():
            stack = np.stack([inputs[index] for index in members])
            outputs.update(zip(members, self.session.run(None, {self._input_name: stack})[0], strict=True))
        return [outputs[index] for index in range(len(inputs))]


class Detect:
    """Finds the lines of text on a page: PNG or JPEG bytes -> a crop per line for the stage `orient`, top to bottom.

    `size`: the page is scaled so that its longer side has this many pixels before the network sees it; crops are taken
    from the page as it came. A crop is a contiguous grayscale array of shape (48, width). A page without text has none.
    Bytes that are not an image, or one of more than 16 million pixels, give a DocumentError as their result.

    >>> Detect(size=320).size
    320
    """

    def __init__(self, size: int = 480) -> None:
        if not 64 <= size <= 4096:
            raise DocumentError(f"Detect: size must be between 64 and 4096 pixels, not {size}")
        self.size = size

    def setup(self, hardware: HardwareView) -> None:
        """Load the detection network."""
        self._network = _Network("det", hardware)

    def predict(self, batch: list[Any]) -> list[Any]:
        """Return for each page `{"orient": [crop, ...]}` or a DocumentError."""
        pages = [_page_or_error(payload) for payload in batch]
        readable = [page for page in pages if not isinstance(page, DocumentError)]
        maps = iter(self._network.run([_tensor(_scaled(page, self.size)) for page in readable]))
        return [page if isinstance(page, DocumentError) else self._crops(page, next(maps)[0]) for page in pages]

    @staticmethod
    def _crops(page: Image.Image, ink: Tensor) -> dict[str, list[Pixels]]:
        x, y = page.width / ink.shape[1], page.height / ink.shape[0]
        return {"orient": [_crop(page, line.scaled(x, y)) for line in text_lines(ink)]}


class Orient:
    """Turns a line that lies on its head upright: crop -> crop of the same shape.

    >>> Orient()
    Orient()
    """

    def __repr__(self) -> str:
        return "Orient()"

    def setup(self, hardware: HardwareView) -> None:
        """Load the orientation network."""
        self._network = _Network("cls", hardware)

    def predict(self, batch: list[Pixels]) -> list[Pixels]:
        """Return each crop, turned by 180 degrees where the network is sure that it is upside down."""
        verdicts = self._network.run([_tensor(_middle(crop), _ORIENT_WIDTH_PX) for crop in batch])
        return [
            np.ascontiguousarray(crop[::-1, ::-1]) if verdict[1] > _TURN_PROBABILITY else crop
            for crop, verdict in zip(batch, verdicts, strict=True)
        ]


class Recognise:
    """Reads an upright line: crop -> `{"text": str, "confidence": float}`, confidence between 0 and 1.

    >>> Recognise()
    Recognise()
    """

    def __repr__(self) -> str:
        return "Recognise()"

    def setup(self, hardware: HardwareView) -> None:
        """Load the recognition network and the alphabet stored in it."""
        self._network = _Network("rec", hardware)
        stored = self._network.session.get_modelmeta().custom_metadata_map["character"]
        self._alphabet = ["", *stored.splitlines(), " "]  # class 0 is the CTC blank

    def predict(self, batch: list[Pixels]) -> list[dict[str, Any]]:
        """Return the text of each crop."""
        return [self._decode(output) for output in self._network.run([_tensor(c, _read_width(c)) for c in batch])]

    def _decode(self, output: Tensor) -> dict[str, Any]:
        """Greedy CTC: the best class of each column, repeats merged, blanks dropped (Graves et al. 2006, section 3)."""
        best = output.argmax(axis=1)
        kept = (best != 0) & np.concatenate(([True], best[1:] != best[:-1]))
        confidence = float(output.max(axis=1)[kept].mean()) if kept.any() else 0.0
        return {"text": "".join(self._alphabet[index] for index in best[kept]), "confidence": round(confidence, 4)}


def model_file(role: Literal["det", "cls", "rec"]) -> Path:
    """Return the ONNX file for a role inside the installed rapidocr wheel, without importing that package.

    Raises DocumentError when the wheel or the file is missing.

    >>> model_file("det").suffix
    '.onnx'
    """
    found = importlib.util.find_spec("rapidocr")
    folders = list(found.submodule_search_locations or ()) if found else []
    files = sorted(file for folder in folders for file in Path(folder, "models").glob(f"*_{role}_*.onnx"))
    if not files:
        raise DocumentError(f"no {role} network found: the demo needs the rapidocr wheel; pip install 'headway[demo]'")
    return files[0]


def text_lines(ink: Tensor) -> list[Line]:
    """Return the lines of text in a probability map of shape (height, width), in its pixels, top to bottom.

    Regions of likely ink are grown by area * 2.4 / perimeter, since the network marks shrunken lines (Liao et al. 2020,
    "Real-time scene text detection with differentiable binarization", section 3.5).

    >>> ink = np.zeros((32, 64), np.float32)
    >>> ink[10:16, 10:50] = 0.9
    >>> len(text_lines(ink))
    1
    """
    labels, _ = ndimage.label(ink > _INK_PROBABILITY, structure=np.ones((3, 3)))
    lines = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[rows, columns] == number
        if min(region.shape) < 3 or float(ink[rows, columns][region].mean()) < _LINE_PROBABILITY:
            continue
        lines.append(_grown(_fitted(region, rows.start, columns.start), ink.shape))
    return sorted(lines, key=lambda line: (line.top, line.left))[:MAX_LINES]


def _fitted(region: NDArray[np.bool_], top: int, left: int) -> Line:
    """Return the sheared rectangle of a region's own area along its middle, which a curved line leaves least.

    A region that is not clearly wide has no slope worth fitting.
    """
    height, width = region.shape
    y, x = np.nonzero(region)
    slope = float(np.polyfit(x, y, 1)[0]) if width >= 3 * height else 0.0
    middle = top + float((y - slope * x).mean()) + 0.5
    half = region.sum() / width / 2
    return Line(left, middle - half, left + width, middle + half, slope * width)


def _grown(line: Line, shape: tuple[int, ...]) -> Line:
    """Grow a line on all sides, but not beyond the map."""
    width, height = line.right - line.left, line.bottom - line.top
    grow = width * height * _GROWTH / (2 * (width + height))
    left, right = max(line.left - grow, 0.0), min(line.right + grow, float(shape[1]))
    slope = line.rise / width
    rise, shift = slope * (right - left), slope * (left - line.left)
    top = max(line.top + shift - grow, 0.0, -rise)
    bottom = min(line.bottom + shift + grow, shape[0], shape[0] - rise)
    return Line(left, top, right, max(bottom, top + 1.0), rise)


def _providers(device: str | None) -> list[Any]:
    if device is None:
        return ["CPUExecutionProvider"]
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise DocumentError(f"device {device!r}: the document models run on the CPU or on 'cuda:N'")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DocumentError(f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu in its place")
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)})]


def _page_or_error(payload: Any) -> Image.Image | DocumentError:
    """Decode one page to grayscale, or return why it cannot be."""
    if not isinstance(payload, bytes | bytearray | memoryview):
        return DocumentError(f"page: PNG or JPEG bytes are needed, not {type(payload).__name__}")
    size = memoryview(payload).nbytes
    if size > MAX_PAGE_BYTES:
        return DocumentError(f"page: {size} bytes; at most {MAX_PAGE_BYTES} are read")
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PAGE_PIXELS:
                return DocumentError(f"page: {image.width} x {image.height} pixels; at most {MAX_PAGE_PIXELS} are read")
            return ImageOps.exif_transpose(image).convert("L")
    except Exception as error:  # decoders meet hostile bytes with many kinds of exception; all mean the same here
        return DocumentError(f"page: not a readable PNG or JPEG image ({size} bytes): {error}")


def _scaled(page: Image.Image, size: int) -> Pixels:
    """Scale a page to a longer side of `size`; the network needs sides that are multiples of 32."""
    ratio = size / max(page.size)
    width, height = (max(32, round(side * ratio / 32) * 32) for side in page.size)
    return np.asarray(page.resize((width, height), Image.Resampling.BILINEAR))


def _crop(page: Image.Image, line: Line) -> Pixels:
    """Cut a line out at the height that the line networks take; one that stands on its end is laid down."""
    width, height = max(round(line.right - line.left), 1), max(round(line.bottom - line.top), 1)
    left, top, right, bottom, rise = line
    corners = (left, top, left, bottom, right, bottom + rise, right, top + rise)
    # Straightened at full size first: only resize() averages where it shrinks.
    crop = page.transform((width, height), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    if height >= 1.5 * width:
        crop = crop.transpose(Image.Transpose.ROTATE_90)
    fitting = round(LINE_HEIGHT_PX * crop.width / crop.height)
    size = (min(max(fitting, 8), MAX_LINE_WIDTH_PX), LINE_HEIGHT_PX)
    return np.ascontiguousarray(crop.resize(size, Image.Resampling.BILINEAR))


def _middle(crop: Pixels) -> Pixels:
    """Return what the orientation network sees: the middle of a long line, as text squeezed further misleads it."""
    start = max(0, (crop.shape[1] - 2 * _ORIENT_WIDTH_PX) // 2)
    piece = crop[:, start : start + 2 * _ORIENT_WIDTH_PX]
    if piece.shape[1] <= _ORIENT_WIDTH_PX:
        return piece
    size = (_ORIENT_WIDTH_PX, LINE_HEIGHT_PX)
    return np.asarray(Image.fromarray(piece).resize(size, Image.Resampling.BILINEAR))


def _read_width(crop: Pixels) -> int:
    """Pad to one of few widths, so that the runtime meets few shapes and plans its memory for each once."""
    steps = math.ceil(int(crop.shape[1]) / _WIDTH_STEP_PX)
    return max(_MIN_READ_WIDTH_PX, steps * _WIDTH_STEP_PX)


def _tensor(gray: Pixels, width: int | None = None) -> Tensor:
    """Return gray levels as three equal channels in -1..1, of shape (3, height, width), padded with mid-gray."""
    height, used = gray.shape
    tensor = np.zeros((3, height, width or used), np.float32)
    tensor[:, :, :used] = gray.astype(np.float32) / 127.5 - 1.0
    return tensor
