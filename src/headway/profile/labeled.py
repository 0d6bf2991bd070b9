"""What models say of labeled samples, for the kinds of work that are planned with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from headway.errors import ProfileError
from headway.profile.measure import Progress
from headway.profile.target import models_named
from headway.serve.wire import Payload
from headway.spec.kinds import load_domain
from headway.spec.model import Spec


@runtime_checkable
class Validates(Protocol):
    """A domain whose stages rest on a file that says how right their models are."""

    def lacking(self, spec: Spec, name: str) -> str | None:
        """The file that a stage needs and that is not there; None where it is."""
        ...

    def validate(
        self,
        spec: Spec,
        name: str,
        samples: Sequence[Payload],
        labels: Sequence[str],
        *,
        folder: str | os.PathLike[str],
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None] | None,
    ) -> str:
        """Ask a stage's models about the samples and write the file; return what it shows, in a line that names it."""
        ...


def validate(
    spec: Spec,
    samples: Sequence[Payload],
    labels: Sequence[str],
    *,
    folder: str | os.PathLike[str] = ".",
    progress: Callable[[Progress], None] = lambda state: None,
    log: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Ask the models of every stage that is planned with labels, write what they said, and return a line by stage.

    Paths of files are from the working folder, as for the planner. Raises ProfileError when no stage needs labels, and
    HeadwayError for what its domain cannot make of them.
    """
    found = {
        name: domain.validate(
            spec, name, samples, labels, folder=folder,
            progress=lambda done, total, text: progress(Progress(done, total, text)), log=log,
        )
        for name, domain in _validated(spec).items()
    }  # fmt: skip
    if not found:
        raise ProfileError("profile: labels are given, and no stage of the spec is planned with them; leave them out")
    return found


def lacking(spec: Spec) -> dict[str, str]:
    """Return by stage the files that labels would make and that are not there.

    >>> from headway.testing.examples import tiny_spec
    >>> lacking(tiny_spec())
    {}
    """
    missing = {name: domain.lacking(spec, name) for name, domain in _validated(spec).items()}
    return {name: path for name, path in missing.items() if path is not None}


def wanted(spec: Spec) -> bool:
    """Return whether some stage is planned with labels."""
    return bool(_validated(spec))


def _validated(spec: Spec) -> dict[str, Validates]:
    domains = {name: load_domain(stage.kind) for name, stage in spec.stages.items() if models_named(stage)}
    return {name: domain for name, domain in domains.items() if isinstance(domain, Validates)}
