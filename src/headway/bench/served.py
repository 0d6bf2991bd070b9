"""What `bench.serving` has every server do: the same models, the same bodies, the same batches, one thread each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import HeadwayError, nearest
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile import Row as ProfileRow
from headway.serve.model_ref import HardwareView
from headway.spec.model import Spec

HARDWARE = HardwareView("cpu", threads=1)
HEIGHT_PX, WIDTH_PX = 48, 192


class Echo:
    """Returns what it is given.

    >>> Echo().predict(["a"])
    ['a']
    """

    def predict(self, batch: list[Any]) -> list[Any]:
        """Return the batch."""
        return batch


class Orientation:
    """Says how likely a line of text stands on its head: 48 x 192 gray pixels -> a probability. PaddleOCR's network."""

    def setup(self, hardware: HardwareView) -> None:
        """Load the network from the rapidocr wheel."""
        import onnxruntime

        from headway.demo.document import model_file

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = hardware.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(model_file("cls")), options, ["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name

    def predict(self, batch: list[bytes]) -> list[float]:
        """Run the network once over the whole batch."""
        import numpy as np

        gray = np.stack([np.frombuffer(line, np.uint8).reshape(HEIGHT_PX, WIDTH_PX) for line in batch])
        pixels = (gray.astype(np.float32) / 127.5 - 1.0)[:, None].repeat(3, axis=1)
        scores: list[float] = self._session.run(None, {self._input: pixels})[0][:, 1].tolist()
        return scores


@dataclass(frozen=True, slots=True)
class Case:
    """Models by stage, one after the other, the largest batch, requests under way at a time, and what they carry."""

    name: str
    stages: Mapping[str, str]
    max_batch_size: int
    connections: int
    payload: Callable[[], str | bytes]
    workers: int = 1
    """Worker processes of each model; those of a server that has no stages hold all models."""
    window_s: float = 5.0

    def body(self) -> bytes:
        """Return the request's body, in the words of the Open Inference Protocol."""
        payload = self.payload()
        tensor: dict[str, Any] = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [payload]}
        if isinstance(payload, bytes):
            tensor |= {"data": [base64.b64encode(payload).decode()], "parameters": {"content_type": "base64"}}
        return msgspec.json.encode({"inputs": [tensor]})


def payload_of(request: Mapping[str, Any]) -> str | bytes:
    """Return what a request's decoded body carries.

    >>> payload_of({"inputs": [{"data": ["hi"]}]})
    'hi'
    """
    tensor = request["inputs"][0]
    data: str = tensor["data"][0]
    return base64.b64decode(data) if "parameters" in tensor else data


def response_of(result: Any) -> dict[str, Any]:
    """Return the body that answers with a result, to be encoded."""
    text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    return {"outputs": [{"name": "output", "datatype": "BYTES", "shape": [1], "data": [text]}]}


def models(case: Case) -> list[Any]:
    """Return the models of a case, loaded."""
    made = []
    for name in case.stages.values():
        model = _class_of(name)()
        if hasattr(model, "setup"):
            model.setup(HARDWARE)
        made.append(model)
    return made


def work(loaded: Sequence[Any], batch: list[Any]) -> list[Any]:
    """Return the results of a batch in one process: through the one model, or a page through the three of the demo."""
    if len(loaded) == 1:
        results: list[Any] = loaded[0].predict(batch)
        return results
    detect, orient, recognise = loaded
    return [recognise.predict(orient.predict(found["orient"])) for found in detect.predict(batch)]


def plan_of(case: Case) -> Plan:
    """Return a plan of stages one after the other; its times and promise let all requests in.

    Several workers per stage take turns for as many cores.
    """
    names = list(case.stages)
    stages: dict[str, Any] = {name: {"model": model} for name, model in case.stages.items()}
    for name, before in zip(names[1:], names, strict=False):
        stages[name]["after"] = before
    cpu: dict[str, Any] = {"price": "$0.05/h", "threads": HARDWARE.threads}
    document: dict[str, Any] = {"name": case.name, "slo": {"latency": "60s"}, "supply": {"cpu": cpu}, "stages": stages}
    if case.workers > 1:
        cpu["pool"] = "host"
        document["pools"] = {"host": {"cores": case.workers * HARDWARE.threads}}
    spec = Spec.from_dict(document)
    rows = [ProfileRow(name, "cpu", size, 1e-4) for name in names for size in sorted({1, case.max_batch_size})]
    config = ReplicaConfig("cpu", case.workers, max_batch_size=case.max_batch_size)
    return Plan(spec, Profile.from_rows(rows), dict.fromkeys(names, config))


def _class_of(name: str) -> Any:
    import importlib

    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _line() -> bytes:
    import numpy as np

    return np.random.default_rng(1).integers(0, 256, HEIGHT_PX * WIDTH_PX, np.uint8).tobytes()


def _page() -> bytes:
    from headway.demo.pages import pages

    return pages(count=1, seed=1)[0].image


_MODEL = "headway.bench.served:Echo"
_ECHO = Case("echo", {"echo": _MODEL}, 32, 64, lambda: "x" * 64)
_DOCUMENT = {name: f"headway.demo.document:{name.title()}" for name in ("detect", "orient", "recognise")}
CASES = {
    case.name: case
    for case in (
        _ECHO,
        replace(_ECHO, name="echo-single", max_batch_size=1),
        replace(_ECHO, name="hop", stages={"first": _MODEL, "second": _MODEL, "third": _MODEL}, connections=1),
        Case("onnx", {"orient": "headway.bench.served:Orientation"}, 8, 16, _line),
        Case("pipeline", _DOCUMENT, 2, 8, _page, workers=2, window_s=15.0),
    )
}


def case_of(name: str) -> Case:
    """Return a case by its name. Raises HeadwayError for an unknown one."""
    if name not in CASES:
        raise HeadwayError(f"bench: no case is called {name!r}{nearest(name, CASES)}; valid: {', '.join(CASES)}")
    return CASES[name]
