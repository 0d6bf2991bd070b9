"""A server that is to join a Ray: one that is there, and one that is not."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from tests.e2e.ray_models import ON_RAY
from tests.e2e.serving import make_plan

from headway.errors import ServeError
from headway.serve.ray_engine.address import check_answers
from headway.serve.run import running

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
]


def test_a_ray_that_runs_is_known_by_how_it_answers() -> None:
    from headway.serve.ray_engine.runtime import local_ray

    with local_ray():
        import ray

        address = ray.get_runtime_context().gcs_address
        check_answers(address, address)


def test_where_no_ray_answers_the_server_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models_on_ray.py"
    models.write_text(ON_RAY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    plan = make_plan({"hang": {"model": f"{models}:Hang"}})
    with pytest.raises(ServeError, match="did not start"), running(plan, engine="ray"):
        pass
    assert f"RAY_ADDRESS={address}: no Ray answers at" in capfd.readouterr().err
