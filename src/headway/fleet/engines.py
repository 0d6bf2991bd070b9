"""What a fleet of LLM engines is: the engines, how requests are spread over them, and how each one takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from headway.errors import HeadwayError, nearest
from headway.fleet.llm_state import BOTH, DECODE, DECODE_FIRST, PREFILL, PREFILL_FIRST, STATIC, Engines
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import Admission, admission
from headway.policy.routing import Router
from headway.policy.scheduling import Order, order
from headway.policy.token_routing import token_router

BATCHINGS = {"decode-first": DECODE_FIRST, "prefill-first": PREFILL_FIRST, "static": STATIC}
"""How an iteration is made up. `decode-first`: what decodes, then parts of prompts up to the budget (Sarathi, vLLM V1);
`prefill-first`: whole prompts alone whenever some fit (vLLM before); `static`: a batch runs until all of it is done."""

ROLES = {"both": BOTH, "prefill": PREFILL, "decode": DECODE}
"""What an engine does; prefill engines hand their requests to decode engines."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: a model on its accelerators.

    `step`: what an iteration takes. `kv_tokens`: KV-cache memory in tokens. `token_budget`: tokens of an iteration at
    most (the chunk of prefill). `most_running`: requests at once. `ready_s`: when a started replica takes requests;
    `stop_s`: from when on it is sent none and works off what it has. `swap_token_s`: seconds to copy one token's keys
    and values to the host, or back; infinite where that is not done. Raises HeadwayError for values out of range.

    >>> Engine(StepTime(floor_s=0.01, token_s=6e-5), kv_tokens=80_000).token_budget
    512
    """

    step: StepTime
    kv_tokens: int
    token_budget: int = 512
    most_running: int = 128
    batching: str = "decode-first"
    role: str = "both"
    ready_s: float = 0.0
    stop_s: float = math.inf
    swap_token_s: float = math.inf

    def __post_init__(self) -> None:
        for name, valid in (("batching", BATCHINGS), ("role", ROLES)):
            value = getattr(self, name)
            if value not in valid:
                raise HeadwayError(f"engine: {name} is {value!r}{nearest(value, valid)}; valid: {', '.join(valid)}")
        for name in ("kv_tokens", "token_budget", "most_running"):
            if not isinstance(getattr(self, name), Integral) or getattr(self, name) < 1:
                raise HeadwayError(f"engine: {name} is {getattr(self, name)}; a whole number of at least 1 is needed")
        if self.batching == "decode-first" and self.token_budget < self.most_running:
            raise HeadwayError(
                f"engine: token_budget is {self.token_budget} and most_running {self.most_running}; each running "
                "request makes a token per iteration, so the budget must be at least as large"
            )
        if not (0.0 <= self.ready_s < self.stop_s and self.swap_token_s > 0.0):
            raise HeadwayError("engine: ready_s must be at least 0 and before stop_s, and swap_token_s above 0")


@dataclass(frozen=True, slots=True)
class LlmFleet:
    """Engines behind a balancer.

    `router`, `order` and `admission` are policies (`token_router`, `order`, `admission` make them by name).
    `block_tokens`: tokens of a block of KV memory. `prefix_cache`: whether begins of prompts are kept for others.
    `report_s`: seconds between the engines' reports to the balancer, 0 where it sees them as they are; `deltas`:
    whether it adds what it sent since. `transfer_token_s`: seconds to move a token's keys and values from a prefill
    engine to a decode engine. Raises HeadwayError where this contradicts itself.

    >>> engine = Engine(StepTime(floor_s=0.01, token_s=6e-5), kv_tokens=80_000)
    >>> LlmFleet((engine,) * 4, token_router("sal")).size
    4
    """

    engines: tuple[Engine, ...]
    router: Router = field(default_factory=lambda: token_router("least-prefill"))
    order: Order = field(default_factory=lambda: order("fcfs"))
    admission: Admission = field(default_factory=lambda: admission("optimistic"))
    block_tokens: int = 16
    prefix_cache: bool = False
    report_s: float = 0.0
    deltas: bool = True
    transfer_token_s: float = 0.0

    def __post_init__(self) -> None:
        for name, kind, maker in (
            ("router", Router, "token_router"), ("order", Order, "order"), ("admission", Admission, "admission"),
        ):  # fmt: skip
            if not isinstance(getattr(self, name), kind):
                said = getattr(self, name)
                raise HeadwayError(f"LLM fleet: {name} is {said!r}; a policy is needed, such as {maker}({said!r})")
        roles = [engine.role for engine in self.engines]
        if not roles:
            raise HeadwayError("LLM fleet: it has no engine; at least one is needed")
        if ("prefill" in roles) != ("decode" in roles) or ("both" in roles and "prefill" in roles):
            raise HeadwayError(
                f"LLM fleet: the roles are {', '.join(dict.fromkeys(roles))}; either every engine does both, or there "
                "is at least one for prefill and one for decode"
            )
        if roles != sorted(roles, reverse=True) and "prefill" in roles:
            raise HeadwayError("LLM fleet: prefill engines stand before decode engines; sort them so")
        if not isinstance(self.block_tokens, Integral) or self.block_tokens < 1:
            raise HeadwayError(
                f"LLM fleet: block_tokens is {self.block_tokens}; a whole number of at least 1 is needed"
            )
        for name in ("report_s", "transfer_token_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise HeadwayError(f"LLM fleet: {name} is {getattr(self, name)}; seconds of at least 0 are needed")
        if any(engine.kv_tokens < self.block_tokens for engine in self.engines):
            raise HeadwayError(f"LLM fleet: kv_tokens of an engine is below one block of {self.block_tokens} tokens")

    @property
    def size(self) -> int:
        """Number of engines."""
        return len(self.engines)

    @property
    def columns(self) -> Engines:
        """The engines as the kernel wants them."""
        made = self.engines
        steps = [engine.step for engine in made]

        def floats(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            return np.array(values, np.float64)

        def longs(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(values, np.int64)

        return Engines(
            overhead_s=floats([step.overhead_s for step in steps]),
            floor_s=floats([step.floor_s for step in steps]),
            token_s=floats([step.token_s for step in steps]),
            kv_token_s=floats([step.kv_token_s for step in steps]),
            pair_s=floats([step.pair_s for step in steps]),
            swap_token_s=floats([engine.swap_token_s for engine in made]),
            capacity=longs([engine.kv_tokens // self.block_tokens for engine in made]),
            budget=longs([engine.token_budget for engine in made]),
            most_running=longs([engine.most_running for engine in made]),
            batching=longs([BATCHINGS[engine.batching] for engine in made]),
            role=longs([ROLES[engine.role] for engine in made]),
            ready_s=floats([engine.ready_s for engine in made]),
            stop_s=floats([engine.stop_s for engine in made]),
        )
