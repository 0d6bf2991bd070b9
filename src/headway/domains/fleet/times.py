"""What iterations of a stage's engines take and what their memory holds: from the profile's rows, else as shipped."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from headway.domains.fleet.declare import FleetStage
from headway.domains.fleet.served import ModelFigures, StepFigures, figures
from headway.errors import PlanError, ProfileError
from headway.fleet import datasheets, roofline
from headway.fleet.roofline import Roofline
from headway.fleet.step_time import Timing
from headway.plan.config import StageContext
from headway.profile import Row
from headway.sim.station import Floats


def fleet_stage(context: StageContext) -> FleetStage:
    """Return the stage as declared. Raises PlanError for one of another kind."""
    if not isinstance(context.stage, FleetStage):
        raise PlanError(f"stages.{context.name}: kind {context.stage.kind!r} is not planned by the fleet domain")
    return context.stage


def variant_of(tensor_parallel: int) -> str:
    """Return the variant under which a profile has rows of engines on so many accelerators.

    >>> variant_of(1), variant_of(4)
    ('default', 'tp4')
    """
    return "default" if tensor_parallel == 1 else f"tp{tensor_parallel}"


def engine_times(context: StageContext, hardware: str, tensor_parallel: int) -> Roofline:
    """Return what an engine's iterations take, the memory it has for context, and what both rest on.

    What the stage declares comes first, then rows of the profile: `batch_size` tokens in `mean_s`, of the variant `tp4`
    for four accelerators; what context adds, and memory, then are those of the model on the accelerator, as far as both
    are known. Raises ProfileError where something is not known, or the model does not fit.
    """
    stage = fleet_stage(context)
    known = stage.model
    model = figures(known) if isinstance(known, ModelFigures) else known
    rows = tuple(
        row
        for row in context.profile.rows
        if (row.stage, row.hardware, row.variant) == (context.name, hardware, variant_of(tensor_parallel))
    )
    try:
        found = _times(model, accelerator(context, hardware), tensor_parallel, rows, stage.kv_tokens, stage.step)
    except ProfileError as error:
        raise ProfileError(f"stages.{context.name}: on {hardware!r}: {error}") from None
    if found.kv_tokens < LEAST_KV_TOKENS:
        raise ProfileError(
            f"stages.{context.name}: on {hardware!r}: {found.kv_tokens} tokens of context fit beside the weights; "
            "raise tensor_parallel, or take hardware with more memory"
        )
    return found


DECLARED = "the step that is declared"
"""Where constants come from that a stage says itself."""

LEAST_KV_TOKENS = 16
"""One block of memory: with less no request fits."""


def accelerator(context: StageContext, hardware: str) -> str | None:
    """Return by which name an accelerator's figures are known: the `device` of its supply, or its own name."""
    device = context.spec.supply[hardware].device
    return next((name for name in (device, hardware) if name is not None and name in datasheets.gpus()), None)


def parallelisms(context: StageContext, hardware: str) -> tuple[int, ...]:
    """Return the declared numbers of accelerators that the model fits, or of which the profile has rows.

    Raises ProfileError when it is none of them.
    """
    refused: ProfileError | None = None
    fitting = []
    for tensor_parallel in sorted(fleet_stage(context).tensor_parallel):
        try:
            engine_times(context, hardware, tensor_parallel)
        except ProfileError as error:
            refused = error
        else:
            fitting.append(tensor_parallel)
    if not fitting and refused is not None:
        raise refused
    return tuple(fitting)


@lru_cache(maxsize=512)
def _times(
    model: str | datasheets.Model | None,
    gpu: str | None,
    tensor_parallel: int,
    rows: tuple[Row, ...],
    kv_tokens: int | None,
    declared: StepFigures | None,
) -> Roofline:
    shipped = _shipped(model, gpu, tensor_parallel, needed=not rows and declared is None)
    if declared is not None:
        base = shipped or Roofline("", gpu or "", tensor_parallel, declared.step, 0, float("inf"), "", None, "")
        shipped = replace(
            base,
            step=declared.step,
            evidence="measured",
            error_ratio=declared.error_ratio,
            source=DECLARED,
            error_on="as declared",
        )
    elif rows:
        timings = [Timing(row.batch_size, 0.0, row.mean_s) for row in rows]
        step, error_ratio, error_on = roofline.best_fit(timings)
        if shipped is not None:
            step = replace(step, kv_token_s=shipped.step.kv_token_s, pair_s=shipped.step.pair_s)
        base = shipped or Roofline("", gpu or "", tensor_parallel, step, 0, float("inf"), "", None, "")
        shipped = replace(
            base,
            step=step,
            evidence=_evidence(rows),
            error_ratio=error_ratio,
            source="rows of the profile",
            error_on=error_on,
        )
    assert shipped is not None
    if kv_tokens is not None:
        return replace(shipped, kv_tokens=kv_tokens)
    if not shipped.kv_tokens:
        raise ProfileError("what memory holds is not known; give kv_tokens, or model and a known accelerator")
    return shipped


def _shipped(
    model: str | datasheets.Model | None, gpu: str | None, tensor_parallel: int, *, needed: bool
) -> Roofline | None:
    """What is shipped of a model on an accelerator; None where one of them is not known and that is not needed."""
    if model is None or gpu is None:
        if not needed:
            return None
        if model is None:
            raise ProfileError(
                "what iterations take is not known; give model, or step or rows in the profile with kv_tokens"
            )
        raise ProfileError(
            "no accelerator is known by this name; give supply's hardware a device that is: "
            f"{', '.join(datasheets.gpus())}; or rows in the profile with kv_tokens"
        )
    if isinstance(model, str):
        return roofline.roofline(model, gpu, tensor_parallel)
    return roofline.prior(model, datasheets.gpus()[gpu], tensor_parallel, "the model", gpu)


def _evidence(rows: tuple[Row, ...]) -> str:
    """The weakest evidence of some rows."""
    found = {row.evidence for row in rows}
    return "prior" if "prior" in found else "imported" if "imported" in found else "measured"


def service_table(context: StageContext, hardware: str, *, sampled: bool) -> Floats | None:
    """Return the equally likely times of a request on a worker of some hardware (its mean alone unless `sampled`).

    None where the profile has no rows of the stage, so that the trace says it. Raises ProfileError for hardware that
    the stage was not profiled on.
    """
    if not any(row.stage == context.name for row in context.profile.rows):
        return None
    times_s: Floats = context.profile.service(context.name, "default", hardware).table(1, sampled)[1]
    return times_s
