"""How hard samples are stands in the table that is made of them, found out as it will be when they are served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.e2e.cascade_models import FAMILY
from tests.e2e.test_cascade_live import context_of

from headway.domains.cascade.validate import validation_table
from headway.errors import CascadeError
from headway.serve.wire import Payload

TEXTS = ["x" * length for length in (1, 12, 19, 8)]


@pytest.mark.parametrize("hardness", [None, "size", "family.py:length"])
def test_the_table_says_how_hard_its_samples_are(tmp_path: Path, hardness: str | None) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    models = {name: {"model": f"family.py:{name.title()}"} for name in ("small", "large")}
    spec, _ = context_of(tmp_path, models, **({} if hardness is None else {"hardness": hardness}))
    samples = [Payload("text", text.encode()) for text in TEXTS]
    labels = ["long", "long", "long", "short"]

    def made() -> object:
        table = asyncio.run(validation_table(spec, "sort", samples, labels, folder=tmp_path))
        return None if table.hardness is None else table.hardness.tolist()

    assert made() == (None if hardness is None else [1.0, 12.0, 19.0, 8.0])


def test_an_input_whose_hardness_cannot_be_said_is_named(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    models = {name: {"model": f"family.py:{name.title()}"} for name in ("small", "large")}
    spec, _ = context_of(tmp_path, models, hardness="family.py:nothing")
    samples = [Payload("text", text) for text in (b"x", b"", b"xxxxxxxxxxxx")]
    with pytest.raises(CascadeError, match=r"stages\.sort\.hardness: sample 2: ValueError: it is empty"):
        asyncio.run(validation_table(spec, "sort", samples, ["short", "long", "long"], folder=tmp_path))
