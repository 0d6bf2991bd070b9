"""Rows that nothing can be learned from: what is refused, and by which part of a cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features
from headway.cascade.fit import fit_cascade
from headway.errors import CascadeError


@pytest.mark.parametrize("at", range(5))
def test_rows_that_a_model_cannot_learn_from_are_told(at: int) -> None:
    rows = np.random.default_rng(1).normal(size=(60, 2))
    labels = rows.sum(axis=1) > 0
    rows[at * 12, 0] = np.nan
    pipeline = Parts(
        Features({"left": Feature(_left), "both": Feature(_both)}),
        ("left", "both"),
        LogisticRegression(solver="liblinear"),
    )
    with pytest.raises(CascadeError, match=r"(cannot be fitted on .* rows|cannot take row .*): ValueError: .*NaN"):
        fit_cascade(pipeline, rows, labels, tolerance=0.4, folds=2)
    scaled = make_pipeline(PowerTransformer(), LogisticRegression(solver="liblinear"))
    with pytest.raises(CascadeError, match="feature 'powertransformer': cannot be fitted on 18 rows: ValueError"):
        fit_cascade(scaled, np.full((60, 2), "word"), labels, tolerance=0.4, folds=2)


def _left(rows: Any) -> Any:
    return rows[:, :1]


def _both(rows: Any) -> Any:
    return rows
