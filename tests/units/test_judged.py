"""Answers held against labels: which class an answer names, what is right, and what is counted as neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.errors import ProfileError, ServeError
from headway.report.words import answered_rightly
from headway.serve.http1 import Reply
from headway.serve.judged import Judge, answered_class
from headway.serve.oip import InferRequest, parse, response
from headway.serve.payloads import encode, named_payloads
from headway.serve.values import render

ASKED: InferRequest = parse(encode("").data)


def body(*answers: Any) -> bytes:
    """A reply of a server whose last stage returned these, one for each item."""
    return response("m", "1", ASKED, [("only", render(answer)) for answer in answers])[0]


@pytest.mark.parametrize(
    ("answer", "labels", "named"),
    [
        ("dog", ["cat", "dog"], "dog"),
        (7, [1, 7], 7),
        (np.int64(7), [1, 7], 7),
        (True, [0, 1], 1),
        (3.0, [1, 3], 3),
        (np.array([0.2, 0.8]), ["cat", "dog"], "dog"),
        (np.array([[0.2, 0.8]], np.float32), ["cat", "dog"], "dog"),
        (np.array([0.1, 0.2, 0.7]), [0, 1], 2),
        (np.array([0.9]), ["cat", "dog"], "dog"),
        ([0.7, 0.3], ["cat", "dog"], "cat"),
        ({"scores": [0.7, 0.3], "words": ["a"]}, ["cat", "dog"], "cat"),
        (np.array([0.1, 0.2, 0.7]), ["cat", "dog"], None),
        ({"a": [0.7, 0.3], "b": [0.7, 0.3]}, ["cat", "dog"], None),
        (b"dog", ["cat", "dog"], None),
        (None, ["cat", "dog"], None),
        ([], ["cat", "dog"], None),
        ("1.0", [0, 1], 1),
        ("True", [0, 1], 1),
        (np.array([0.1, 0.2, 0.7]), [1, 2, 3], 3),
        (np.array([0.1, 0.2, 0.7]), [1, 2], None),
        (np.array([0.1, 0.2, 0.7]), [0, 3], None),
        (np.array([np.nan, np.nan]), [0, 1], None),
    ],
)
def test_an_answer_names_a_class_as_it_does_for_a_profile(answer: Any, labels: list[Any], named: Any) -> None:
    assert answered_class(body(answer), labels) == named


def test_what_is_more_than_one_answer_names_none() -> None:
    for several in (("dog", "dog"), (np.array([0.1, 0.9]), np.array([0.1, 0.9]))):
        assert answered_class(body(*several), ["cat", "dog"]) is None
    assert answered_class(b'{"outputs": []}', ["cat", "dog"]) is None
    assert answered_class(b"gone", ["cat", "dog"]) is None


def test_only_answers_with_a_label_and_a_class_count() -> None:
    judge = Judge.of(["7", None, "3"], ["a", "b", "c"], [0, 1, 2, 0, 2, 0])
    replies = [(200, body(7)), (200, body(7)), (200, body(7)), (429, b""), (200, body({"x": 1})), (0, b"")]
    for number, (status, said) in enumerate(replies):
        judge.keep(number, Reply(status, said, math.nan))
    assert judge.told() == {"answers": 2, "right": 1, "unlabeled": 1, "unread": 1}


def judged(labels: list[Any], answers: list[Any]) -> Judge:
    judge = Judge.of(labels, [str(place) for place in range(len(labels))], list(range(len(answers))))
    for number, answer in enumerate(answers):
        judge.keep(number, Reply(200, body(answer), math.nan))
    return judge


def test_scores_whose_classes_nobody_knows_are_never_wrong() -> None:
    stars = [np.eye(5)[place] for place in (0, 1, 2, 3)]
    part = judged([1, 2, 3, 4], stars)
    assert part.told() == {"answers": 0, "right": 0, "unlabeled": 0, "unread": 4}
    (said,) = part.doubts()
    assert said.startswith("labels: 4 answers cannot be judged: 5 scores where labels have 4 classes (1, 2, 3, ...)")
    assert "label samples of every class" in said
    assert "use the labels 0 to 4 with 0 among them, or have the model answer with the class" in said
    whole = judged([1, 2, 3, 4, 5], stars)
    assert (whole.told()["right"], whole.doubts()) == (4, ())
    assert judged([0, 1, 2, 3], stars).told()["right"] == 4


@pytest.mark.parametrize("labels", [["1.0", "0.0"], ["True", "False"], [True, False], [np.float64(1), 0]])
def test_numbers_and_truths_are_the_same_class_however_they_are_written(labels: list[Any]) -> None:
    for answers in ([1, 0], [True, False], [1.0, 0.0], ["1", "0"], ["True", "False"]):
        assert judged(labels, answers).told()["right"] == 2


def test_where_no_answer_is_any_label_the_accuracy_is_unknown() -> None:
    judge = judged(["cat", "dog", None], [0, 1, 1])
    assert judge.told() == {"answers": 0, "right": 0, "unlabeled": 1, "unread": 2}
    (said,) = judge.doubts()
    assert "they are '0', '1' where labels are 'cat', 'dog'; both must name the same classes" in said
    assert judged(["cat", "dog"], ["dog", "cow"]).told()["answers"] == 2


def test_no_number_is_no_label() -> None:
    assert Judge.of([math.nan, "", "NaN", 1], list("abcd"), [0, 1, 2, 3]).labels == [None, None, None, 1]


def test_labels_stand_in_a_file_as_for_profiles_and_may_leave_payloads_out(tmp_path: Path) -> None:
    (tmp_path / "payloads.jsonl").write_text('"x"\n\n"y"\n"z"\n')
    names = list(named_payloads(tmp_path / "payloads.jsonl"))
    assert names == ["1", "3", "4"]
    path = tmp_path / "labels.csv"
    path.write_text("sample,label\n4,dog\n1,cat\n")
    assert Judge.of(path, names, [2, 1, 0]).labels == ["dog", None, "cat"]
    path.write_text("sample,label\n2,dog\n")
    with pytest.raises(ProfileError, match="there is no sample '2'"):
        Judge.of(path, names, [0])


@pytest.mark.parametrize(
    ("labels", "says"),
    [(["1"], "labels: 1 for 2 payloads; give one for each"), ([None, None], "labels: none of the payloads has one")],
)
def test_labels_that_do_not_fit_are_refused(labels: list[Any], says: str) -> None:
    with pytest.raises(ServeError, match=says):
        Judge.of(labels, ["a", "b"], [0, 1])


def test_what_is_measured_stands_beside_what_is_predicted() -> None:
    labeled = {"answers": 40, "right": 36, "predicted_accuracy": 0.93}
    assert answered_rightly({"accuracy": 0.9, "labeled": labeled}) == "90% of 40 labeled answers; 93% predicted"
    nothing = {"accuracy": None, "labeled": {"answers": 0, "right": 0, "predicted_accuracy": None}}
    assert answered_rightly(nothing) == "no answer with a label"
    unread = {"accuracy": None, "labeled": {"answers": 0, "right": 0, "unread": 7, "predicted_accuracy": 0.9}}
    assert answered_rightly(unread) == "unknown: none of 7 labeled answers can be judged; 90% predicted"
    assert answered_rightly({"accuracy": 0.9}) == "90%"
