"""The verbs as functions. Each hands over to the part that does the work, which is imported when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.plan.plan import Plan
    from headway.profile import Profile
    from headway.serve.calibrate import Calibration
    from headway.serve.run import ServerHandle
    from headway.sim.outcome import Outcome
    from headway.spec.model import Spec
    from headway.trace import Trace


def load(path: str | os.PathLike[str]) -> Spec:
    """Read a spec from YAML, or from TOML when the name ends in .toml.

    Raises SpecError naming file, line, field and the nearest valid name.
    """
    from headway.spec.load import load

    return load(path)


def profile(
    spec: Spec,
    samples: Sequence[Any] | str | os.PathLike[str] = ("",),
    *,
    labels: Sequence[Any] | str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] = ".",
    batch_sizes: Sequence[int] | None = None,
    budget_s: float | None = None,
    seed: int = 0,
) -> Profile:
    """Measure every stage that names a model, on this machine, in worker processes of its own.

    `samples` are what requests carry: a folder, a JSONL file, or a list of text, bytes, arrays and JSON values; one
    empty text unless given. Models of pages or pictures need real ones, and fan-out is only as true as the samples.
    `labels` are the right answers, in their order or as a CSV file: with them the validation table of every cascade is
    written where the spec says. `folder` is where the spec's model files are looked up; `budget_s` the time to share
    out. A cell that fails is listed in the profile's `stamp["problems"]` and does not lose the others. Raises
    ProfileError, SpecError and CascadeError.
    """
    from headway.profile.measure import measure
    from headway.profile.samples import named_samples

    if isinstance(samples, str | os.PathLike):
        inputs = named_samples(samples)
    else:
        from headway.serve.values import encode

        inputs = {str(number): encode(sample) for number, sample in enumerate(samples, start=1)}
    given = list(inputs.values())
    right = None
    if labels is not None:
        from headway.profile.labels import read_labels

        if isinstance(labels, str | os.PathLike):
            right = read_labels(labels, list(inputs))
        else:
            right = ["" if label is None else str(label) for label in labels]
    measured = measure(spec, given, folder=folder, batch_sizes=batch_sizes, budget_s=budget_s, seed=seed)
    if right is not None:
        from headway.profile.labeled import validate

        validate(spec, given, right, folder=folder)
    return measured


def simulate(
    plan: Plan,
    profile: Profile | None = None,
    trace: Trace | None = None,
    *,
    seed: int = 0,
    mode: str = "sampled",
    drop_after_s: float | None = None,
) -> Outcome:
    """Return what the plan would do under the trace.

    A plan carries the profile rows it was made from; `profile` replaces them. `mode` is `sampled` (service times are
    drawn from the profile's quantiles) or `mean`. With `drop_after_s` requests are given up that long after their
    arrival. Same seed, same bytes. Raises HeadwayError.
    """
    from headway.sim.simulation import simulate

    if trace is None:
        raise HeadwayError("simulate: no trace; call it as simulate(plan, trace=trace, seed=1)")
    chosen = plan if profile is None else replace(plan, profile=profile)
    return simulate(chosen, trace, seed=seed, mode=mode, drop_after_s=drop_after_s)


def plan(
    spec: Spec,
    profile: Profile | None,
    trace: Trace,
    *,
    planner: str = "exact",
    feasibility: str = "robust",
    seed: int = 0,
    budget: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Return the cheapest plan that keeps the spec's promise on the trace, with its bound, gap and reasons.

    `profile` may be None where no stage needs one, as fleets of models that are known.
    `planner` is exact, or a published one to compare with: greedy (InferLine), cg-mean, cg-peak. `feasibility` is
    robust (drawn service times, resampled traces) or trace (means, the given trace). `budget` is a number of
    simulations; `progress` is told how far the search is. Raises Infeasible, which names the smallest promise that can
    be kept, and HeadwayError for contradictory inputs.
    """
    from headway.plan.make import make

    return make(
        spec,
        profile,
        trace,
        planner=planner,
        feasibility=feasibility,
        seed=seed,
        budget=budget,
        progress=progress,
    )


def serve(plan: Plan, **options: Any) -> AbstractContextManager[ServerHandle]:
    """Run the plan on real engines behind real HTTP, in a process of its own, for as long as the `with` block lasts.

    The block is given the server's handle; its `url` is where requests go. `options` are those of
    `headway.serve.run.ServeOptions`: host (loopback unless told otherwise), port (0: a free one), token, ...
    Raises ServeError when the server cannot start.
    """
    from headway.serve.run import running

    return running(plan, **options)


def replay(
    url: str,
    trace: Trace,
    *,
    payloads: Sequence[Any] | str | os.PathLike[str] | None = None,
    labels: Sequence[Any] | str | os.PathLike[str] | None = None,
    token: str | None = None,
    seed: int = 0,
) -> Outcome:
    """Send a trace's requests to a server at their scheduled times, and return what was measured.

    `payloads` is a folder or a list; the trace's column `payload` says which one a request carries, else `seed` does.
    `labels` are the payloads' right answers, in their order (None where not known) or as a CSV file: the outcome's
    accuracy is then that of the answers. Latency counts from the scheduled arrival. Raises ServeError when the server
    cannot be reached, ProfileError for labels that do not fit.
    """
    from headway.serve.replay import replay

    return replay(url, trace, payloads=payloads, labels=labels, token=token, seed=seed)


def calibrate(
    plan: Plan,
    trace: Trace,
    *,
    url: str | None = None,
    payloads: Sequence[Any] | str | os.PathLike[str] | None = None,
    token: str | None = None,
    test: Trace | None = None,
    profile: Profile | None = None,
    seed: int = 0,
) -> Calibration:
    """Replay a trace live and simulated, and return the profile fitted to the difference, with the errors.

    The plan is served at `url`, or for as long as it takes. `test` is replayed after the fit, to judge it by another
    trace. The fit is put into `profile`, else into the rows that the plan carries. Raises ServeError when the server
    runs another plan, serves others at the same time, or leaves too many requests unanswered.
    """
    from headway.serve.calibrate import calibrate

    return calibrate(plan, trace, url=url, payloads=payloads, token=token, test=test, profile=profile, seed=seed)


def diff(before: Plan, after: Plan) -> dict[str, Any]:
    """Return what changes from one plan to another, what it saves and what it risks, as JSON values."""
    from headway.plan.difference import diff

    return diff(before, after)


def compare(a: Outcome | Mapping[str, Any], b: Outcome | Mapping[str, Any]) -> dict[str, Any]:
    """Return two outcomes, or their JSON, side by side: figure by figure, with difference and ratio, as JSON values."""
    from headway.sim.simulation import compare

    return compare(*(value if isinstance(value, Mapping) else value.to_dict() for value in (a, b)))
