"""Models that need no code of the user's: an ONNX file, and a sleep of the profiled time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headway.errors import ServeError
from headway.serve.model_ref import HardwareView
from headway.serve.values import array

_SPIN_S = 0.0003
"""A sleeping thread wakes late by up to about this; the rest of a wait is spun."""


class SleepModel:
    """Takes as long as the profile says and returns its inputs; of a joining input, how many results each stage gave.

    `table_s[n]` holds equally likely service times of a batch of `n`; one is drawn per batch with `seed`. A profiled
    time runs from handing a batch over to holding its results, so the sleep counts from `handed_s` (monotonic clock),
    which the worker sets before each batch.

    >>> SleepModel([[], [0.001]]).predict(["page"])
    ['page']
    """

    def __init__(self, table_s: Sequence[Sequence[float]], seed: int = 0) -> None:
        self._table_s = table_s
        self._seed = seed
        self.handed_s: float | None = None

    def setup(self, hardware: HardwareView) -> None:
        """Prepare the draws; profile-only stages load nothing."""
        import random

        self._rng = random.Random(self._seed)

    def predict(self, batch: list[Any]) -> list[Any]:
        """Sleep the time of a batch of this size."""
        started_s = time.monotonic() if self.handed_s is None else self.handed_s
        self.handed_s = None
        if len(batch) >= len(self._table_s):
            raise ServeError(f"a batch of {len(batch)} is larger than any profiled ({len(self._table_s) - 1})")
        times = self._table_s[len(batch)]
        sleep_until(started_s + (times[0] if len(times) == 1 else self._rng.choice(times)))
        return [_counts(item) if isinstance(item, Mapping) else item for item in batch]


def _counts(item: Mapping[str, Any]) -> dict[str, Any]:
    # What is no list is left as it is: it may be the counts that a stage before this one returned.
    return {name: len(part) if isinstance(part, list) else part for name, part in item.items()}


def sleep_until(end_s: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Return when `clock` reaches `end_s`, to within microseconds on an idle core."""
    while (left_s := end_s - clock()) > 0:
        if left_s > _SPIN_S:
            time.sleep(left_s - _SPIN_S)


class OnnxModel:
    """Runs an ONNX file: tensors in, tensors out; inputs whose shapes agree run as one batch along axis 0.

    An input is an array, `{datatype, shape, data}`, a (nested) list of numbers, or, for a network with several inputs,
    a mapping from input names to these. A network with one output returns an array per input, else a dict of arrays.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def setup(self, hardware: HardwareView) -> None:
        """Load the network with as many threads as the hardware grants, none of them spinning while idle."""
        try:
            import onnxruntime
        except ImportError:
            raise ServeError(f"{self._path}: onnxruntime is not installed; pip install 'headway[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = hardware.threads
        options.inter_op_num_threads = 1
        # A spinning thread burns the core that another replica needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = _providers(hardware.device, onnxruntime.get_available_providers())
        self._session = onnxruntime.InferenceSession(self._path, options, providers=providers)
        self._inputs = {node.name: _dtype(node.type) for node in self._session.get_inputs()}
        self._stackable = all(not isinstance((node.shape or [1])[0], int) for node in self._session.get_inputs())
        self._outputs = [node.name for node in self._session.get_outputs()]

    def predict(self, batch: list[Any]) -> list[Any]:
        """Return the outputs for each input, or the error of an input that does not fit the network."""
        feeds = [self._feed(item) for item in batch]
        good = [feed for feed in feeds if isinstance(feed, dict)]
        outputs = iter(self._run(good))
        return [next(outputs) if isinstance(feed, dict) else feed for feed in feeds]

    def _feed(self, item: Any) -> dict[str, Any] | ServeError:
        named = item if isinstance(item, Mapping) and set(item) >= set(self._inputs) else None
        if named is None and len(self._inputs) > 1:
            return ServeError(f"the network needs the inputs {', '.join(self._inputs)}, by name")
        if named is None:
            named = dict.fromkeys(self._inputs, item)
        try:
            return {name: _as_array(named[name], dtype) for name, dtype in self._inputs.items()}
        except ServeError as error:
            return error

    def _run(self, feeds: list[dict[str, Any]]) -> list[Any]:
        import numpy as np

        shapes = {tuple((name, value.shape[1:]) for name, value in feed.items()) for feed in feeds}
        rows = [{value.shape[0] if value.ndim else -1 for value in feed.values()} for feed in feeds]
        if self._stackable and len(feeds) > 1 and len(shapes) == 1 and all(len(r) == 1 and -1 not in r for r in rows):
            stacked = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
            outputs = self._session.run(None, stacked)
            counts = [next(iter(r)) for r in rows]
            if all(out.ndim and out.shape[0] == sum(counts) for out in outputs):
                ends = np.cumsum(counts)[:-1]
                parts = [np.split(out, ends) for out in outputs]
                return [self._named([part[i] for part in parts]) for i in range(len(feeds))]
        return [self._named(self._session.run(None, feed)) for feed in feeds]

    def _named(self, outputs: list[Any]) -> Any:
        return outputs[0] if len(outputs) == 1 else dict(zip(self._outputs, outputs, strict=True))


def _as_array(value: Any, dtype: Any) -> Any:
    import numpy as np

    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], np.ndarray):
        value = value[0]  # a joining stage gets a list of results per parent
    if isinstance(value, Mapping):
        if not {"datatype", "shape", "data"} <= set(value) or not isinstance(value["shape"], list):
            raise ServeError("a tensor is needed: {datatype, shape, data}, an array, or a list of numbers")
        value = array(str(value["datatype"]), value["shape"], value["data"])
    if isinstance(value, str | bytes):
        raise ServeError(f"a tensor is needed, not {'text' if isinstance(value, str) else 'bytes'}")
    try:
        return np.ascontiguousarray(value, dtype=dtype) if np.ndim(value) else np.asarray(value, dtype=dtype)
    except (ValueError, TypeError) as error:
        raise ServeError(f"a tensor is needed, not {type(value).__name__}: {error}") from None


def _dtype(name: str) -> Any:
    import numpy as np

    inner = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64", "string": "object"}.get(inner, inner))


def _providers(device: str | None, available: Sequence[str]) -> list[Any]:
    if device is None or device == "cpu":
        return ["CPUExecutionProvider"]
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise ServeError(f"device {device!r}: ONNX files run on the CPU or on 'cuda:N'")
    if "CUDAExecutionProvider" not in available:
        raise ServeError(f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu in its place")
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)})]
