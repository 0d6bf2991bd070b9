"""Nobody is left behind: a server and its workers end with the process that started them, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.processes import descendants
from tests.e2e.serve_models import MODELS
from tests.e2e.serving import make_plan, wait_until

from headway.bench.tied import tied

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")

SERVING = """
import sys, time
from headway.plan.plan import Plan
from headway.serve.run import running
with running(Plan.read(sys.argv[1])) as server:
    print("serving", flush=True)
    time.sleep(600)
"""

BENCHING = """
import sys, time
from headway.bench.rivals import running
from headway.bench.served import case_of
with running("headway", case_of("echo")) as server:
    print("serving", flush=True)
    time.sleep(600)
"""


TYING = """
import subprocess, sys, time
from headway.bench.tied import tied
with subprocess.Popen(tied(["sleep", "600"])) as process:
    while b"sleep" not in open(f"/proc/{process.pid}/cmdline", "rb").read().split(b"\\0"):
        time.sleep(0.01)
    print("serving", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    path = tmp_path / "plan.json"
    make_plan({"echo": {"model": f"{tmp_path / 'models.py'}:Echo"}}, replicas=2).write(path)
    return path


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("script", "number"), [(SERVING, signal.SIGKILL), (SERVING, signal.SIGTERM), (BENCHING, signal.SIGKILL)]
)
def test_a_server_ends_with_who_started_it(plan: Path, script: str, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", script, str(plan)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "serving\n"
            started = descendants(parent.pid)
            assert len(started) >= 2, "a server, and at least one worker"
        finally:
            os.kill(parent.pid, number)
        assert parent.wait(60.0) == -number
    assert wait_until(lambda: gone(started))


def test_a_program_that_watches_nothing_ends_with_who_tied_it_to_itself() -> None:
    with subprocess.Popen([sys.executable, "-c", TYING], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "serving\n"
            started = descendants(parent.pid)
            assert len(started) == 1, "the program itself, and nobody who watches it"
        finally:
            parent.kill()
    assert wait_until(lambda: gone(started))


def test_a_program_is_not_begun_for_who_has_ended_before() -> None:
    done = subprocess.run([*tied(["echo", "begun"])[:3], "1", "echo", "begun"], capture_output=True, timeout=60.0)
    assert (done.returncode, done.stdout) == (0, b"")
