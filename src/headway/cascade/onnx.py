"""Models in ONNX, run by ONNX Runtime in one thread; a copy or a pickle holds the model itself, not its session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headway.cascade.rows import Block
from headway.errors import CascadeError


class OnnxSession:
    """A model in ONNX, given as its bytes: from a block to its outputs."""

    def __init__(self, graph: bytes, source: Path | None = None) -> None:
        self.graph = graph
        # A file may name others that hold its weights, which only loading it by its path finds.
        self._begin(graph if source is None else str(source))

    def _begin(self, source: bytes | str) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        self._given = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def output(self, place: int, block: Block) -> Any:
        """Return one output for a block, which it takes in single precision."""
        dense = block.toarray() if hasattr(block, "toarray") else block
        given = {self._given: np.asarray(dense, dtype=np.float32)}
        return self._session.run([self._outputs[place]], given)[0]

    def __getstate__(self) -> bytes:
        return self.graph

    def __setstate__(self, graph: bytes) -> None:
        self.graph = graph
        self._begin(graph)


class OnnxFile:
    """The model in an `.onnx` file, from a block to its last output: probabilities, or maps of them by class.

    Raises CascadeError for a file that is not there or cannot be loaded, and where ONNX Runtime is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CascadeError(f"{path}: there is no such file; give the path of a model in ONNX, or one with `fit`")
        try:
            self._session = OnnxSession(path.read_bytes(), path)
        except ModuleNotFoundError:
            raise CascadeError(f"{path}: onnxruntime is not installed; pip install 'headway[learn]'") from None
        except Exception as error:  # ONNX Runtime's errors have no base but this one
            raise CascadeError(f"{path}: is no model that ONNX Runtime can load: {error}") from None

    def __call__(self, block: Block) -> Any:
        """Return one probability per class, in the order of the classes."""
        said = self._session.output(-1, block)
        if isinstance(said, list) and said and isinstance(said[0], dict):
            return [[by_class[name] for name in sorted(by_class)] for by_class in said]
        return said
