"""Headway's own tuner: InferLine's envelopes, judged against noise, with start-up, backlog, trend and drift known.

Everything is provided for one number, the *level*: the traffic as a multiple of what was planned for. It rises as soon
as a running count leaves its band, above the plan only when that is the plan's own, and falls only after quiet.
Replicas follow from it: the plan's in proportion, its spare ones by the square root, or those of the prepared gear that
reaches it. What a rise finds too late (the backlog that builds up while replicas start) is drained by extra ones, given
back as soon as it is gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from headway.policy.drift import scale_ratio, service_ratio
from headway.policy.envelopes import most_in_buckets, most_in_windows, running_counts
from headway.policy.scaling import LOOK_BACK_S, Decision, Floats, Gear, Observation, StageTerms, Terms, require, told
from headway.policy.scaling_drain import draining, longest_path
from headway.policy.scaling_inferline import DOWN_BUCKET_S, DOWN_LOOK_BACK_S, QUIET_S
from headway.policy.scaling_rise import rise_under_way

FIRST_Z = 1.0
"""Standard deviations by which the level is estimated low from a count that has just left the band: time is short."""
SURE_Z = 3.0
"""Standard deviations by which a count has to exceed the planned ones so that the plan does not suffice any more."""
BUSIEST_Z = 1.27
"""Standard deviations by which the busiest of six buckets exceeds their mean, on average (six normal variables)."""
LOWER_SHARE = 0.9
"""A level in force is lowered when it falls below this share: less would be noise, and replicas would come and go."""
LEAST_LEVEL = 1e-3
"""Of no traffic at all: one replica per stage stays."""
MOST_SURGE = 3.0
"""Extra throughput for draining, at most, relative to the traffic's. Draining a backlog in a share x of the start-up
that it grew in takes replicas that cost `1 + 1/x` times its own work; with long start-ups that has to end somewhere."""
SETTLING_S = 10.0
"""Seconds after a lowering, or a start-up where that is longer, in which only counts beyond chance raise the level: the
busiest window yet of traffic that stays as it is would ask for replicas that were just given up."""
SURGE_STEP = 1.2
"""By how much more than those asked for have to be needed before further replicas are asked for to drain."""
REPLAN_S = 300.0
"""How long traffic may stay off the planned level until a new plan is asked for: gears and replicas are the quick
answer, other hardware may be the cheap one."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the tuner remembers.

    `level`, `off_s`: the traffic multiple in force, and since when it is not 1. `thin_s`: since when traffic has been
    thinner than it ever was in the planning trace. `floor`: what the trend asks for.
    `surge`: replicas that drain a backlog. `work`: by stage, how much heavier its work is than planned.
    `changed_s`, `lowered_s`, `asked_s`: when anything was changed, the level lowered, replicas last asked for.
    `backlog_s`: when more was queued than is in order. `told`: re-plan causes that were named.
    """

    changed_s: float
    lowered_s: float = -np.inf
    level: float = 1.0
    off_s: float | None = None
    thin_s: float | None = None
    floor: float = 0.0
    surge: Mapping[str, int] = field(default_factory=dict)
    work: Mapping[str, float] = field(default_factory=dict)
    asked_s: float = -np.inf
    backlog_s: float = -np.inf
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Headway:
    """The tuner. `forecast` False leaves the trend out, `drain` False the surge: to see what each of them brings.

    A backlog is drained within `drain_s`, by at most `most_surge` times the traffic's own throughput. By default it is
    what the promise leaves beside service: who comes when the new replicas are ready is answered in time.

    Fewer replicas than planned are held after a lull of `lull_s`. When planned traffic is back, the requests of a whole
    start-up miss; by default a lull is so long that these are no more than the promise allows of the planned traffic
    over that time: 500 s for start-ups of 5 s and a promise to 99 of 100 requests. Raises ValueError for a number out
    of its range.
    """

    terms: Terms
    forecast: bool = True
    drain: bool = True
    drain_s: float | None = None
    most_surge: float = MOST_SURGE
    quiet_s: float = QUIET_S
    lull_s: float | None = None
    replan_s: float = REPLAN_S

    def __post_init__(self) -> None:
        if self.drain_s is not None:
            require("drain_s", self.drain_s, "s", above=True)
        for name in ("quiet_s", "replan_s"):
            require(name, getattr(self, name), "s")
        require("most_surge", self.most_surge)
        if self.lull_s is not None:
            require("lull_s", self.lull_s, "s")

    @property
    def name(self) -> str:
        """`headway`."""
        return "headway"

    def decide(self, observation: Observation, memory: Memory | None) -> tuple[Decision, Memory]:
        """Return what to do now."""
        before = memory or Memory(observation.since_s)
        now = self._work(observation, self._level(observation, before))
        gear, base = self.provided(now.level, now.work, now.floor)
        now = self._backlog(observation, now, gear, base)
        replicas = {name: max(base[name], now.surge.get(name, 0)) for name in base}
        decision = self._decision(observation, before, now, gear, replicas)
        if decision.changes(observation) or decision.gear:
            asked = any(n > 0 for n in decision.changes(observation).values())
            now = replace(now, changed_s=observation.now_s, asked_s=observation.now_s if asked else now.asked_s)
        if decision.replan:
            now = replace(now, told=now.told | {decision.replan.partition(":")[0]})
        return decision, now

    def provided(
        self, level: float, work: Mapping[str, float] | None = None, floor: float = 0.0
    ) -> tuple[Gear | None, dict[str, int]]:
        """Return the gear (None: the plan's own) and the replicas for a level, never fewer for a higher `floor`."""
        gear, replicas = self._at(level, work or {})
        if floor > level:
            higher, more = self._at(floor, work or {})
            return higher, {name: max(n, more[name]) for name, n in replicas.items()}
        return gear, replicas

    def _at(self, level: float, work: Mapping[str, float]) -> tuple[Gear | None, dict[str, int]]:
        gear = next((g for g in self.terms.gears if g.rate_ratio >= level - 1e-9), None) if level > 1.0 else None
        if gear is None and level > 1.0 and self.terms.gears:
            gear = self.terms.gears[-1]
        stages = self.terms.stages if gear is None else gear.stages
        rate = self.terms.rate_per_s * (gear.rate_ratio if gear is not None else 1.0)
        ratio = level if gear is None else max(1.0, level / gear.rate_ratio)
        return gear, {n: s.capped(staffed(s, rate, ratio * work.get(n, 1.0))) for n, s in stages.items()}

    # The level: what traffic there is

    def _level(self, observation: Observation, memory: Memory) -> Memory:
        band = self.terms.band
        # Windows that reach back beyond what the last lowering looked at hold the traffic that has ended.
        fresh = band.windows_s <= DOWN_LOOK_BACK_S + observation.now_s - memory.lowered_s
        counts = running_counts(observation.arrival_s, observation.now_s, band.windows_s)
        memory = replace(memory, thin_s=self._thin_since(observation, counts, memory.thin_s))
        level = self._raised(counts, fresh, memory.level, settling=self._settling(observation, memory))
        if level > memory.level:
            return self._with_trend(observation, self._at_level(observation, memory, level))
        rested = observation.now_s - memory.changed_s >= self.quiet_s
        if rested and observation.now_s - observation.since_s >= DOWN_LOOK_BACK_S:
            lower = self._lower(observation, memory)
            lowered_s = observation.now_s if lower < memory.level else memory.lowered_s
            memory = replace(self._at_level(observation, memory, lower), floor=0.0, lowered_s=lowered_s)
        return self._with_trend(observation, memory)

    def _settling(self, observation: Observation, memory: Memory) -> bool:
        """Whether the level was lowered so lately that replicas given up then are not asked for again by chance."""
        settled_s = max(SETTLING_S, *(stage.startup_s for stage in self.terms.stages.values()))
        return observation.now_s - memory.lowered_s <= settled_s and memory.asked_s <= memory.lowered_s

    def _raised(
        self, counts: NDArray[np.int64], fresh: NDArray[np.bool_], level: float, *, settling: bool = False
    ) -> float:
        """Return the level that the counts in the fresh windows ask for, at least the one in force.

        Above the plan only counts lead that leave the plan's own band: what left the band of a lull may be the plan.
        A level that is settling is left for counts that leave its own band alone.
        """
        band = self.terms.band
        over = fresh & (counts > band.high(max(level, 1.0)))
        if over.any():
            return max(level, float(band.growth(counts, FIRST_Z)[over].max()))
        if level > 1.0:
            return level if settling else self._busiest_level(counts, fresh, level)
        back = fresh & (counts > band.high(level))
        if (band.growth(counts, -SURE_Z)[back] >= 1.0).any():
            return 1.0
        return max(level, float(band.growth(counts, FIRST_Z)[back].max(initial=0.0)))

    def _busiest_level(self, counts: NDArray[np.int64], fresh: NDArray[np.bool_], level: float) -> float:
        """Return the level at which the counts are those of the busiest windows of a minute, at least this one."""
        band = self.terms.band
        return max(level, float(band.growth(counts, busiest_z(band.windows_s))[fresh].max(initial=0.0)))

    def _at_level(self, observation: Observation, memory: Memory, level: float) -> Memory:
        off_s = None if level == 1.0 else observation.now_s if memory.off_s is None else memory.off_s
        known = memory.told if off_s is not None else frozenset()
        return replace(memory, level=level, off_s=off_s, told=known)

    def _thin_since(self, observation: Observation, counts: NDArray[np.int64], thin_s: float | None) -> float | None:
        """Return since when every long window has been emptier than any of the planning trace; None: it is not."""
        band = self.terms.band
        long = (band.windows_s >= DOWN_LOOK_BACK_S) & (band.windows_s <= observation.now_s - observation.since_s)
        if not (long.any() and (counts < band.low())[long].all()):
            return None
        return observation.now_s if thin_s is None else thin_s

    @property
    def _lull_s(self) -> float:
        if self.lull_s is not None:
            return self.lull_s
        allowed = 1.0 - self.terms.slo_percentile / 100.0
        startup_s = max(stage.startup_s for stage in self.terms.stages.values())
        return startup_s / allowed if allowed > 0 else math.inf

    def _lower(self, observation: Observation, memory: Memory) -> float:
        """Return the level that the last 30 s ask for, or the one in force when it is not clearly lower."""
        band, now_s, level = self.terms.band, observation.now_s, memory.level
        if level <= 1.0 and (memory.thin_s is None or now_s - memory.thin_s < self._lull_s):
            return level
        busiest = most_in_buckets(observation.arrival_s, now_s, DOWN_LOOK_BACK_S, DOWN_BUCKET_S)
        if level <= 1.0:
            lower = max(band.growth_in(DOWN_BUCKET_S, busiest, 0.0), LEAST_LEVEL)
        else:
            every = observation.count(DOWN_LOOK_BACK_S)
            surely = [band.growth_in(DOWN_BUCKET_S, busiest, SURE_Z), band.growth_in(DOWN_LOOK_BACK_S, every, SURE_Z)]
            if max(surely) <= 1.0:
                return 1.0
            lower = max(1.0, *surely, band.growth_in(DOWN_BUCKET_S, busiest, BUSIEST_Z))
            if lower < LOWER_SHARE * level:
                # No lower than the same requests would raise it again.
                most = most_in_windows(observation.arrival_s, now_s, DOWN_LOOK_BACK_S, band.windows_s)
                return min(level, self._busiest_level(most, band.windows_s <= DOWN_LOOK_BACK_S, lower))
        return lower if lower < LOWER_SHARE * level else level

    def _with_trend(self, observation: Observation, memory: Memory) -> Memory:
        """Raise the floor to where a rise that is under way will have led when replicas asked for now are ready."""
        if not self.forecast or memory.level <= 1.0:
            return replace(memory, floor=0.0)
        now_s = observation.now_s
        span_s = min(LOOK_BACK_S, now_s - observation.since_s, DOWN_LOOK_BACK_S + now_s - memory.lowered_s)
        rise = rise_under_way(observation.arrival_s, now_s, span_s, float(self.terms.band.dispersion.max()))
        if rise is None:
            return memory
        horizon_s = max(stage.startup_s for stage in self.terms.stages.values())
        return replace(memory, floor=max(memory.floor, rise.rate_in(horizon_s) / self.terms.rate_per_s))

    # The work: what a request costs

    def _work(self, observation: Observation, memory: Memory) -> Memory:
        heavier: dict[str, float] = {}
        settled = observation.now_s - memory.backlog_s >= LOOK_BACK_S
        for name, stage in self.terms.in_gear(observation.gear).items():
            seen = observation.stages[name]
            ratio = service_ratio(stage, seen)
            # A backlog that passes on makes more items than requests for a while; that is no drift.
            if settled and observation.now_s - observation.since_s >= LOOK_BACK_S:
                ratio *= scale_ratio(stage, seen, observation.arrival_s.size)
            rested = observation.now_s - memory.changed_s >= self.quiet_s
            kept = memory.work.get(name, 1.0)
            if ratio > kept or (rested and ratio < LOWER_SHARE * kept):
                kept = ratio
            if kept > 1.0:
                heavier[name] = kept
        return replace(memory, work=heavier)

    # The backlog: what came before the replicas

    def _backlog(self, observation: Observation, memory: Memory, gear: Gear | None, base: Mapping[str, int]) -> Memory:
        stages = self.terms.stages if gear is None else gear.stages
        off_plan = memory.level > 1.0 or bool(memory.work)
        # What the provided replicas would take up in their next batches is no backlog.
        excess = {n: max(0, observation.stages[n].queued - base[n] * s.max_batch_size) for n, s in stages.items()}
        if any(excess.values()):
            memory = replace(memory, backlog_s=observation.now_s)
        if not (self.drain and off_plan) or self.terms.refuses_late:
            return replace(memory, surge={})
        rate = max(memory.level, memory.floor) * self.terms.rate_per_s
        until_s = self._until_ready(observation, memory)
        more, left = draining(
            stages, observation, excess, rate, memory.work, until_s, self.within_s, self.most_surge
        )  # fmt: skip
        if not left:
            return replace(memory, surge={})
        surge = dict(memory.surge)
        for name, n in more.items():
            needed = stages[name].capped(n)
            if needed > max(base[name], SURGE_STEP * surge.get(name, 0)):
                surge[name] = needed
        return replace(memory, surge=surge)

    @property
    def within_s(self) -> float:
        """The time to drain a backlog in."""
        if self.drain_s is not None:
            return self.drain_s
        service_s = sum(stage.service_s[-1] for stage in longest_path(self.terms.stages).values())
        return max(self.terms.slo_s - service_s, self.terms.slo_s / 4)

    def _until_ready(self, observation: Observation, memory: Memory) -> float:
        """Return the seconds until the replicas asked for, or to be asked for now, are ready."""
        startup_s = max(stage.startup_s for stage in self.terms.stages.values())
        asked = memory.asked_s + startup_s - observation.now_s
        return max(0.0, asked) if memory.surge or any(s.starting for s in observation.stages.values()) else startup_s

    # The decision in words

    def _decision(
        self, observation: Observation, before: Memory, now: Memory, gear: Gear | None, replicas: dict[str, int]
    ) -> Decision:
        named = gear.name if gear is not None else None
        replan = self._replan(observation, now, replicas)
        values = {"level": round(now.level, 4), "rate_per_s": round(now.level * self.terms.rate_per_s, 3)}
        values |= {"forecast_level": round(now.floor, 4)} if now.floor > now.level else {}
        values |= {f"work.{name}": round(ratio, 3) for name, ratio in now.work.items()}
        startup_s = max(stage.startup_s for stage in self.terms.stages.values())
        if not any(n > observation.stages[name].held for name, n in replicas.items()):
            startup_s = 0.0
        provided_per_s = max(now.level, now.floor) * self.terms.rate_per_s
        expected = {"ready_s": startup_s, "rate_per_s": round(provided_per_s, 3)}
        if now.surge:
            expected["drained_s"] = startup_s + self.within_s
        decision = told(
            observation, replicas, self._why(before, now), values=values, expected=expected, replan=replan
        )  # fmt: skip
        if named != observation.gear and (decision.acts or named is not None or now.level <= 1.0):
            decision = replace(decision, gear=named or PLAN, code="gear" if decision.code == "hold" else decision.code)
        elif decision.code == "scale_down" and before.surge and not now.surge:
            decision = replace(decision, code="drained")
        return decision

    def _why(self, before: Memory, now: Memory) -> str:
        if before.level < now.level <= 1.0:
            text = f"requests come {now.level:.2f} times as often as planned, no longer {before.level:.2f} times"
        elif now.level > before.level:
            text = f"requests come {now.level:.2f} times as often as planned, beyond what chance explains"
        elif now.level < before.level:
            text = f"for {DOWN_LOOK_BACK_S:g} s requests came at most {now.level:.2f} times as often as planned"
        elif dict(now.work) != dict(before.work):
            changed = ", ".join(f"{name} {ratio:.2f} times" for name, ratio in now.work.items()) or "as planned"
            text = f"work per request against the plan: {changed}"
        elif before.surge and not now.surge:
            text = "the backlog is gone"
        elif now.floor > max(before.floor, now.level):
            text = f"requests keep rising, to {now.floor:.2f} times the planned rate when replicas are ready"
        else:
            text = f"replicas for {now.level:.2f} times the planned traffic"
        return text + ("; more of them until the backlog of the start-up is drained" if now.surge else "")

    def _replan(self, observation: Observation, now: Memory, replicas: Mapping[str, int]) -> str | None:
        """Return why replicas and gears no longer suffice, each cause once: a word, a colon and the rest."""
        causes = []
        if now.off_s is not None and observation.now_s - now.off_s >= self.replan_s:
            lasting = f"for {self.replan_s:g} s it has been {now.level:.2f} times the planned traffic"
            causes.append(f"traffic: {lasting}; a plan made for it may be cheaper")
        for name, stage in self.terms.stages.items():
            ratio = max(now.level, 1.0) * now.work.get(name, 1.0)
            if stage.max_replicas is not None and ratio * stage.replicas > stage.max_replicas + 1e-9:
                causes.append(
                    f"supply of {name}: it needs more than the {stage.max_replicas} replicas that supply allows"
                )
        slowest = sum(s.service_s[1] * now.work.get(n, 1.0) for n, s in longest_path(self.terms.stages).items())
        if now.work and slowest > self.terms.slo_s:
            causes.append(f"service: a request alone takes {slowest:.3g} s, longer than the promise")
        return next((cause for cause in causes if cause.partition(":")[0] not in now.told), None)


PLAN = "plan"
"""The gear that is the plan itself."""


def staffed(stage: StageTerms, rate_per_s: float, ratio: float) -> float:
    """Return the replicas for `ratio` times the work that a stage was planned for, not rounded.

    What is busy on average grows in proportion, what is spare with the square root, as the deviations of independent
    arrivals do (Halfin and Whitt, 1981). At ratio 1 these are the planned replicas.

    >>> staffed(StageTerms(10, (0.0, 0.1), 1.0, 5.0), 64.0, 4.0)
    32.8
    """
    busy = min(stage.max_provisioning(rate_per_s), 1.0) * stage.replicas
    return ratio * busy + math.sqrt(ratio) * (stage.replicas - busy)


def busiest_z(windows_s: Floats) -> Floats:
    """Return by how many standard deviations the busiest window of a minute exceeds their mean by chance.

    About sqrt(2 ln n) for n windows that do not overlap, at least 1 (extreme values of normal counts).
    """
    return np.sqrt(np.maximum(2.0 * np.log(LOOK_BACK_S / windows_s), 1.0))
