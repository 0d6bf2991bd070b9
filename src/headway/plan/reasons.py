"""A plan's reasons as sentences: how good it is proven to be, where it was judged, and what it is set against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headway.errors import ProfileError
from headway.plan.accuracy import plan_accuracy
from headway.plan.difference import current_plan
from headway.plan.exact import Found
from headway.plan.oracle import Oracle, Verdict
from headway.plan.plan import Plan, Reason
from headway.plan.promise import duration_text
from headway.sim import confidence
from headway.sim.outcome import StageOutcome, percentile


def optimality(oracle: Oracle, found: Found, planner: str, choice: Mapping[str, str]) -> Reason:
    """Return how far from optimal the plan can be; for a baseline, which variants it was given and why."""
    cost, lower = found.cost_usd_per_hour, found.lower_bound_usd_per_hour
    values = {"cost_usd_per_hour": cost, "lower_bound_usd_per_hour": lower, "stop": found.stop, "ties": found.ties}
    if planner != "exact":
        text = f"planned by the baseline {planner}: no bound on how far from optimal it is{_given(oracle, choice)}"
        return Reason("baseline", text, None, {**values, "lower_bound_usd_per_hour": None, "variants": dict(choice)})
    if found.stop == "optimal":
        most = "accurate" if oracle.simulations.telling else "robust"
        among = f"; the most {most} of {found.ties} plans of equal cost" if found.ties > 1 else ""
        kinds = {stage.kind for stage in oracle.spec.stages.values()}
        space = (
            "variants, hardware, batch sizes and replicas" if kinds == {"pipeline"} else "all that stages may choose"
        )
        text = f"proven cheapest over {space}{among} ({found.expanded} partial plans)"
        return Reason("optimal", text, None, values)
    share = 100 * (cost - lower) / cost
    text = f"stopped by its budget: at most {share:.1f}% of the cost could still be saved (${lower:.4g}/h is the bound)"
    return Reason("gap", text, None, values)


def _given(oracle: Oracle, choice: Mapping[str, str]) -> str:
    """Which variants a baseline was given, where there was a choice."""
    free = [name for name in choice if len(oracle.spec.stages[name].variant_names) > 1]
    if not free:
        return ""
    known = plan_accuracy(oracle.spec, oracle.profile, choice) is not None
    why = "the most accurate allowed" if known else "the first declared, as no accuracy is known"
    named = ", ".join(f"{choice[name]} at {name}" for name in free)
    return f"; it knows no variants and was given {why}: {named}"


def shortcomings(oracle: Oracle, verdict: Verdict, lacking: Mapping[str, tuple[int, int]]) -> list[Reason]:
    """Return why a plan is not feasible: hardware that supply does not have, and the promise that it breaks."""
    out = []
    for hardware, (wanted, most) in lacking.items():
        text = f"{hardware}: {wanted} replicas wanted over all stages, {most} allowed (max under supply)"
        out.append(Reason("supply", text, None, {"hardware": hardware, "wanted": wanted, "max": most}))
    if oracle.inaccurate(verdict.accuracy):
        text = f"breaks the promise of accuracy: it would {oracle.short_text(verdict)}"
        out.append(Reason("inaccurate", text, None, {"accuracy": verdict.accuracy}))
    elif not verdict.feasible:
        worst = percentile(np.array(verdict.broken), 97)
        rate = percentile(np.array(verdict.miss_rates), 97)
        where = (
            "on the given trace"
            if len(verdict.held) == 1
            else f"on {verdict.held.count(False)} of {len(verdict.held)} traces"
        )
        text = f"breaks the promise {where}: it would {oracle.criterion.exceeded_text(worst)}"
        out.append(Reason("promise_broken", text, None, {"miss_rate": rate, "broken": worst}))
    return out


def headroom(ratio: float, first: str | None) -> Reason:
    """Return up to how much traffic the plan holds."""
    if first is None:
        text = f"holds at {ratio:g} times this traffic, the most that was tried"
    elif ratio <= 0:
        text = f"does not hold at this traffic; {first} breaks first"
    elif ratio < 1.005:
        text = f"holds at this traffic with no room to spare; with more, {first} breaks first"
    else:
        text = f"holds up to {ratio:.2f} times this traffic; then {first} breaks first"
    return Reason("headroom", text, first, {"headroom_ratio": ratio})


def judged_on(oracle: Oracle, verdict: Verdict) -> Reason:
    """Return on which traces the plan was judged, and on how many of them the oracle says that the promise holds."""
    broken, windowed = percentile(np.array(verdict.broken), 97), oracle.criterion.window_s is not None
    if not oracle.sampled:
        share = f"{100 * broken:.3g}% of requests miss"
        if oracle.criterion.window_s is not None:
            share = (
                f"{100 * broken:.3g}% of the windows of {duration_text(oracle.criterion.window_s)} break the promise"
            )
        return Reason("judged", f"judged on the given trace with mean service times: {share}", None, {"traces": 1})
    kept, traces = sum(verdict.held), len(verdict.held)
    share = f"miss at most {100 * broken:.3g}% of requests"
    if windowed:
        share = f"break the promise in at most {100 * broken:.3g}% of their windows"
    text = f"holds on {kept} of {traces} traces resampled in blocks of {oracle.block_s:.3g} s; 97% of them {share}"
    return Reason("judged", text, None, {"traces": traces, "kept": kept, "block_s": oracle.block_s})


def short_classes(oracle: Oracle, stages: Mapping[str, StageOutcome]) -> list[Reason]:
    """Return which classes of requests get less than is promised over all of them, small as these classes are."""
    share, out = oracle.spec.slo.percentile / 100, []
    for name, stage in stages.items():
        for figure, kept in stage.figures.items():
            who, _, what = figure.rpartition(".")
            if who and what == "kept_ratio" and kept < share - 1e-9:
                text = (
                    f"{name}: class {who!r} keeps its promises for {100 * kept:.3g}% of its requests; "
                    f"{100 * share:g}% is promised over all requests together, of which it is a part; to be sure of "
                    "it, raise the percentile, or give the class a fleet of its own"
                )
                out.append(Reason("class_short", text, name, {"class": who, "kept_ratio": kept}))
    return out


def evidence(plan: Plan) -> list[Reason]:
    """Return what times rest on that are not rows of the profile, stage by stage."""
    known = {name: confidence.evidence(plan, name) for name in plan.spec.graph.order}
    return [
        Reason("evidence", f"{name}: {found.text}", name, {"evidence": found.kind, "error_ratio": found.error_ratio})
        for name, found in known.items()
        if found is not None
    ]


def against_current(oracle: Oracle, found: Found) -> list[Reason]:
    """Return what the plan saves against `current:`, and which stages `current:` does not name."""
    if oracle.spec.current is None:
        return []
    now = current_plan(oracle.spec, oracle.profile, found.stages)
    cost = now.cost_usd_per_hour
    saved = cost - found.cost_usd_per_hour
    rate = None
    try:
        verdict = oracle.judge(now.stages, all_traces=True)
    except ProfileError as error:
        misses = f"cannot be predicted: {error}"
    else:
        rate = percentile(np.array(verdict.miss_rates), 97)
        misses = f"would {oracle.criterion.broken_text(percentile(np.array(verdict.broken), 97))}"
        misses += "".join(f"; {doubt}" for name in now.stages for doubt in confidence.beyond_measured(now, name))
    verb = "saves" if saved >= 0 else "adds"
    assumed = list(now.provenance.get("assumed", ()))
    unnamed = f"; current: does not name {', '.join(assumed)}, taken as in the plan" if assumed else ""
    text = f"{verb} ${abs(saved):.4g}/h against what runs today (${cost:.4g}/h, which {misses}){unnamed}"
    values = {
        "current_usd_per_hour": cost,
        "saved_usd_per_hour": saved,
        "current_miss_rate_p97": rate,
        "assumed": assumed,
    }
    return [Reason("current", text, None, values)]
