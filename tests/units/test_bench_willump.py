"""Willump's page: written from rows alone, and what it holds is what lies beside it."""

from __future__ import annotations

import numpy as np
import pytest

from headway.bench import Row
from headway.bench.cascades.text import Measured, loss_of
from headway.bench.page import filled
from headway.bench.willump.page import Result, body

ROWS = [
    *(
        Row(f"features-cascade/tea/{name}", 2.0, "points", 1.0, 4.0)
        for name in ("throughput", "of-projected", "compiled", "compiled-cascade")
    ),
    *(
        Row(f"features-cascade/tea/{name}", 0.1, "points", bar="<= 0.2")
        for name in (
            "loss",
            "loss-standard-error",
            "loss-certified-worst",
            "draws",
            "accuracy",
            "answered-by-cheap-steps",
        )
    ),
    *(
        Row(f"features-topk/tea/{name}", 0.94, "s", 8.0, 7.5, ">= 8")
        for name in ("seconds", "of-projected", "kept", "draws-with-recall", "draws-calibrated-on-copies")
    ),
    *(Row(f"features-topk/tea/{name}", 0.94, "of draws") for name in ("draws-of-copies", "least-recall")),
    Row("features-topk/tea/any-scores/rows-needed", 20_000, "rows", baseline=750),
    *(Row(f"features-all/{far}whole/{part}", 0.05, "ms") for far in ("", "far/") for part in ("median", "mean", "p99")),
    *(Row(f"features-all/pandas/{part}", 0.05, "ms", 5.0, 100.0) for part in ("median", "mean", "p99")),
    *(Row(f"features-all/{far}hit-rate/by_plane", 0.5, "of look-ups") for far in ("", "far/")),
    *(Row(f"features-all/{far}answered-by-small", 0.8, "of queries") for far in ("", "far/")),
    Row("features-all/time/whole/by_plane", 12.0, "us per query"),
    Row("features-all/auc", 0.61, "AUC", baseline=0.62),
    *(Row(f"features-all/{name}", 0.004, "AUC") for name in ("auc-loss", "auc-loss-bound")),
    Row("features-all/joins-1000/polars", 2.0, "ms", 20.0, 10.0),
]
RESULTS = [Result.of(row.name.split("/")[0], place, row) for place, row in enumerate(ROWS)]


def table(name: str) -> list[str]:
    text = filled(f"before <!-- results: {name} -->BEFORE<!-- end --> after", body(RESULTS))
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "BEFORE" not in text
    return text.split("\n\n")[1].splitlines()


def test_every_table_is_written_from_rows() -> None:
    assert table("cascades")[2] == "| tea | 1 | 2 | 4 x | 1 x | 0 % | 0.1 | +0.10 ± 0.10 | 0.1 % | 0.1 |"
    assert table("compiled")[2] == "| tea | 1 | 2 | 4 x | 2 | 4 x |"
    assert table("top-k")[2] == "| tea | 8 | 0.94 | 8 | 0.94 | 7.5 x | 8 x | 0.94 | 0.94 | 0.94 | 0.94 |"
    assert table("near")[2:] == ["| whole | 0.05 | 0.05 | 0.05 |  |", "| pandas | 5 | 5 | 5 | 100 x |"]
    assert table("far")[2:] == ["| whole | 0.05 | 0.05 | 0.05 |  |"]
    assert table("times")[2:] == ["| by plane |  | 12 |"]
    assert table("use")[2:] == ["| by plane | 50% | 50% |", "| *answered by the small model* | 80% | 80% |"]
    assert table("batches")[2:] == ["| joins of 1000 | polars | 2 | 10 x |"]
    assert "a loss of +0.0040, bounded on the calibration month at 0.0040" in table("auc")[0]
    assert "| `features-topk/tea/seconds` | 7.5 | >= 8 | **no** |" in table("bars")


def test_where_rows_suffice_the_default_mode_is_told_beside_what_it_needs() -> None:
    rows = [
        Row("features-topk/tea/any-scores/rows-needed", 20_000, "rows", baseline=750),
        Row("features-topk/film/any-scores/rows-needed", 80_000, "rows", baseline=4_000),
        *(
            Row(f"features-topk/film/any-scores/{name}", 0.5, "s", 8.0, 4.0)
            for name in ("seconds", "of-projected", "draws-with-recall", "least-recall", "kept", "calibration-rows")
        ),
    ]
    results = [Result.of("features-topk", place, row) for place, row in enumerate(rows)]
    assert body(results)("any-scores").splitlines()[2:] == [
        "| tea | 20,000 | 750 |  |  |  |  |  |  |",
        "| film | 80,000 | 4,000 | 0.5 | 0.5 | 4 x | 8 x | 0.50 | 0.50 |",
    ]


def test_a_row_that_is_tested_again_counts_once_in_the_loss() -> None:
    def fold(tested: list[int], lost: list[int]) -> Measured:
        return Measured(1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.8, np.array(tested), np.array(lost))

    once = [fold([0, 1], [1, 0]), fold([2, 3], [0, 0])]
    assert loss_of(4, once) == pytest.approx((25.0, 100 * np.std([1, 0, 0, 0], ddof=1) / 2))
    assert loss_of(4, [*once, fold([0, 1, 2, 3], [0, 0, 0, 0])])[0] == pytest.approx(12.5)
