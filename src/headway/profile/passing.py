"""Items that pass from stage to stage, observed beside predicted, and what to write into the spec where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.profile.profile import RecordedVisits
from headway.profile.refit import MIN_SAMPLES, NORMAL_95, TOLERANCE, Estimate, Ints, visits
from headway.spec.graph import Graph, GraphEdge

SURE_Z = 3.29
"""Standard errors beyond which a difference is told: by chance in one stage of a thousand."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A stage that gets clearly more or fewer items than predicted: `observed` and `predicted` per item of its parent.

    `value` is what the spec's `field` (`probability` or `fan_out`) of the stage should say instead of `declared`. All
    three are None where predictions do not go by the spec but by visits recorded with samples, or where no item came.
    """

    stage: str
    parent: str
    observed: Estimate
    predicted: float
    field: str | None = None
    declared: float | None = None
    value: float | None = None

    @property
    def text(self) -> str:
        """The finding in a sentence."""
        seen = f"{self.observed.value:.3g} ± {self.observed.half:.2g} items per item of {self.parent}"
        return f"{self.stage}: {seen} were observed and {self.predicted:.3g} predicted; {self._advice()}"

    def _advice(self) -> str:
        if not self.observed.value:
            return "look whether what was sent is what will come"
        if self.field is None:
            return "profile again, with samples like what is sent"
        return f"put stages.{self.stage}.{self.field}: {self.value} into the spec, which says {self.declared}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "stage": self.stage, "parent": self.parent, "observed": self.observed.to_dict(),
            "predicted": self.predicted, "field": self.field, "declared": self.declared, "value": self.value,
            "text": self.text,
        }  # fmt: skip


def findings(graph: Graph, requests: Mapping[str, Ints], recorded: RecordedVisits | None = None) -> tuple[Finding, ...]:
    """Return the stages whose items per item of their parent differ from what is declared, or else `recorded`.

    `requests` holds, by stage, the request number of every item that it served. Joins are left out: what reaches them
    follows from the branches before them. A difference counts beyond `SURE_Z` standard errors and 3 %.

    >>> import numpy as np
    >>> graph = Graph.build({"a": {}, "b": {"a": GraphEdge("a", "b", 0.5, 1.0)}})
    >>> (found,) = findings(graph, {"a": np.arange(1000), "b": np.arange(0, 1000, 5)})
    >>> found.field, found.value
    ('probability', 0.2)
    """
    counts = visits(requests)
    out = []
    for stage in graph.order:
        edges = graph.parents[stage]
        if stage not in graph.joins and edges and {stage, edges[0].parent} <= set(counts):
            found = _finding(edges[0], passed_on(counts[edges[0].parent], counts[stage]), recorded)
            out += [] if found is None else [found]
    return tuple(out)


def _finding(edge: GraphEdge, observed: Estimate | None, recorded: RecordedVisits | None) -> Finding | None:
    if observed is None:
        return None
    from_samples = _recorded(recorded, edge)
    predicted = edge.probability * edge.fan_out if from_samples is None else from_samples
    difference = abs(observed.value - predicted)
    if difference <= max(SURE_Z / NORMAL_95 * observed.half, TOLERANCE * predicted):
        return None
    if from_samples is not None or not observed.value:
        return Finding(edge.child, edge.parent, observed, predicted)
    return Finding(edge.child, edge.parent, observed, predicted, *_put(edge, observed.value))


def passed_on(above: Ints, below: Ints) -> Estimate | None:
    """Return the items of a stage per item of its parent, from the numbers of both in each request.

    A ratio of means (Cochran, "Sampling Techniques", 1977, section 2.11). None with fewer than `MIN_SAMPLES` items.

    >>> import numpy as np
    >>> passed_on(np.ones(1000, np.int64), np.zeros(1000, np.int64))
    Estimate(value=0.0, half=0.003, samples=1000)
    """
    items = int(above.sum())
    if items < MIN_SAMPLES or above.size < 2:
        return None
    ratio = float(below.sum()) / items
    error = float((below - ratio * above).std(ddof=1)) * math.sqrt(above.size) / items
    # What happened to none, or to all, of n items may have a share of 3 / n more (the rule of three).
    return Estimate(ratio, max(NORMAL_95 * error, 3.0 / items), items)


def _recorded(recorded: RecordedVisits | None, edge: GraphEdge) -> float | None:
    """Items per item of the parent in recorded visits; a stage that no sample reached goes by the spec."""
    if recorded is None or not {edge.parent, edge.child} <= set(recorded.counts):
        return None
    below = sum(recorded.counts[edge.child])
    return below / sum(recorded.counts[edge.parent]) if below else None


def _put(edge: GraphEdge, ratio: float) -> tuple[str, float, float]:
    """The spec's field of an edge, what it says, and what it should say for so many items per item."""
    if edge.fan_out == 1.0 and ratio <= 1.0:
        return "probability", edge.probability, float(f"{ratio:.3g}")
    return "fan_out", edge.fan_out, float(f"{ratio / edge.probability:.3g}")
