"""Payload bytes to Python values and back, inside a worker process. The server itself never does this.

A `tensor` payload is a 4-byte little-endian length, that many bytes of JSON `{"datatype": "FP32", "shape": [2, 3]}` in
the words of the Open Inference Protocol, and the elements in C order, little-endian.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headway.errors import HeadwayError, ServeError
from headway.serve.wire import Payload

DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatypes of the Open Inference Protocol and the NumPy types that stand for them."""

_LENGTH: Final = struct.Struct("<I")


class _TensorHead(msgspec.Struct):
    datatype: str
    shape: list[int]


def tensor_bytes(datatype: str, shape: list[int], raw: bytes) -> bytes:
    """Return the data of a `tensor` payload; `raw` holds the elements in C order, little-endian.

    >>> decode("tensor", tensor_bytes("FP32", [1], b"\\0\\0\\0\\0")).shape
    (1,)
    """
    head = msgspec.json.encode(_TensorHead(datatype, shape))
    return _LENGTH.pack(len(head)) + head + raw


def decode(codec: str, data: bytes | memoryview) -> Any:
    """Return the value that a payload stands for. Raises ServeError when its bytes are not what the codec says."""
    if codec == "raw":
        return bytes(data)
    if codec == "object":
        return pickle.loads(data)
    try:
        if codec == "text":
            return str(data, "utf-8")
        if codec == "json":
            return msgspec.json.decode(data)
        return _tensor(memoryview(data))
    except HeadwayError:
        raise
    except (ValueError, RecursionError, struct.error, msgspec.DecodeError) as error:
        raise ServeError(f"the payload is not valid {codec}: {error}") from None


def _tensor(view: memoryview) -> Any:
    (size,) = _LENGTH.unpack_from(view)
    head = msgspec.json.decode(view[4 : 4 + size], type=_TensorHead)
    return array(head.datatype, head.shape, view[4 + size :])


def array(datatype: str, shape: list[int], data: Any) -> Any:
    """Return the NumPy array of a tensor whose `data` is bytes, or a list of numbers, nested or flat.

    Raises ServeError when datatype, shape and data do not fit each other.
    """
    import numpy as np

    if datatype not in DATATYPES:
        raise ServeError(f"tensor: datatype {datatype!r} is not one of {', '.join(DATATYPES)}")
    dtype = np.dtype(DATATYPES[datatype])
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ServeError(f"tensor: shape {shape} must be a list of whole numbers of at least 0")
    try:
        flat = (
            np.frombuffer(bytes(data), dtype)
            if isinstance(data, bytes | bytearray | memoryview)
            else np.asarray(data, dtype).reshape(-1)
        )
        return flat.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ServeError(f"tensor: the data does not fit datatype {datatype} and shape {shape}: {error}") from None


def encode(value: Any) -> Payload:
    """Return the payload that carries a value from one worker to the next."""
    if isinstance(value, bytes):
        return Payload("raw", value)
    if isinstance(value, str):
        return Payload("text", value.encode("utf-8", "surrogatepass"))
    return Payload("object", pickle.dumps(value, protocol=5))


def render(value: Any) -> Payload:
    """Return a payload that the outside can read: bytes, text, or JSON; an array becomes `{datatype, shape, data}`.

    Arrays inside other values become nested lists. Raises ServeError for a value that JSON has no form for.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return Payload("raw", bytes(value))
    try:
        if isinstance(value, str):
            return Payload("text", value.encode())
        if _is_array(value) and value.ndim and (name := _datatype(value.dtype)) is not None:
            value = {"datatype": name, "shape": list(value.shape), "data": value.reshape(-1).tolist()}
        return Payload("json", msgspec.json.encode(value, enc_hook=_plain))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ServeError(
            f"a result of type {type(value).__name__} has no JSON form ({error}); "
            "return bytes, text, numbers, lists, dicts or arrays from a last stage"
        ) from None


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "dtype")


def _datatype(dtype: Any) -> str | None:
    import numpy as np

    return next((name for name, code in DATATYPES.items() if np.dtype(code) == dtype), None)


def _plain(value: Any) -> Any:
    if _is_array(value):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
