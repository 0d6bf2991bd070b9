"""Stages without the user's code: a sleep of the profiled time, and an ONNX file."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from headway.errors import ServeError
from headway.profile import Profile, Row
from headway.serve import values
from headway.serve.builtin import OnnxModel, SleepModel, sleep_until
from headway.serve.model_ref import HardwareView, resolve, sleeping
from headway.serve.wire import Payload, Result
from headway.serve.worker import Worker

PROFILE = Profile.from_rows(
    [Row("s", "cpu", 1, 0.001, p50_s=0.001, p95_s=0.002, p99_s=0.003), Row("s", "cpu", 4, 0.002, p50_s=0.002)]
)
CPU = HardwareView("cpu")


def predict(ref: Any, inputs: list[Any], *, render: bool = True) -> tuple[list[Result], float]:
    async def main() -> tuple[list[Result], float]:
        worker = await Worker.start(ref, CPU, log=lambda line: None)
        try:
            return await worker.predict(inputs, render=render), worker.service_s
        finally:
            await worker.stop()

    return asyncio.run(asyncio.wait_for(main(), 120.0))


def test_a_sleeping_stage_takes_at_least_the_profiled_time_and_passes_items_on() -> None:
    ref = sleeping(PROFILE.service("s", "default", "cpu"), 4, sampled=False)
    page = Payload("raw", b"page")
    results, service_s = predict(ref, [page, {"left": [page, page], "right": []}, page, page])
    assert [result.value for result in results] == [page, Payload("json", b'{"left":2,"right":0}'), page, page]
    # The time from handing over is the profiled one, so the worker's own part of it is all but the way there.
    assert service_s > 0


def test_a_sleep_counts_from_the_handing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    monkeypatch.setattr("headway.serve.builtin.sleep_until", ends.append)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    model = SleepModel([[], [1.0]])
    model.setup(CPU)
    model.handed_s = 99.5
    model.predict(["a"])
    model.predict(["b"])
    assert ends == [100.5, 101.0]


def test_a_drawn_sleep_is_one_of_the_profiled_quantiles_and_the_seed_decides_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    monkeypatch.setattr("headway.serve.builtin.sleep_until", drawn.append)
    service = PROFILE.service("s", "default", "cpu")
    for seed in (1, 1, 2):
        ref = sleeping(service, 4, sampled=True, seed=seed)
        model = SleepModel(ref.table_s, ref.seed)
        model.setup(CPU)
        for size in (1, 2, 4):
            model.predict([None] * size)
            assert drawn[-1] in ref.table_s[size]
    assert drawn[:3] == drawn[3:6] != drawn[6:]


def test_a_sleeping_stage_refuses_batches_that_its_plan_does_not_have() -> None:
    service = PROFILE.service("s", "default", "cpu")
    with pytest.raises(ServeError, match="a batch of 5 is larger than any profiled"):
        SleepModel(sleeping(service, 4, sampled=False).table_s).predict([None] * 5)


def test_a_sleep_never_ends_early() -> None:
    now = iter([0.0, 0.9996, 0.9999, 1.0])
    sleep_until(0.001, clock=lambda: next(now) * 0.001)
    assert next(now, None) is None


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol buffer: a varint below 128, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    raw = value.encode() if isinstance(value, str) else value
    assert len(raw) < 16384
    return bytes([number << 3 | 2, len(raw) & 127 | 128, len(raw) >> 7]) + raw


def tensor_info(name: str, sides: list[int | str]) -> bytes:
    shape = b"".join(field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in sides)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


def onnx_file(path: Path, op: str, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]]) -> str:
    """Write a network of one float operator; the format is public (onnx.proto), so no package is needed for it."""
    node = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs) + field(4, op)
    graph = field(1, node) + field(2, "g")
    graph += b"".join(field(11, tensor_info(name, sides)) for name, sides in inputs.items())
    graph += b"".join(field(12, tensor_info(name, sides)) for name, sides in outputs.items())
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))
    return str(path)


def fp32(*numbers: float, shape: list[int]) -> Payload:
    return Payload("tensor", values.tensor_bytes("FP32", shape, struct.pack(f"<{len(numbers)}f", *numbers)))


@pytest.fixture
def relu(tmp_path: Path) -> str:
    pytest.importorskip("onnxruntime")
    return onnx_file(tmp_path / "relu.onnx", "Relu", {"x": ["n", 2]}, {"y": ["n", 2]})


def test_stages_that_sleep_can_follow_a_join_that_sleeps() -> None:
    model = SleepModel([[], [0.0], [0.0]])
    joined = model.predict([{"person": ["a", "b"], "vehicle": []}, "text"])
    assert joined == [{"person": 2, "vehicle": 0}, "text"]
    assert model.predict(joined) == joined


@pytest.mark.demo
def test_an_onnx_file_takes_tensors_of_every_form_and_splits_the_batch_again(relu: str) -> None:
    named = b'{"datatype": "FP32", "shape": [1, 2], "data": [5, -6]}'
    inputs = [
        fp32(1, -2, shape=[1, 2]),
        fp32(-3, 4, 7, 8, shape=[2, 2]),
        Payload("json", named),
        Payload("json", b"[[-1, 9]]"),
    ]
    results, _ = predict(resolve("relu.onnx", Path(relu).parent), inputs)
    got = [values.decode("json", result.value.data) for result in results if result.value]
    assert [tensor["data"] for tensor in got] == [[1, 0], [0, 4, 7, 8], [5, 0], [0, 9]]
    assert [tensor["shape"] for tensor in got] == [[1, 2], [2, 2], [1, 2], [1, 2]]


@pytest.mark.demo
def test_an_input_that_is_no_tensor_fails_alone(relu: str) -> None:
    inputs = [
        fp32(1, -2, shape=[1, 2]),
        Payload("text", b"page"),
        Payload("json", b'{"data": 1}'),
        fp32(1, 2, 3, shape=[1, 3]),
    ]
    results, _ = predict(resolve("relu.onnx", Path(relu).parent), inputs)
    assert [result.error is None for result in results] == [True, False, False, False]
    # Long contents must not be repeated in a sentence for the user.
    assert results[1].error is not None
    assert results[1].error.message == "a tensor is needed, not text"


@pytest.mark.demo
def test_equal_shapes_run_as_one_batch_and_others_one_by_one(relu: str) -> None:
    import numpy as np

    model = OnnxModel(relu)
    model.setup(CPU)
    session, calls = model._session, []

    class Counted:
        def run(self, names: Any, feed: dict[str, Any]) -> Any:
            calls.append(feed["x"].shape)
            return session.run(names, feed)

    model._session = Counted()
    one = np.ones((1, 2), np.float32)
    model.predict([one, np.ones((3, 2), np.float32), one])
    assert calls == [(5, 2)]
    model.predict([one])
    assert calls[1:] == [(1, 2)]


@pytest.mark.demo
def test_a_network_of_fixed_size_runs_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import numpy as np

    model = OnnxModel(onnx_file(tmp_path / "fixed.onnx", "Relu", {"x": [1, 2]}, {"y": [1, 2]}))
    model.setup(CPU)
    outputs = model.predict([np.array([[k, -k]], np.float32) for k in (1, 2)])
    assert [out.tolist() for out in outputs] == [[[1, 0]], [[2, 0]]]


@pytest.mark.demo
def test_a_network_with_several_inputs_takes_them_by_name_from_a_join_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import numpy as np

    model = OnnxModel(onnx_file(tmp_path / "add.onnx", "Add", {"a": ["n"], "b": ["n"]}, {"c": ["n"]}))
    model.setup(CPU)
    a, b = np.array([1.0], np.float32), np.array([2.0], np.float32)
    outputs = model.predict([{"a": [a], "b": [b]}, {"a": [3], "b": [4]}, a])
    assert [outputs[0].tolist(), outputs[1].tolist()] == [[3.0], [7.0]]
    assert "needs the inputs a, b" in str(outputs[2])


@pytest.mark.demo
@pytest.mark.parametrize(("device", "message"), [("tpu:0", "run on the CPU or on"), ("cuda:x", "run on the CPU or on")])
def test_a_device_that_onnx_files_cannot_use_is_refused(relu: str, device: str, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        OnnxModel(relu).setup(HardwareView("gpu", 1, device))
