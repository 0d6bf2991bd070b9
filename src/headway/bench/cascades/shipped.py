"""How long planning takes in the examples that have gears: their own models, measured here, their own traffic.

An example is what its README says: the commands before `headway plan` are run in a copy of the folder, and that one is
timed as a user waits for it. Only a checkout has the examples; elsewhere there are no rows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from headway.bench import Row
from headway.errors import HeadwayError
from headway.plan.plan import Plan
from headway.spec.load import load

EXAMPLES = Path(__file__).parents[4] / "examples"
SPEC, README, PLAN = "headway.yaml", "README.md", "headway plan "
MOST_S = 30
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)


def examples_planned(examples: Path = EXAMPLES) -> Iterator[Row]:
    """Yield how long the planning of each example with gears takes. Raises HeadwayError when a command fails."""
    for path in sorted(examples.glob(f"*/{SPEC}")):
        if any(stage.kind == "cascade" for stage in load(path).stages.values()):
            with TemporaryDirectory(prefix="headway-example-") as folder:
                shutil.copytree(path.parent, folder, dirs_exist_ok=True)
                yield from _planned(f"gears-planning/examples/{path.parent.name}", Path(folder))


def _planned(head: str, folder: Path) -> Iterator[Row]:
    for command in _commands((folder / README).read_text(encoding="utf-8")):
        begun = perf_counter()
        _run(command, folder)
        if command.startswith(PLAN):
            yield Row(f"{head}/plan", perf_counter() - begun, "s", bar=f"<= {MOST_S}")
            break
    else:
        raise HeadwayError(f"{head}: the first block of its {README} has no command that begins with {PLAN!r}")
    made = Plan.read(next(folder.glob("plan*.json")))
    yield Row(f"{head}/gears", sum(len(getattr(config, "gears", ())) for config in made.stages.values()), "gears")


def _commands(text: str) -> list[str]:
    """The commands of the first block of shell."""
    block = _BLOCK.search(text)
    return [] if block is None else block[1].strip().splitlines()


def _run(command: str, folder: Path) -> None:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": here},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HeadwayError(f"bench gears-planning: {command!r} failed: {done.stderr.strip()}")
