"""A spec's text as plain values that remember their lines. Hostile text costs no more than its length."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 10_000
_COLLECTIONS = {"block mapping": "the mapping", "block collection": "the list", "flow": "the bracket"}
_TOO_DEEP = f"values nest deeper than {MAX_DEPTH} levels; a spec needs fewer"
_TOO_MANY = f"more than {MAX_VALUES} values with aliases written out; a spec needs fewer"
_MOST_READ_AGAIN = 3 * MAX_BYTES

_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))
_COLLECTED = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq"))
_AS_TEXT = frozenset(f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value"))


@dataclass
class Document:
    """A text's values, the line of every place in them (counted from 1), and what the text itself has wrong."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, Path, str]] = field(default_factory=list)

    def line(self, path: Path) -> int | None:
        """The line of a place, or of the innermost thing around it that has one."""
        return next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)


class _TooMuch(Exception):
    """The text holds more than a spec may; its text says what."""


def read_yaml(text: str) -> Document:
    """Return the values of a YAML text. Whatever is wrong with it stands in `problems`; this raises nothing."""
    document = Document()
    try:
        root = _Loader(text).get_single_node()
        if root is not None:
            document.value = _Reader(document).read(root, (), ())
            document.lines[()] = root.start_mark.line + 1
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.problems.append((mark.line + 1 if mark else 1, (), _syntax(error, text)))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        text = f"character {error.character!r} may not stand in YAML; remove it"
        document.problems.append((line, (), text))
    except _TooMuch as error:
        document.problems.append((1, (), str(error)))
    return document


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    """The library speaks of tokens; a person needs to know what to mend."""
    problem = error.problem or "it cannot be read"
    line = text.splitlines()[error.problem_mark.line :][:1] if error.problem_mark else []
    if line and "\t" in line[0][: len(line[0]) - len(line[0].lstrip())]:
        return "a tab stands in the indentation; indent with spaces"
    if "expected a single document" in str(error):
        return "a second document starts here; keep one spec in a file"
    if isinstance(error, yaml.composer.ComposerError):
        return f"{problem}; define the anchor before it is used"
    opened = next((words for kind, words in _COLLECTIONS.items() if kind in (error.context or "")), None)
    if opened and error.context_mark:
        start = f"{opened} that starts in line {error.context_mark.line + 1}"
        if "<block " in problem:
            return f"this line does not fit {start}; check its indentation and the lines before it"
        return f"{start} does not go on as it must here; check commas, quotes and closing brackets"
    if "mapping values are not allowed" in problem:
        return "a second colon stands in this line; put the text around it in quotes, or start a new line"
    if "end of stream" in problem:
        return "the file ends within quotes; close them"
    return f"not valid YAML: {problem}; put text in quotes"


def _no_tag(node: yaml.Node) -> str:
    return f"tag {str(node.tag).replace('tag:yaml.org,2002:', '!!')} is not allowed; write plain values"


class _Loader(yaml.SafeLoader):
    """Reads nodes with limits where the library would exhaust the stack or take its time."""

    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.count > 2 * MAX_VALUES:
            raise _TooMuch(_TOO_MANY)
        if self.depth > MAX_DEPTH:
            raise _TooMuch(_TOO_DEEP)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Turns nodes into values. Aliases are read each time they are used, so the limit counts what they expand to."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._scalars = yaml.SafeLoader("")
        self._values = 0

    def read(self, node: yaml.Node, path: Path, around: tuple[yaml.Node, ...]) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _TooMuch(_TOO_MANY)
        if any(node is outer for outer in around):
            return self._problem(node, path, "this alias stands for something that contains it; write it out")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTED:
            return self._problem(node, path, _no_tag(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*around, node))
        if isinstance(node, yaml.SequenceNode):
            inner = (*around, node)
            for index, item in enumerate(node.value):
                self._document.lines[(*path, index)] = item.start_mark.line + 1
            return [self.read(item, (*path, index), inner) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        if node.tag in _AS_TEXT:
            return node.value
        if node.tag not in _SCALARS:
            return self._problem(node, path, _no_tag(node))
        try:
            return self._scalars.construct_object(node)
        except (ValueError, yaml.YAMLError):
            return self._problem(node, path, f"{node.value[:60]!r} cannot be read as a number; put it in quotes")

    def _mapping(self, node: yaml.MappingNode, path: Path, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key_node, value_node, merged in self._entries(node, path, around):
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if merged and key in result:
                continue
            if key in own:
                text = f"this key stands here a second time (first in line {own[key]}); keep one"
                self._problem(key_node, (*path, key), text)
                continue
            if not merged:
                own[key] = line
            is_scalar = isinstance(value_node, yaml.ScalarNode) and value_node.value
            self._document.lines[(*path, key)] = value_node.start_mark.line + 1 if is_scalar else line
            result[key] = self.read(value_node, (*path, key), around)
        return result

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(node, path, "a list or a mapping stands where a key is needed; write text")
            return None
        key = self._scalar(node, path)
        if isinstance(key, str):
            return key
        kind = "true or false" if isinstance(key, bool) else "nothing" if key is None else "a number"
        self._problem(node, path, f"YAML reads key {node.value} as {kind}; put it in quotes")
        return None

    def _entries(
        self, node: yaml.MappingNode, path: Path, around: tuple[yaml.Node, ...]
    ) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """A mapping's own entries, then those that `<<` merges into it: what stands first wins."""
        merges: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merges += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, False
        for source in merges:
            self._values += 1
            if not isinstance(source, yaml.MappingNode) or any(source is outer for outer in around):
                self._problem(source, path, "<< needs an alias of another mapping, or a list of such aliases")
                continue
            for key, value, _ in self._entries(source, path, (*around, source)):
                yield key, value, True

    def _problem(self, node: yaml.Node, path: Path, text: str) -> None:
        self._document.problems.append((node.start_mark.line + 1, path, text))


def read_toml(text: str) -> Document:
    """Return the values of a TOML text. Whatever is wrong with it stands in `problems`; this raises nothing."""
    document = Document(lines={(): 1})
    try:
        document.value = tomllib.loads(text)
        for count, _ in enumerate(_paths(document.value)):
            if count > MAX_VALUES:
                raise _TooMuch(_TOO_MANY)
    except tomllib.TOMLDecodeError as error:
        problem, _, mark = str(error).partition(" (at ")
        last = text.count("\n") + 1
        line = int(mark.split()[1].rstrip(",")) if mark.startswith("line ") else last
        document.problems.append((line, (), f"not valid TOML: {problem[:1].lower()}{problem[1:]}; mend this line"))
    except (_TooMuch, RecursionError) as error:
        text = str(error) if isinstance(error, _TooMuch) else _TOO_DEEP
        document.problems.append((1, (), text))
    else:
        document.lines.update(_toml_lines(text))
    return document


def _toml_lines(text: str) -> dict[Path, int]:
    """The lines of a valid TOML text's keys, found by reading it statement by statement.

    A statement of many lines is read again with each of them; where that costs too much, the rest has no lines.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    counts: dict[Path, int] = {}
    statement, start, read = "", 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if not statement:
            start = number
        statement += line + "\n"
        read += len(statement)
        if read > _MOST_READ_AGAIN:
            break
        try:
            parsed = tomllib.loads(statement)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        if statement.lstrip().startswith("["):
            table = _table(parsed, counts)
            lines.setdefault(table, start)
        else:
            for path in _paths(parsed):
                lines.setdefault((*table, *path), start)
        statement = ""
    return lines


def _table(header: Any, counts: dict[Path, int]) -> Path:
    """The place of a table by its header alone; `counts` holds the last index of every array of tables so far."""
    path: Path = ()
    while header:
        if isinstance(header, list):
            counts[path] = counts.get(path, -1) + 1
            return (*path, counts[path])
        if path in counts:
            path = (*path, counts[path])
        name = next(iter(header))
        path, header = (*path, name), header[name]
    return path


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a value."""
    if len(path) > MAX_DEPTH:
        raise _TooMuch(_TOO_DEEP)
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in items:
        yield from _paths(part, (*path, step))
