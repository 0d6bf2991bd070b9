"""Random cascades, and a simulator of them in plain Python that shares nothing with the kernel but the policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.halves import judged_on
from headway.domains.cascade.station import CascadeStation, shuffled
from headway.policy.admission import expired
from headway.policy.cascading import answers, due, first_step, next_gear
from headway.sim.draws import batch_key, bits_for, draw
from headway.sim.station import Arrivals

GRID = 1 / 64
"""Times on a grid of binary fractions: their sums are exact, so that many things happen at one instant."""


def random_station(rng: np.random.Generator, *, devices: int = 3, models: int = 3, gears: int = 3) -> CascadeStation:
    """Return a station with random tables, placement, cascades and triggers; every model is placed somewhere."""
    names = [f"m{at}" for at in range(models)]
    samples = 40
    truth = rng.integers(0, 3, samples)
    table = ValidationTable(
        truth,
        {n: np.where(rng.random(samples) < 0.5 + 0.2 * at, truth, (truth + 1) % 3) for at, n in enumerate(names)},
        {n: rng.integers(0, 9, samples) / 8 for n in names},
        hardness=rng.integers(0, 9, samples) / 8,
    )
    columns = int(rng.choice([1, 4]))
    sizes = {n: int(rng.integers(1, 5)) for n in names}
    service_s = {n: random_table(rng, sizes[n], columns, slow=at + 1) for at, n in enumerate(names)}
    held = [set(rng.choice(names, rng.integers(1, models + 1), replace=False)) for _ in range(devices)]
    for name in names:
        held[int(rng.integers(devices))].add(name)
    plan = GearPlan(
        "cpu",
        tuple(Group(tuple(sorted(group)), 1) for group in held),
        tuple(sizes.items()),
        tuple(random_gear(rng, names, 20.0 * (at + 1)) for at in range(gears)),
        window_s=float(rng.choice([8, 16])) * GRID,
        alpha_per_s=float(rng.choice([0, 4, 64])),
    )
    return CascadeStation("s", plan, service_s, table)


def random_table(rng: np.random.Generator, size: int, columns: int, slow: int) -> Any:
    steps = rng.integers(1, 6 * slow, (size + 1, columns)).cumsum(axis=0)
    return np.sort(steps, axis=1) * GRID


def random_gear(rng: np.random.Generator, names: Sequence[str], rate_per_s: float) -> Gear:
    chosen = sorted(rng.choice(len(names), rng.integers(1, len(names) + 1), replace=False))
    steps = [Step(names[at], threshold=float(rng.integers(0, 10)) / 8) for at in chosen[:-1]]
    waits = tuple(int(n) for n in rng.integers(1, 5, len(chosen)))
    skip = tuple((np.sort(rng.integers(2, 10, rng.integers(len(chosen)))) / 8).tolist())
    return Gear(
        Cascade((*steps, Step(names[chosen[-1]]))), rate_per_s, waits, float(rng.integers(0, 8)) * GRID, skip=skip
    )


def random_arrivals(rng: np.random.Generator, items: int, seconds: float, patience_s: float = math.inf) -> Arrivals:
    """Return arrivals on the grid, most of them in bursts; item numbers are not in the order of arrival."""
    arrival_s = np.sort(np.floor(rng.beta(0.4, 0.6, items) * seconds / GRID) * GRID)
    item = rng.permutation(items).astype(np.int32)
    deadline_s = arrival_s + patience_s if math.isfinite(patience_s) else np.empty(0)
    return Arrivals(arrival_s, item, np.arange(items, dtype=np.int32), deadline_s)


@dataclass
class Device:
    models: tuple[str, ...]
    batch: int = -1
    until_s: float = math.inf
    model: str = ""
    items: list[int] = field(default_factory=list)


@dataclass
class Found:
    done: list[tuple[float, int, str]]
    dropped: list[int]
    start_s: list[float]
    batches: int
    busy_s: float
    gears: list[tuple[float, int]]
    visits: list[tuple[int, str]]


class PlainCascade:
    """One instant after the other, as `headway.domains.cascade.kernel` says it, with lists and loops."""

    def __init__(self, station: CascadeStation, arrivals: Arrivals, seed: int) -> None:
        self.plan, self.station, self.arrivals = station.plan, station, arrivals
        self.sample = shuffled(seed, station.name, arrivals.request.size, judged_on(station.table))[arrivals.item]
        self.columns = max(table.shape[1] for table in station.service_s.values())
        self.key = batch_key(seed, station.name) if self.columns > 1 else 0
        groups = sorted(self.plan.placement, key=lambda group: len(group.models))
        self.devices = [Device(group.models) for group in groups for _ in range(group.devices)]
        self.queues: dict[str, list[tuple[float, int]]] = {name: [] for name in self.plan.models}
        self.said: dict[int, str] = {}
        self.gear = len(self.plan.gears) - 1
        n = arrivals.arrival_s.size
        self.found = Found([], [], [math.inf] * n, 0, 0.0, [], [])

    def run(self) -> Found:
        coming = list(enumerate(self.arrivals.arrival_s.tolist()))
        first_s = coming[0][1] if coming else 0.0
        window, came, wake_s = 0, 0, math.inf
        while True:
            times = [wake_s, *(device.until_s for device in self.devices), *(time_s for _, time_s in coming[:1])]
            now_s = min(times)
            if now_s == math.inf:
                return self.found
            edge_s = first_s + (window + 1) * self.plan.window_s
            if edge_s <= now_s:
                now_s = edge_s
                self.choose_gear(came / self.plan.window_s, now_s)
                window, came = window + 1, 0
            for device in sorted(self.devices, key=lambda device: device.batch):
                if device.until_s == now_s:
                    self.deliver(device, now_s)
            while coming and coming[0][1] == now_s:
                item, _ = coming.pop(0)
                self.queues[self.begins(item)].append((now_s, item))
                came += 1
            wake_s = min((self.start(name, now_s) for name in self.asked()), default=math.inf)

    @property
    def current(self) -> Gear:
        return self.plan.gears[self.gear]

    def begins(self, item: int) -> str:
        hardness = self.station.table.hardness
        step = 0 if hardness is None else first_step(float(hardness[self.sample[item]]), self.current.skip)
        return self.current.cascade.models[step]

    def asked(self) -> list[str]:
        steps = self.current.cascade.models
        others = [name for name in self.plan.models if name not in steps]
        return [*steps, *others][::-1]

    def choose_gear(self, rate_per_s: float, now_s: float) -> None:
        backlog = sum(map(len, self.queues.values()))
        rates = tuple(gear.up_to_per_s for gear in self.plan.gears)
        to = next_gear(self.gear, rate_per_s, backlog, rates, self.plan.alpha_per_s)
        if to != self.gear:
            self.found.gears.append((now_s, to))
        self.gear = to

    def deliver(self, device: Device, now_s: float) -> None:
        cascade = self.current.cascade
        after = dict(zip(cascade.models, [*cascade.models[1:], ""], strict=True)).get(device.model, "")
        threshold = dict(zip(cascade.models, cascade.thresholds, strict=True)).get(device.model, -math.inf)
        certainty = self.station.table.certainty[device.model]
        for item in device.items:
            self.said[item] = device.model
            self.found.visits.append((item, device.model))
            if after and not answers(float(certainty[self.sample[item]]), threshold):
                self.queues[after].append((now_s, item))
            else:
                self.found.done.append((now_s, item, device.model))
        device.until_s, device.items = math.inf, []

    def start(self, name: str, now_s: float) -> float:
        queue, gear = self.queues[name], self.current
        most = dict(self.plan.max_batch_size)[name]
        least = dict(zip(gear.cascade.models, gear.min_queue, strict=True)).get(name, 1)
        while queue:
            idle = [device for device in self.devices if name in device.models and device.until_s == math.inf]
            if not idle:
                return math.inf
            size, wake_s = due(len(queue), queue[0][0], now_s, least, gear.max_wait_s, most)
            if size == 0:
                return wake_s
            batch: list[int] = []
            while queue and len(batch) < most:
                _, item = queue.pop(0)
                if item not in self.said:
                    self.found.start_s[item] = now_s
                if not self.arrivals.deadline_s.size or not expired(self.arrivals.deadline_s[item], now_s):
                    batch.append(item)
                elif item in self.said:
                    self.found.done.append((now_s, item, self.said[item]))
                else:
                    self.found.dropped.append(item)
            if not batch:
                continue
            table = self.station.service_s[name]
            column = draw(self.key, self.found.batches, bits_for(self.columns)) if table.shape[1] > 1 else 0
            took_s = float(table[len(batch), column])
            device = idle[0]
            device.model, device.items, device.batch, device.until_s = name, batch, self.found.batches, now_s + took_s
            self.found.batches += 1
            self.found.busy_s += took_s
        return math.inf
