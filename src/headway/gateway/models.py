"""Which upstreams may not get a request, since they do not serve the model that it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headway.errors import nearest
from headway.gateway.ask import ApiError

if TYPE_CHECKING:
    from headway.gateway.replica import Replica

_KEPT: Final = 1024
_LONGEST: Final = 256
"""Characters of a name that is kept, and of one that an error repeats: clients choose them."""


class Models:
    """Looks models up in what upstreams serve; an upstream of which that is not known is taken to serve any."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._barred: dict[str | None, tuple[int, ...]] = {None: ()}

    def barred(self, model: str | None) -> tuple[int, ...]:
        """Return the numbers of the upstreams that do not serve a model. Raises ApiError when none does."""
        found = self._barred.get(model)
        return self._look_up(model or "") if found is None else found

    def forget(self) -> None:
        """Take note that upstreams serve other models than before."""
        self._barred = {None: ()}

    def _look_up(self, model: str) -> tuple[int, ...]:
        barred = tuple(r.number for r in self._replicas if r.models is not None and model not in r.models)
        if all(r.number in barred for r in self._replicas if r.used):
            known = sorted(set().union(*(r.models or () for r in self._replicas if r.used)))
            shown = model[:_LONGEST]
            text = f"no upstream serves the model {shown!r}{nearest(shown, known)}; valid: {', '.join(known)}"
            raise ApiError(404, text, code="model_not_found")
        if len(self._barred) < _KEPT and len(model) <= _LONGEST:
            self._barred[model] = barred
        return barred
