"""Print how large the code is, folder by folder, and fail when a file no longer fits in the head.

python tools/sizes.py [FOLDER ...]
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_LINES = 400
"""The longest file that is allowed."""


class Size(NamedTuple):
    """One file: its lines, and the lines and name of its longest function."""

    path: Path
    lines: int
    function_lines: int
    function: str


def measure(path: Path) -> Size:
    """Return the size of one Python file."""
    text = path.read_text(encoding="utf-8")
    functions = [
        ((node.end_lineno or node.lineno) - node.lineno + 1, node.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    longest, name = max(functions, default=(0, ""))
    return Size(path, len(text.splitlines()), longest, name)


def table(sizes: list[Size]) -> Iterator[str]:
    """Yield one line per folder and a total: files, lines, the longest file and the longest function."""
    folders: dict[str, list[Size]] = defaultdict(list)
    for size in sizes:
        folders[size.path.parent.as_posix()].append(size)
    width = max((len(name) for name in folders), default=6)
    yield f"{'folder':{width}}  files   lines  longest file                longest function"
    for name in sorted(folders):
        members = folders[name]
        file = max(members, key=lambda size: size.lines)
        function = max(members, key=lambda size: size.function_lines)
        yield (
            f"{name:{width}}  {len(members):5}  {sum(size.lines for size in members):6,}"
            f"  {file.lines:4} {file.path.name:22} {function.function_lines:4} {function.function}"
        )
    yield f"{'total':{width}}  {len(sizes):5}  {sum(size.lines for size in sizes):6,}"


def main(roots: list[str]) -> int:
    """Print the table of all Python files below the roots; return 1 when one is too long, else 0."""
    paths = sorted(path for root in roots for path in Path(root).rglob("*.py"))
    sizes = [measure(path) for path in paths]
    print("\n".join(table(sizes)))
    too_long = [size for size in sizes if size.lines > MAX_LINES]
    for size in too_long:
        print(f"error: {size.path} has {size.lines} lines; at most {MAX_LINES} fit: split it by idea", file=sys.stderr)
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["src", "tests", "tools"]))
