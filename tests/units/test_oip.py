"""The Open Inference Protocol: what bodies mean, what answers look like, and that no body breaks the parser."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import ServeError
from headway.profile.samples import read_samples
from headway.serve import oip
from headway.serve.payloads import as_payloads, encode, read_payloads
from headway.serve.values import DATATYPES, decode, tensor_bytes
from headway.serve.wire import OUTSIDE_CODECS, Payload


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(data: Any, datatype: str = "BYTES", shape: list[int] | None = None, **parameters: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "shape": [len(data)] if shape is None else shape,
        "datatype": datatype,
        "data": data,
        "parameters": parameters,
    }


def value(payload: Any) -> Any:
    if isinstance(payload, Payload):
        return decode(payload.codec, payload.data)
    return {name: [value(part) for part in parts] for name, parts in payload.items()}


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        (tensor(["héllo"]), "héllo"),
        (tensor([["nested"]], shape=[1, 1]), "nested"),
        (tensor([base64.b64encode(b"\xff\x00").decode()], content_type="base64"), b"\xff\x00"),
        (tensor(['{"a": [1]}'], content_type="json"), {"a": [1]}),
        (tensor(["one", "two"]), {"x": ["one", "two"]}),
        (tensor([]), {"x": []}),
    ],
)
def test_bytes_in_json_mean_text_bytes_or_json(sent: dict[str, Any], means: Any) -> None:
    assert value(oip.parse(body(sent)).input) == means


def test_several_inputs_are_a_mapping_by_name() -> None:
    other = {"name": "y", "shape": [2], "datatype": "INT32", "data": [1, 2]}
    found = value(oip.parse(body(tensor(["a"]), other)).input)
    assert found["x"] == ["a"]
    np.testing.assert_array_equal(found["y"][0], np.array([1, 2], np.int32))


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("binary", [False, True])
def test_numeric_tensors_arrive_as_sent(datatype: str, binary: bool) -> None:
    sent = np.array([[0, 1, 1], [1, 0, 1]], DATATYPES[datatype])
    if binary:
        encoded = encode(sent)
        found = oip.parse(encoded.data, encoded.header_length)
    else:
        data = sent.astype(float).tolist() if datatype.startswith("FP") else sent.tolist()
        found = oip.parse(body(tensor(data, datatype, [2, 3])))
    arrived = value(found.input)
    assert arrived.dtype == sent.dtype
    np.testing.assert_array_equal(arrived, sent)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "not an inference request"),
        (b"{}", "inputs"),
        (b"[" * 100_000, "not an inference request"),
        (b"\xff\xfe", "not an inference request"),
        (body(), "0 tensors"),
        (body(tensor(["a"]), tensor(["b"])), "twice"),
        (body(tensor(["a"], "TEXT")), "unknown"),
        (body(tensor(["a"], shape=[2])), "2 elements, but data has 1"),
        (body(tensor(["a"], shape=[-1])), "at least 0"),
        (body(tensor([1])), "must be a string, not int"),
        (body(tensor(["!"], content_type="base64")), "not valid base64"),
        (body(tensor(["{"], content_type="json")), "not valid json"),
        (body(tensor(["a"], content_type="pickle")), "valid: str, base64, json"),
        (body(tensor([1.5], "INT32")), "not all of datatype INT32"),
        (body(tensor(["1"], "FP32")), "not all of datatype FP32"),
        (body(tensor([300], "UINT8")), "out of bounds"),
        (body(tensor([[1, 2], [3]], "INT32", [3])), "inhomogeneous"),
        (body(tensor([1, 2], "INT32", [3])), "shape"),
        (body({"name": "x", "shape": [1], "datatype": "BYTES"}), "neither data nor binary_data_size"),
        (body({**tensor(["a"]), "parameters": {"binary_data_size": 0}}), "one of them"),
        (body({"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}), "0 bytes"),
    ],
)
def test_a_bad_body_is_refused_with_one_sentence(sent: bytes, says: str) -> None:
    with pytest.raises(oip.BadRequest) as caught:
        oip.parse(sent)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def binary(blob: bytes, datatype: str = "BYTES", shape: tuple[int, ...] = (1,), **parameters: Any) -> tuple[bytes, int]:
    described = {"name": "x", "shape": list(shape), "datatype": datatype}
    head = body({**described, "parameters": {"binary_data_size": len(blob), **parameters}})
    return head + blob, len(head)


def sized(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def test_binary_elements_are_bytes_unless_they_are_said_to_be_text_or_json() -> None:
    assert value(oip.parse(*binary(sized(b"\xff"))).input) == b"\xff"
    assert value(oip.parse(*binary(sized(b"hi"), content_type="str")).input) == "hi"
    assert value(oip.parse(*binary(sized(b"[1]"), content_type="json")).input) == [1]
    assert value(oip.parse(*binary(sized(b"a", b""), shape=(2,))).input) == {"x": [b"a", b""]}


@pytest.mark.parametrize(
    ("sent", "length", "says"),
    [
        (*binary(sized(b"a")[:-1]), "middle of an element"),
        (*binary(sized(b"a", b"b")), "hold others"),
        (*binary(sized(b"\xff"), content_type="str"), "not valid text"),
        (*binary(b"123", "FP32"), "needs 4 bytes"),
        (binary(sized(b"a"))[0] + b"more", binary(sized(b"a"))[1], "belong to no input"),
        (b"{}", 3, "but the body has 2 bytes"),
        (b"{}", 0, "but the body has 2 bytes"),
    ],
)
def test_bad_binary_data_are_refused(sent: bytes, length: int, says: str) -> None:
    with pytest.raises(oip.BadRequest, match=says):
        oip.parse(sent, length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "datatype": st.sampled_from(["BYTES", *DATATYPES]) | JSON,
    },
    optional={
        "data": st.lists(JSON, max_size=4) | JSON,
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "content_type": st.sampled_from(["str", "base64", "json", "raw"]) | JSON,
                "binary_data_size": st.integers(-1, 12) | JSON,
            },
        ),
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TENSORS, max_size=3), st.binary(max_size=12), st.none() | st.integers(-1, 60))
def test_any_body_is_either_understood_or_refused(tensors: list[Any], tail: bytes, length: int | None) -> None:
    head = json.dumps({"inputs": tensors}).encode()
    try:
        asked = oip.parse(head + tail, len(head) if tail and length is None else length)
    except oip.BadRequest:
        return
    parts = [asked.input] if isinstance(asked.input, Payload) else [p for ps in asked.input.values() for p in ps]
    for part in parts:
        # Nothing from outside may be a pickle, and what was let through can be decoded.
        assert part.codec in OUTSIDE_CODECS
        decode(part.codec, part.data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_either_understood_or_refused(raw: bytes, length: int | None) -> None:
    with contextlib.suppress(oip.BadRequest):
        oip.parse(raw, length)


ASKED = oip.InferRequest(Payload("text", b""), id="7")


def answered(*results: tuple[str, Payload], asked: oip.InferRequest = ASKED) -> Any:
    raw, length = oip.response("m", "1", asked, results)
    assert length is None
    return json.loads(raw)


def test_an_answer_names_outputs_after_stages() -> None:
    found = answered(("a", Payload("text", b"hi")), ("b", Payload("json", b'{"k":1}')), ("c", Payload("raw", b"\xff")))
    assert found == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "a", "datatype": "BYTES", "shape": [1], "data": ["hi"], "parameters": {"content_type": "str"}},
            {
                "name": "b", "datatype": "BYTES", "shape": [1], "data": ['{"k":1}'],
                "parameters": {"content_type": "json"},
            },
            {
                "name": "c", "datatype": "BYTES", "shape": [1], "data": ["/w=="],
                "parameters": {"content_type": "base64"},
            },
        ],
    }  # fmt: skip


TENSOR = Payload("tensor", tensor_bytes("FP32", [2], np.array([1, 2], "<f4").tobytes()))
WRITTEN = Payload("json", b'{"datatype":"FP32","shape":[2],"data":[1.0,2.0]}')


@pytest.mark.parametrize("payload", [TENSOR, WRITTEN])
def test_arrays_are_tensors_and_equal_ones_are_stacked(payload: Payload) -> None:
    assert answered(("a", payload))["outputs"] == [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}]
    stacked = answered(("a", payload), ("a", payload))["outputs"][0]
    assert (stacked["shape"], stacked["data"]) == ([2, 2], [1.0, 2.0, 1.0, 2.0])


def test_results_of_one_stage_that_do_not_fit_one_tensor_are_numbered() -> None:
    found = answered(("a", TENSOR), ("a", Payload("text", b"none")))
    assert [output["name"] for output in found["outputs"]] == ["a.0", "a.1"]


def test_a_dict_that_only_looks_like_a_tensor_stays_a_dict() -> None:
    found = answered(("a", Payload("json", b'{"datatype":"FP32","shape":[7],"data":[1.0]}')))
    assert found["outputs"][0]["datatype"] == "BYTES"


def test_only_the_outputs_asked_for_are_returned_and_unknown_ones_refused() -> None:
    asked = oip.parse(body(tensor(["x"]), outputs=[{"name": "b"}]))
    found = answered(("a", Payload("text", b"1")), ("b", Payload("text", b"2")), asked=asked)
    assert [output["name"] for output in found["outputs"]] == ["b"]
    oip.check_outputs(asked, ["a", "b"])
    with pytest.raises(oip.BadRequest, match="did you mean 'bee'"):
        oip.check_outputs(oip.parse(body(tensor(["x"]), outputs=[{"name": "be"}])), ["a", "bee"])


def test_binary_outputs_follow_the_header_in_order() -> None:
    asked = oip.parse(body(tensor(["x"]), parameters={"binary_data_output": True}))
    raw, length = oip.response("m", "1", asked, [("a", Payload("raw", b"\xff")), ("b", TENSOR)])
    assert length is not None
    head, blob = json.loads(raw[:length]), raw[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes == [5, 8]
    assert blob[:5] == sized(b"\xff")
    np.testing.assert_array_equal(np.frombuffer(blob[5:], "<f4"), [1, 2])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20) | st.binary(max_size=20) | JSON.filter(lambda sent: "inputs" not in str(sent)))
def test_what_a_replay_sends_is_what_the_pipeline_gets(sent: Any) -> None:
    encoded = encode(sent)
    assert value(oip.parse(encoded.data, encoded.header_length).input) == sent


def test_payloads_are_read_from_a_folder_in_the_order_of_names(tmp_path: Any) -> None:
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    (tmp_path / "c.json").write_text('{"k": 1}')
    (tmp_path / "d.bin").write_bytes(b"\xff")
    np.save(tmp_path / "a.npy", np.arange(3))
    array, *others = read_payloads(tmp_path)
    np.testing.assert_array_equal(array, np.arange(3))
    assert others == ["text", {"k": 1}, b"\xff"]


def test_a_profile_and_a_replay_read_the_same_inputs(tmp_path: Any) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "b.txt").write_text("ü", encoding="utf-8")
    (folder / "c.json").write_text('{"k": [1, "a"]}')
    (folder / "d.png").write_bytes(b"\xff")
    np.save(folder / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    lines = tmp_path / "lines.jsonl"
    lines.write_text('"a"\n\n{"k": 1}\n[2.5]\n')
    for place in (folder, lines, *folder.iterdir()):
        profiled = [decode(sample.codec, sample.data) for sample in read_samples(place)]
        replayed = read_payloads(place)
        assert len(profiled) == len(replayed) > 0
        for one, other in zip(profiled, replayed, strict=True):
            assert type(one) is type(other)
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("text", "says"), [('"a"\n{\n', "l.jsonl:2: not JSON"), ("\n", "no payloads")])
def test_bad_lines_of_payloads_are_named(tmp_path: Any, text: str, says: str) -> None:
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(ServeError, match=says):
        read_payloads(tmp_path / "l.jsonl")


@pytest.mark.parametrize("given_payloads", [[], "/nonexistent-folder-of-payloads"])
def test_missing_payloads_are_an_error(given_payloads: Any) -> None:
    with pytest.raises(ServeError, match="payloads"):
        as_payloads(given_payloads)


def test_a_payload_file_that_holds_a_pickle_is_refused(tmp_path: Any) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ServeError, match="allow_pickle"):
        read_payloads(tmp_path)
