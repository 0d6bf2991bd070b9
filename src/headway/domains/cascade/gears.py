"""The configuration of a cascade: models placed on devices once and for all, and a gear for every range of load."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headway.cascade import Cascade
from headway.cascade.model import digits
from headway.errors import CascadeError, PlanError, nearest
from headway.profile.profile import MAX_BATCH_SIZE

WINDOW_S = 0.1
"""Arrivals are counted for so long before a gear is chosen (CascadeServe, section 4)."""
ALPHA_PER_S = 8.0
"""No dearer gear while more than 1/8 s of arrivals waits (CascadeServe, section 4)."""
FIELDS = (
    "hardware", "devices", "placement", "max_batch_sizes", "gears", "gears_less_one",
    "window_s", "alpha_per_s", "table", "guarantee",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Equal devices: the models that each of them holds, and how many there are."""

    models: tuple[str, ...]
    devices: int


@dataclass(frozen=True, slots=True)
class Gear:
    """How items are answered while the load lies in one range.

    `up_to_per_s`: the rate up to which the gear serves. `min_queue`: per step, how many items must wait before a device
    takes them, unless the oldest has waited `max_wait_s`. `skip`: from which hardness on an item passes over each step,
    beginning with the first (`policy.cascading.first_step`); empty where none does. Predicted of it: its `accuracy`,
    its 95th percentile `latency_s` and its `utilization`, both at its highest rate, and per step the share of the work
    that each group of devices does (`load_split`); None or empty where not predicted.

    >>> from headway.cascade import Step
    >>> print(Gear(Cascade((Step("small", threshold=0.8), Step("large"))), 100.0, (1, 1)))
    small >= 0.8 -> large up to 100/s
    """

    cascade: Cascade
    up_to_per_s: float
    min_queue: tuple[int, ...]
    max_wait_s: float = 0.0
    accuracy: float | None = None
    latency_s: float | None = None
    utilization: float | None = None
    load_split: tuple[tuple[float, ...], ...] = ()
    skip: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.cascade} up to {self.up_to_per_s:.4g}/s"

    @property
    def starts(self) -> tuple[str, ...]:
        """The models at which items may begin."""
        return self.cascade.models[: len(self.skip) + 1]

    def to_dict(self) -> dict[str, Any]:
        """Return the gear as JSON values."""
        return {
            **self.cascade.to_dict(),
            "up_to_per_s": self.up_to_per_s,
            "min_queue": list(self.min_queue),
            "max_wait_s": self.max_wait_s,
            "accuracy": self.accuracy,
            "latency_s": self.latency_s,
            "utilization": self.utilization,
            "load_split": [list(shares) for shares in self.load_split],
            **({"skip": list(self.skip)} if self.skip else {}),
        }


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What is certain of a plan's gears: each loses at most `loss_bound` of accuracy against the model `reference`.

    It holds with `confidence` for all gears together, and for all that they were chosen from; it rests on `samples` of
    the validation table, which chose none of them.

    >>> print(Guarantee("large", 0.012, 0.95, 400))
    loses at most 1.2 points of accuracy against large with 95% confidence, certified on 400 samples
    """

    reference: str
    loss_bound: float
    confidence: float
    samples: int

    def __str__(self) -> str:
        return (
            f"loses at most {100 * self.loss_bound:.3g} points of accuracy against {self.reference} with "
            f"{100 * self.confidence:.{digits(self.confidence)}g}% confidence, certified on {self.samples:,} samples"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class GearPlan:
    """What a plan gives a cascade: devices of one hardware, the models that they hold, and gears by rising rate.

    `max_batch_size` limits the batches of each model that is placed. Gears stand from the dearest to the cheapest; the
    last serves whatever comes beyond. `gears_less_one`: those that hold when any one device is lost; empty where none
    do. `window_s` and `alpha_per_s` are `policy.cascading.next_gear`'s; `table`: the hash of the validation table.
    `guarantee`: what the declared tolerance was certified to; None without one.

    >>> from headway.cascade import Step
    >>> gear = Gear(Cascade((Step("small"),)), 100.0, (1,))
    >>> GearPlan("cpu", (Group(("small",), 2),), (("small", 4),), (gear,)).devices
    2
    """

    hardware: str
    placement: tuple[Group, ...]
    max_batch_size: tuple[tuple[str, int], ...]
    gears: tuple[Gear, ...]
    gears_less_one: tuple[Gear, ...] = ()
    window_s: float = WINDOW_S
    alpha_per_s: float = ALPHA_PER_S
    table: str = ""
    guarantee: Guarantee | None = None
    _hash: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A planner looks the same few plans up tens of thousands of times.
        parts = tuple(getattr(self, each.name) for each in dataclasses.fields(self) if each.compare)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    @property
    def devices(self) -> int:
        """How many devices are held."""
        return sum(group.devices for group in self.placement)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are placed, from cheap to dear."""
        return tuple(name for name, _ in self.max_batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it stands in a plan's JSON."""
        return {
            "hardware": self.hardware,
            "devices": self.devices,
            "placement": [{"models": list(group.models), "devices": group.devices} for group in self.placement],
            "max_batch_sizes": dict(self.max_batch_size),
            "gears": [gear.to_dict() for gear in self.gears],
            "gears_less_one": [gear.to_dict() for gear in self.gears_less_one],
            "window_s": self.window_s,
            "alpha_per_s": self.alpha_per_s,
            "table": self.table,
            **({} if self.guarantee is None else {"guarantee": self.guarantee.to_dict()}),
        }


def parse_gear_plan(value: Mapping[str, Any], where: str) -> GearPlan:
    """Return the configuration that a mapping describes. Raises PlanError that names `where` and the field."""
    _known(value, FIELDS, where)
    hardware = _get(value, "hardware", str, where)
    listed = _get(value, "placement", list, where)
    placement = tuple(_group(group, f"{where}.placement[{at}]") for at, group in enumerate(listed))
    batches = tuple((name, _whole(size, f"{where}.max_batch_sizes.{name}", 1, MAX_BATCH_SIZE))
                    for name, size in _get(value, "max_batch_sizes", Mapping, where).items())  # fmt: skip
    gears = _gears(value, "gears", where)
    plan = GearPlan(
        hardware,
        placement,
        batches,
        gears,
        _gears(value, "gears_less_one", where) if "gears_less_one" in value else (),
        _number(value.get("window_s", WINDOW_S), f"{where}.window_s", above=True),
        _number(value.get("alpha_per_s", ALPHA_PER_S), f"{where}.alpha_per_s"),
        _get(value, "table", str, where) if "table" in value else "",
        _guarantee(_get(value, "guarantee", Mapping, where), f"{where}.guarantee") if "guarantee" in value else None,
    )
    if "devices" in value and value["devices"] != plan.devices:
        raise PlanError(f"{where}.devices: is {value['devices']!r} where placement has {plan.devices}; leave it out")
    _agrees(plan, where)
    return plan


def _agrees(plan: GearPlan, where: str) -> None:
    """What no field can see alone: models are placed, asked from cheap to dear, and rates rise."""
    if not plan.placement or not plan.gears:
        raise PlanError(f"{where}.{'gears' if plan.placement else 'placement'}: is empty; at least one is needed")
    placed = {name for group in plan.placement for name in group.models}
    for name in plan.models:
        if name not in placed:
            raise PlanError(f"{where}.max_batch_sizes.{name}: no device holds this model; add it to placement")
    for name in sorted(placed):
        if name not in plan.models:
            raise PlanError(f"{where}.placement: model {name!r} has no entry in max_batch_sizes; give it one")
    for field in ("gears", "gears_less_one"):
        rows: Sequence[Gear] = getattr(plan, field)
        for at, gear in enumerate(rows):
            for name in gear.cascade.models:
                if name not in placed:
                    raise PlanError(f"{where}.{field}[{at}]: no device holds model {name!r}{nearest(name, placed)}")
            order = [plan.models.index(name) for name in gear.cascade.models]
            if order != sorted(order):
                raise PlanError(f"{where}.{field}[{at}]: asks {gear.cascade}; models are asked in the order of "
                                f"max_batch_sizes: {', '.join(plan.models)}")  # fmt: skip
            if len(gear.skip) >= len(gear.cascade) or any(b < a for a, b in itertools.pairwise(gear.skip)):
                raise PlanError(f"{where}.{field}[{at}].skip: needs numbers that do not fall, fewer than steps")
            if len(gear.min_queue) != len(gear.cascade):
                raise PlanError(f"{where}.{field}[{at}].min_queue: needs {len(gear.cascade)} numbers, one per step")
        if any(after.up_to_per_s <= before.up_to_per_s for before, after in itertools.pairwise(rows)):
            raise PlanError(f"{where}.{field}: up_to_per_s must rise from gear to gear")


def _gears(value: Mapping[str, Any], field: str, where: str) -> tuple[Gear, ...]:
    return tuple(_gear(gear, f"{where}.{field}[{at}]") for at, gear in enumerate(_get(value, field, list, where)))


def _gear(value: Any, where: str) -> Gear:
    if not isinstance(value, Mapping):
        raise PlanError(f"{where}: {value!r} is not a gear; write steps, up_to_per_s and min_queue")
    names = ["steps", *(field.name for field in dataclasses.fields(Gear) if field.name != "cascade")]
    _known(value, names, where)
    try:
        cascade = Cascade.from_dict({"steps": _get(value, "steps", list, where)})
    except CascadeError as error:
        raise PlanError(f"{where}.steps: {error}") from None
    queues = tuple(_whole(n, f"{where}.min_queue", 1) for n in _get(value, "min_queue", list, where))
    predicted = {
        name: None if value.get(name) is None else _number(value[name], f"{where}.{name}")
        for name in ("accuracy", "latency_s", "utilization")
    }
    split = tuple(
        tuple(_number(share, f"{where}.load_split") for share in shares) for shares in value.get("load_split", ())
    )
    rate = _number(_get(value, "up_to_per_s", object, where), f"{where}.up_to_per_s", above=True)
    wait_s = _number(value.get("max_wait_s", 0.0), f"{where}.max_wait_s")
    skip = tuple(_number(hardness, f"{where}.skip", least=-math.inf) for hardness in value.get("skip", ()))
    return Gear(cascade, rate, queues, wait_s, load_split=split, skip=skip, **predicted)


def _guarantee(value: Mapping[str, Any], where: str) -> Guarantee:
    _known(value, [field.name for field in dataclasses.fields(Guarantee)], where)
    bound, confidence = (
        _number(_get(value, name, object, where), f"{where}.{name}", least=least)
        for name, least in (("loss_bound", -math.inf), ("confidence", 0.0))
    )
    samples = _whole(_get(value, "samples", object, where), f"{where}.samples", 1)
    return Guarantee(_get(value, "reference", str, where), bound, confidence, samples)


def _group(value: Any, where: str) -> Group:
    if not isinstance(value, Mapping):
        raise PlanError(f"{where}: {value!r} is not a group of devices; write models and devices")
    _known(value, ["models", "devices"], where)
    models = _get(value, "models", list, where)
    if not models or not all(isinstance(name, str) for name in models) or len(set(models)) < len(models):
        raise PlanError(f"{where}.models: {models!r} must be a list of different models' names")
    return Group(tuple(models), _whole(_get(value, "devices", object, where), f"{where}.devices", 1))


def _known(value: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for field in value:
        if field not in names:
            raise PlanError(f"{where}.{field}: unknown{nearest(str(field), names)}; valid: {', '.join(names)}")


def _get(value: Mapping[str, Any], field: str, kind: Any, where: str) -> Any:
    if field not in value:
        raise PlanError(f"{where}.{field}: is missing")
    if not isinstance(value[field], kind):
        expected = "text" if kind is str else "a list" if kind is list else "a mapping"
        raise PlanError(f"{where}.{field}: {value[field]!r} is not {expected}")
    return value[field]


def _whole(value: Any, where: str, least: int, most: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounded = f" and at most {most}" if most < math.inf else ""
        raise PlanError(f"{where}: {value!r} must be a whole number, at least {least}{bounded}")
    return value


def _number(value: Any, where: str, *, above: bool = False, least: float = 0.0) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not known or value < least:
        raise PlanError(f"{where}: {value!r} must be a number{', at least 0' if least == 0.0 else ''}")
    if above and value == 0:
        raise PlanError(f"{where}: must be above 0")
    return float(value)
