"""Promises to classes of LLM requests: to the first token, per token, and to the last one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headway.errors import HeadwayError
from headway.fleet.llm_run import LlmOutcome
from headway.sim.station import Floats, Ints


@dataclass(frozen=True, slots=True)
class SloClass:
    """What one class of requests is promised; infinite where nothing is. Raises HeadwayError for a promise of no time.

    >>> SloClass("chat", ttft_s=1.0, tpot_s=0.05).e2e_s
    inf
    """

    name: str
    ttft_s: float = math.inf
    tpot_s: float = math.inf
    e2e_s: float = math.inf

    def __post_init__(self) -> None:
        if not min(self.ttft_s, self.tpot_s, self.e2e_s) > 0.0:
            raise HeadwayError(f"SLO class {self.name!r}: a promise is not above 0 seconds")


def kept(outcome: LlmOutcome, classes: Sequence[SloClass], kind: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each request whether every promise of its class was kept; `kind` numbers the classes from 0.

    An answer of one token has no time per token, and keeps that promise.
    """
    promised = np.array([(each.ttft_s, each.tpot_s, each.e2e_s) for each in classes])[kind]
    tpot_s = np.where(np.isnan(outcome.tpot_s), 0.0, outcome.tpot_s)
    answered = np.isfinite(outcome.done_s)
    return np.asarray(
        answered & (outcome.ttft_s <= promised[:, 0]) & (tpot_s <= promised[:, 1]) & (outcome.e2e_s <= promised[:, 2])
    )


def tokens_per_tenant(outcome: LlmOutcome, until_s: float) -> Floats:
    """Return the tokens, of prompts and answers, that each tenant was served until a time; fairness is about these.

    Requests count when they are answered. `headway.fleet.metrics.jain` makes an index of it.
    """
    done = outcome.done_s <= until_s
    weights = np.where(done, outcome.prompt + outcome.output, 0)
    return np.bincount(outcome.tenant, weights=weights).astype(np.float64)
