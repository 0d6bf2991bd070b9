"""The documentation does what it says: its code blocks run, and it names every verb, variable and file field."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block: `sh` and `python` are run, one with a title is a file that is written, the rest is only read."""

    language: str
    title: str | None
    body: str


def blocks(text: str) -> list[Block]:
    return [Block(m["language"], m["title"], m["body"]) for m in _FENCE.finditer(text)]


def has_something_to_run(page: Path) -> bool:
    return any(block.language in ("sh", "python") for block in blocks(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [p for p in PAGES if has_something_to_run(p)], ids=lambda page: page.stem)
def test_the_code_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.body, encoding="utf-8")
            continue
        if block.language == "python":
            command = [sys.executable, "-W", "error", "-c", block.body]
        elif block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.body]
        else:
            continue
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{page.name}:\n{block.body}\n{done.stdout}\n{done.stderr}"


def test_blocks_are_found_with_their_titles() -> None:
    text = 'a\n```sh\nls\n```\n```yaml title="x.yaml"\na: 1\n```\n```\nplain\n```\n'
    assert blocks(text) == [Block("sh", None, "ls\n"), Block("yaml", "x.yaml", "a: 1\n"), Block("", None, "plain\n")]


def test_the_command_line_page_names_every_verb_benchmark_and_variable() -> None:
    from headway.bench import BENCHES
    from headway.cli import app

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = page.split("\n## ")[0]
    for verb in app.VERBS:
        assert f"| `{verb.run.__name__}" in table, f"docs/cli.md does not name {verb.run.__name__}"
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "headway" / "cli").glob("*.py"))
    for name in BENCHES:
        assert f"| `{name}` |" in page, f"docs/cli.md does not name the benchmark {name}"
    for variable in sorted(set(re.findall(r"HEADWAY_[A-Z]+", sources))):
        assert f"`{variable}" in page, f"docs/cli.md does not name {variable}"


def test_the_pages_of_the_site_are_all_in_its_navigation() -> None:
    import yaml

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [file for entry in site["nav"] for file in entry.values()]
    docs = ROOT / "docs"
    assert sorted(named) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
