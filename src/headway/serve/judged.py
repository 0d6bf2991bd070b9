"""Whether what a replay was answered is right: replies held against the labels of what was sent."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headway.errors import ServeError
from headway.profile.labels import class_at, class_named, classes_of, is_missing, read_known_labels, typed, unplaced
from headway.serve.http1 import Reply

Labels = Sequence[Any] | str | os.PathLike[str]
"""The right answers: in the order of the payloads with None where one is not known, or a CSV file as for profiles."""
NO_CLASS = "they name no class; one output per request is needed: text, a whole number, or scores of classes"


@dataclass
class Judge:
    """Keeps the replies to requests whose right answer is known, and says when all is over how many are right.

    `labels`: that of each request, None where it is not known; `classes`: all that labels name. What has no label is
    counted neither as right nor as wrong, and so is an answer that names no class; where no answer is any of the
    classes at all, answers and labels do not speak of the same, and none is counted.
    """

    labels: Sequence[int | str | None]
    classes: Sequence[int | str]
    bodies: dict[int, bytes] = field(default_factory=dict)
    unlabeled: int = 0

    @classmethod
    def of(cls, labels: Labels, names: Sequence[str], index: Sequence[int]) -> Judge:
        """Return the judge of requests that carry the payloads of these places among the names.

        Raises ProfileError for a file that does not fit the names, ServeError for a list that does not, and for none.
        """
        if isinstance(labels, str | os.PathLike):
            given = read_known_labels(labels, names)
        else:
            given = [None if label is None or is_missing(str(label)) else str(label) for label in labels]
            if len(given) != len(names):
                raise ServeError(
                    f"labels: {len(given)} for {len(names)} payloads; give one for each, None where unknown"
                )
        known = typed([label for label in given if label is not None])
        if not known:
            raise ServeError("labels: none of the payloads has one; give the right answer of some")
        rest = iter(known)
        by_place = [None if label is None else next(rest) for label in given]
        return cls([by_place[place] for place in index], classes_of(known))

    def keep(self, number: int, reply: Reply) -> None:
        """Take the reply to a request."""
        if reply.status != 200:
            return
        if self.labels[number] is None:
            self.unlabeled += 1
        else:
            self.bodies[number] = reply.body

    def told(self) -> dict[str, int]:
        """Return how many answers were held against a label, how many of these are right, how many had no label, and
        how many could not be held against theirs."""
        read, _ = self._held()
        right = sum(said == self.labels[number] for number, said in read.items())
        unread = len(self.bodies) - len(read)
        return {"answers": len(read), "right": right, "unlabeled": self.unlabeled, "unread": unread}

    def doubts(self) -> tuple[str, ...]:
        """Return for each reason why answers could not be held against labels a sentence that says how many."""
        return tuple(f"labels: {many:,} answers cannot be judged: {why}" for why, many in self._held()[1].items())

    def _held(self) -> tuple[dict[int, int | str], Counter[str]]:
        """The class that each answer names, and why others could not be read, counted."""
        read, unread = dict[int, int | str](), Counter[str]()
        for number, body in self.bodies.items():
            answer = answer_of(body)
            said = class_of(answer, self.classes)
            if said is not None:
                read[number] = said
            else:
                unread[unplaced(len(answer), self.classes) if isinstance(answer, list) else NO_CLASS] += 1
        if read and not set(read.values()) & set(self.classes):
            said = f"they are {_few(read.values())} where labels are {_few(self.classes)}"
            return {}, unread + Counter({f"{said}; both must name the same classes": len(read)})
        return read, unread


def answered_class(body: bytes, labels: Sequence[int | str]) -> int | str | None:
    """Return the class that a reply names: its text, its whole number, or the class of its best score, as for profiles.

    None where it names none: more than one output, or something else.

    >>> answered_class(b'{"outputs": [{"datatype": "FP64", "shape": [2], "data": [0.2, 0.8]}]}', ["cat", "dog"])
    'dog'
    """
    return class_of(answer_of(body), labels)


def class_of(answer: Any, labels: Sequence[int | str]) -> int | str | None:
    """Return the class that an answer names (`answer_of`): a value, or the best of a list of scores."""
    if isinstance(answer, list):
        return class_at(max(range(len(answer)), key=answer.__getitem__), len(answer), labels)
    return class_named(answer, labels)


def answer_of(body: bytes) -> Any:
    """Return what a reply says: a value, or a list of at least two scores; None for what can be neither.

    >>> answer_of(b'{"outputs": [{"datatype": "INT64", "shape": [1], "data": [7]}]}')
    7
    """
    try:
        (output,) = json.loads(body)["outputs"]
        data = output["data"]
        if output["datatype"] == "BYTES":
            (said,) = data
            content_type = output.get("parameters", {}).get("content_type")
            if content_type not in ("str", "json"):
                return None
            said = json.loads(said) if content_type == "json" else said
        elif math.prod(output["shape"][:-1]) != 1:
            # Scores of several items.
            return None
        else:
            said = [float(score) for score in data] if output["datatype"].startswith("FP") else data
    except (KeyError, TypeError, ValueError):
        return None
    scores = _scores(said)
    if scores is not None:
        return scores
    if isinstance(said, list):
        return said[0] if len(said) == 1 and not isinstance(said[0], list) else None
    return said


def _few(classes: Iterable[int | str]) -> str:
    listed = classes_of(classes)
    return ", ".join(repr(each) for each in listed[:3]) + (", ..." if len(listed) > 3 else "")


def _scores(said: Any) -> list[float] | None:
    """A row of at least two scores, or a single probability as two; None for anything else, and for no numbers."""
    if isinstance(said, Mapping):
        rows = [row for row in map(_scores, said.values()) if row is not None]
        return rows[0] if len(rows) == 1 else None
    if not isinstance(said, list) or not said or not all(isinstance(s, float) and s == s for s in said):
        return None
    return [1.0 - said[0], said[0]] if len(said) == 1 else said
