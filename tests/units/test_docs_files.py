"""`docs/files.md` names every field of what Headway writes, and no field that it does not write."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from headway.bench import Row as BenchRow
from headway.domains.fleet.compare import Run
from headway.plan.config import OwnPromise
from headway.plan.difference import diff
from headway.plan.infeasible import Infeasible
from headway.plan.make import make
from headway.plan.plan import Plan
from headway.policy.scaling import Decision
from headway.profile import Overheads, Profile, RecordedVisits
from headway.profile import Row as ProfileRow
from headway.report.policies import compared
from headway.serve.calibrate import fit
from headway.serve.judged import Judge
from headway.serve.replay import _labeled
from headway.sim.simulation import compare, simulate
from headway.testing.examples import tiny_plan, tiny_profile, tiny_spec
from headway.testing.observed import simulated_observation
from headway.trace import Trace
from headway.tune.advise import advise
from headway.tune.journal import Journal
from headway.tune.journal import read as read_journal
from headway.tune.loop import Entry

PAGE = Path(__file__).parent.parent.parent / "docs" / "files.md"
GOLDENS = Path(__file__).parent.parent / "goldens" / "report"
NAMED = ("stages", "figures", "batch_s", "utilization", "scale_factors", "stale_ratio", "baseline_ratio", "exits",
         "escalations")  # fmt: skip
"""Objects whose keys are names that a user or a table gives."""


def sections() -> dict[str, set[str]]:
    """The first columns of the page's tables, by heading."""
    found: dict[str, set[str]] = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        first = [line.split(" | ")[0] for line in body.splitlines() if line.startswith("| `")]
        found[heading] = {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}
    return found


def paths(value: Any, at: str = "") -> Iterator[str]:
    """Every field of a JSON value, as the page writes it: `a.b`, `list[].field`, `stages.NAME.field`."""
    if isinstance(value, dict):
        if at:
            yield at
        named = at.rpartition(".")[2] in NAMED
        for key, item in value.items():
            name = "NAME" if named else key
            yield from paths(item, f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        yield f"{at}[]"
        for item in value:
            if isinstance(item, dict):
                yield from (path for path in paths(item, f"{at}[]") if path != f"{at}[]")
    else:
        yield at


@cache
def plan() -> Plan:
    rows = [dataclasses.replace(row, samples=9) for row in tiny_profile().rows]
    visits = [RecordedVisits({"first": (1, 1), "second": (0, 1)}, left_out=1)]
    overheads = Overheads(0.001, {"first": 0.0005}, {"first": 0.4}, ("client: late",))
    profile = Profile.from_rows(rows, visits, {"cpu": "some"}, overheads)
    trace = Trace.poisson(rate=20, seconds=30, seed=1)
    return make(tiny_spec(), profile, trace, feasibility="trace", budget=200)


@cache
def outcome() -> dict[str, Any]:
    judge = Judge.of(["1"], ["1"], [])
    return _labeled(simulate(plan(), Trace.poisson(rate=20, seconds=30, seed=2), seed=1), judge, plan()).to_dict()


@cache
def cascade() -> dict[str, Any]:
    """What the stage of an outcome says because it is a cascade."""
    told = json.loads((GOLDENS / "gears_measured.json").read_text(encoding="utf-8"))["stages"]["cascade"]
    return {name: told[name] for name in ("cascade", "gear_history")}


@cache
def infeasible() -> dict[str, Any]:
    spec = tiny_spec().to_dict()
    spec["slo"]["latency"] = "1ms"
    with pytest.raises(Infeasible) as refusal:
        make(tiny_spec().from_dict(spec), tiny_profile(), Trace.poisson(rate=5, seconds=20, seed=1))
    own = OwnPromise("chat.ttft", "the first token", promised_s=0.001, least_s=0.009)
    return Infeasible("tiny", dataclasses.replace(refusal.value.obstacle, promises=(own,))).to_dict()


@cache
def calibration() -> dict[str, Any]:
    # The profiled times are half of what is observed, so that rows are replaced, and fewer items come than declared.
    halved = [
        dataclasses.replace(r, mean_s=r.mean_s / 2, p50_s=None, p95_s=None, p99_s=None) for r in plan().profile.rows
    ]
    declared = tiny_spec().to_dict()
    declared["stages"]["second"]["probability"] = 0.9
    spec = tiny_spec().from_dict(declared)
    told = dataclasses.replace(plan(), spec=spec, profile=Profile.from_rows(halved))
    return fit(told, simulated_observation(plan(), Trace.poisson(rate=20, seconds=30, seed=2))).to_dict()


@cache
def policies() -> dict[str, Any]:
    choice = {"routing": "random", "order": "fcfs", "admission": "optimistic"}
    figures = {"ttft_mean_s": 0.1, "goodput_per_s": 2.0}
    runs = [Run(1.0, choice, trace, figures, figures) for trace in (0, 1)]
    return compared("chat", "2 engines", runs, choice, report_s=0.5, provenance={})


@cache
def decisions() -> dict[str, Any]:
    """A line of each kind in one."""
    planned_on, today = Trace.poisson(40.0, 200, seed=1), Trace.spike(40.0, 2.5, 20.0, 20.0, 80.0, seed=3)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "decisions.jsonl") as journal:
        advise(tiny_plan(), today, planned_on=planned_on, journal=journal)
        beside = next(line for line in read_journal(journal.path) if line["kind"] == "decided")
        asked = Entry(9, 80.0, {"a": 1}, Decision({"a": 2}, "scale_up", "more comes"), asked={"plan_hash": "1234"})
        journal.asking(asked)
        written = read_journal(journal.path)[-1]
        journal.decided(dataclasses.replace(asked, applied={"advised": True}))
        journal.silent(81.0, "timed out")
        journal.back(81.0, 12.5)
        journal.ended(94.0, "told to end")
        lines = {line["kind"]: line for line in read_journal(journal.path)}
    lines["decided"] = {**beside, "asked": written["asked"]}
    return {name: value for line in lines.values() for name, value in line.items()}


def without_rows(profile: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in profile.items() if name != "rows"}


WRITTEN: dict[str, Callable[[], Any]] = {
    "Plan JSON": lambda: plan().to_dict(),
    "Infeasibility JSON": infeasible,
    "Diff JSON": lambda: diff(plan(), dataclasses.replace(plan(), stages={**plan().stages, **cheaper()})),
    "Outcome JSON": outcome,
    "Cascades in an outcome": cascade,
    "Calibration JSON": calibration,
    "Decisions JSONL": decisions,
    "Comparison JSON": lambda: compare(outcome(), outcome()),
    "Policies JSON": policies,
    "Profile JSON": lambda: {"schema": "headway.profile/1", **without_rows(plan().profile.to_dict())},
    "Bench rows": lambda: BenchRow("sim", 1.0, "ns").to_dict(),
}


def cheaper() -> dict[str, Any]:
    config: Any = plan().stages["first"]
    return {"first": dataclasses.replace(config, replicas=config.replicas + 1)}


def covered(path: str, documented: set[str]) -> bool:
    """Whether the page names a field, or names what holds it and goes no deeper there."""
    if path in documented:
        return True
    if any(name.startswith((f"{path}.", f"{path}[]", path.removesuffix("[]") + "[].")) for name in documented):
        return True
    parents = [path[: match.start()] for match in re.finditer(r"\.|\[\]", path)]
    for parent in parents:
        for holder in (parent, f"{parent}[]"):
            if holder in documented and not any(name.startswith(f"{holder}.") for name in documented):
                return True
    return False


@pytest.mark.parametrize("heading", WRITTEN)
def test_every_field_that_is_written_is_documented(heading: str) -> None:
    documented = sections()[heading]
    value = json.loads(json.dumps(WRITTEN[heading]()))
    missing = sorted({path for path in paths(value) if not covered(path, documented)})
    assert not missing


@pytest.mark.parametrize("heading", WRITTEN)
def test_every_documented_field_is_written(heading: str) -> None:
    written = set(paths(json.loads(json.dumps(WRITTEN[heading]()))))
    assert not sorted(sections()[heading] - written)


def test_the_columns_of_a_profile_are_documented_in_both_directions() -> None:
    assert sections()["Profile CSV"] == {field.name for field in dataclasses.fields(ProfileRow)}


def test_a_trace_has_the_column_that_is_documented() -> None:
    from headway.trace.formats import dump

    header = next(line for line in dump(Trace.from_arrivals([1.0]), "").decode().splitlines() if line[0] != "#")
    assert header in sections()["Trace CSV"]
