"""Blocks of prompts: read from a published format, and kept with their requests whatever becomes of the trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headway.errors import TraceError
from headway.fleet.llm_prefix import PROMPT, Prompts, read_mooncake

ROWS = [
    {"timestamp": 3000, "input_length": 1500, "output_length": 9, "hash_ids": [5, 6, 7]},
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [5, 8]},
    {"timestamp": 1000, "input_length": 500, "output_length": 5, "hash_ids": [9]},
]


def written(folder: Path) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n", encoding="utf-8")
    return path


def test_prompts_stand_in_the_order_of_the_trace(tmp_path: Path) -> None:
    trace, prompts = read_mooncake(written(tmp_path))
    assert trace.arrival_s.tolist() == [0.0, 1.0, 3.0]
    assert trace.columns["input_tokens"].tolist() == [600.0, 500.0, 1500.0]
    rows = [prompts.blocks[prompts.first[at] : prompts.first[at + 1]].tolist() for at in range(prompts.size)]
    assert [len(row) for row in rows] == [2, 1, 3]
    assert rows[0][0] == rows[2][0]
    assert len({block for row in rows for block in row}) == 5


def test_a_cut_trace_keeps_its_prompts(tmp_path: Path) -> None:
    trace, prompts = read_mooncake(written(tmp_path))
    late = trace.slice(0.5)
    assert late.columns[PROMPT].tolist() == [1.0, 2.0]
    chosen = prompts.rows(late.columns[PROMPT].astype(np.int64))
    assert np.diff(chosen.first).tolist() == [1, 3]
    assert chosen.blocks.tolist() == prompts.blocks[2:].tolist()


def test_a_row_without_blocks_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n', encoding="utf-8")
    with pytest.raises(TraceError, match=":1: no row with hash_ids"):
        read_mooncake(path)
    with pytest.raises(TraceError, match="at least 1"):
        Prompts.of([[1]], 0)
