"""A worker process: one replica of one stage. Loads the model, then answers batches until its socket closes.

Started by `headway.serve.worker` as `python -m headway.serve.child FD`, with thread limits already in the environment.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from headway.errors import HeadwayError, ServeError, nearest
from headway.serve import values
from headway.serve.builtin import OnnxModel, SleepModel
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.parent import when_gone
from headway.serve.shared import Shared
from headway.serve.wire import (
    CODECS,
    Batch,
    Body,
    Broken,
    Done,
    Failure,
    FrameReader,
    FromWorker,
    Measure,
    Measured,
    Ready,
    Render,
    ResultSlots,
    Slots,
    Start,
    Stop,
    ToWorker,
    pack,
    slot,
    to_worker_decoder,
)

_MAX_ERROR_CHARS = 4000


def load(ref: ModelRef, hardware: HardwareView, options: Mapping[str, Any]) -> Any:
    """Return the model, created with `options` and set up. Whatever the model's own code raises passes through."""
    if ref.folder and ref.folder not in sys.path:
        sys.path.insert(0, ref.folder)
    if ref.kind == "sleep":
        model: Any = SleepModel(ref.table_s, ref.seed)
    elif ref.kind == "onnx":
        model = OnnxModel(ref.path, **options)
    else:
        module = module_of_file(ref.path) if ref.path else importlib.import_module(ref.module)
        found = getattr(module, ref.class_name, None)
        if not isinstance(found, type):
            classes = [name for name, value in vars(module).items() if isinstance(value, type)]
            raise ServeError(f"{ref.text}: there is no class {ref.class_name!r}{nearest(ref.class_name, classes)}")
        model = found(**options)
    if not callable(getattr(model, "predict", None)):
        raise ServeError(f"{ref.text}: the class has no method predict(batch)")
    if hasattr(model, "setup"):
        model.setup(hardware)
    return model


def module_of_file(path: str) -> Any:
    """Return the module of a Python file, which is run anew."""
    # The plain stem, so that what the model pickles can be unpickled by a sibling that imports it by name.
    name = os.path.splitext(os.path.basename(path))[0]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ServeError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


class Replica:
    """A loaded model that turns batches into results; whatever fails, every input gets an answer of its own."""

    def __init__(self, model: Any, children: list[str]) -> None:
        self._model = model
        self._children = frozenset(children)

    def run(self, items: list[Any], handed_s: float) -> tuple[list[Any], float]:
        """Return an output or an exception per item, and the seconds spent in `predict`.

        Items that are exceptions (a payload that could not be decoded) stay as they are.
        """
        good = [item for item in items if not isinstance(item, Exception)]
        if isinstance(self._model, SleepModel):
            self._model.handed_s = handed_s
        started_s = time.perf_counter()
        outputs = self._predict(good) if good else []
        service_s = time.perf_counter() - started_s
        rest = iter(outputs)
        return [item if isinstance(item, Exception) else next(rest) for item in items], service_s

    def _predict(self, batch: list[Any]) -> list[Any]:
        try:
            outputs = self._model.predict(batch)
        except Exception as error:
            if len(batch) == 1:
                traceback.print_exc()
                # Its frames would keep what the model took for this input, and the others may need that memory.
                error.__cause__ = error.__context__ = None
                return [error.with_traceback(None)]
        else:
            return self._checked(outputs, batch)
        # Only the input that causes the failure shall fail.
        return [output for item in batch for output in self._predict([item])]

    def _checked(self, outputs: Any, batch: list[Any]) -> list[Any]:
        if not isinstance(outputs, list | tuple) or len(outputs) != len(batch):
            got = f"{len(outputs)} results" if isinstance(outputs, list | tuple) else type(outputs).__name__
            wanted = "a list with one result per input is needed"
            return [ServeError(f"predict got {len(batch)} inputs and returned {got}; {wanted}")] * len(batch)
        return list(outputs)

    def encode(self, output: Any, render: bool, buffers: list[bytes]) -> ResultSlots:
        """Return what stands for an output in a header and add its bytes to `buffers`."""
        kept = len(buffers)
        try:
            if isinstance(output, BaseException):
                return ResultSlots(None, None, failure(output))
            if isinstance(output, Mapping) and self._is_branches(output):
                parts = {
                    name: [slot(values.encode(value), buffers) for value in branch] for name, branch in output.items()
                }
                return ResultSlots(None, parts, None)
            payload = values.render(output) if render else values.encode(output)
            return ResultSlots(slot(payload, buffers), None, None)
        except Exception as error:  # pickling runs the user's code, which may raise anything
            del buffers[kept:]
            return ResultSlots(None, None, failure(error))

    def _is_branches(self, output: Mapping[Any, Any]) -> bool:
        """A mapping whose keys are stages that follow is the choice of branches; any other is a value."""
        if not self._children or not (set(output) & self._children or not output):
            return False
        for name, branch in output.items():
            if name not in self._children:
                known = ", ".join(sorted(self._children))
                hint = nearest(str(name), self._children)
                raise ServeError(f"predict chose the branch {name!r}{hint}; stages that follow: {known}")
            if not isinstance(branch, list | tuple):
                raise ServeError(f"predict gave {type(branch).__name__} for the branch {name!r}; a list is needed")
        return True


def failure(error: BaseException) -> Failure:
    """Return an exception's type name and text, cut to a sane length."""
    text = str(error)
    return Failure(type(error).__name__, text if len(text) <= _MAX_ERROR_CHARS else text[:_MAX_ERROR_CHARS] + " ...")


def _decoded(item: Slots, body: Body) -> Any:
    """The Python value of one input, or the exception that its bytes caused; the body is advanced either way."""
    if isinstance(item, tuple):
        index, size = item
        data = body.take(size)
        try:
            return values.decode(CODECS[index], data)
        except Exception as error:
            return error
    joined = {name: [_decoded(part, body) for part in parts] for name, parts in item.items()}
    bad = [value for parts in joined.values() for value in parts if isinstance(value, Exception)]
    return bad[0] if bad else joined


class Conversation:
    """A worker's side of the conversation with the server; `send` is given the frames of its answers.

    `stopped`: whether it is over. `shared`: the memory that the answer to the message at hand may go through.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self.stopped = False
        self.shared: Shared | None = None
        self._send_frame = send
        self._replica: Replica | None = None

    def _send(self, message: FromWorker, buffers: list[bytes] | None = None) -> None:
        self._send_frame(pack(message, buffers or (), self.shared))

    def receive(self, message: ToWorker, body: Body) -> None:
        """Do what a message asks for; there is one answer to each but the last."""
        if isinstance(message, Batch):
            self._answer(message, body)
        elif isinstance(message, Start):
            self._start(message)
        elif isinstance(message, Render):
            outputs = [_decoded(item, body) for item in message.items]
            self._reply(message.number, outputs, 0.0, render=True)
        elif isinstance(message, Measure):
            self._send(Measured(message.number, _peak_memory_mb()))
        elif isinstance(message, Stop):
            self.stopped = True

    def _start(self, message: Start) -> None:
        try:
            if message.cores is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, message.cores)
            model = load(message.ref, message.hardware, message.options)
        except BaseException as error:  # a model's module may raise anything, SystemExit included
            self._send(Broken(_setup_problem(error)))
            self.stopped = True
            return
        # What setup has made stays, so the collector need not look through it in the middle of a batch.
        gc.collect()
        gc.freeze()
        self._replica = Replica(model, message.children)
        self._send(Ready())

    def _answer(self, message: Batch, body: Body) -> None:
        items = [_decoded(item, body) for item in message.items]
        assert self._replica is not None
        outputs, service_s = self._replica.run(items, message.handed_s)
        self._reply(message.number, outputs, service_s, message.render)

    def _reply(self, number: int, outputs: list[Any], service_s: float, render: bool) -> None:
        assert self._replica is not None
        buffers: list[bytes] = []
        results = [self._replica.encode(output, render, buffers) for output in outputs]
        try:
            self._send(Done(number, service_s, results), buffers)
        except ServeError as error:
            self._send(Done(number, service_s, [ResultSlots(None, None, failure(error))] * len(outputs)))


def _serve(connection: socket.socket, shared: Shared | None) -> None:
    conversation = Conversation(connection.sendall)

    def receive(message: ToWorker, body: Body) -> None:
        conversation.shared = shared if reader.may_share else None
        conversation.receive(message, body)

    reader: FrameReader[ToWorker] = FrameReader(to_worker_decoder, receive, shared)
    while not conversation.stopped and (count := connection.recv_into(reader.space())):
        reader.filled(count)


def _setup_problem(error: BaseException) -> str:
    if isinstance(error, HeadwayError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({os.path.basename(last[0].filename)}:{last[0].lineno}, in {last[0].name})" if last else ""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}{place}"[:_MAX_ERROR_CHARS]


def _peak_memory_mb() -> float:
    # Linux carries the parent's peak over into ru_maxrss; the kernel's own mark starts anew with the program.
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Serve the socket whose file descriptor is the first argument; the second, if any, is shared memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setblocking(True)
    # Even while `predict` runs and never returns.
    when_gone(connection.fileno(), lambda: os._exit(0))
    with contextlib.suppress(ConnectionError):
        _serve(connection, Shared(int(sys.argv[2]), "worker") if len(sys.argv) > 2 else None)
    # Threads and finalizers of the model's libraries must not keep a stopped replica alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
