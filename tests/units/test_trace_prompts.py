"""Blocks of prompts: read from files, kept with their requests whatever becomes of the trace, and what caches spare."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from headway.errors import TraceError
from headway.trace import Trace
from headway.trace.prompts import PROMPT, Prompts

ROWS = [
    {"timestamp": 3000, "input_length": 1500, "output_length": 9, "hash_ids": [5, 6, 7]},
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [5, 8]},
    {"timestamp": 1000, "input_length": 500, "output_length": 5, "hash_ids": [9]},
]


def written(folder: Path, *more: str) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("\n".join([*(json.dumps(row) for row in ROWS), *more]) + "\n", encoding="utf-8")
    return path


def blocks(trace: Trace) -> list[list[int]]:
    """The blocks of each request's prompt, numbered in order of their first use."""
    assert trace.prompts is not None
    mine = trace.prompts.rows(trace.columns[PROMPT].astype(np.int64))
    rows = [mine.blocks[mine.first[at] : mine.first[at + 1]].tolist() for at in range(mine.size)]
    numbers: dict[int, int] = {}
    return [[numbers.setdefault(block, len(numbers)) for block in row] for row in rows]


def test_a_published_trace_tells_the_blocks_of_its_prompts(tmp_path: Path) -> None:
    trace = Trace.read(written(tmp_path))
    assert trace.arrival_s.tolist() == [0.0, 1.0, 3.0]
    assert trace.columns["input_tokens"].tolist() == [600.0, 500.0, 1500.0]
    assert blocks(trace) == [[0, 1], [2], [0, 3, 4]]
    skipped = Trace.read(written(tmp_path, '{"timestamp": 1, "input_length": 1, "output_length": 1}'), skip_bad=True)
    assert skipped.skipped == 1
    assert blocks(skipped) == blocks(trace)


def test_whatever_becomes_of_a_trace_its_requests_keep_their_prompts(tmp_path: Path) -> None:
    trace = Trace.read(written(tmp_path))
    assert blocks(trace.slice(0.5)) == [[0], [1, 2, 3]]
    assert blocks(trace.scale_time(2.0)) == blocks(trace)
    assert blocks(pickle.loads(pickle.dumps(trace))) == blocks(trace)
    assert blocks(Trace.merge(trace, trace))[:2] == [[0, 1], [0, 1]]
    drawn = trace.resample(1.0, seed=3)
    by_length = {600.0: 2, 500.0: 1, 1500.0: 3}
    assert [len(row) for row in blocks(drawn)] == [by_length[n] for n in drawn.columns["input_tokens"].tolist()]
    assert trace.with_tokens(100, 10).prompts is None
    with pytest.raises(TraceError, match="cannot be compared between files"):
        Trace.merge(trace, Trace.read(written(tmp_path)))


def test_plain_files_carry_blocks_too(tmp_path: Path) -> None:
    trace = Trace.read(written(tmp_path)).slice(0.5)
    trace.write(tmp_path / "part.csv")
    again = Trace.read(tmp_path / "part.csv")
    assert blocks(again) == blocks(trace)
    assert again.prompts is not None
    assert again.prompts.block_tokens == 512
    assert again.hash == trace.hash
    assert again.columns.keys() == trace.columns.keys()
    (tmp_path / "small.csv").write_text("# block_tokens: 16\narrival_s,hash_ids\n0.5,3 4\n0.75,\n", encoding="utf-8")
    small = Trace.read(tmp_path / "small.csv")
    assert blocks(small) == [[0, 1], []]
    assert small.prompts is not None
    assert small.prompts.block_tokens == 16


def test_what_prompts_share_counts_in_the_hash(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("arrival_s,hash_ids\n0.5,1 2\n0.75,1 3\n", encoding="utf-8")
    (tmp_path / "same.csv").write_text("arrival_s,hash_ids\n0.5,7 8\n0.75,7 9\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("arrival_s,hash_ids\n0.5,1 2\n0.75,3 4\n", encoding="utf-8")
    one, same, other = (Trace.read(tmp_path / f"{name}.csv").hash for name in ("one", "same", "other"))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arrival_s,hash_ids\n0.5,1 b\n", "whole numbers with blanks between"),
        ("# block_tokens: many\narrival_s,hash_ids\n0.5,1 2\n", "not a number of tokens"),
        ("# block_tokens: 0\narrival_s,hash_ids\n0.5,1 2\n", "at least 1 is needed"),
    ],
)
def test_blocks_that_cannot_be_are_errors_that_say_what_would_be(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=says):
        Trace.read(tmp_path / "bad.csv")


def test_a_trace_with_prompts_says_whose_they_are() -> None:
    prompts = Prompts.of([[1]], 16)
    with pytest.raises(TraceError, match="no column 'prompt'"):
        Trace(np.zeros(1), {}, 1.0, prompts=prompts)
    with pytest.raises(TraceError, match="must number its 1 prompts"):
        Trace(np.zeros(1), {PROMPT: np.ones(1)}, 1.0, prompts=prompts)


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_serving_computes_less_than_the_tokens_that_no_cache_spares(seed: int) -> None:
    # An endless cache, requests one after another in any order: what is computed is never less, for any part of them.
    rng = np.random.default_rng(seed)
    block = 4
    rows = [[int(rng.integers(2)), *(10 + 10 * level + int(rng.integers(2)) for level in range(int(rng.integers(4))))]
            for _ in range(30)]  # fmt: skip
    paths = {path: at for at, path in enumerate(sorted({tuple(row[: n + 1]) for row in rows for n in range(len(row))}))}
    prompts = Prompts.of([[paths[tuple(row[: n + 1])] for n in range(len(row))] for row in rows], block)
    prompt = np.array([block * len(row) + int(rng.choice([0, 0, 3])) for row in rows])
    unseen = prompts.unseen_tokens(np.arange(30), prompt)
    assert np.all((unseen >= 1) & (unseen <= prompt))
    assert unseen.sum() < prompt.sum()
    for _ in range(40):
        chosen = rng.permutation(30)[: int(rng.integers(1, 31))]
        cached: set[int] = set()
        computed = 0
        for at in chosen.tolist():
            mine = prompts.blocks[prompts.first[at] : prompts.first[at + 1]].tolist()
            reusable = mine[: (int(prompt[at]) - 1) // block]
            hits = next((n for n, one in enumerate(reusable) if one not in cached), len(reusable))
            computed += int(prompt[at]) - block * hits
            cached.update(mine[: int(prompt[at]) // block])
        assert computed >= unseen[chosen].sum()
