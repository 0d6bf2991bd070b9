"""What starts up stays small: the law is what is imported; how long it takes is the benchmark's matter."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from headway.domains.cascade.live_answers import ABOUT, ANSWER, read_said
from headway.serve.model_ref import HardwareView, ModelRef, resolve
from headway.serve.wire import Payload
from headway.serve.worker import Worker

HEAVY = ("numba", "numpy", "pydantic", "starlette", "rich", "httpx", "msgspec", "prometheus_client", "yaml")


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stderr))


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = imported_by("import headway")
    assert modules.isdisjoint(HEAVY)
    assert not {name for name in modules if name.startswith("headway.")}


def test_a_server_does_not_bring_the_compiler_of_the_simulator() -> None:
    code = """
from headway.serve.engine import Engine
from headway.testing.examples import tiny_plan
from headway.testing.live import fake_stations
Engine(tiny_plan(), stations=fake_stations(tiny_plan()))
"""
    assert "numba" not in imported_by(code)


def test_help_imports_nothing_that_computes_or_serves() -> None:
    # The command line's own library may bring pydantic; what it does not need stays out.
    code = "from headway.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert imported_by(code).isdisjoint(set(HEAVY) - {"pydantic"})


@pytest.mark.parametrize("verb", ["plan", "profile", "serve"])
def test_a_verb_is_both_a_package_and_a_function(verb: str) -> None:
    code = f"""
import headway as hw
import headway.{verb}
import importlib, types
package = importlib.import_module("headway.{verb}")
assert isinstance(hw.{verb}, types.ModuleType) and hw.{verb} is package
assert callable(hw.{verb}) and package.__path__
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_verb_can_be_called_whichever_way_it_was_imported() -> None:
    code = """
import headway.plan.plan, headway.profile
import headway as hw
from headway import plan
import headway.api
headway.api.plan = lambda *args, **kwargs: (args, kwargs)
assert hw.plan(1, 2, 3, seed=4) == ((1, 2, 3), {"seed": 4})
assert plan is hw.plan and hw.plan.plan.Plan is hw.Plan
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_can_be_reached_and_is_listed() -> None:
    code = """
import headway as hw
for name in hw.__all__:
    assert getattr(hw, name) is not None, name
assert set(hw.__all__) <= set(dir(hw))
assert hw.__version__
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import headway

    with pytest.raises(AttributeError, match="no attribute 'paln'"):
        headway.paln  # noqa: B018


def test_the_worker_of_a_cascades_model_brings_nothing_that_declares_plans_or_serves(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import sys\nclass Loaded:\n    def predict(self, batch):\n"
        "        return [(' '.join(sys.modules), 1.0) for _ in batch]\n"
    )
    wrapper = ModelRef("python", module="headway.domains.cascade.live_answers", class_name="StepModel")
    model = msgspec.to_builtins(resolve("model.py:Loaded", tmp_path))
    options = {"model": model, "options": {}, "certainty": "highest", "rendered": True}

    async def main() -> str:
        worker = await Worker.start(wrapper, HardwareView("cpu"), options=options, children=[ABOUT, ANSWER])
        try:
            (result,) = await worker.predict([Payload("text", b"x")])
        finally:
            await worker.stop()
        said = read_said(result, "loaded")
        assert said is not None
        assert said.result.value is not None
        return bytes(said.result.value.data).decode()

    loaded = set(asyncio.run(main()).split())
    assert {"headway.domains.cascade.live_answers", "numpy"} <= loaded
    assert "headway.sim.station" not in loaded
    assert loaded.isdisjoint(set(HEAVY) - {"numpy", "msgspec"})
