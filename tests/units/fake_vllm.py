"""What `headway.dropins.vllm` uses of vLLM, with the shapes that vLLM 0.33 has: queues, requests, memory in blocks.

One iteration does as vLLM's does: first what runs, for which the newest is preempted when memory lacks; then, unless
somebody was preempted, those that wait, from the head of their queue, until one finds no memory, no budget or no place.
Tokens come back when the next iteration has been planned already (`engine`). Left out is all that the scheduler class
does not touch: prefix caching, speculation, connectors, encoders, adapters.
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

VERSION = "0.33"
MOST_ITERATIONS = 5000


class RequestStatus(enum.IntEnum):
    WAITING = enum.auto()
    WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR = enum.auto()
    WAITING_FOR_REMOTE_KVS = enum.auto()
    RUNNING = enum.auto()
    PREEMPTED = enum.auto()
    FINISHED_STOPPED = enum.auto()
    FINISHED_LENGTH_CAPPED = enum.auto()
    FINISHED_ABORTED = enum.auto()


class Request:
    """A request; `answer_tokens` is how long its answer will be, which no scheduler may look at."""

    def __init__(
        self,
        request_id: str,
        prompt_tokens: int,
        answer_tokens: int,
        arrival_time: float = 0.0,
        max_tokens: int = 10_000,
        extra_args: dict[str, Any] | None = None,
        status: RequestStatus = RequestStatus.WAITING,
    ) -> None:
        self.request_id = request_id
        self.num_prompt_tokens = prompt_tokens
        self.num_output_tokens = 0
        self.num_computed_tokens = 0
        self.num_output_placeholders = 0
        self.num_preemptions = 0
        self.in_flight = self.stale = 0
        self.arrival_time = arrival_time
        self.max_tokens = max_tokens
        self.sampling_params = SimpleNamespace(extra_args=extra_args)
        self.status = status
        self._answer_tokens = min(answer_tokens, max_tokens)

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_output_tokens

    def receive(self) -> bool:
        """Take a token; say whether it is the last one."""
        self.num_output_tokens += 1
        return self.num_output_tokens >= self._answer_tokens


class FCFSRequestQueue(deque[Request]):
    def add_request(self, request: Request) -> None:
        self.append(request)

    def pop_request(self) -> Request:
        return self.popleft()

    def peek_request(self) -> Request:
        return self[0]

    def prepend_request(self, request: Request) -> None:
        self.appendleft(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        self.extendleft(requests)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        gone = set(requests)
        kept = [request for request in self if request not in gone]
        self.clear()
        self.extend(kept)


class KVCacheManager:
    """Blocks of memory; a request holds as many as its computed tokens fill."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self.held: dict[str, int] = {}

    @property
    def usage(self) -> float:
        return sum(self.held.values()) / self.blocks

    def allocate_slots(self, request: Request, tokens: int) -> bool:
        held = self.held.get(request.request_id, 0)
        wanted = -(-(request.num_computed_tokens + tokens) // self.block_size)
        if sum(self.held.values()) - held + wanted > self.blocks:
            return False
        self.held[request.request_id] = max(held, wanted)
        return True

    def free(self, request: Request) -> None:
        self.held.pop(request.request_id, None)


@dataclass
class SchedulerOutput:
    num_scheduled_tokens: dict[str, int]
    preempted_req_ids: set[str] | None = None
    admitted: list[str] = field(default_factory=list)


class Scheduler:
    def __init__(
        self,
        vllm_config: Any,
        kv_cache_config: Any,
        structured_output_manager: Any,
        block_size: int,
        hash_block_size: int | None = None,
        mm_registry: Any = None,
        include_finished_set: bool = False,
        log_stats: bool = False,
    ) -> None:
        self.vllm_config = vllm_config
        self.scheduler_config = vllm_config.scheduler_config
        self.kv_cache_config = kv_cache_config
        self.block_size = block_size
        self.max_num_running_reqs = self.scheduler_config.max_num_seqs
        self.max_num_scheduled_tokens = self.scheduler_config.max_num_batched_tokens
        self.max_model_len = vllm_config.model_config.max_model_len
        self.requests: dict[str, Request] = {}
        self.waiting = FCFSRequestQueue()
        self.kv_holding_waiting = FCFSRequestQueue()
        self.deferred_waiting: set[Request] = set()
        self.running: list[Request] = []
        self.kv_cache_manager = KVCacheManager(kv_cache_config.num_blocks, block_size)
        self.throttled: list[bool] = []

    def add_request(self, request: Request) -> None:
        holds = request.status is RequestStatus.WAITING_FOR_REMOTE_KVS
        (self.kv_holding_waiting if holds else self.waiting).add_request(request)
        self.requests[request.request_id] = request

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self.throttled.append(throttle_prefills)
        budget = self.max_num_scheduled_tokens
        tokens_of: dict[str, int] = {}
        preempted: list[Request] = []
        at = 0
        while at < len(self.running) and budget > 0:
            request = self.running[at]
            ahead = request.num_tokens + request.num_output_placeholders - request.num_computed_tokens
            last = request.num_prompt_tokens + request.max_tokens
            ends = request.num_output_placeholders > 0 and request.num_computed_tokens + 1 >= last
            tokens = 0 if ends else min(ahead, budget)
            if tokens == 0:
                at += 1
                continue
            while not self.kv_cache_manager.allocate_slots(request, tokens):
                victim = self.running.pop()
                self._preempt_request(victim)
                preempted.append(victim)
                if victim is request:
                    break
            if request in preempted:
                break
            tokens_of[request.request_id] = tokens
            budget -= tokens
            at += 1
        admitted = [] if preempted else self._admit(tokens_of, budget)
        plan = SchedulerOutput(tokens_of, {request.request_id for request in preempted}, admitted)
        self._update_after_schedule(plan)
        return plan

    def _admit(self, tokens_of: dict[str, int], budget: int) -> list[str]:
        admitted: list[str] = []
        skipped: dict[int, deque[Request]] = {id(self.kv_holding_waiting): deque(), id(self.waiting): deque()}
        while budget > 0:
            queue = self.kv_holding_waiting or self.waiting
            if not queue or len(self.running) >= self.max_num_running_reqs:
                break
            request = queue.peek_request()
            if request.status.name.startswith("WAITING_FOR_"):
                self.deferred_waiting.add(request)
                skipped[id(queue)].appendleft(queue.pop_request())
                continue
            tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            if not self.kv_cache_manager.allocate_slots(request, tokens):
                break
            queue.pop_request()
            self.deferred_waiting.discard(request)
            self.running.append(request)
            request.status = RequestStatus.RUNNING
            admitted.append(request.request_id)
            tokens_of[request.request_id] = tokens
            budget -= tokens
        for queue in (self.kv_holding_waiting, self.waiting):
            queue.prepend_requests(skipped[id(queue)])
        return admitted

    def _preempt_request(self, request: Request) -> None:
        self.kv_cache_manager.free(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_output_placeholders = 0
        request.stale = request.in_flight
        request.num_preemptions += 1
        self.waiting.prepend_request(request)

    def _update_after_schedule(self, plan: SchedulerOutput) -> None:
        for name, tokens in plan.num_scheduled_tokens.items():
            request = self.requests[name]
            request.num_computed_tokens += tokens

    def update_from_output(self, plan: SchedulerOutput, made: set[str]) -> list[Request]:
        """Take the tokens of an iteration: one for each request that `made` names. Return who has ended."""
        ended = []
        for name in plan.num_scheduled_tokens:
            request = self.requests.get(name)
            if request is None or name not in made:
                continue
            request.in_flight -= 1
            if request.stale:
                request.stale -= 1
                continue
            request.num_output_placeholders -= 1
            if request.receive():
                self._finish(request, RequestStatus.FINISHED_STOPPED)
                ended.append(request)
        return ended

    def finish_requests(self, request_id: str, status: RequestStatus) -> None:
        self._finish(self.requests[request_id], status)

    def _finish(self, request: Request, status: RequestStatus) -> None:
        request.status = status
        self.kv_cache_manager.free(request)
        del self.requests[request.request_id]
        self.running = [other for other in self.running if other is not request]
        for queue in (self.waiting, self.kv_holding_waiting):
            queue.remove_requests([request])


class AsyncScheduler(Scheduler):
    """Plans the next iteration before the tokens of the last one are back."""

    def _update_after_schedule(self, plan: SchedulerOutput) -> None:
        super()._update_after_schedule(plan)
        for name in plan.num_scheduled_tokens:
            request = self.requests[name]
            if request.num_computed_tokens >= request.num_tokens + request.num_output_placeholders:
                request.num_output_placeholders += 1
                request.in_flight += 1


def make(
    kind: Callable[..., Any],
    headway: Any = None,
    blocks: int = 100,
    block_size: int = 16,
    most_running: int = 8,
    budget: int = 256,
    policy: str = "fcfs",
    groups: int = 1,
) -> Any:
    """Return a scheduler as vLLM makes it: by the class's qualified name, with these arguments."""
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=most_running, max_num_batched_tokens=budget, policy=policy),
        model_config=SimpleNamespace(max_model_len=blocks * block_size),
        additional_config={} if headway is None else {"headway": headway},
    )
    memory = SimpleNamespace(num_blocks=blocks * groups, kv_cache_groups=[None] * groups)
    scheduler = kind(
        vllm_config=config,
        kv_cache_config=memory,
        structured_output_manager=None,
        block_size=block_size,
        hash_block_size=block_size,
        include_finished_set=False,
        log_stats=True,
    )
    scheduler.kv_cache_manager.blocks = blocks
    return scheduler


def engine(scheduler: Any, arrivals: dict[int, list[Request]]) -> Iterator[SchedulerOutput]:
    """Run iterations until all requests, which arrive before the iteration that they stand under, are answered.

    Yields each plan when it has been made. Fails when nothing comes to an end.
    """
    flying: list[tuple[SchedulerOutput, set[str]]] = []
    coming = dict(arrivals)
    for iteration in range(MOST_ITERATIONS):
        for request in coming.pop(iteration, ()):
            scheduler.add_request(request)
        before = {name: request.in_flight for name, request in scheduler.requests.items()}
        plan = scheduler.schedule()
        made = {name for name in plan.num_scheduled_tokens if scheduler.requests[name].in_flight > before[name]}
        flying.append((plan, made))
        if len(flying) > 1 or not plan.num_scheduled_tokens:
            scheduler.update_from_output(*flying.pop(0))
        yield plan
        if not (coming or scheduler.requests):
            return
    raise AssertionError(f"after {MOST_ITERATIONS} iterations these are not answered: {sorted(scheduler.requests)}")


@contextmanager
def installed() -> Iterator[None]:
    """Let `import vllm` find this, and forget it and all that was imported with it afterwards."""
    names = ["vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched", "vllm.v1.core.sched.async_scheduler"]
    dropin = "headway.dropins.vllm"
    before = {name: sys.modules.get(name) for name in [*names, dropin]}
    for name in names:
        sys.modules[name] = ModuleType(name)
    sys.modules[names[-1]].AsyncScheduler = AsyncScheduler  # type: ignore[attr-defined]
    sys.modules.pop(dropin, None)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
