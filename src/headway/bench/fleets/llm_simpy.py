"""The same LLM engines in SimPy, one event per iteration: what the kernel's speed is a ratio to.

First come first served, chunks of prompts beside decoding, blocks of KV memory, a watermark, preemption by recomputing;
requests are dealt to the engines in turn. Written over lists of small objects, as iteration-level simulators are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_state import Requests
from headway.sim.station import Floats


@dataclass(slots=True)
class Sequence:
    """One request on its way."""

    number: int
    prompt: int
    output: int
    made: int = 0
    computed: int = 0
    to_compute: int = 0
    blocks: int = 0
    first_s: float = math.inf
    done_s: float = math.inf


@dataclass
class Replica:
    """One engine: a process that runs an iteration at a time for as long as there is work."""

    env: Any
    engine: Engine
    block_tokens: int
    watermark: float
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    idle: Any = None
    free: int = 0

    def __post_init__(self) -> None:
        self.free = self.engine.kv_tokens // self.block_tokens
        self.capacity = self.free
        self.env.process(self.serve())

    def put(self, one: Sequence) -> None:
        """Queue a request and wake the engine."""
        self.waiting.append(one)
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None

    def serve(self) -> Generator[Any, Any, None]:
        """Run iterations; wait when there is nothing to do."""
        step = self.engine.step
        while True:
            if not self.waiting and not self.running:
                self.idle = self.env.event()
                yield self.idle
            # What comes at this instant is queued before the iteration is made up.
            yield self.env.timeout(0.0)
            evicted = self.grow()
            decoding = [one for one in self.running if one.computed == one.to_compute]
            context = sum(one.prompt + one.made - 1 for one in decoding)
            parts = self.chunks(self.engine.token_budget - len(decoding), evicted)
            tokens = len(decoding) + sum(part for _, part in parts)
            pairs = sum(part * (one.computed + 0.5 * (part + 1)) for one, part in parts)
            yield self.env.timeout(step.seconds(tokens, context, pairs))
            for one in decoding:
                one.made += 1
            for one, part in parts:
                one.computed += part
                if part and one.computed == one.to_compute:
                    one.made += 1
                    one.first_s = min(one.first_s, self.env.now)
            self.leave()

    def chunks(self, left: int, evicted: bool) -> list[tuple[Sequence, int]]:
        """Return the parts of prompts that are computed beside decoding."""
        parts = []
        for one in self.running:
            if one.computed < one.to_compute:
                part = min(left, one.to_compute - one.computed)
                parts.append((one, part))
                left -= part
        while not evicted and left > 0 and self.waiting and len(self.running) < self.engine.most_running:
            one = self.waiting[0]
            tokens = one.prompt + one.made
            need = -(-tokens // self.block_tokens)
            keep = self.watermark * self.capacity if self.running else 0.0
            if self.free - need < keep:
                break
            self.waiting.popleft()
            self.free -= need
            one.blocks, one.to_compute, one.computed = need, tokens, 0
            self.running.append(one)
            parts.append((one, min(left, tokens)))
            left -= parts[-1][1]
        return parts

    def grow(self) -> bool:
        """Give what decodes the memory for its next token; return whether somebody had to go for it."""
        evicted = False
        while True:
            grown = [
                (one, -(-(one.prompt + one.made) // self.block_tokens) - one.blocks)
                for one in self.running
                if one.computed == one.to_compute
            ]
            if sum(need for _, need in grown) <= self.free:
                break
            last = self.running.pop()
            self.free += last.blocks
            last.blocks = last.computed = last.to_compute = 0
            at = next((at for at, one in enumerate(self.waiting) if one.number > last.number), len(self.waiting))
            self.waiting.insert(at, last)
            evicted = True
        for one, need in grown:
            one.blocks += need
            self.free -= need
        return evicted

    def leave(self) -> None:
        """Let those go that have all their tokens."""
        kept = []
        for one in self.running:
            if one.computed == one.to_compute and one.made >= one.output:
                one.done_s = self.env.now
                self.free += one.blocks
            else:
                kept.append(one)
        self.running = kept


def serve(fleet: LlmFleet, requests: Requests) -> tuple[Floats, Floats]:
    """Return when each request gets its first token and its last one."""
    env = simpy.Environment()
    replicas = [Replica(env, engine, fleet.block_tokens, fleet.admission.watermark) for engine in fleet.engines]
    columns = zip(requests.prompt.tolist(), requests.output.tolist(), strict=True)
    every = [Sequence(at, prompt, output) for at, (prompt, output) in enumerate(columns)]

    def source() -> Generator[Any, Any, None]:
        for one, at_s in zip(every, requests.arrival_s.tolist(), strict=True):
            yield env.timeout(at_s - env.now)
            replicas[one.number % len(replicas)].put(one)

    env.process(source())
    env.run()
    return np.array([one.first_s for one in every]), np.array([one.done_s for one in every])
