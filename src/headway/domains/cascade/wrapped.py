"""What a worker loads for a model of a family, be it to serve, to be timed, or to be asked about labeled samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from headway.cascade.certainty import NAMED
from headway.domains.cascade.declare import CascadeStage
from headway.errors import SpecError, nearest
from headway.serve.model_ref import ModelRef, resolve

STEP_MODEL = "headway.domains.cascade.live_answers:StepModel"


def wrapped(
    stage: CascadeStage,
    name: str,
    folder: str | os.PathLike[str],
    where: str,
    *,
    rendered: bool,
    wrapper: str = STEP_MODEL,
) -> tuple[ModelRef, Mapping[str, Any]]:
    """Return a reference to what stands around a model of the stage, and its options; `where` begins errors.

    `wrapper` is `StepModel` or made from it. With `rendered` answers take a form that leaves the server. Raises
    SpecError when model or certainty is not where the spec says.
    """
    declared = stage.models[name]
    if declared.model is None:
        raise SpecError(f"{where}.models.{name}: names no model; write model: file.py:Class or file.onnx")
    certainty: Any = stage.certainty
    if certainty not in NAMED:
        if ":" not in certainty:
            raise SpecError(
                f"{where}.certainty: {certainty!r} is not known{nearest(certainty, NAMED)}; write one of "
                f"{', '.join(NAMED)}, or file.py:function"
            )
        certainty = msgspec.to_builtins(resolve(certainty, folder, f"{where}.certainty"))
    options = {
        "model": msgspec.to_builtins(resolve(declared.model, folder, f"{where}.models.{name}.model")),
        "options": declared.options,
        "certainty": certainty,
        "rendered": rendered,
    }
    module, _, class_name = wrapper.partition(":")
    return ModelRef("python", module=module, class_name=class_name), options
