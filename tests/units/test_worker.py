"""Worker processes: every input gets an answer of its own, and no process outlives its use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.serve import wire
from headway.serve.model_ref import HardwareView, resolve
from headway.serve.wire import Payload, Result
from headway.serve.worker import Worker

MODELS = '''
import ast, os, signal, time

class Shout:
    def __init__(self, mark="!"):
        self.mark = mark
    def predict(self, batch):
        return [text.upper() + self.mark for text in batch]

class Hardware:
    def setup(self, hardware):
        self.hardware = hardware
    def predict(self, batch):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        seen = {"name": self.hardware.name, "threads": self.hardware.threads, "device": self.hardware.device,
                "omp": os.environ["OMP_NUM_THREADS"], "cores": cores}
        return [seen for _ in batch]

class Picky:
    """Fails on "bad", whoever is in the batch with it; returns an exception for "no"."""
    def predict(self, batch):
        if "bad" in batch:
            raise ValueError("bad is in the batch")
        return [KeyError("no") if item == "no" else item for item in batch]

class Miscounts:
    def predict(self, batch):
        return batch[1:]

class Branches:
    def predict(self, batch):
        return [ast.literal_eval(text) for text in batch]

class Box:
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return self.value == other.value

class Boxes:
    def predict(self, batch):
        return [Box(item) for item in batch]

class Unboxes:
    def predict(self, batch):
        return [{k: [b.value for b in v] for k, v in item.items()} if isinstance(item, dict) else item.value
                for item in batch]

class Unpicklable:
    def predict(self, batch):
        return [lambda: 1 if item == "bad" else item for item in batch]

class Ends:
    """Exits, is killed, or hangs, as the text says."""
    def predict(self, batch):
        if "exit" in batch:
            print("last words", flush=True)
            os._exit(7)
        if "crash" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in batch:
            time.sleep(600)
        if "stubborn" in batch:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return batch

class Parent:
    """Starts a process of its own and says its number; hangs on more than one input."""
    def predict(self, batch):
        import subprocess, sys
        if len(batch) > 1:
            time.sleep(600)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return [str(child.pid)]

class Broken:
    def setup(self, hardware):
        raise RuntimeError("no weights")
    def predict(self, batch):
        return batch

class Mute:
    pass
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    return tmp_path


def text(*words: str) -> list[Payload]:
    return [Payload("text", word.encode()) for word in words]


def words(results: list[Result]) -> list[Any]:
    return [r.value.data.decode() if r.value is not None else r.error.type if r.error else r.branches for r in results]


def use(
    folder: Path,
    class_name: str,
    body: Callable[[Worker], Awaitable[Any]],
    hardware: HardwareView | None = None,
    **kw: Any,
) -> Any:
    async def main() -> Any:
        ref = resolve(f"models.py:{class_name}", folder)
        worker = await Worker.start(ref, hardware or HardwareView("cpu"), **{"log": lambda line: None, **kw})
        try:
            return await body(worker)
        finally:
            await worker.stop(5.0)
            assert gone(worker.pid)

    return asyncio.run(asyncio.wait_for(main(), 120.0))


def gone(pid: int) -> bool:
    """Whether the process has ended and been reaped: a zombie would still take the signal."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def zombie(pid: int) -> bool:
    """Whether the process has ended and waits for a parent that may never ask."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " in stat.read_text()


def test_results_come_back_in_order_with_options_applied(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text("a", "b", "c"))

    assert words(use(folder, "Shout", body, options={"mark": "?"})) == ["A?", "B?", "C?"]


def test_a_worker_says_how_long_it_took_and_what_memory_it_holds(folder: Path) -> None:
    async def body(worker: Worker) -> tuple[float, float, float]:
        await worker.predict(text("a"))
        return worker.startup_s, worker.service_s, await worker.memory_mb()

    startup_s, service_s, memory_mb = use(folder, "Shout", body)
    assert 0 < service_s < startup_s
    assert 1 < memory_mb < 10_000


def test_setup_sees_its_hardware_and_threads_are_pinned(folder: Path) -> None:
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0

    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text("a"), render=True)

    (result,) = use(folder, "Hardware", body, HardwareView("big", 3, "cuda:0"), cores=(core,))
    seen = wire.msgspec.json.decode(result.value.data)
    assert seen.pop("cores") in ([core], None)
    assert seen == {"name": "big", "threads": 3, "device": "cuda:0", "omp": "3"}


def test_only_the_input_that_fails_gets_the_error(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict([*text("a", "bad", "no", "b"), Payload("text", b"\xff")])

    results = use(folder, "Picky", body)
    assert words(results) == ["a", "ValueError", "KeyError", "b", "ServeError"]
    assert results[1].error.message == "bad is in the batch"


def test_a_wrong_number_of_results_fails_the_batch_and_says_so(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text("a", "b"))

    results = use(folder, "Miscounts", body)
    assert [r.error.message for r in results] == [
        "predict got 2 inputs and returned 1 results; a list with one result per input is needed"
    ] * 2


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{'next': ['x', 'y']}", {"next": [Payload("text", b"x"), Payload("text", b"y")]}),
        ("{'next': [], 'other': [b'z']}", {"next": [], "other": [Payload("raw", b"z")]}),
        ("{}", {}),
        ("{'nxt': 1, 'next': ['x']}", "ServeError"),
        ("{'next': 'x'}", "ServeError"),
    ],
)
def test_a_mapping_from_stages_chooses_branches(folder: Path, written: str, expected: Any) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text(written))

    assert words(use(folder, "Branches", body, children=["next", "other"])) == [expected]


def test_other_mappings_are_values(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text("{'text': 'x'}", "{}"), render=True)

    assert words(use(folder, "Branches", body)) == ['{"text":"x"}', "{}"]
    assert words(use(folder, "Branches", body, children=["next"])) == ['{"text":"x"}', {}]


def test_objects_pass_between_workers_and_the_parent_never_needs_their_class(folder: Path) -> None:
    async def body(worker: Worker) -> tuple[list[Result], list[Result]]:
        boxed = [result.value for result in await worker.predict(text("a", "b"))]
        assert {payload.codec for payload in boxed} == {"object"}
        other = await Worker.start(resolve("models.py:Unboxes", folder), HardwareView("cpu"))
        try:
            plain = await other.predict([*boxed, {"left": boxed, "right": []}], render=True)
            return plain, await other.render(boxed)
        finally:
            await other.stop()

    plain, rendered = use(folder, "Boxes", body)
    assert words(plain) == ["a", "b", '{"left":["a","b"],"right":[]}']
    assert words(rendered) == ["ServeError", "ServeError"]


def test_a_result_that_cannot_be_pickled_fails_its_input_alone(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        return await worker.predict(text("bad"))

    (result,) = use(folder, "Unpicklable", body)
    assert result.error is not None


@pytest.mark.parametrize(
    ("word", "message"), [("exit", "exited with code 7 .*last words"), ("crash", "died of signal SIGKILL")]
)
def test_a_death_in_mid_batch_is_told_with_its_cause(folder: Path, word: str, message: str) -> None:
    async def body(worker: Worker) -> None:
        assert words(await worker.predict(text("fine"))) == ["fine"]
        with pytest.raises(WorkerDied, match=message):
            await worker.predict(text("a", word))
        await worker.wait()
        assert not worker.alive
        assert gone(worker.pid)
        with pytest.raises(WorkerDied, match=message):
            await worker.predict(text("a"))

    use(folder, "Ends", body)


def test_an_idle_worker_that_is_killed_is_noticed(folder: Path) -> None:
    async def body(worker: Worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(worker.wait(), 30)
        assert not worker.alive

    use(folder, "Ends", body)


def test_a_batch_that_hangs_is_given_up_and_its_process_killed(folder: Path) -> None:
    async def body(worker: Worker) -> None:
        with pytest.raises(WorkerTimeout, match=r"took longer than 0\.05 s for a batch and was killed"):
            await worker.predict(text("hang"), timeout_s=0.05)
        await worker.wait()
        assert gone(worker.pid)

    use(folder, "Ends", body)


def test_what_a_killed_worker_started_goes_with_it(folder: Path) -> None:
    async def body(worker: Worker) -> int:
        (pid,) = words(await worker.predict(text("start")))
        with pytest.raises(WorkerTimeout):
            await worker.predict(text("hang", "on"), timeout_s=0.01)
        return int(pid)

    pid = use(folder, "Parent", body)
    for _ in range(500):
        if gone(pid) or zombie(pid):
            return
        time.sleep(0.02)
    pytest.fail("what the worker started outlived it")


def test_stopping_fails_the_batch_in_hand_and_kills_what_will_not_stop(folder: Path) -> None:
    async def body(worker: Worker) -> None:
        await worker.predict(text("stubborn"))
        batch = asyncio.ensure_future(worker.predict(text("hang")))
        await asyncio.sleep(0)
        await worker.stop(grace_s=0.01)
        assert gone(worker.pid)
        with pytest.raises(WorkerDied, match="was stopped"):
            await batch

    use(folder, "Ends", body)


def test_a_cancelled_batch_does_not_confuse_the_next(folder: Path) -> None:
    async def body(worker: Worker) -> list[Result]:
        first = asyncio.ensure_future(worker.predict(text("first")))
        await asyncio.sleep(0)
        first.cancel()
        return await worker.predict(text("second"))

    assert words(use(folder, "Shout", body)) == ["SECOND!"]


def test_an_oversized_batch_is_refused_and_the_worker_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1000)

    async def body(worker: Worker) -> list[Result]:
        with pytest.raises(ServeError, match="cannot be sent"):
            await worker.predict([Payload("raw", bytes(1001))])
        return await worker.predict(text("a"))

    assert words(use(folder, "Shout", body)) == ["A!"]


def test_an_oversized_answer_ends_the_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1000)

    async def body(worker: Worker) -> None:
        with pytest.raises(WorkerDied, match=r"given up, as its connection failed: a frame of \d+ bytes is larger"):
            await worker.predict(text("x" * 1000))

    use(folder, "Shout", body)


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        ("Broken", r"RuntimeError: no weights \(models.py:\d+, in setup\)"),
        ("Shuot", "there is no class 'Shuot'; did you mean 'Shout'"),
        ("Mute", r"has no method predict\(batch\)"),
    ],
)
def test_a_model_that_cannot_be_set_up_is_told_and_leaves_no_process(
    folder: Path, class_name: str, message: str
) -> None:
    async def main() -> None:
        with pytest.raises(ServeError, match=message):
            await Worker.start(resolve(f"models.py:{class_name}", folder), HardwareView("cpu"), log=lambda line: None)

    asyncio.run(asyncio.wait_for(main(), 120.0))


def test_what_a_worker_prints_reaches_the_log_with_its_name(folder: Path) -> None:
    lines: list[str] = []

    async def body(worker: Worker) -> None:
        with pytest.raises(WorkerDied):
            await worker.predict(text("exit"))

    use(folder, "Ends", body, name="stage", log=lines.append)
    assert lines == ["[stage] last words"]


def test_a_worker_ends_with_its_parent_even_in_mid_batch(folder: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import asyncio, os, signal\n"
        "from headway.serve.model_ref import HardwareView, resolve\n"
        "from headway.serve.wire import Payload\n"
        "from headway.serve.worker import Worker\n"
        "async def main():\n"
        f"    w = await Worker.start(resolve('models.py:Ends', {str(folder)!r}), HardwareView('cpu'))\n"
        "    task = asyncio.ensure_future(w.predict([Payload('text', b'hang')]))\n"
        "    await asyncio.sleep(0.05)\n"
        "    print(w.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    # The worker holds the pipe that its parent's output goes to only through its parent; the read ends when both end.
    done = subprocess.run([sys.executable, str(parent)], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(500):
        if gone(pid) or zombie(pid):
            return
        time.sleep(0.02)
    pytest.fail("the worker outlived its parent")
