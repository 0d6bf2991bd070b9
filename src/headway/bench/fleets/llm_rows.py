"""Results of LLM scheduling by what they are of, with estimates over the parts of a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from headway.bench.fleets.llm_cells import Result
from headway.report import format as fmt
from headway.sim.estimate import Estimate

Number = Callable[[float], str]


def seconds(value: float) -> str:
    """Return seconds with three figures.

    >>> seconds(0.41234), seconds(53.21)
    ('0.412', '53.2')
    """
    return f"{value:.3g}"


class Rows:
    """Results by what they are of, with estimates over the parts of a trace.

    >>> Rows([]).policies("routers", "conversation")
    []
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self._all = list(results)
        self._parts: dict[tuple[object, ...], list[Result]] = {}
        for result in sorted(results, key=lambda result: result.seed):
            self._parts.setdefault(result.key[:5], []).append(result)

    def policies(self, experiment: str, workload: str) -> list[tuple[str, str, float]]:
        """Return the (policy, setting, load) of an experiment that there are, as they were computed."""
        found = [
            (r.policy, r.setting, r.load) for r in self._all if (r.experiment, r.workload) == (experiment, workload)
        ]
        return sorted(dict.fromkeys(found), key=lambda cell: (cell[2], cell[1], cell[0]))

    def values(self, *at: str | float, field: str) -> list[float]:
        """Return one figure of every part, in their order; `at`: experiment, workload, policy, setting and load."""
        experiment, workload, policy, setting, load = at
        found = self._parts.get((experiment, workload, setting, policy, load), [])
        values = (getattr(result, field) for result in found)
        return [math.nan if value is None else float(value) for value in values]

    def cell(self, *at: str | float, field: str, text: Number = seconds) -> str:
        """Return the mean of a figure over all parts, or a dash where it was not computed."""
        values = self.values(*at, field=field)
        return text(math.fsum(values) / len(values)) if values else fmt.DASH

    def beside(self, at: tuple[str | float, ...], baseline: tuple[str | float, ...], field: str) -> str:
        """Return how many times a figure is a baseline's, with its interval: the geometric mean over all parts."""
        mine, theirs = self.values(*at, field=field), self.values(*baseline, field=field)
        if not mine or len(mine) != len(theirs):
            return fmt.DASH
        return Estimate.of_ratios([one / two for one, two in zip(mine, theirs, strict=True)]).text()

    def worst(self, *at: str | float, field: str) -> str:
        """Return the greatest of a figure over all parts."""
        values = self.values(*at, field=field)
        return seconds(max(values)) if values else fmt.DASH

    def mean(self, *at: str | float, field: str) -> float:
        """Return the mean of a figure over all parts; not a number where there are none."""
        values = self.values(*at, field=field)
        return math.fsum(values) / len(values) if values else math.nan
