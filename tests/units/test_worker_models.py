"""Where a stage's model is: the forms it is written in, what is refused, and when it counts as changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from headway.errors import SpecError
from headway.serve.model_ref import HardwareView, ModelRef, resolve
from headway.serve.wire import Payload, Result
from headway.serve.worker import Worker

MODELS = """
class Shout:
    def predict(self, batch):
        return [text.upper() for text in batch]

class Picky:
    def predict(self, batch):
        return batch
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models.py", "is not a model; write file.py:Class"),
        ("nothing.py:Shout", "there is no file 'nothing.py'"),
        ("nothing.onnx", "there is no file 'nothing.onnx'"),
        ("a b:Shout", "is not a model"),
        ("models.py:1", "is not a model"),
    ],
)
def test_a_model_that_is_nowhere_is_refused_with_its_place(folder: Path, model: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"stages.a.model: .*{message}"):
        resolve(model, folder, "stages.a.model")


def test_a_model_in_a_package_is_found_beside_the_spec(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "one.py").write_text(MODELS)
    ref = resolve("parts.one:Shout", folder)

    async def main() -> list[Result]:
        worker = await Worker.start(ref, HardwareView("cpu"))
        try:
            return await worker.predict([Payload("text", b"a")])
        finally:
            await worker.stop()

    assert asyncio.run(asyncio.wait_for(main(), 120.0)) == [Result(value=Payload("text", b"A"))]


def test_a_fingerprint_changes_with_the_model_and_only_with_it(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "one.py").write_text(MODELS)
    refs = [resolve(m, folder) for m in ("models.py:Shout", "models.py:Picky", "parts.one:Shout")]
    before = [ref.fingerprint for ref in refs]
    assert before == [ref.fingerprint for ref in refs]
    assert before[0] != before[1]
    for file in ("models.py", "parts/one.py"):
        (folder / file).write_text(MODELS + "\n# changed\n")
    assert not set(before) & {ref.fingerprint for ref in refs}
    assert ModelRef("sleep", table_s=((), (0.1,))).fingerprint != ModelRef("sleep", table_s=((), (0.2,))).fingerprint
