"""Frames between the server and its workers: what is packed is read back, nothing oversized or foreign gets in."""

from __future__ import annotations

import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import ServeError
from headway.serve import values, wire
from headway.serve.wire import Batch, Body, FrameReader, Payload

payloads = st.builds(Payload, st.sampled_from(wire.CODECS), st.binary(max_size=400))
inputs = payloads | st.dictionaries(st.text(max_size=5), st.lists(payloads, max_size=3), max_size=3)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def read_back(at: wire.Slots, body: Body) -> wire.Input:
    if isinstance(at, tuple):
        return body.payload(at)
    return {name: [body.payload(part) for part in parts] for name, parts in at.items()}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(inputs, max_size=3), min_size=1, max_size=4), st.integers(1, 5000))
def test_any_batches_cut_anywhere_arrive_whole_and_in_order(batches: list[list[wire.Input]], piece: int) -> None:
    got: list[list[wire.Input]] = []
    reader = FrameReader(
        wire.to_worker_decoder, lambda message, body: got.append([read_back(at, body) for at in message.items])
    )
    stream = b""
    for number, batch in enumerate(batches):
        buffers: list[bytes] = []
        items = [wire.slots(item, buffers) for item in batch]
        stream += wire.pack(Batch(number, items, False, 0.5), buffers)
    while stream:
        space = reader.space()
        count = min(piece, len(stream), len(space))
        space[:count] = stream[:count]
        stream = stream[count:]
        reader.filled(count)
    assert got == batches


def test_a_frame_larger_than_the_first_buffer_arrives_whole() -> None:
    got: list[bytes] = []
    reader = FrameReader(wire.to_worker_decoder, lambda m, body: got.append(body.payload(m.items[0]).data))
    data = bytes(range(256)) * 8192
    buffers: list[bytes] = []
    stream = wire.pack(Batch(1, [wire.slot(Payload("raw", data), buffers)], False, 0.5), buffers) * 2
    while stream:
        space = reader.space()
        count = min(len(space), len(stream))
        space[:count] = stream[:count]
        stream = stream[count:]
        del space
        reader.filled(count)
    assert got == [data, data]


@pytest.mark.parametrize(
    "prefix",
    [struct.pack("<IQ", wire.MAX_HEADER_BYTES + 1, 0), struct.pack("<IQ", 1, wire.MAX_BODY_BYTES + 1)],
    ids=["header", "body"],
)
def test_an_oversized_frame_is_refused_before_memory_is_taken_for_it(prefix: bytes) -> None:
    reader = FrameReader(wire.to_worker_decoder, lambda message, body: None)
    reader.space()[: len(prefix)] = prefix
    with pytest.raises(ServeError, match="larger than"):
        reader.filled(len(prefix))


def test_a_batch_too_large_to_send_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 10)
    with pytest.raises(ServeError, match="11 payload bytes cannot be sent; at most 10"):
        wire.pack(Batch(1, [], False, 0.5), [bytes(11)])


@given(st.binary(max_size=60))
def test_a_header_that_is_not_a_message_is_refused(header: bytes) -> None:
    reader = FrameReader(wire.from_worker_decoder, lambda message, body: None)
    frame = struct.pack("<IQ", len(header), 0) + header
    reader.space()[: len(frame)] = frame
    try:
        reader.filled(len(frame))
    except ServeError:
        return
    assert wire.from_worker_decoder.decode(header) is not None


def test_a_header_that_promises_too_many_payload_bytes_is_refused() -> None:
    with pytest.raises(ServeError, match="more payload bytes"):
        Body(memoryview(b"abc")).take(4)
    with pytest.raises(ServeError, match="more payload bytes"):
        Body(memoryview(b"abc")).take(-1)


def test_nothing_from_outside_is_a_pickle() -> None:
    assert wire.outside("raw", b"x") == Payload("raw", b"x")
    with pytest.raises(ServeError, match="valid: raw, text, json, tensor"):
        wire.outside("object", pickle.dumps(1))


@given(json_values)
def test_json_values_are_rendered_as_themselves(value: object) -> None:
    payload = values.render(value)
    assert values.decode(payload.codec, payload.data) == value


@given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])) | json_values)
def test_what_one_worker_encodes_another_decodes(value: object) -> None:
    payload = values.encode(value)
    assert values.decode(payload.codec, payload.data) == value


def test_arrays_are_rendered_as_tensors_that_can_be_read_back() -> None:
    import numpy as np

    for name, code in values.DATATYPES.items():
        array = np.arange(6).reshape(2, 3).astype(code)
        rendered = values.decode("json", values.render(array).data)
        assert rendered["datatype"] == name
        assert np.array_equal(values.array(rendered["datatype"], rendered["shape"], rendered["data"]), array)
        payload = values.tensor_bytes(name, [2, 3], array.tobytes())
        assert np.array_equal(values.decode("tensor", payload), array)


def test_arrays_inside_values_become_lists() -> None:
    import numpy as np

    rendered = values.render({"box": np.array([1.5, 2.0]), "score": np.float32(0.5)})
    assert rendered == Payload("json", b'{"box":[1.5,2.0],"score":0.5}')


@pytest.mark.parametrize(
    "value", [{1, object()}, object(), {(1, 2): 3}, 1j], ids=["set", "object", "tuple key", "complex"]
)
def test_a_value_without_a_json_form_is_refused_with_its_type(value: object) -> None:
    with pytest.raises(ServeError, match=f"a result of type {type(value).__name__} has no JSON form"):
        values.render(value)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        ("text", b"\xff"),
        ("json", b"{"),
        ("json", b"[" * 100_000),
        ("tensor", b""),
        ("tensor", b"\xff\xff\xff\xff"),
        ("tensor", values.tensor_bytes("FP32", [2], bytes(4))),
        ("tensor", values.tensor_bytes("FP31", [1], bytes(4))),
        ("tensor", values.tensor_bytes("FP32", [-1], bytes(4))),
    ],
    ids=lambda part: str(part)[:12],
)
def test_malformed_payloads_are_refused(codec: str, data: bytes) -> None:
    with pytest.raises(ServeError):
        values.decode(codec, data)
