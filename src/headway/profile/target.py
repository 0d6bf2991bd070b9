"""What can be measured: every model of a spec on every hardware of this machine, and why the rest cannot."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from headway.errors import HeadwayError, ProfileError, nearest
from headway.serve.model_ref import HardwareView, ModelRef, resolve
from headway.serve.worker import Worker
from headway.spec.model import Hardware, Spec, Stage, Variant

MAX_BATCH_SIZE = 16
"""The largest batch size measured where neither the caller nor the stage names one."""


class NotStarted(ProfileError):
    """A model cannot be set up on some hardware, whatever the batch size."""


@runtime_checkable
class Measurable(Protocol):
    """A stage whose work is done by a model with variants, such as those of the domain `pipeline`."""

    @property
    def variant_names(self) -> tuple[str, ...]: ...
    @property
    def hardware_names(self) -> tuple[str, ...] | None: ...
    @property
    def max_batch_size(self) -> int | None: ...
    def variant(self, name: str) -> Variant: ...


@runtime_checkable
class HasFamily(Protocol):
    """A stage done by several models together, such as those of the domain `cascade`: no choice, each has its rows."""

    @property
    def models(self) -> Mapping[str, object]:
        """All of its models, by the names that the profile has for them as variants."""
        ...

    @property
    def named_models(self) -> Mapping[str, str]:
        """Those that say what does the work."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches of its workers' results; the last one holds the answer."""
        ...

    def worker(self, name: str, folder: str, where: str, *, rendered: bool) -> tuple[ModelRef, Mapping[str, Any]]:
        """What a worker loads for a model, with its options; raises SpecError, beginning with `where`."""
        ...


@dataclass(frozen=True)
class Model:
    """One variant of one stage, ready to be loaded by a worker; `answer` is the branch of a family's answers."""

    stage: str
    variant: str
    ref: ModelRef
    options: Mapping[str, Any]
    children: tuple[str, ...]
    fingerprint: str
    answer: str | None = None

    @property
    def label(self) -> str:
        """The model's name in messages."""
        return self.stage if self.variant == "default" else f"{self.stage}/{self.variant}"


@dataclass(frozen=True)
class Target:
    """A model on some hardware, and the batch sizes to measure; `absent` says why this machine cannot, else None."""

    model: Model
    hardware: HardwareView
    batch_sizes: tuple[int, ...]
    absent: str | None

    @property
    def label(self) -> str:
        """The target's name in messages."""
        return f"{self.model.label} on {self.hardware.name}"


def models_named(stage: Stage) -> dict[str, str]:
    """Return the models that a stage names, by variant; empty for a stage without code."""
    if isinstance(stage, HasFamily):
        return dict(stage.named_models)
    if not isinstance(stage, Measurable):
        return {}
    named = {name: stage.variant(name).model for name in stage.variant_names}
    return {name: model for name, model in named.items() if model is not None}


def field_of(stage: Stage, name: str, variant: str) -> str:
    """Return the field of the spec that names a model."""
    return f"stages.{name}.models.{variant}.model" if isinstance(stage, HasFamily) else f"stages.{name}.model"


def models(spec: Spec, folder: str | os.PathLike[str]) -> dict[str, dict[str, Model]]:
    """Return the models by stage and variant; stages without code are left out.

    Raises SpecError when a model is not where the spec says, ProfileError when no stage names one.
    """
    found: dict[str, dict[str, Model]] = {}
    for name, stage in spec.stages.items():
        children = tuple(edge.child for edge in spec.graph.children[name])
        for variant_name, written in models_named(stage).items():
            ref = resolve(written, folder, field_of(stage, name, variant_name))
            if isinstance(stage, HasFamily):
                model = _of_family(stage, name, variant_name, folder, ref, rendered=not children)
            else:
                assert isinstance(stage, Measurable)
                options = dict(stage.variant(variant_name).options)
                model = Model(name, variant_name, ref, options, children, ref.fingerprint)
            found.setdefault(name, {})[variant_name] = model
    if not found:
        raise ProfileError(
            "profile: no stage names a model, so there is nothing to measure; add model: file.py:Class or file.onnx"
        )
    return found


def _of_family(
    stage: HasFamily, name: str, model: str, folder: str | os.PathLike[str], named: ModelRef, *, rendered: bool
) -> Model:
    """A model as its workers serve it; what it is known by is the file that the spec names, not what stands around."""
    ref, options = stage.worker(model, os.fspath(folder), f"stages.{name}", rendered=rendered)
    return Model(name, model, ref, options, stage.branches, named.fingerprint, answer=stage.branches[-1])


def targets(
    spec: Spec, stages: Mapping[str, Mapping[str, Model]], batch_sizes: Sequence[int] | None = None
) -> list[Target]:
    """Return every model on every hardware that its stage may use, in the order of the spec.

    Raises ProfileError for batch sizes without 1, or hardware that is not in the supply.
    """
    if batch_sizes is not None and (1 not in batch_sizes or min(batch_sizes) < 1):
        raise ProfileError(f"profile: batch sizes {list(batch_sizes)} must be at least 1 and include 1")
    found = []
    for name, variants in stages.items():
        stage = spec.stages[name]
        largest = stage.max_batch_size if isinstance(stage, Measurable) else None
        wanted = sorted(set(batch_sizes)) if batch_sizes is not None else _powers_of_two(largest or MAX_BATCH_SIZE)
        sizes = tuple(size for size in wanted if largest is None or size <= largest)
        for hardware_name in stage.hardware_names or tuple(spec.supply):
            if hardware_name not in spec.supply:
                hint = nearest(hardware_name, spec.supply)
                raise ProfileError(f"profile: stages.{name}.hardware: {hardware_name!r} is not in supply{hint}")
            hardware = spec.supply[hardware_name]
            view = HardwareView(hardware_name, hardware.threads, hardware.device)
            absent = absence(hardware)
            found += [Target(model, view, sizes, absent) for model in variants.values()]
    return found


async def started(
    model: Model,
    hardware: HardwareView,
    *,
    name: str,
    timeout_s: float,
    log: Callable[[str], None] | None = None,
) -> Worker:
    """Return a worker with the model set up, pinned to cores of its own. Raises NotStarted."""
    try:
        return await Worker.start(
            model.ref,
            hardware,
            options=model.options,
            children=model.children,
            cores=pinned(hardware.threads),
            timeout_s=timeout_s,
            name=name,
            log=log,
        )
    except HeadwayError as error:
        raise NotStarted(str(error)) from None


def absence(hardware: Hardware) -> str | None:
    """Return why this machine cannot stand for the hardware, or None. Devices of unknown kinds are left to the model.

    >>> absence(Hardware(price="$1/h"))
    """
    cores = available_cores()
    if hardware.threads > len(cores):
        return f"it computes with {hardware.threads} threads and this machine has {len(cores)} cores"
    match = re.fullmatch(r"cuda(?::(\d+))?", hardware.device or "")
    if match and not _has_cuda_device(int(match[1] or 0)):
        return f"this machine has no device {hardware.device!r}"
    if hardware.device == "mps" and sys.platform != "darwin":
        return "this machine has no device 'mps'"
    return None


def _has_cuda_device(index: int) -> bool:
    # In a container the files keep the host's numbers while CUDA counts from 0, so they are counted too. Under
    # Windows' Linux, and on boards with a built-in GPU, devices have no files of their own.
    numbered = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    return len(numbered) > index or any(os.path.exists(path) for path in ("/dev/dxg", "/dev/nvhost-gpu"))


def available_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pinned(threads: int) -> tuple[int, ...] | None:
    """Return the cores to pin a worker to, the last ones, or None where the system cannot pin."""
    return available_cores()[-threads:] if hasattr(os, "sched_setaffinity") else None


def _powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to and including `largest` (InferLine section 4.1 profiles powers of two)."""
    sizes = [2**k for k in range(largest.bit_length())]
    return sizes if sizes[-1] == largest else [*sizes, largest]
