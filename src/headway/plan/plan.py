"""The plan: the central noun. An immutable value that every verb reads or returns, and a plain file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from headway.errors import PlanError, ProfileError, SpecError
from headway.files import canonical_json, content_hash, write_atomic
from headway.plan.config import Config, StageContext
from headway.profile import Profile
from headway.spec.kinds import load_domain
from headway.spec.model import Spec

SCHEMA = "headway.plan/1"
PREDICTED = ("utilization", "peak_utilization_10s", "queue_wait_p99_s", "figures", "cascade", "rejected")
"""What a plan's JSON says of a stage beside its configuration."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the plan is as it is: a stable `code`, the stage it concerns (or None), a sentence, and its figures."""

    code: str
    text: str
    stage: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the reason as JSON values."""
        return {"code": self.code, "stage": self.stage, "text": self.text, "values": _rounded(self.values)}


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A deployment: one configuration per stage, what it is predicted to do, what it costs, and why.

    It embeds the spec and the profile rows it uses, so that it can be simulated, served, compared and read alone.
    `feasible` is False for a plan that is only a current state or the least bad answer to an infeasible promise.
    """

    spec: Spec
    profile: Profile
    stages: Mapping[str, Config]
    predicted: Mapping[str, Any] = field(default_factory=dict)
    lower_bound_usd_per_hour: float | None = None
    headroom_ratio: float | None = None
    reasons: tuple[Reason, ...] = ()
    envelope: tuple[Mapping[str, float], ...] = ()
    frontier: tuple[Mapping[str, Any], ...] = ()
    stage_predictions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    feasible: bool = True

    def __post_init__(self) -> None:
        if set(self.stages) != set(self.spec.stages):
            raise PlanError(
                f"plan: stages {sorted(self.stages)} do not match the spec's stages {sorted(self.spec.stages)}"
            )

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def __repr__(self) -> str:
        stages = f"{len(self.stages)} stage{'s' * (len(self.stages) != 1)}"
        return f"Plan({self.spec.name!r}, {stages}, {money(self.cost_usd_per_hour):g} $/h, {self.hash})"

    def __str__(self) -> str:
        from headway.report import format as fmt
        from headway.report import words

        lines = [f"{self.spec.name}: {fmt.usd_per_hour(self.cost_usd_per_hour)}; {words.optimality(self)}"]
        for name, config in self.stages.items():
            fields = config.to_dict()
            lines.append(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()))
        if self.predicted:
            lines.append(f"  predicted: {'; '.join(words.prediction(self))}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from headway.report.fragments import plan_fragment

        return plan_fragment(self)

    @cached_property
    def cost_usd_per_hour(self) -> float:
        """Dollars per hour of the capacity held: replicas times price, over all stages."""
        return money(sum(self.stage_cost_usd_per_hour(name) for name in self.spec.stages))

    def stage_cost_usd_per_hour(self, name: str) -> float:
        """Dollars per hour of one stage's capacity."""
        stage = self.spec.stages[name]
        context = StageContext(name, stage, self.spec, self.profile)
        return float(load_domain(stage.kind).cost_usd_per_hour(context, self.stages[name]))

    @property
    def gap_ratio(self) -> float | None:
        """How far above the lower bound the cost is, relative to the cost; 0 means proven optimal."""
        if self.lower_bound_usd_per_hour is None:
            return None
        # From the figures as they are written, so that a plan that is read back states the same gap.
        cost, bound = money(self.cost_usd_per_hour), money(self.lower_bound_usd_per_hour)
        if not cost:
            return 0.0
        gap = (cost - bound) / cost
        return 0.0 if abs(gap) < 1e-12 else gap

    @property
    def variants(self) -> dict[str, str]:
        """The chosen variant of every stage that has one."""
        return {n: str(c.to_dict()["variant"]) for n, c in self.stages.items() if "variant" in c.to_dict()}

    @property
    def accuracy(self) -> float | None:
        """The plan's accuracy: measured for this choice of variants, else the product over stages, else None."""
        from headway.plan.accuracy import plan_accuracy

        return plan_accuracy(self.spec, self.profile, self.variants)

    @property
    def hash(self) -> str:
        """A short stable hash of what would be deployed: spec, profile rows and stage configurations."""
        return content_hash(
            {
                "spec": self.spec.to_dict(),
                "profile": self.profile.hash,
                "stages": {n: c.to_dict() for n, c in self.stages.items()},
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values (schema `headway.plan/1`)."""
        return {
            "schema": SCHEMA,
            "name": self.spec.name,
            "feasible": self.feasible,
            "cost_usd_per_hour": money(self.cost_usd_per_hour),
            "lower_bound_usd_per_hour": _figure("usd", self.lower_bound_usd_per_hour),
            "gap_ratio": self.gap_ratio,
            "headroom_ratio": self.headroom_ratio,
            "accuracy": self.accuracy,
            "predicted": dict(self.predicted),
            "stages": {
                name: {**config.to_dict(), **self.stage_predictions.get(name, {})}
                for name, config in self.stages.items()
            },
            "envelope": [dict(point) for point in self.envelope],
            "reasons": [reason.to_dict() for reason in self.reasons],
            "frontier": [_rounded(point) for point in self.frontier],
            "spec": self.spec.to_dict(),
            "profile": self.profile.to_dict(),
            "provenance": {**self.provenance, "plan_hash": self.hash},
        }

    def to_json(self) -> str:
        """Return the plan's file text; equal plans give equal bytes."""
        return canonical_json(self.to_dict())

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the plan's JSON, whole or not at all."""
        write_atomic(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan's JSON. Raises PlanError naming the file and what is wrong."""
        target = Path(path)
        try:
            value = json.loads(target.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{target}: cannot read the plan: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PlanError(
                f"{target}: not a plan's JSON: it is not UTF-8 text; give a file of `headway plan`"
            ) from None
        except json.JSONDecodeError as error:
            raise PlanError(f"{target}:{error.lineno}: not a plan's JSON: {error.msg}") from None
        try:
            return cls.from_dict(value)
        except PlanError as error:
            raise PlanError(f"{target}: {error}") from None

    @classmethod
    def from_dict(cls, value: Any) -> Plan:
        """Return the plan that JSON values describe. Raises PlanError; a plan of another schema version is refused."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            found = value.get("schema") if isinstance(value, dict) else type(value).__name__
            raise PlanError(f"schema is {found!r}; this version reads {SCHEMA!r}: plan again with this version")
        _check_shape(value)
        try:
            spec = Spec.from_dict(value["spec"])
            profile = Profile.from_dict(value["profile"])
            stages, predictions = {}, {}
            for name, fields in value["stages"].items():
                if name not in spec.stages:
                    raise PlanError(f"stages: {name!r} is not a stage of the embedded spec")
                domain = load_domain(spec.stages[name].kind)
                own = {k: v for k, v in fields.items() if k not in PREDICTED}
                stages[name] = domain.parse_config(own, f"stages.{name}")
                predictions[name] = {k: v for k, v in fields.items() if k in PREDICTED}
            return cls(
                spec=spec,
                profile=profile,
                stages=stages,
                predicted=value.get("predicted", {}),
                lower_bound_usd_per_hour=value.get("lower_bound_usd_per_hour"),
                headroom_ratio=value.get("headroom_ratio"),
                reasons=tuple(
                    Reason(r["code"], r["text"], r.get("stage"), r.get("values", {})) for r in value.get("reasons", [])
                ),
                envelope=tuple(value.get("envelope", [])),
                frontier=tuple(value.get("frontier", [])),
                stage_predictions=predictions,
                provenance={k: v for k, v in value.get("provenance", {}).items() if k != "plan_hash"},
                feasible=bool(value.get("feasible", True)),
            )
        except (SpecError, ProfileError) as error:
            raise PlanError(str(error)) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            text = (
                f"{error.args[0]} is missing"
                if isinstance(error, KeyError)
                else "a field is not of its documented type"
            )
            raise PlanError(f"not a complete plan: {text}; plan again, or see the format of plans") from None


def money(value_usd: float) -> float:
    """Return dollars without the noise of binary fractions: 12 significant digits.

    >>> money(3 * 0.2)
    0.6
    """
    return float(f"{value_usd:.12g}")


def _figure(name: str, value: Any) -> Any:
    return money(value) if "usd" in name and isinstance(value, float) else value


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _figure(name, value) for name, value in values.items()}


NEEDED = {"spec": dict, "profile": dict, "stages": dict}
OPTIONAL = {"predicted": dict, "provenance": dict, "envelope": list, "reasons": list, "frontier": list}


def _check_shape(value: Mapping[str, Any]) -> None:
    missing = [name for name in NEEDED if name not in value]
    if missing:
        raise PlanError(f"not a complete plan: {', '.join(missing)} missing; a plan has {', '.join(NEEDED)}")
    for name, kind in {**NEEDED, **OPTIONAL}.items():
        if name in value and not isinstance(value[name], kind):
            raise PlanError(f"not a complete plan: {name} must be {'an object' if kind is dict else 'a list'}")
    for name, fields in value["stages"].items():
        if not isinstance(fields, dict):
            raise PlanError(f"not a complete plan: stages.{name} must be an object")
    for name in ("envelope", "reasons", "frontier"):
        if not all(isinstance(item, dict) for item in value.get(name, [])):
            raise PlanError(f"not a complete plan: {name} must be a list of objects")
