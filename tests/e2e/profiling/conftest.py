"""A folder that holds the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.profiling.measuring import MODELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text(MODELS)
    return tmp_path
