"""One LLM engine as its description reads, iteration by iteration over plain objects: the oracle of the kernel.

First come first served, optimistic admission with a watermark, preemption by recomputing, decode-first with chunks or
prefill-first with whole prompts. Nothing here is shared with the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Job:
    """One request and where it stands."""

    number: int
    arrival_s: float
    prompt: int
    output: int
    made: int = 0
    computed: int = 0
    to_compute: int = 0
    blocks: int = 0
    first_s: float = math.inf
    done_s: float = math.inf
    preempted: int = 0

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is computed."""
        return self.computed == self.to_compute


@dataclass
class Oracle:
    """An engine with times `floor`, `token`, `context`, `pair`, memory in `blocks` of `block_tokens`."""

    floor_s: float
    token_s: float
    context_s: float
    pair_s: float
    blocks: int
    block_tokens: int
    budget: int
    most_running: int
    watermark: float
    chunked: bool
    running: list[Job] = field(default_factory=list)
    preempted: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    iterations: int = 0

    @property
    def free(self) -> int:
        """Blocks of memory that nobody holds."""
        return self.blocks - sum(job.blocks for job in self.running)

    def needed(self, tokens: int) -> int:
        """Return how many blocks so many tokens take."""
        return math.ceil(tokens / self.block_tokens)

    def serve(self, requests: Sequence[tuple[float, int, int]]) -> list[Job]:
        """Serve requests of (arrival, prompt tokens, output tokens); return them as they ended."""
        jobs = [Job(at, *request) for at, request in enumerate(requests)]
        coming = list(jobs)
        now_s = 0.0
        while coming or self.waiting or self.preempted or self.running:
            if not (self.waiting or self.preempted or self.running):
                now_s = max(now_s, coming[0].arrival_s)
            while coming and coming[0].arrival_s <= now_s:
                self.waiting.append(coming.pop(0))
            now_s = self.iterate(now_s)
        return jobs

    def iterate(self, now_s: float) -> float:
        """Run one iteration; return when it ends."""
        self.iterations += 1
        evicted = False
        parts: list[tuple[Job, int]] = []
        decoders: list[Job] = []
        if self.chunked:
            evicted = self.grow()
            decoders = [job for job in self.running if job.decoding]
            left = self.budget - len(decoders)
            for job in [job for job in self.running if not job.decoding]:
                part = min(left, job.to_compute - job.computed)
                parts.append((job, part))
                left -= part
            while not evicted and left > 0 and (job := self.next_that_fits()) is not None:
                part = min(left, job.to_compute)
                parts.append((job, part))
                left -= part
        else:
            left = self.budget
            while (job := self.next_that_fits(left if parts else None)) is not None and left > 0:
                parts.append((job, job.to_compute))
                left -= job.to_compute
                if left <= 0:
                    break
            if not parts:
                self.grow()
                decoders = [job for job in self.running if job.decoding]
        tokens = sum(part for _, part in parts) + len(decoders)
        pairs = sum(part * (job.computed + (part + 1) / 2) for job, part in parts)
        context = sum(job.prompt + job.made - 1 for job in decoders)
        end_s = now_s + max(self.floor_s, self.token_s * tokens) + self.context_s * context + self.pair_s * pairs
        for job in decoders:
            job.made += 1
        for job, part in parts:
            job.computed += part
            if part and job.decoding:
                job.made += 1
                job.first_s = min(job.first_s, end_s)
        for job in list(self.running):
            if job.decoding and job.made >= job.output:
                job.done_s = end_s
                job.blocks = 0
                self.running.remove(job)
        return end_s

    def grow(self) -> bool:
        """Give every decoding request memory for its next token; return whether others had to go for it."""
        evicted = False
        while True:
            decoders = [job for job in self.running if job.decoding]
            want = sum(self.needed(job.prompt + job.made) - job.blocks for job in decoders)
            if want <= self.free:
                break
            victim = self.running.pop()
            victim.blocks = victim.computed = victim.to_compute = 0
            victim.preempted += 1
            self.preempted.append(victim)
            self.preempted.sort(key=lambda job: job.number)
            evicted = True
        for job in decoders:
            job.blocks = self.needed(job.prompt + job.made)
        return evicted

    def next_that_fits(self, most_tokens: int | None = None) -> Job | None:
        """Admit the next request in line if there is room for it."""
        line = self.preempted or self.waiting
        if not line or len(self.running) >= self.most_running:
            return None
        job = line[0]
        tokens = job.prompt + job.made
        if most_tokens is not None and tokens > most_tokens:
            return None
        keep = self.watermark * self.blocks if self.running else 0.0
        if self.free - self.needed(tokens) < keep:
            return None
        line.pop(0)
        job.to_compute, job.computed = tokens, 0
        job.blocks = self.needed(tokens)
        self.running.append(job)
        return job
