"""What models said of labeled samples as a table: classes, places of scores, and what does not fit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.units import cascade_family

from headway.domains.cascade.validate import TellingModel, Told, table_of, validation_table
from headway.errors import CascadeError, ServeError
from headway.serve.values import encode

LABELS = ["even", "odd", "odd", "even"]


def answers(*values: object) -> list[Told]:
    return [Told(value, 0, 0.5) for value in values]


def places(scores: int, *values: int) -> list[Told]:
    return [Told(value, scores, 0.5) for value in values]


def predicted(said: list[Told], labels: list[str]) -> list[object]:
    table = table_of({"one": said}, labels, "stages.sort")
    assert table.predicted is not None
    found: list[object] = table.predicted["one"].tolist()
    return found


def test_places_of_scores_are_the_sorted_labels_or_labels_themselves() -> None:
    assert predicted(places(2, 0, 1, 1, 0), LABELS) == LABELS
    assert predicted(places(2, 0, 1, 1, 0), ["0", "1", "1", "1"]) == [0, 1, 1, 0]
    assert predicted(places(2, 0, 1, 1, 0), ["5", "10", "10", "5"]) == [5, 10, 10, 5]
    # No sample is of the third class: labels are places then.
    assert predicted(places(3, 0, 2, 1, 0), ["0", "1", "1", "0"]) == [0, 2, 1, 0]


def test_answers_are_compared_as_a_file_has_them() -> None:
    assert predicted(answers(1, "0", True, 2.0), ["1", "0", "1", "0"]) == [1, 0, 1, 2]
    assert predicted(answers(1, "0", True, 2.0), ["1.0", "0.0", "True", "0"]) == [1, 0, 1, 2]
    # One answer that is no number makes text of all.
    assert predicted(answers(1, "none", 1, 0), ["1", "0", "1", "0"]) == ["1", "none", "1", "0"]


@pytest.mark.parametrize(
    ("said", "labels", "why"),
    [
        (answers("cat", "cat", "dog", "cat"), LABELS,
         r"models\.one: answers 'cat', 'dog' where labels are 'even', 'odd'; both must name the same classes"),
        (answers({"length": 1}, "odd", "odd", "odd"), LABELS, r"one: sample 1: the answer is dict, which is no class"),
        (answers("odd", 0.5, "odd", "odd"), LABELS, r"one: sample 2: the answer is float, which is no class"),
        (places(3, 0, 2, 1, 0), LABELS, r"3 scores where labels have 2 classes \('even', 'odd'\)"),
        (places(5, 0, 1, 2, 3), ["1", "2", "3", "4"],
         r"one: sample 1: 5 scores where labels have 4 classes \(1, 2, 3, \.\.\.\), so .*; label samples of every"),
        (places(2, 0, 1, 1, 0), ["0", "1", "2", "0"], r"2 scores where labels have 3 classes \(0, 1, 2\)"),
        ([*answers("odd", "odd", "odd"), Told("odd", 0, None)], LABELS,
         r"stages\.sort: validation table: certainty of model 'one' is missing for 1 of 4 samples"),
        (answers(*LABELS), ["odd"] * 4, r"all 4 samples have the label 'odd'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(said: list[Told], labels: list[str], why: str) -> None:
    with pytest.raises(CascadeError, match=why):
        table_of({"one": said}, labels, "stages.sort")


@pytest.mark.parametrize("label", ["", "nan"])
def test_a_label_that_is_missing_is_named_before_any_model_is_asked(tmp_path: Path, label: str) -> None:
    spec = cascade_family.spec(tmp_path)
    (name,) = spec.stages
    asked = validation_table(spec, name, [encode("1"), encode("2")], ["odd", label])
    with pytest.raises(CascadeError, match="sample 2 has no label; write its right answer, or leave it out"):
        asyncio.run(asked)


def test_a_model_tells_class_and_certainty_in_plain_values() -> None:
    model = TellingModel(["python"], {}, "margin", rendered=True)
    model._named, model._certainty = True, lambda scores: np.abs(scores[:, 1] - scores[:, 0])
    assert model._told(np.array([0.25, 0.75])) == {"label": 1, "scores": 2, "certainty": 0.5}
    assert model._told(("odd", 0.9)) == {"label": "odd", "scores": 0, "certainty": 0.9}
    assert isinstance(model._told("odd"), ServeError)
