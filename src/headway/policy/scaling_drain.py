"""A backlog as a fluid: what waits at each stage when new replicas are ready, and what it takes to drain it."""

from __future__ import annotations

from collections.abc import Mapping

from headway.policy.scaling import Observation, StageTerms


def draining(
    stages: Mapping[str, StageTerms],
    observation: Observation,
    excess: Mapping[str, int],
    rate_per_s: float,
    work: Mapping[str, float],
    until_ready_s: float,
    within_s: float,
    most_surge: float,
) -> tuple[dict[str, float], bool]:
    """Return replicas per stage that drain what waits once they are ready, and whether anything is left to drain.

    A fluid model in requests: what exceeds the capacity of a stage, or of any stage before it, waits there until the
    new replicas are ready; then the stage passes it on together with what goes on coming, `within_s`.
    """
    carried: dict[str, float] = {}
    waiting: dict[str, float] = {}
    needed, left = {}, False
    for name, stage in stages.items():
        per_replica = stage.throughput_per_s / (stage.scale_factor * work.get(name, 1.0))
        capacity = observation.stages[name].ready * per_replica
        above = [parent for parent in stage.after if parent in stages]
        carried[name] = min([capacity, rate_per_s, *(carried[parent] for parent in above)])
        waiting[name] = excess[name] / stage.scale_factor + max((waiting[parent] for parent in above), default=0.0)
        grown = waiting[name] + (rate_per_s - carried[name]) * until_ready_s
        left = left or grown > 0.0
        flow = rate_per_s + min(grown / max(within_s, 1e-3), most_surge * rate_per_s)
        needed[name] = flow / per_replica
    return needed, left


def longest_path(stages: Mapping[str, StageTerms]) -> dict[str, StageTerms]:
    """Return the stages on the path whose batches of one take longest together."""
    paths: dict[str, list[str]] = {}
    for name, stage in stages.items():
        before = max((paths[p] for p in stage.after if p in paths), key=lambda path: _path_s(stages, path), default=[])
        paths[name] = [*before, name]
    longest = max(paths.values(), key=lambda path: _path_s(stages, path))
    return {name: stages[name] for name in longest}


def _path_s(stages: Mapping[str, StageTerms], path: list[str]) -> float:
    return sum(stages[name].service_s[1] for name in path)
