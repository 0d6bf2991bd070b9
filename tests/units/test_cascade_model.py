"""A cascade as a value: what it says of itself, its JSON form, and what is no cascade."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import headway.cascade
from headway.cascade.model import Cascade, Step
from headway.errors import CascadeError
from headway.policy.cascading import ALWAYS


def test_it_is_a_value() -> None:
    cascade = Cascade([Step("a", ["words"], 0.75), Step("b", ("words", "chars"))])  # type: ignore[arg-type]
    assert cascade == Cascade((Step("a", ("words",), np.float64(0.75)), Step("b", ("words", "chars"))))
    assert hash(cascade) == hash(pickle.loads(pickle.dumps(cascade)))
    assert (str(cascade), len(cascade)) == ("a >= 0.75 -> b", 2)
    assert (cascade.models, cascade.thresholds) == (("a", "b"), (0.75, ALWAYS))


def test_its_json_form_brings_it_back_even_with_a_threshold_that_is_never_reached() -> None:
    for threshold in (0.1, -3.0, math.inf):
        cascade = Cascade((Step("a", ("words",), threshold), Step("b")))
        text = json.dumps(cascade.to_dict(), allow_nan=False)
        assert Cascade.from_dict(json.loads(text)) == cascade


def test_models_that_never_answer_are_told_apart() -> None:
    assert Cascade((Step("a", threshold=math.inf), Step("b", threshold=0.5), Step("c"))).answering == ("b", "c")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((), "at least one is needed"),
        ((Step("a"), Step("b")), "step 'a' has no threshold"),
        ((Step("a", threshold=0.5),), "the last step, 'a', has the threshold 0.5"),
        ((Step("a", threshold=0.5), Step("a")), "model 'a' stands in two steps"),
    ],
)
def test_what_is_no_cascade_is_refused(steps: tuple[Step, ...], said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        Cascade(steps)


@pytest.mark.parametrize("threshold", [math.nan, "high", True, [0.5]])
def test_a_threshold_is_a_number(threshold: object) -> None:
    with pytest.raises(CascadeError, match=r"step 'a': threshold is .*; it must be a number"):
        Step("a", threshold=threshold)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"step": []}, "`steps` must be a list"),
        ({"steps": [{"model": "a", "treshold": 0.5}]}, "steps.0.: unknown field 'treshold'; did you mean 'threshold'"),
        ({"steps": [{"threshold": 0.5}]}, "steps.0.: model is missing"),
        ({"steps": [{"model": "", "threshold": 0.5}]}, "must be the name of a model"),
        ({"steps": [{"model": "a", "features": "words"}]}, "they must be a list of names"),
    ],
)
def test_what_is_wrong_in_json_is_named(value: dict[str, object], said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        Cascade.from_dict(value)


def test_every_name_of_the_package_can_be_reached() -> None:
    for name in headway.cascade.__all__:
        assert getattr(headway.cascade, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'casade'"):
        headway.cascade.casade  # noqa: B018


def test_running_a_cascade_needs_no_compiler_and_no_learning_library() -> None:
    code = "import sys, headway.cascade.model, headway.cascade.table, headway.cascade.certainty; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert {"headway.cascade.table", "numpy"} <= set(done.stdout.split())
    assert {"numba", "scipy", "sklearn", "polars", "onnxruntime"}.isdisjoint(done.stdout.split())
