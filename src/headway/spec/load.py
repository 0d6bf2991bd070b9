"""A spec from a file, a text or a mapping: one SpecError with one line per problem, first problem first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from headway.errors import SpecError
from headway.spec.model import Spec
from headway.spec.wording import MOST_PROBLEMS, describe, message, path_text, place


def load(path: str | os.PathLike[str]) -> Spec:
    """Return the spec that a YAML file (or TOML, when its name ends so) declares.

    Raises SpecError with one line per problem: file, line, field, what is wrong and what would be valid.

    >>> load("nowhere.yaml")
    Traceback (most recent call last):
    headway.errors.SpecError: nowhere.yaml: cannot read the spec: No such file or directory
    """
    from headway.spec.document import MAX_BYTES

    target = Path(path)
    try:
        with target.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{target}: cannot read the spec: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig") if len(raw) <= MAX_BYTES else raw.decode("latin-1")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{target}:{line}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None
    return loads(text, str(target), "toml" if target.suffix.lower() == ".toml" else "yaml")


def loads(text: str, name: str = "<text>", form: Literal["yaml", "toml"] = "yaml") -> Spec:
    """Return the spec that a text declares; `name` stands for the file in errors. Raises SpecError as `load` does.

    >>> loads("{slo: {latency: 1s}, supply: {cpu: {price: $1/h}}, stages: {only: {}}}").slo.latency_s
    1.0
    """
    from headway.spec.document import MAX_BYTES, read_toml, read_yaml

    if len(text.encode()) > MAX_BYTES:
        raise SpecError(f"{name}: larger than {MAX_BYTES >> 20} MiB; a spec is smaller")
    document = read_toml(text) if form == "toml" else read_yaml(text)
    problems = document.problems
    if not problems:
        if document.value is None:
            raise SpecError(f"{name}:1: the file is empty; a spec needs slo, supply and stages")
        try:
            return Spec.model_validate(document.value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                where = place(detail, document.value)
                problems.append((document.line(where) or 1, where, message(detail)))
    lines = (
        f"{name}:{line}: {path_text(where)}{': ' if where else ''}{what}"
        for line, where, what in sorted(problems, key=lambda problem: problem[0])
    )
    raise SpecError(_text(list(dict.fromkeys(lines))))


def parse(value: Mapping[str, Any]) -> Spec:
    """Return the spec that a mapping declares. Raises SpecError, one line `field: what is wrong` per problem.

    >>> parse({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"only": {}}}).name
    'pipeline'
    """
    try:
        return Spec.model_validate(value)
    except ValidationError as error:
        raise SpecError(_text(describe(error, value))) from None


def _text(lines: list[str]) -> str:
    more = ["and more; mend these first"] if len(lines) > MOST_PROBLEMS else []
    return "\n".join([*lines[:MOST_PROBLEMS], *more])
