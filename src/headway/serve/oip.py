"""The Open Inference Protocol v2 over REST: bodies to inputs of the pipeline, and results to bodies.

One request is one item of the pipeline. With one input of one element the first stages receive that element: text,
bytes or an array. With several inputs, or a BYTES input of several elements, they receive a mapping from the inputs'
names to the lists of their elements; a numeric tensor is one element, with its shape as sent.

A BYTES element is a JSON string, or length-prefixed bytes in the binary extension. The input's parameter
`content_type` says what it is: `str` (text), `base64` (in JSON: bytes in base64), `json` (the text of a JSON value),
`raw` (bytes, binary extension only). Text in JSON and bytes in the binary extension are what is meant without it.

Outputs are named after the stages where items ended. Text, JSON values and bytes are BYTES with one element per item
and the same `content_type`; equal-shaped arrays of several items are stacked. Results of one stage that do not fit one
tensor become outputs `STAGE.0`, `STAGE.1`, and so on.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headway.errors import HeadwayError, ServeError, nearest
from headway.serve.values import DATATYPES, array, tensor_bytes
from headway.serve.wire import Input, Payload, Told, outside

MAX_INPUTS: Final = 64
MAX_DIMENSIONS: Final = 16
CONTENT_TYPES: Final = {"str": "text", "base64": "raw", "raw": "raw", "json": "json"}
_LENGTH: Final = struct.Struct("<I")
_KINDS: Final = {"B": "b", "U": "iu", "I": "iu", "F": "iuf"}


class BadRequest(HeadwayError):
    """A request's body cannot be understood. Its text says what is wrong, for the client."""


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Wanted] = []
    parameters: dict[str, Any] = {}


class _Found(msgspec.Struct):
    datatype: str
    shape: list[int]
    data: list[Any]


_decode_body: Final = msgspec.json.Decoder(_Body)
_decode_found: Final = msgspec.json.Decoder(_Found)
_encode: Final = msgspec.json.Encoder().encode


class InferRequest(msgspec.Struct, frozen=True):
    """What a body asks for: the input, the client's id, which outputs (all if empty), and which of them as binary."""

    input: Input
    id: str | None = None
    outputs: frozenset[str] = frozenset()
    binary: frozenset[str] = frozenset()
    binary_default: bool = False


def parse(body: bytes, header_length: int | None = None) -> InferRequest:
    """Return what an infer body asks for; `header_length` is that of its JSON part when binary data follow.

    Raises BadRequest with one sentence for the client.

    >>> parse(b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["hi"]}]}').input.data
    b'hi'
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes")
    try:
        asked = _decode_body.decode(body if header_length is None else memoryview(body)[:header_length])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not an inference request: {error}") from None
    if not 0 < len(asked.inputs) <= MAX_INPUTS:
        raise BadRequest(f"inputs has {len(asked.inputs)} tensors; 1 to {MAX_INPUTS} are needed")
    rest = memoryview(b"") if header_length is None else memoryview(body)[header_length:]
    read: dict[str, list[Payload]] = {}
    for tensor in asked.inputs:
        if tensor.name in read:
            raise BadRequest(f"input {tensor.name!r} stands there twice; every input needs its own name")
        read[tensor.name], rest = _elements(tensor, rest)
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes of binary data belong to no input; check every binary_data_size")
    only = next(iter(read.values()))
    item = only[0] if len(read) == 1 and len(only) == 1 else read
    if not asked.outputs and not asked.parameters:
        return InferRequest(item, asked.id)
    return InferRequest(
        item,
        asked.id,
        frozenset(wanted.name for wanted in asked.outputs),
        frozenset(wanted.name for wanted in asked.outputs if wanted.parameters.get("binary_data") is True),
        asked.parameters.get("binary_data_output") is True,
    )


def check_outputs(asked: InferRequest, stages: Sequence[str]) -> None:
    """Raise BadRequest when the request wants an output that no stage can give."""
    for name in asked.outputs:
        if name not in stages:
            raise BadRequest(f"output {name!r} is not a stage{nearest(name, stages)}; valid: {', '.join(stages)}")


def _elements(tensor: _Tensor, rest: memoryview) -> tuple[list[Payload], memoryview]:
    """Return an input's elements as payloads, and the binary data that belong to later inputs."""
    where = f"input {tensor.name!r}"
    if len(tensor.shape) > MAX_DIMENSIONS or any(side < 0 for side in tensor.shape):
        raise BadRequest(f"{where}: shape must be at most {MAX_DIMENSIONS} whole numbers of at least 0")
    if tensor.datatype != "BYTES" and tensor.datatype not in DATATYPES:
        known = ("BYTES", *DATATYPES)
        raise BadRequest(f"{where}: datatype {tensor.datatype!r} is unknown{nearest(tensor.datatype, known)}")
    size = tensor.parameters.get("binary_data_size")
    raw: memoryview | None = None
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
            raise BadRequest(f"{where}: binary_data_size is {size!r}, but {len(rest)} bytes of binary data are left")
        if tensor.data is not msgspec.UNSET:
            raise BadRequest(f"{where}: has both data and binary_data_size; give one of them")
        raw, rest = rest[:size], rest[size:]
    elif tensor.data is msgspec.UNSET:
        raise BadRequest(f"{where}: has neither data nor binary_data_size; give one of them")
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return (_texts(tensor, where, count) if raw is None else _blobs(tensor, where, count, raw)), rest
    return [_numeric(tensor, where, count, raw)], rest


def _content_type(tensor: _Tensor, where: str, default: str, valid: tuple[str, ...]) -> str:
    found = tensor.parameters.get("content_type", default)
    if found not in valid:
        raise BadRequest(f"{where}: content_type {found!r} is unknown here; valid: {', '.join(valid)}")
    return str(found)


def _texts(tensor: _Tensor, where: str, count: int) -> list[Payload]:
    kind = _content_type(tensor, where, "str", ("str", "base64", "json"))
    flat = _flat(tensor.data, where)
    if len(flat) != count:
        raise BadRequest(f"{where}: shape {tensor.shape} means {count} elements, but data has {len(flat)}")
    out = []
    for element in flat:
        if not isinstance(element, str):
            raise BadRequest(f"{where}: a BYTES element in JSON must be a string, not {type(element).__name__}")
        try:
            raw = base64.b64decode(element, validate=True) if kind == "base64" else element.encode()
        except (binascii.Error, ValueError):
            raise BadRequest(f"{where}: an element is not valid {'base64' if kind == 'base64' else 'text'}") from None
        out.append(Payload("text", raw) if kind == "str" else _payload(kind, raw, where))
    return out


def _blobs(tensor: _Tensor, where: str, count: int, raw: memoryview) -> list[Payload]:
    kind = _content_type(tensor, where, "raw", ("raw", "str", "json"))
    out: list[Payload] = []
    at = 0
    while at < len(raw):
        if len(raw) - at < 4 or len(raw) - at - 4 < _LENGTH.unpack_from(raw, at)[0]:
            raise BadRequest(f"{where}: the binary data end in the middle of an element")
        (size,) = _LENGTH.unpack_from(raw, at)
        out.append(_payload(kind, bytes(raw[at + 4 : at + 4 + size]), where))
        at += 4 + size
        if len(out) > count:
            break
    if len(out) != count:
        raise BadRequest(f"{where}: shape {tensor.shape} means {count} elements, but the binary data hold others")
    return out


def _payload(kind: str, raw: bytes, where: str) -> Payload:
    try:
        if kind == "str":
            raw.decode()
        elif kind == "json":
            msgspec.json.decode(raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"{where}: an element is not valid {CONTENT_TYPES[kind]}: {error}") from None
    return outside(CONTENT_TYPES[kind], raw)


def _numeric(tensor: _Tensor, where: str, count: int, raw: memoryview | None) -> Payload:
    import numpy as np

    dtype = np.dtype(DATATYPES[tensor.datatype])
    if raw is not None:
        if len(raw) != count * dtype.itemsize:
            raise BadRequest(
                f"{where}: shape {tensor.shape} of {tensor.datatype} needs {count * dtype.itemsize} bytes, "
                f"but binary_data_size is {len(raw)}"
            )
        return outside("tensor", tensor_bytes(tensor.datatype, tensor.shape, bytes(raw)))
    try:
        found = np.asarray(tensor.data)
        # Without this check a text would be parsed and a fraction cut.
        if found.size and found.dtype.kind not in _KINDS[tensor.datatype[0]]:
            raise BadRequest(f"{where}: the data are not all of datatype {tensor.datatype}")
        values = array(tensor.datatype, tensor.shape, tensor.data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadRequest(f"{where}: {error}") from None
    except ServeError as error:
        raise BadRequest(f"{where}: {error}") from None
    return outside("tensor", tensor_bytes(tensor.datatype, tensor.shape, values.tobytes()))


def _flat(data: Any, where: str) -> list[Any]:
    """The elements of a BYTES tensor, nested by shape or flat."""
    if not isinstance(data, list):
        raise BadRequest(f"{where}: data must be a list")
    flat: list[Any] = data
    while flat and isinstance(flat[0], list) and all(isinstance(part, list) for part in flat):
        flat = [element for part in flat for element in part]
    return flat


class Output(msgspec.Struct, frozen=True):
    """One output tensor: `elements` of a BYTES tensor, or the `raw` little-endian numbers of another.

    `about` is what the stage tells of the one item that it stands for.
    """

    name: str
    datatype: str
    shape: list[int]
    content_type: str | None
    elements: list[bytes]
    raw: bytes = b""
    about: Mapping[str, str | float | bool] = {}


def outputs(results: Sequence[tuple[str, Payload]]) -> list[Output]:
    """Return the output tensors for results by stage, in order.

    >>> outputs([("upper", Payload("text", b"HI"))])[0].shape
    [1]
    """
    if len(results) == 1:
        return [_output(*results[0])]
    by_stage: dict[str, list[Payload]] = {}
    for stage, payload in results:
        by_stage.setdefault(stage, []).append(payload)
    out: list[Output] = []
    for stage, payloads in by_stage.items():
        single = [_output(stage, payload) for payload in payloads]
        if len({(o.datatype, o.content_type, tuple(o.shape)) for o in single}) == 1:
            out.append(_stacked(single))
        else:
            out += [msgspec.structs.replace(o, name=f"{stage}.{index}") for index, o in enumerate(single)]
    return out


def _output(name: str, payload: Payload) -> Output:
    found = _plain_output(name, payload)
    return msgspec.structs.replace(found, about=payload.about) if isinstance(payload, Told) else found


def _plain_output(name: str, payload: Payload) -> Output:
    data = payload.data
    if payload.codec == "tensor":
        (size,) = _LENGTH.unpack_from(data)
        head = msgspec.json.decode(data[4 : 4 + size])
        return Output(name, head["datatype"], head["shape"], None, [], data[4 + size :])
    if payload.codec == "json":
        if data.startswith(b'{"datatype":'):
            try:
                found = _decode_found.decode(data)
                values = array(found.datatype, found.shape, found.data)
                return Output(name, found.datatype, found.shape, None, [], values.tobytes())
            except (msgspec.DecodeError, ServeError):
                pass  # a dict of the user's own that only looks like a tensor
        return Output(name, "BYTES", [1], "json", [data])
    return Output(name, "BYTES", [1], "str" if payload.codec == "text" else "base64", [data])


def _stacked(single: list[Output]) -> Output:
    first = single[0]
    if len(single) == 1:
        return first
    shape = [len(single)] if first.datatype == "BYTES" else [len(single), *first.shape]
    elements = [element for output in single for element in output.elements]
    return Output(first.name, first.datatype, shape, first.content_type, elements, b"".join(o.raw for o in single))


def response(
    model: str, version: str, asked: InferRequest, results: Sequence[tuple[str, Payload]]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON part when binary data follow it."""
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    if asked.outputs:
        results = [(stage, payload) for stage, payload in results if stage in asked.outputs]
    for output in outputs(results):
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        parameters: dict[str, Any] = dict(output.about)
        if output.content_type is not None:
            parameters["content_type"] = output.content_type
        if asked.binary_default or (asked.binary and _stages_of(output) & asked.binary):
            blob = b"".join(_LENGTH.pack(len(e)) + e for e in output.elements) + output.raw
            parameters["binary_data_size"] = len(blob)
            if output.content_type == "base64":
                parameters["content_type"] = "raw"
            blobs.append(blob)
        else:
            entry["data"] = _json_data(output)
        if parameters:
            entry["parameters"] = parameters
        described.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if asked.id is not None:
        head["id"] = asked.id
    body = _encode(head)
    return (body, None) if not blobs else (b"".join((body, *blobs)), len(body))


def _stages_of(output: Output) -> set[str]:
    """The names under which an output can be asked for: its own, and that of its stage where it has a number."""
    return {output.name, output.name.rpartition(".")[0] or output.name}


def _json_data(output: Output) -> list[Any]:
    if output.datatype != "BYTES":
        import numpy as np

        numbers: list[Any] = np.frombuffer(output.raw, np.dtype(DATATYPES[output.datatype])).tolist()
        return numbers
    if output.content_type == "base64":
        return [base64.b64encode(element).decode() for element in output.elements]
    return [element.decode(errors="replace") for element in output.elements]
