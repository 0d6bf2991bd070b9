"""What a domain brings. A new domain is one new folder and one entry point in the group `headway.domains`.

A domain's unit is the *station*: it takes timed items and gives them back later, at a cost and with an accuracy. A
pipeline is a graph of stations of any mix of kinds, planned and simulated under one promise. `Domain` is what every
domain has; the other protocols here are doors that the planner and the simulator use where a domain has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from headway.plan.config import Config, Evidence, OwnPromise, StageContext
from headway.sim.station import Station
from headway.spec.model import Spec, Stage

if TYPE_CHECKING:
    from headway.plan.oracle import Oracle
    from headway.serve.replica import MakeStarter
    from headway.serve.run import ServeOptions
    from headway.serve.station import LiveStation
    from headway.sim.setup import StageSetup
    from headway.sim.worklaw import Gains, LeastTimes
    from headway.trace import Trace


class Domain(Protocol):
    """One kind of work."""

    @property
    def kind(self) -> str:
        """The word after `kind:` that chooses this domain; equal to the entry point's name."""
        ...

    @property
    def declaration(self) -> type[Stage]:
        """The pydantic model of what a stage of this kind declares.

        A domain with a choice that decides accuracy gives its stages `variant_names` and `variant(name).accuracy`, and
        its configurations the field `variant`.
        """
        ...

    @property
    def tunable(self) -> frozenset[str]:
        """Configuration fields that a tuner may change while the station runs."""
        ...

    def parse_config(self, value: Mapping[str, Any], where: str) -> Config:
        """Return the configuration that a mapping describes; PlanError names `where` and the field.

        The mapping comes from `current:`, or is what `to_dict` of a configuration gave.
        """
        ...

    def cost_usd_per_hour(self, context: StageContext, config: Config) -> float:
        """Dollars per hour of the capacity that the configuration holds."""
        ...

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterable[Config]:
        """Every configuration that costs at most so much: the space that exact search proves over. Order is free."""
        ...

    def most_usd_per_hour(self, context: StageContext, items: int) -> float:
        """What the dearest configuration worth a look costs, when never more than `items` are there at once."""
        ...

    def moves(self, context: StageContext, config: Config) -> Iterator[tuple[str, Config]]:
        """Neighbouring configurations with the name of the move that leads there, for local search."""
        ...

    def fastest_s(self, context: StageContext, variant: str | None, *, sampled: bool) -> float:
        """A time that no item beats under any configuration (of this variant): bounds rest on it, so never too large.

        `sampled` says whether service times are drawn or their means.
        """
        ...

    def station(self, context: StageContext, config: Config, *, sampled: bool) -> Station:
        """The simulator's station: service times drawn from the profile when `sampled`, else their means."""
        ...

    def live(self, context: StageContext, config: Config) -> LiveStation:
        """The server's station."""
        ...


@runtime_checkable
class StartsWorkers(Protocol):
    """Its station works by workers with a model each: then it can be told where they are started, on Ray for one."""

    def live_with(self, context: StageContext, config: Config, starter: MakeStarter) -> LiveStation:
        """The server's station, with workers that come from `starter`."""
        ...


@runtime_checkable
class ServesAlone(Protocol):
    """A plan whose only stage is of its kind has a server of its own, in the place of that of pipelines."""

    def serve_alone(
        self,
        context: StageContext,
        config: Config,
        options: ServeOptions,
        more: Mapping[str, Any],
        *,
        announce: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """Serve until told to stop by a signal; `announce` is told the URL, `more` are options of this server alone."""
        ...


@runtime_checkable
class HoldsSupply(Protocol):
    """Its configurations count against the `max` of hardware under `supply:`."""

    def holds(self, config: Config) -> Mapping[str, int]:
        """Replicas of supply's hardware that a configuration takes."""
        ...


@runtime_checkable
class StartsSlowly(Protocol):
    """Its capacity is paid for some time before it serves."""

    def startup_s(self, context: StageContext, config: Config) -> float:
        """Seconds from asking for capacity to its first item."""
        ...


@runtime_checkable
class HasRichest(Protocol):
    """It can say what it does with no expense spared: then an infeasible promise is answered with a feasible one."""

    def richest(self, context: StageContext, variant: str | None, share: float) -> Iterable[Config]:
        """A few configurations with all the capacity that this share of supply allows.

        When nothing keeps a promise, the smallest one that can be kept is looked for among them: the first of every
        stage together, the second of every stage, and so on. Where configurations take different hardware under
        `supply:`, the stages are spread over it in a few ways, in the order of the hardware here.
        """
        ...


@runtime_checkable
class NamesShortage(Protocol):
    """It knows more of a capacity that does not suffice than that it does not."""

    def shortage(self, context: StageContext) -> str | None:
        """Return what all that supply allows cannot carry, as the end of a sentence; None when it carries all."""
        ...


@runtime_checkable
class TakesTimeToBeRight(Protocol):
    """What is right often enough may be too slow for the promise, however much of it there is."""

    def too_slow(self, context: StageContext) -> str | None:
        """Return why nothing keeps both promises, as the end of a sentence; None where capacity may be all it lacks."""
        ...


@runtime_checkable
class MakesPromises(Protocol):
    """Its stages promise more than the latency of the whole, and it knows the least that each promise can be."""

    def promises(self, context: StageContext, trace: Trace, *, sampled: bool) -> Sequence[OwnPromise]:
        """Return the promises of a stage with the least that requests of a trace take, each on whatever is quickest."""
        ...


@runtime_checkable
class NamesProfile(Protocol):
    """Where a stage of it needs a profile, something else would do."""

    @property
    def instead_of_profile(self) -> str:
        """What to declare instead, as the object of a sentence."""
        ...


@runtime_checkable
class TellsAccuracy(Protocol):
    """How accurate its answers are shows only when it is simulated: its stations' departures have `credit`.

    `slo.accuracy` is then judged by the mean over the traces that a plan is judged on.
    """

    def best_accuracy(self, context: StageContext) -> float:
        """Return an accuracy that no configuration exceeds on average, so that a floor above it is refused at once."""
        ...


@runtime_checkable
class BoundsCapacity(Protocol):
    """It can say what its capacity carries at most: exact search then skips configurations that never can."""

    def capacity(self, config: Config) -> int:
        """Batches that can be served at once."""
        ...

    def work_law(self, config: Config) -> Hashable:
        """What `work_gains` depends on; configurations of one law differ in capacity only."""
        ...

    def work_gains(self, context: StageContext, config: Config, *, sampled: bool) -> Gains:
        """The least that items cost the capacity, as in `headway.sim.worklaw`; batch k draws the simulator's draw k."""
        ...


@runtime_checkable
class WeighsRequests(Protocol):
    """Its requests differ in work, and the trace tells by how much: exact search then skips what never carries them."""

    def capacity(self, config: Config) -> int:
        """Servers, or whatever the work is shared by."""
        ...

    def work_law(self, config: Config) -> Hashable:
        """What `least_times` depends on; configurations of one law differ in capacity and policies only."""
        ...

    def least_times(self, context: StageContext, config: Config, trace: Trace, *, sampled: bool) -> LeastTimes:
        """What an item of each request of a trace takes at least, alone and of the capacity."""
        ...


@runtime_checkable
class TellsEvidence(Protocol):
    """It knows what its times or its accuracy rest on beyond the profile: plans say so, and doubt what is a prior."""

    def evidence(self, context: StageContext, config: Config) -> Evidence | None:
        """What a configuration's times rest on; None where the profile's rows say it."""
        ...


@runtime_checkable
class DoubtsAccuracy(Protocol):
    """It knows how far the accuracy that is simulated of its stations is known."""

    def doubts(self, context: StageContext, config: Config, accuracy: float, columns: Collection[str]) -> Sequence[str]:
        """Why it is not to be trusted, as sentences without the stage; `columns` are those of the trace."""
        ...


@runtime_checkable
class NeedsNoProfile(Protocol):
    """Some of its stages are planned without rows of a profile."""

    def needs_no_profile(self, stage: Stage) -> bool:
        """Whether a stage, as declared, can be planned without."""
        ...


@runtime_checkable
class TellsProblems(Protocol):
    """It sees, without planning, that a stage as declared cannot be planned with: `headway check` warns of it."""

    def problems(self, spec: Spec, name: str) -> Sequence[str]:
        """What stands in the way, as sentences that name stage and file; none where all is well."""
        ...


@runtime_checkable
class DeclaresLive(Protocol):
    """Some of what its stages declare may be declared otherwise by a plan that takes the place of the one served."""

    @property
    def live_fields(self) -> frozenset[str]:
        """Fields of the declaration, as they are written."""
        ...


@runtime_checkable
class TunesItself(Protocol):
    """Its station follows the load by itself, so that no tuner is needed for it."""

    @property
    def tunes_itself(self) -> str:
        """How, as the end of a sentence that begins with the stage."""
        ...


@runtime_checkable
class TellsRun(Protocol):
    """Its stations tell of a run what other kinds have no word for, served and simulated alike."""

    def told_between(
        self, before: Mapping[str, Any], after: Mapping[str, Any], zero_s: float
    ) -> tuple[Mapping[str, Any], float | None]:
        """What a served station did between two `/stats` of its stage: the fields of `StageOutcome.told`, and accuracy.

        The second has samples; `zero_s` is the server's clock when the run's began.
        """
        ...


@runtime_checkable
class TellsTimes(Protocol):
    """Its live station tells its load: with what batches take, requests are refused that would come too late."""

    def batches_s(self, context: StageContext, config: Config) -> Sequence[float] | None:
        """Return mean seconds of batches of 1, 2, ... items, with all that follows from them; None where not known."""
        ...


@runtime_checkable
class WorksByLoad(Protocol):
    """Its work per item depends on how many come: what they take on average says nothing of the busiest time."""

    def utilization_at(self, config: Config, rate_per_s: float) -> float | None:
        """Return what items at this rate take of its capacity, 1 being all of it; None where not predicted."""
        ...


@runtime_checkable
class SharesPools(Protocol):
    """It can be simulated beside stages whose replicas share a pool of cores."""

    def setup(self, context: StageContext, config: Config, *, sampled: bool) -> StageSetup:
        """How the event kernel runs a configuration."""
        ...


@runtime_checkable
class HasPlanners(Protocol):
    """It brings planners of its own, for graphs whose stages are all of its kind."""

    @property
    def planners(self) -> Mapping[str, Callable[[Oracle, Mapping[str, str]], Mapping[str, Config] | None]]:
        """By name: from an oracle and a choice of variants to a whole candidate, or None when none is found."""
        ...
