"""`docs/serving.md` names every option, metric and field of a running server, and none that it does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families

from headway.cli.app import build
from headway.serve.run import running_in_thread
from headway.testing.examples import tiny_plan

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
NOT_SPECIAL_TO_SERVING = {"--json", "--help", "-h"}


def table(begin: str, end: str) -> list[list[str]]:
    """The cells of the rows between two marks, without the heading."""
    part = PAGE.split(begin)[1].split(end)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if "| `" in line]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Any]]:
    """What a server says of itself after one request."""
    with running_in_thread(tiny_plan()) as server, httpx.Client(base_url=server.url) as client:
        name = server.engine.plan.spec.name
        tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]}
        assert client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]}).status_code == 200
        yield {
            "metrics": client.get("/metrics").text,
            "stats": client.get("/stats", params={"samples": "true"}).json(),
        }


def test_every_metric_is_named_with_its_type_and_labels(answers: dict[str, Any]) -> None:
    exposed = {}
    for family in text_string_to_metric_families(answers["metrics"]):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exposed[name] = (family.type, labels)
    rows = table("<!-- metrics: begin -->", "<!-- metrics: end -->")
    written = {row[0].strip(" `|"): (row[1], names(row[2])) for row in rows}
    assert written == exposed


def test_every_field_of_the_statistics_is_named(answers: dict[str, Any]) -> None:
    def paths(value: Any, at: str = "") -> Iterator[str]:
        if not isinstance(value, dict):
            yield at
            return
        for key, item in value.items():
            yield from paths(item, f"{at}.{'NAME' if at == 'stages' else key}" if at else key)

    rows = table("<!-- stats: begin -->", "<!-- stats: end -->")
    assert set().union(*(names(row[0]) for row in rows)) == set(paths(answers["stats"]))


def test_every_option_of_serve_is_named_with_its_default() -> None:
    group = typer.main.get_command(build())
    options = {
        option: parameter.default
        for parameter in group.commands["serve"].params  # type: ignore[attr-defined]
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    rows = table("\n## Start\n", "\n## Ask\n")
    written = {name: row[1].strip("`") for row in rows for name in names(row[0])}
    assert set(written) == set(options) - NOT_SPECIAL_TO_SERVING
    for option, default in written.items():
        if default[0].isdigit():
            assert str(options[option]) == default


def test_the_page_names_every_status_that_the_server_can_answer_with() -> None:
    sources = Path(__file__).parent.parent.parent / "src" / "headway" / "serve"
    text = "".join(
        (sources / f"{name}.py").read_text(encoding="utf-8") for name in ("app", "connection", "engine", "infer")
    )
    used = set(re.findall(r"\b([45]\d\d)\b", text))
    part = PAGE.split("### Status codes")[1].split("\n## ")[0]
    written = set(re.findall(r"^\| (\d{3})(?:, (\d{3}))? \|", part, re.M))
    assert used == {code for codes in written for code in codes if code} - {"200"}
