"""What passes between the server and its worker processes: length-prefixed frames, and payloads as opaque bytes.

A frame is a prefix (header length, body length), a msgpack header, and a body of payload bytes laid end to end. The
server never looks into a payload. Pickle is used between Headway's own worker processes only: a payload with the codec
`object` is made by one worker for another, and `outside` refuses to make one of what came from elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from headway.errors import ServeError, nearest
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.shared import AREA_BYTES, FROM_BYTES, Shared

CODECS: Final = ("raw", "text", "json", "tensor", "object")
OUTSIDE_CODECS: Final = ("raw", "text", "json", "tensor")
MAX_HEADER_BYTES: Final = 32 * 2**20
MAX_BODY_BYTES: Final = 2**30
_PREFIX: Final = struct.Struct("<IQ")
_CODEC_INDEX: Final = {codec: index for index, codec in enumerate(CODECS)}
_IN_SHARED: Final = 1 << 63
"""Flag of a body's size: the body lies in the memory that both sides share."""
_MAY_SHARE: Final = 1 << 62
"""Flag of a body's size: that of the answer may lie there too, since nobody else is using it."""
_READ_BYTES: Final = 256 * 2**10
_KEPT_BYTES: Final = 16 * 2**20
SOCKET_BYTES: Final = 2**20


class Payload(msgspec.Struct, frozen=True, gc=False):
    """One item's bytes and how a worker turns them into a Python value.

    `raw` stays bytes, `text` is UTF-8, `json` is JSON, `tensor` is a NumPy array (see `headway.serve.values`), `object`
    is a pickle that one worker made for another.
    """

    codec: str
    data: bytes


class Told(Payload, frozen=True, gc=False):
    """A payload with what its stage tells of how it was made: parameters of the response, scalars by name."""

    about: Mapping[str, str | float | bool]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why one input has no result: the exception's type name and its text."""

    type: str
    message: str


class Result(msgspec.Struct, frozen=True, gc=False):
    """What a stage made of one input: exactly one of a value, branches (payloads by stage name), or a failure."""

    value: Payload | None = None
    branches: Mapping[str, list[Payload]] | None = None
    error: Failure | None = None


Input: TypeAlias = Payload | Mapping[str, list[Payload]]
"""One payload, or for a joining or gathering stage the payloads by the name of the stage that made them."""

Slot: TypeAlias = tuple[int, int]
Slots: TypeAlias = Slot | dict[str, list[Slot]]


class Start(msgspec.Struct, tag=True, array_like=True):
    """First message to a worker: what to load, for which hardware, and which stages its branches may name."""

    ref: ModelRef
    hardware: HardwareView
    options: dict[str, Any]
    children: list[str]
    cores: list[int] | None


class Batch(msgspec.Struct, tag=True, array_like=True):
    """Inputs to work on; with `render` the results are wanted in a form that is not a pickle.

    `handed_s` is the sender's monotonic clock, which all processes of a machine share.
    """

    number: int
    items: list[Slots]
    render: bool
    handed_s: float


class Render(msgspec.Struct, tag=True, array_like=True):
    """Payloads that another worker made, to be returned in a form that is not a pickle."""

    number: int
    items: list[Slot]


class Measure(msgspec.Struct, tag=True, array_like=True):
    """Asks for the memory in use."""

    number: int


class Stop(msgspec.Struct, tag=True, array_like=True):
    """Asks the worker to exit."""


class Ready(msgspec.Struct, tag=True, array_like=True):
    """The model is set up."""


class Broken(msgspec.Struct, tag=True, array_like=True):
    """The model could not be set up."""

    message: str


class ResultSlots(msgspec.Struct, array_like=True):
    """A result without its bytes."""

    value: Slot | None
    branches: dict[str, list[Slot]] | None
    error: Failure | None


class Done(msgspec.Struct, tag=True, array_like=True):
    """Results of a batch, in order, and the seconds that `predict` took."""

    number: int
    service_s: float
    results: list[ResultSlots]


class Measured(msgspec.Struct, tag=True, array_like=True):
    """Peak resident memory of the worker process so far."""

    number: int
    memory_mb: float


ToWorker: TypeAlias = Start | Batch | Render | Measure | Stop
FromWorker: TypeAlias = Ready | Broken | Done | Measured
M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)


def outside(codec: str, data: bytes) -> Payload:
    """Return a payload of bytes that came from outside. Raises ServeError for a codec that outsiders may not use.

    >>> outside("text", b"hello").codec
    'text'
    """
    if codec not in OUTSIDE_CODECS:
        raise ServeError(
            f"payload codec {codec!r} cannot come from outside{nearest(codec, OUTSIDE_CODECS)}; "
            f"valid: {', '.join(OUTSIDE_CODECS)}"
        )
    return Payload(codec, data)


def slot(payload: Payload, buffers: list[bytes]) -> Slot:
    """Add a payload's bytes to `buffers`; return what stands for it in a header."""
    buffers.append(payload.data)
    return _CODEC_INDEX[payload.codec], len(payload.data)


def slots(item: Input, buffers: list[bytes]) -> Slots:
    """Like `slot`, for an input of either form."""
    if isinstance(item, Payload):
        return slot(item, buffers)
    return {name: [slot(payload, buffers) for payload in payloads] for name, payloads in item.items()}


def pack(
    message: ToWorker | FromWorker,
    buffers: Sequence[bytes] = (),
    shared: Shared | None = None,
    may_share: bool = False,
) -> bytes:
    """Return the frame of a message and its payload bytes; a large body is laid into `shared` memory instead.

    `may_share` lets the other side answer through it. Raises ServeError when no reader would accept the frame's size.
    """
    header = _encoder.encode(message)
    body_size = sum(map(len, buffers))
    if len(header) > MAX_HEADER_BYTES or body_size > MAX_BODY_BYTES:
        raise ServeError(
            f"a batch of {body_size} payload bytes cannot be sent; at most {MAX_BODY_BYTES} bytes and "
            f"{MAX_HEADER_BYTES} bytes of description fit: use a smaller batch size or smaller payloads"
        )
    flags = _MAY_SHARE if may_share else 0
    if shared is not None and FROM_BYTES <= body_size <= AREA_BYTES:
        shared.put(buffers)
        return _PREFIX.pack(len(header), body_size | flags | _IN_SHARED) + header
    return b"".join((_PREFIX.pack(len(header), body_size | flags), header, *buffers))


class Body:
    """A frame's payload bytes, taken in the order of the header's slots. Raises ServeError when they run out."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes; they must be copied before the next frame is read."""
        end = self._at + size
        if size < 0 or end > len(self._view):
            raise ServeError("a frame's header promises more payload bytes than its body holds")
        part = self._view[self._at : end]
        self._at = end
        return part

    def payload(self, at: Slot) -> Payload:
        """Return the next payload, with a copy of its bytes."""
        index, size = at
        if not 0 <= index < len(CODECS):
            raise ServeError(f"a frame's header names codec {index}; valid: 0 to {len(CODECS) - 1}")
        return Payload(CODECS[index], bytes(self.take(size)))


def unpack(frame: bytes, decoder: msgspec.msgpack.Decoder[M]) -> tuple[M, Body]:
    """Return the message and the payload bytes of a whole frame. Raises ServeError for anything else."""
    view = memoryview(frame)
    try:
        header_size, body_size = _PREFIX.unpack_from(view)
        body_at = _PREFIX.size + header_size
        message = decoder.decode(view[_PREFIX.size : body_at])
    except (struct.error, msgspec.DecodeError) as error:
        raise ServeError(f"a frame's header is not one that this version writes: {error}") from None
    if len(view) != body_at + body_size:
        raise ServeError(f"a frame of {len(view)} bytes is not as long as its prefix says")
    return message, Body(view[body_at:])


class FrameReader(Generic[M]):
    """Assembles frames from a byte stream with few copies and calls `receive(message, body)` for each.

    Fill `space()`, then say with `filled(n)` how much. `may_share`: whether the answer to the frame that is being
    handed on may go through the shared memory. Raises ServeError for a frame above the limits or not of the expected
    shape; the stream is then unusable.
    """

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[M], receive: Callable[[M, Body], None], shared: Shared | None = None
    ) -> None:
        self.may_share = False
        self._decoder = decoder
        self._receive = receive
        self._shared = shared
        self._buffer = bytearray(_READ_BYTES)
        self._filled = 0

    def space(self) -> memoryview:
        """Return where the next bytes belong."""
        return memoryview(self._buffer)[self._filled :]

    def filled(self, count: int) -> None:
        """Take note of `count` more bytes and hand on every frame that is now complete."""
        self._filled += count
        start = 0
        needed = _PREFIX.size
        while self._filled - start >= _PREFIX.size:
            header_size, flagged = _PREFIX.unpack_from(self._buffer, start)
            shared_size, body_size = 0, flagged & (_MAY_SHARE - 1)
            if flagged & _IN_SHARED:
                shared_size, body_size = body_size, 0
            if header_size > MAX_HEADER_BYTES or body_size > MAX_BODY_BYTES:
                raise ServeError(f"a frame of {header_size + body_size} bytes is larger than a worker may send or get")
            needed = _PREFIX.size + header_size + body_size
            if self._filled - start < needed:
                break
            body_at = start + _PREFIX.size + header_size
            view = memoryview(self._buffer)
            try:
                message = self._decoder.decode(view[start + _PREFIX.size : body_at])
            except msgspec.DecodeError as error:
                raise ServeError(f"a frame's header is not one that this version writes: {error}") from None
            start += needed
            needed = _PREFIX.size
            self.may_share = bool(flagged & _MAY_SHARE)
            self._receive(message, Body(self._from_shared(shared_size) if shared_size else view[body_at:start]))
        self._make_room(start, needed)

    def _from_shared(self, size: int) -> memoryview:
        if self._shared is None:
            raise ServeError("a frame's body is said to be in shared memory, but there is none")
        return self._shared.body(size)

    def _make_room(self, start: int, needed: int) -> None:
        rest = self._filled - start
        size = len(self._buffer)
        fits = needed <= size and (rest or size <= _KEPT_BYTES)
        if start or not fits:
            # A new buffer where the size changes: the caller may still hold a view of the old one, which pins it.
            target = self._buffer if fits else bytearray(max(needed, _READ_BYTES))
            target[:rest] = bytes(memoryview(self._buffer)[start : self._filled])
            self._buffer = target
            self._filled = rest
