r"""A scheduler for vLLM: its own asynchronous one, with what waits ordered and admitted by Headway's policies.

    vllm serve MODEL --scheduler-cls headway.dropins.vllm.PolicyScheduler \
        --additional-config '{"headway": {"order": "aged", "max_wait_s": 20, "admission": "headroom"}}'

What runs, how prompts are cut, what is cached and who is preempted stays as vLLM has it. Before each iteration the
queue of those that wait is put in order, and cut off where memory admits no more; what was cut off is put back after.
vLLM does not call this interface public: what is used of it is looked for when the engine starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from headway.policy.kv_admission import (
    OPTIMISTIC,
    PEAK,
    Admission,
    Memory,
    admission,
    fits,
    headroom_after,
    predicted_peak,
)
from headway.policy.scheduling import (
    INPUT_WEIGHT,
    OUTPUT_WEIGHT,
    VTC,
    Backlog,
    Order,
    Waiting,
    order,
    overdue,
    rank,
    returning,
)

__all__ = ["VERSIONS", "PolicyScheduler", "Rules", "rules"]

VERSIONS: Final = "0.20 to 0.33"
"""Releases of vLLM that this was written for."""

NEEDS: Final = (
    "block_size", "kv_cache_config", "kv_cache_manager", "max_model_len", "max_num_running_reqs",
    "max_num_scheduled_tokens", "requests", "running", "scheduler_config", "vllm_config", "waiting",
)  # fmt: skip
"""What is read of vLLM's scheduler."""

ACCOUNTS: Final = 4096
"""Tenants without requests whose accounts are kept: who they are is what clients say."""

_ORDER: Final = ("max_wait_s", "reach_tokens")
_ADMISSION: Final = ("watermark", "most_headroom", "least_headroom")
_NEW: Final = 0.02
"""Weight of the newest in the moving average of answers' lengths."""
_ANSWERED: Final = ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED")
_BLOCKED: Final = "WAITING_FOR_"
"""How the states begin of requests that wait for something else than a place."""


class Rules(NamedTuple):
    """How requests wait. `token_s`, `step_s`: seconds per token of a prompt, and of an iteration that only decodes."""

    order: Order
    admission: Admission
    token_s: float
    step_s: float


def rules(given: Mapping[str, Any]) -> Rules:
    """Return what `--additional-config` says under "headway". Raises ValueError for what is not known or not valid.

    >>> rules({"order": "sjf", "max_wait_s": 20}).order.max_wait_s
    20.0
    """
    valid = ("order", *_ORDER, "admission", *_ADMISSION, "token_s", "step_s")
    unknown = sorted(set(given) - set(valid))
    if unknown:
        raise ValueError(f"headway: nothing is called {unknown[0]!r}; valid: {', '.join(valid)}")
    token_s, step_s = float(given.get("token_s", 1e-4)), float(given.get("step_s", 0.02))
    if not (0.0 < token_s < 1e9 and 0.0 < step_s < 1e9):
        raise ValueError(f"headway: token_s and step_s are seconds above 0; they are {token_s!r} and {step_s!r}")
    return Rules(
        order(given.get("order", "fcfs"), **{name: given[name] for name in _ORDER if name in given}),
        admission(given.get("admission", "optimistic"), **{name: given[name] for name in _ADMISSION if name in given}),
        token_s,
        step_s,
    )


class PolicyScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's asynchronous scheduler, in which policies say who is next, and whether there is room.

    `--additional-config` holds under "headway": `order` with its `max_wait_s` and `reach_tokens`; `admission` with its
    `watermark`, `most_headroom` and `least_headroom`; `token_s` and `step_s` (see `Rules`). `optimistic` admission is
    vLLM's own. A request may say whose it is and how long an answer is expected, by the field `vllm_xargs`:
    `{"tenant": "alice", "predicted_tokens": 200}`. Whoever was preempted goes first. Raises ValueError for what is not
    valid, RuntimeError for a vLLM that is not built as expected.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        missing = [name for name in NEEDS if not hasattr(self, name)]
        if missing:
            raise RuntimeError(
                f"PolicyScheduler: this vLLM's scheduler has no {missing[0]!r}; vLLM {VERSIONS} is what it was made for"
            )
        if self.scheduler_config.policy != "fcfs":
            raise ValueError(
                f"PolicyScheduler: --scheduling-policy is {self.scheduler_config.policy!r}; leave it at fcfs, the "
                "order is chosen in --additional-config"
            )
        given = self.vllm_config.additional_config
        self._rules = rules(given.get("headway", {}) if isinstance(given, Mapping) else {})
        self._headroom = self._rules.admission.least_headroom
        self._answer_tokens: float | None = None
        self._ran: list[Any] = []
        self._served: dict[str, float] = {}

    def add_request(self, request: Any) -> None:
        """Let a request wait; a tenant that had none has no claim from before."""
        if self._rules.order.code == VTC:
            active = {_tenant(other) for other in self.requests.values()}
            if len(self._served) > ACCOUNTS:
                self._served = {tenant: self._served.get(tenant, 0.0) for tenant in active}
            tenant = _tenant(request)
            if tenant not in active:
                served = self._served.get(tenant, 0.0)
                least = min((self._served.get(other, 0.0) for other in active), default=served)
                self._served[tenant] = returning(least, served)
        super().add_request(request)

    def schedule(self, *args: Any, **named: Any) -> Any:
        """Plan an iteration, as vLLM does, of those for whom there is room, in their order."""
        self._learn()
        later = self._line_up(time.time())
        try:
            plan = super().schedule(*args, **named)
        finally:
            for request in later:
                self.waiting.add_request(request)
        self._settle(plan)
        return plan

    def _learn(self) -> None:
        """Take note of how long the answers were that have ended since: what is expected of others."""
        ran, self._ran = self._ran, []
        for request in ran:
            if request.status.name in _ANSWERED:
                new = float(request.num_output_tokens)
                old = new if self._answer_tokens is None else self._answer_tokens
                self._answer_tokens = old + _NEW * (new - old)

    def _line_up(self, now_s: float) -> list[Any]:
        """Put those that wait in order, and return the ones for whom there is no room: they are taken out."""
        if not self.waiting or len(self.running) >= self.max_num_running_reqs:
            return []
        waiting = [self.waiting.pop_request() for _ in range(len(self.waiting))]
        backlog = self._backlog(waiting)
        waiting.sort(key=lambda request: self._standing(request, backlog, now_s))
        room = len(waiting) if self._rules.admission.code == OPTIMISTIC else self._room(waiting)
        for request in waiting[:room]:
            self.waiting.add_request(request)
        return waiting[room:]

    def _standing(self, request: Any, backlog: Backlog, now_s: float) -> tuple[int, float, float]:
        """Return what requests are sorted by: preempted ones, then those that waited too long, then by rank."""
        came_s = float(request.arrival_time)
        if request.status.name == "PREEMPTED":
            return 0, came_s, came_s
        if overdue(self._rules.order, came_s, now_s):
            return 1, came_s, came_s
        seen = Waiting(
            came_s,
            float(request.num_tokens - request.num_computed_tokens),
            float(request.num_tokens),
            self._expected(request),
            self._served.get(_tenant(request), 0.0),
        )
        return 2, rank(self._rules.order, seen, backlog, now_s), came_s

    def _backlog(self, waiting: Sequence[Any]) -> Backlog:
        asked = sum(request.num_tokens for request in waiting)
        ahead = asked + sum(max(0, other.num_prompt_tokens - other.num_computed_tokens) for other in self.running)
        memory = self.kv_cache_manager.usage + asked / (self._capacity() * self.block_size)
        budget = float(self.max_num_scheduled_tokens)
        return Backlog(float(ahead), budget, memory, self._rules.token_s, self._rules.step_s)

    def _capacity(self) -> float:
        """Return the blocks that requests can have: with several kinds of layers, each takes its own."""
        return float(self.kv_cache_config.num_blocks // max(1, len(self.kv_cache_config.kv_cache_groups)))

    def _room(self, waiting: Sequence[Any]) -> int:
        """Return for how many of those that wait, in their order, there is room."""
        rule, size = self._rules.admission, self.block_size
        capacity = self._capacity()
        free = capacity * (1.0 - self.kv_cache_manager.usage)
        reserved, used, remaining = 0, [], []
        for other in self.running:
            # Of a prompt that is computed in parts, vLLM has taken memory for those that are.
            free -= max(0, _blocks(other.num_tokens, size) - _blocks(other.num_computed_tokens, size))
            reserved += self._most_blocks(other)
            used.append(float(other.num_tokens))
            remaining.append(self._expected(other))
        running = len(self.running)
        for at, request in enumerate(waiting):
            if request.status.name.startswith(_BLOCKED):
                # vLLM passes it over, or lets it in when what it waits for is there.
                continue
            need, most, peak = _blocks(request.num_tokens, size), self._most_blocks(request), 0.0
            if rule.code == PEAK:
                used.append(float(request.num_tokens))
                remaining.append(self._expected(request))
                peak = predicted_peak(used, remaining, len(used)) / size
            memory = Memory(capacity, free, float(reserved), self._headroom / size, peak, running)
            if not fits(rule, float(need), float(most), memory):
                return at
            free -= need
            reserved += most
            running += 1
        return len(waiting)

    def _most_blocks(self, request: Any) -> int:
        return _blocks(min(self.max_model_len, request.num_prompt_tokens + request.max_tokens), self.block_size)

    def _expected(self, request: Any) -> float:
        """Return how many more tokens are expected: as was said of it, else as answers were, else the most."""
        said = _said(request).get("predicted_tokens")
        known = said if isinstance(said, int | float) and said >= 0 else self._answer_tokens
        most = request.max_tokens
        return max(1.0, float(most if known is None else min(known, most)) - float(request.num_output_tokens))

    def _settle(self, plan: Any) -> None:
        """Take note of whom an iteration preempts, and of what it computes for whom."""
        self._ran = list(self.running)
        rule = self._rules.admission
        self._headroom = rule.most_headroom if plan.preempted_req_ids else headroom_after(rule, self._headroom, 1)
        if self._rules.order.code != VTC:
            return
        for name, tokens in plan.num_scheduled_tokens.items():
            request = self.requests[name]
            before = request.num_computed_tokens - tokens
            prompt = min(tokens, max(0, request.num_prompt_tokens - before))
            tenant = _tenant(request)
            cost = INPUT_WEIGHT * prompt + OUTPUT_WEIGHT * (tokens - prompt)
            self._served[tenant] = self._served.get(tenant, 0.0) + cost


def _blocks(tokens: int, size: int) -> int:
    return -(-tokens // size)


def _said(request: Any) -> Mapping[str, Any]:
    """Return what a request says of itself beyond vLLM's own fields."""
    parameters = request.sampling_params
    return (parameters.extra_args if parameters is not None else None) or {}


def _tenant(request: Any) -> str:
    return str(_said(request).get("tenant", ""))
