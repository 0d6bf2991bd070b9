"""The kernels also run uncompiled, with the same results; compiled code never outlives the source it came from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import headway

CASE = """
import json, sys
import numpy as np
from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.sim.eventsim import EventSimulation, ReplicaGroup, StageSetup
from headway.sim.jit import enabled
from headway.sim.simulation import StageRun, build_outcome, simulate, workload
from headway.sim.worklaw import least_runs
from headway.testing.examples import tiny_plan
from headway.trace import Trace

plan, trace = tiny_plan(), Trace.poisson(rate=150, seconds=4, seed=3)
many = {"first": ReplicaConfig("cpu", 40, 4), "second": ReplicaConfig("cpu", 3, 1, max_wait_s=0.01)}
out = [simulate(plan, trace, seed=7, drop_after_s=drop).to_dict() for drop in (None, 0.2)]
out.append(simulate(Plan(plan.spec, plan.profile, many), trace, seed=7).to_dict())
work = workload(plan, trace, 7, 0.1)
table = plan.profile.service("first", "default", "cpu").table(4, True)
groups = [ReplicaGroup(table, 1, pool="p"), ReplicaGroup(table * 2, 1, until_s=4.0)]
setups = {"first": StageSetup(groups, 0.01, queue_limit=9), "second": StageSetup([ReplicaGroup(table, 2, pool="p")])}
simulation = EventSimulation(work, setups, {"p": 2}, spare_replicas=1)
simulation.advance(2.0)
simulation.add_replica("second", 2.5)
simulation.advance(np.inf)
runs = {name: StageRun(simulation.arrived_s(name), left, 2) for name, left in simulation.departures().items()}
out.append(build_outcome(plan, work, runs, seed=7, mode="sampled").to_dict())
out.append(list(least_runs(table[4] - 0.06, 5, 8, 300)))
print(json.dumps({"compiled": enabled(), "out": out}, sort_keys=True))
"""


def run(code: str, package: Path | None = None, **environment: str) -> dict[str, object]:
    """Run `code` in a process of its own in which every warning is an error."""
    env = {**os.environ, **environment}
    if package is not None:
        env["PYTHONPATH"] = str(package)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_the_uncompiled_source_gives_the_same_bytes_without_overflow() -> None:
    compiled, plain = run(CASE, HEADWAY_JIT="1"), run(CASE, HEADWAY_JIT="0")
    assert (compiled["compiled"], plain["compiled"]) == (True, False)
    assert json.dumps(compiled["out"], sort_keys=True) == json.dumps(plain["out"], sort_keys=True)
    outcomes = compiled["out"]
    assert isinstance(outcomes, list)
    requests = [outcome["requests"] for outcome in outcomes[:4]]
    assert requests[1]["dropped"] > 0
    assert requests[3]["rejected"] > 0
    assert requests[3]["dropped"] > 0


SERVED = """
import json
import numpy as np
from headway.sim import events, feedforward
from headway.sim.draws import draw

size, wake_s = events.take(5, 0.0, 1.0, 4, 0.0)
late = feedforward.expired(1.0, 1.0)

from headway.sim.replicas import ReplicaStation
from headway.sim.station import Arrivals
arrivals = Arrivals(np.zeros(4), np.arange(4, dtype=np.int32), np.arange(4, dtype=np.int32), np.zeros(4))
left = ReplicaStation.always("s", np.array([[0.0], [1.0]]), 2).run(arrivals, seed=0, record=True)

import headway
print(json.dumps({"taken": int(size), "late": bool(late), "dropped": left.dropped.tolist(), "file": headway.__file__,
                  "draw": int(draw(3, 4, 16))}))
"""


def test_editing_a_policy_or_a_helper_changes_what_compiled_kernels_do(tmp_path: Path) -> None:
    """numba's own cache looks only at the file a kernel stands in; these edits are all in other files."""
    source = Path(headway.__file__).parent
    package = tmp_path / "edited"
    shutil.copytree(source, package / "headway", ignore=shutil.ignore_patterns("__pycache__"))
    cache = {"HEADWAY_CACHE_DIR": str(tmp_path / "cache"), "HEADWAY_JIT": "1"}
    before = run(SERVED, package, **cache)
    assert str(before["file"]).startswith(str(package)), "the copy runs, not the installed package"
    assert (before["taken"], before["late"]) == (4, False)
    assert before["dropped"] == [2, 3], "two served at 0, two given up at 1"
    assert run(SERVED, package, **cache) == before
    edits = {
        "policy/batching.py": ("        return max_batch_size, now_s", "        return max_batch_size - 1, now_s"),
        "policy/admission.py": ("return now_s > deadline_s", "return now_s > deadline_s + 9.0"),
        "sim/draws.py": ("0x9E3779B1", "0x9E3779B9"),
    }
    for name, (old, new) in edits.items():
        file = package / "headway" / name
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))
    after = run(SERVED, package, **cache)
    assert after["taken"] == 3
    assert after["dropped"] == [], "the recursion, compiled before the edit, follows it"
    assert after["draw"] != before["draw"]
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2, "one folder of kernels per state of the sources"


def test_an_unwritable_cache_folder_is_no_obstacle(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code = "import json; from headway.sim.draws import draw; print(json.dumps({'draw': int(draw(3, 4, 16))}))"
    assert run(code, HEADWAY_CACHE_DIR=str(blocked)) == run(code, HEADWAY_JIT="0")
