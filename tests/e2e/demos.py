"""Runs of `headway demo` whose processes can be found by a mark in their environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "headway", "demo", *arguments]


def environment(mark: str) -> dict[str, str]:
    return {**os.environ, "DEMO_MARK": mark}


def marked(mark: str) -> list[int]:
    """Processes whose environment carries the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def told_by(folder: Path, *arguments: str) -> tuple[Path, dict[str, Any]]:
    """Run a quick demo to its end; return its folder and its result. It leaves no process behind."""
    mark = uuid.uuid4().hex
    done = subprocess.run(
        command(*arguments, "--quick", "--json", "-o", str(folder / "out")),
        capture_output=True, text=True, timeout=600, cwd=folder, env=environment(mark),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert marked(mark) == []
    return folder / "out", json.loads(done.stdout)
