"""`headway plan`: from spec, profile and trace to the cheapest plan that keeps the promise, with its reasons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headway import __version__
from headway.errors import PlanError, nearest
from headway.plan import explain, reasons
from headway.plan.accuracy import plan_accuracy
from headway.plan.config import Config
from headway.plan.contract import HasPlanners, NamesProfile, NeedsNoProfile
from headway.plan.difference import current_plan
from headway.plan.exact import BUDGET, TIES, Found, search, variant_choices
from headway.plan.improve import BUDGET as IMPROVING
from headway.plan.improve import improve
from headway.plan.infeasible import Infeasible, Obstacle, explain_infeasible, offer, over_budget
from headway.plan.oracle import TRACES, Oracle
from headway.plan.plan import Plan
from headway.plan.promise import duration_text
from headway.plan.smallest import smallest_promise
from headway.profile import Profile, Row
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.trace import Trace

PLANNERS = ("exact", "greedy", "cg-mean", "cg-peak")
FRONTIER = (0.5, 0.75, 1.5, 2.0)
FRONTIER_BUDGET = 200
LOOSER = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Multiples of a promise at which a plan within the budget is looked for, and with how many simulations each."""
LOOSER_BUDGET = 100
WARM_CHOICES = 4

Progress = Callable[[str], None]


def make(
    spec: Spec,
    profile: Profile | None,
    trace: Trace,
    *,
    planner: str = "exact",
    feasibility: str = "robust",
    seed: int = 0,
    budget: int | None = None,
    progress: Progress | None = None,
    explained: bool = True,
) -> Plan:
    """Return the cheapest plan that keeps the spec's promise on the trace.

    `planner`: "exact" (best-first search with bounds), or a baseline: "greedy" (InferLine as published), "cg-mean",
    "cg-peak". `feasibility`: "robust" (drawn service times, resampled traces) or "trace" (means, the given trace).
    `profile` may be None where no stage needs one. `budget` counts simulated candidates, for each point of the frontier
    anew. `explained` False leaves out headroom, rejections and the frontier. Raises Infeasible, naming the stage and
    the smallest promise that is feasible, PlanError and ProfileError.

    >>> from headway.testing.examples import tiny_profile, tiny_spec
    >>> plan = make(tiny_spec(), tiny_profile(), Trace.poisson(rate=20, seconds=60, seed=1), feasibility="trace")
    >>> plan.gap_ratio
    0.0
    """
    if planner not in PLANNERS:
        raise PlanError(f"planner is {planner!r}{nearest(planner, PLANNERS)}; valid: {', '.join(PLANNERS)}")
    profile = _no_profile(spec) if profile is None else profile
    oracle = Oracle(spec, profile, trace, feasibility=feasibility, seed=seed)
    tell = progress or (lambda _: None)
    choices = variant_choices(oracle)
    if not choices:
        raise Infeasible(spec.name, explain_infeasible(oracle, choices, None))
    found = _search(oracle, choices, planner, budget if budget is not None else BUDGET, tell)
    if found.stages is None:
        raise Infeasible(spec.name, _obstacle(oracle, choices, found, planner))
    limit = spec.slo.max_cost_usd_per_hour
    if limit is not None and found.cost_usd_per_hour > limit + 1e-9:
        lower = found.lower_bound_usd_per_hour if planner == "exact" else None
        smallest_s = _within_budget(oracle, choices, planner, limit, tell)
        raise Infeasible(spec.name, over_budget(oracle, found.stages, lower, smallest_s, max(LOOSER)))
    frontier_budget = FRONTIER_BUDGET if budget is None else min(budget, FRONTIER_BUDGET)
    return _plan(oracle, found, planner, tell, explained, frontier_budget)


def needing_profile(spec: Spec) -> list[str]:
    """Return the stages that cannot be planned without rows of a profile.

    >>> from headway.testing.examples import tiny_spec
    >>> needing_profile(tiny_spec())
    ['first', 'second']
    """
    domains = {name: load_domain(stage.kind) for name, stage in spec.stages.items()}
    return [
        name
        for name, domain in domains.items()
        if not (isinstance(domain, NeedsNoProfile) and domain.needs_no_profile(spec.stages[name]))
    ]


def declare_instead(spec: Spec, needing: Sequence[str]) -> str:
    """Return what may be declared in place of a profile, as the end of a sentence; empty where nothing may."""
    domains = {name: load_domain(spec.stages[name].kind) for name in needing}
    said = [
        f"stages.{name}: give {domain.instead_of_profile}"
        for name, domain in domains.items()
        if isinstance(domain, NamesProfile)
    ]
    return f"; or, without a profile, {', '.join(said)}" if said else ""


def _no_profile(spec: Spec) -> Profile:
    """A profile without rows, where no stage needs one."""
    needing = needing_profile(spec)
    if needing:
        raise PlanError(
            f"no profile is given, and nothing else says what work costs at {', '.join(needing)}; read one with "
            f"Profile.read, or measure it{declare_instead(spec, needing)}"
        )
    return Profile.from_rows(())


def baselines(
    spec: Spec, profile: Profile, trace: Trace, *, feasibility: str = "robust", seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return what the published planners would deploy, and how it does, judged as a plan of the same mode is.

    Keys are planner names; a value has `cost_usd_per_hour, miss_rate, miss_rate_p97, windows_kept, p99_s, feasible,
    stages`, or a `note` when that planner finds nothing or its plan is not feasible.
    """
    oracle = Oracle(spec, profile, trace, feasibility=feasibility, seed=seed)
    choices = variant_choices(oracle)
    told = ("p50_s", "p95_s", "p99_s", "miss_rate", "miss_rate_p97", "windows_kept")
    out: dict[str, dict[str, Any]] = {}
    for planner in ("greedy", "cg-mean", "cg-peak"):
        try:
            stages = _baseline(oracle, [most_accurate(oracle, choices)], planner) if choices else None
        except PlanError as error:
            out[planner] = {"feasible": False, "note": str(error)}
            continue
        if stages is None:
            out[planner] = {"feasible": False, "note": "finds no configuration"}
            continue
        predicted = explain.predict(oracle, stages)
        short = reasons.shortcomings(oracle, predicted.verdict, oracle.lacking(stages))
        out[planner] = {
            "cost_usd_per_hour": oracle.total_cost(stages),
            **{k: predicted.to_dict()[k] for k in told},
            "feasible": not short,
            "stages": {name: stages[name].to_dict() for name in spec.stages},
            **({"note": "; ".join(reason.text for reason in short)} if short else {}),
        }
    return out


def _search(
    oracle: Oracle, choices: list[dict[str, str]], planner: str, budget: int, tell: Progress, ties: int = TIES
) -> Found:
    if planner != "exact":
        stages = _baseline(oracle, [most_accurate(oracle, choices)], planner)
        if stages is None:
            return Found(None, float("inf"), 0.0, "exhausted", 0, 0)
        return Found(
            stages, oracle.total_cost(stages), 0.0, "local optimum" if planner == "greedy" else "formula", 0, 0
        )
    if not any(oracle.may_be_feasible({}, choice) for choice in choices):
        return Found(None, float("inf"), 0.0, "exhausted", 0, 0)
    warm = greedy_start(oracle, choices)
    cap = oracle.total_cost(warm) if warm is not None else _most_cost(oracle, choices)
    if warm is not None:
        tell(f"greedy plan: ${cap:.4f}/h after {oracle.judged} simulations; searching for a cheaper one")
    found = search(oracle, warm, cap, budget=budget, ties=ties, progress=tell)
    if found.stop != "budget" or found.stages is None:
        return found
    better = improve(oracle, found.stages, min(budget, IMPROVING))
    return dataclasses.replace(found, stages=better, cost_usd_per_hour=oracle.total_cost(better))


def greedy_start(oracle: Oracle, choices: list[dict[str, str]]) -> Mapping[str, Config] | None:
    """Return the cheapest feasible plan that InferLine's planner finds over a few choices of variants, if any.

    The choice that the baseline itself is given is one of them, so that exact search is never dearer than it.
    """
    given = most_accurate(oracle, choices)
    few = [given, *(choice for choice in choices if choice != given)][:WARM_CHOICES]
    return _baseline(oracle, few, "greedy", feasible_only=True)


def most_accurate(oracle: Oracle, choices: list[dict[str, str]]) -> dict[str, str]:
    """Return the choice of variants that baselines are given, which know none (InferLine takes the models as fixed).

    It is the most accurate of those that meet the floor; among equals, and where no accuracy is known, the first in
    the order of declaration.
    """
    return max(choices, key=lambda choice: plan_accuracy(oracle.spec, oracle.profile, choice) or 0.0)


def _baseline(
    oracle: Oracle, choices: list[dict[str, str]], planner: str, *, feasible_only: bool = False
) -> Mapping[str, Config] | None:
    """The cheapest plan of a published planner over the given choices of variants; None when it finds none."""
    domain: Any = next(iter(oracle.domains.values()))
    alone = len({stage.kind for stage in oracle.spec.stages.values()}) == 1
    known = domain.planners if alone and isinstance(domain, HasPlanners) else {}
    if planner not in known:
        if feasible_only:
            return None
        raise PlanError(
            f"planner {planner!r} needs a graph whose stages are all of a kind that brings it, such as "
            "pipeline; use the exact planner"
        )
    best: Mapping[str, Config] | None = None
    for choice in choices:
        stages = known[planner](oracle, choice)
        if stages is None or (feasible_only and not oracle.feasible(stages)):
            continue
        if best is None or oracle.total_cost(stages) < oracle.total_cost(best):
            best = stages
    return best


def _most_cost(oracle: Oracle, choices: list[dict[str, str]]) -> float:
    """The dearest plan worth looking at: room for every item at once, as far as supply goes."""
    return math.fsum(
        oracle.domains[name].most_usd_per_hour(oracle.contexts[name], oracle.simulations.most_items(name, choices))
        for name in oracle.spec.graph.order
    )


def _obstacle(oracle: Oracle, choices: list[dict[str, str]], found: Found, planner: str) -> Obstacle:
    smallest = smallest_promise(oracle, choices, _most_cost(oracle, choices))
    obstacle = explain_infeasible(oracle, choices, smallest)
    if found.stop == "budget":
        bound = found.lower_bound_usd_per_hour
        text = f"no feasible plan was found within the budget; none below ${bound:.4g}/h exists{offer(smallest)}"
        return dataclasses.replace(obstacle, code="budget_of_simulations", text=text)
    if planner == "exact" or obstacle.code == "slo_below_service_time":
        return obstacle
    # A baseline looks at a part of the plans only: that it finds none proves nothing.
    text = f"the baseline {planner} finds no plan; that proves nothing, and the exact planner may find one"
    if smallest is not None and smallest.slo_s <= oracle.spec.slo.latency_s:
        return Obstacle("local", None, text)
    return dataclasses.replace(obstacle, code="local", text=f"{text}{offer(smallest)}")


def _within_budget(
    oracle: Oracle, choices: list[dict[str, str]], planner: str, limit: float, tell: Progress
) -> float | None:
    """The smallest of a few looser promises for which a quick search finds a plan that costs at most the limit."""
    for factor in LOOSER:
        slo_s = oracle.spec.slo.latency_s * factor
        tell(f"looking for a plan within max_cost at {duration_text(slo_s)}")
        other = oracle.with_slo(slo_s)
        if planner == "exact":
            start = greedy_start(other, choices)
            if start is None or other.total_cost(start) > limit + 1e-9:
                start = search(other, None, limit, budget=LOOSER_BUDGET, ties=0).stages
        else:
            start = _search(other, choices, planner, LOOSER_BUDGET, lambda _: None).stages
        if start is not None and other.total_cost(start) <= limit + 1e-9 and other.feasible(start):
            return slo_s
    return None


def _plan(oracle: Oracle, found: Found, planner: str, tell: Progress, explained: bool, frontier_budget: int) -> Plan:
    assert found.stages is not None
    stages = found.stages
    predicted = explain.predict(oracle, stages)
    lower = found.lower_bound_usd_per_hour if planner == "exact" else None
    chosen = {n: str(c.to_dict()["variant"]) for n, c in stages.items() if "variant" in c.to_dict()}
    lacking = oracle.lacking(stages)
    short = reasons.shortcomings(oracle, predicted.verdict, lacking)
    told = [reasons.optimality(oracle, found, planner, chosen), *short]
    ratio: float | None = None
    frontier: tuple[dict[str, Any], ...] = ()
    judged = oracle.judged
    if explained:
        tell("measuring headroom and what cheaper plans would miss")
        if not short:
            refused = explain.rejected(oracle, stages)
            told += [explain.binding(oracle, stages, refused), *refused]
        if not lacking:
            ratio, first = explain.headroom(oracle, stages)
            told.append(reasons.headroom(ratio, first))
        frontier = _frontier(oracle, planner, found, frontier_budget, tell)
    told.append(reasons.judged_on(oracle, predicted.verdict))
    told += reasons.short_classes(oracle, predicted.outcome.stages)
    told += reasons.evidence(oracle.plan(stages))
    told += reasons.against_current(oracle, found)
    plan = Plan(
        spec=oracle.spec,
        profile=_in_use(oracle, stages),
        stages={name: stages[name] for name in oracle.spec.graph.order},
        predicted=predicted.to_dict(),
        lower_bound_usd_per_hour=lower,
        headroom_ratio=ratio,
        reasons=tuple(told),
        frontier=frontier,
        stage_predictions=predicted.stages(),
        provenance={
            "headway": __version__, "planner": planner, "feasibility": oracle.feasibility, "seed": oracle.seed,
            "trace_hash": oracle.trace.hash, "requests": oracle.trace.requests, "rate_per_s": oracle.trace.rate_per_s,
            "profile_hash": oracle.profile.hash, "calibrated": oracle.profile.overheads is not None,
            "resampled_traces": TRACES if oracle.sampled else 0,
            "block_s": oracle.block_s, "simulated_candidates": judged, "stop": found.stop, "ties": found.ties,
        },
        feasible=not short,
    )  # fmt: skip
    return dataclasses.replace(plan, envelope=explain.planned_envelope(plan, oracle))


def _in_use(oracle: Oracle, stages: Mapping[str, Config]) -> Profile:
    """The profile rows that a plan needs, and those of what runs today: the two are to be compared."""
    needing = [stages]
    if oracle.spec.current is not None:
        needing.append(current_plan(oracle.spec, oracle.profile, stages).stages)
    return oracle.profile.subset(
        (row.stage, row.variant, row.hardware)
        for row in oracle.profile.rows
        if any(row.stage in some and _uses(some[row.stage].to_dict(), row) for some in needing)
    )


def _uses(fields: Mapping[str, Any], row: Row) -> bool:
    """Whether a stage's configuration may need a profile row: one that says nothing of it may need all of its stage."""
    return bool(
        fields.get("variant", row.variant) == row.variant and fields.get("hardware", row.hardware) == row.hardware
    )


def _frontier(oracle: Oracle, planner: str, found: Found, budget: int, tell: Progress) -> tuple[dict[str, Any], ...]:
    """How the cost moves with the promise: the same planner at a few other latencies, within a small budget."""
    points = [_point(oracle.spec.slo.latency_s, found, planner)]
    for factor in FRONTIER:
        slo_s = oracle.spec.slo.latency_s * factor
        tell(f"frontier: promise of {duration_text(slo_s)}")
        other = oracle.with_slo(slo_s)
        at = _search_from(other, planner, found if factor > 1 else None, budget)
        points.append(_point(slo_s, at, planner))
    return tuple(sorted(points, key=lambda point: point["slo_s"]))


def _search_from(oracle: Oracle, planner: str, known: Found | None, budget: int) -> Found:
    """Search within a small budget; a plan known to be feasible spares the greedy start."""
    choices = variant_choices(oracle)
    if known is None or known.stages is None or planner != "exact":
        return _search(oracle, choices, planner, budget, lambda _: None, ties=0)
    return search(oracle, known.stages, oracle.total_cost(known.stages), budget=budget, ties=0)


def _point(slo_s: float, found: Found, planner: str) -> dict[str, Any]:
    cost = found.cost_usd_per_hour if found.stages is not None else None
    proven = found.stop == "optimal" and planner == "exact"
    return {"slo_s": slo_s, "cost_usd_per_hour": cost, "feasible": cost is not None, "proven": proven}
