"""Whether what a replay was answered is right: replies held against the labels of what was sent."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headway.errors import ServeError
from headway.profile.labels import class_at, class_named, read_known_labels, typed
from headway.serve.http1 import Reply

Labels = Sequence[Any] | str | os.PathLike[str]
"""The right answers: in the order of the payloads with None where one is not known, or a CSV file as for profiles."""


@dataclass
class Judge:
    """Keeps the replies to requests whose right answer is known, and says when all is over how many are right.

    `labels`: that of each request, None where it is not known; `classes`: all that labels name. What has no label is
    counted neither as right nor as wrong, and so is an answer that names no class.
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
            given = [None if label is None else str(label) for label in labels]
            if len(given) != len(names):
                raise ServeError(
                    f"labels: {len(given)} for {len(names)} payloads; give one for each, None where unknown"
                )
        known = typed([label for label in given if label is not None])
        if not known:
            raise ServeError("labels: none of the payloads has one; give the right answer of some")
        rest = iter(known)
        by_place = [None if label is None else next(rest) for label in given]
        return cls([by_place[place] for place in index], known)

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
        how many named no class."""
        found = {number: answered_class(body, self.classes) for number, body in self.bodies.items()}
        read = {number: said for number, said in found.items() if said is not None}
        right = sum(str(said) == str(self.labels[number]) for number, said in read.items())
        return {"answers": len(read), "right": right, "unlabeled": self.unlabeled, "unread": len(found) - len(read)}


def answered_class(body: bytes, labels: Sequence[int | str]) -> int | str | None:
    """Return the class that a reply names: its text, its whole number, or the class of its best score, as for profiles.

    None where it names none: more than one output, or something else.

    >>> answered_class(b'{"outputs": [{"datatype": "FP64", "shape": [2], "data": [0.2, 0.8]}]}', ["cat", "dog"])
    'dog'
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
        return class_at(max(range(len(scores)), key=scores.__getitem__), len(scores), labels)
    return class_named(said[0] if isinstance(said, list) and len(said) == 1 else said)


def _scores(said: Any) -> list[float] | None:
    """A row of at least two scores, or a single probability as two; None for anything else."""
    if isinstance(said, Mapping):
        rows = [row for row in map(_scores, said.values()) if row is not None]
        return rows[0] if len(rows) == 1 else None
    if not isinstance(said, list) or not said or not all(isinstance(score, float) for score in said):
        return None
    return [1.0 - said[0], said[0]] if len(said) == 1 else said
