"""The suites that plug-ins run: what Headway ships passes them, and what breaks a law is caught by name."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline import PipelineDomain
from headway.domains.pipeline.declare import ReplicaConfig
from headway.policy.admission import expired, full
from headway.policy.batching import take
from headway.policy.sharing import stage_at
from headway.profile import Profile
from headway.serve.engine import Engine, Limits
from headway.serve.gate import Rejected
from headway.sim.station import Arrivals, Departures
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.testing.domain import Example, check_domain
from headway.testing.engine import check_engine
from headway.testing.examples import tiny_plan, tiny_profile, tiny_spec
from headway.testing.live import fake_stations
from headway.testing.policy import check_admission, check_batching, check_pure


def example(**changes: Any) -> Example:
    return Example(tiny_spec(), tiny_profile(), "first", 0.6, **changes)


def test_the_shipped_domain_conforms_with_variants_and_several_kinds_of_hardware() -> None:
    spec = Spec.from_dict(
        {
            "slo": {"latency": "1s"},
            "supply": {"cpu": {"price": "$0.2/h", "startup": "5s"}, "gpu": {"price": "$0.7/h", "max": 2}},
            "stages": {"only": {"variants": {"small": {"accuracy": 0.9}, "large": {"accuracy": 0.95}}}},
        }
    )
    rows = [
        dataclasses.replace(row, stage="only", variant=variant, hardware=hardware)
        for row in tiny_profile().rows if row.stage == "first"
        for variant in ("small", "large") for hardware in ("cpu", "gpu")
    ]  # fmt: skip
    check_domain(load_domain("pipeline"), Example(spec, Profile.from_rows(rows), "only", 1.0))


class Broken:
    """The built-in domain with a station that does something wrong to its departures."""

    def __init__(self, spoil: Callable[[Arrivals, Departures], Departures]) -> None:
        self._spoil = spoil

    def domain(self) -> PipelineDomain:
        spoil = self._spoil

        class Domain(PipelineDomain):
            def station(self, *args: Any, **options: Any) -> Any:
                sound = super().station(*args, **options)

                class Station:
                    capacity = sound.capacity
                    fastest_s = staticmethod(sound.fastest_s)

                    def run(self, arrivals: Arrivals, **how: Any) -> Departures:
                        return spoil(arrivals, sound.run(arrivals, **how))

                return Station()

        return Domain()


def test_broken_stations_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)

    def lose(arrivals: Arrivals, left: Departures) -> Departures:
        return dataclasses.replace(left, done_s=left.done_s[1:], item=left.item[1:])

    def peek(arrivals: Arrivals, left: Departures) -> Departures:
        return dataclasses.replace(left, done_s=left.done_s + 1e-3 * arrivals.item.size)

    def gamble(arrivals: Arrivals, left: Departures) -> Departures:
        return dataclasses.replace(left, done_s=left.done_s + 10 * rng.random())

    def hurry(arrivals: Arrivals, left: Departures) -> Departures:
        return dataclasses.replace(left, done_s=left.done_s - 0.01)

    def drift(arrivals: Arrivals, left: Departures) -> Departures:
        return dataclasses.replace(left, done_s=left.done_s * 1.5)

    for spoil, words in (
        (lose, "lost"), (peek, "looks ahead"), (gamble, "other departures"),
        (hurry, "below fastest_s|before it is started"), (drift, "do not move departures"),
    ):  # fmt: skip
        domain = Broken(spoil).domain()
        monkeypatch.setattr("headway.testing.domain.load_domain", lambda kind, domain=domain: domain)
        with pytest.raises(AssertionError, match=words):
            check_domain(domain, example())


def test_broken_declarations_and_spaces_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(PipelineDomain):
        def configs(self, *args: Any) -> Any:
            return [*super().configs(*args)] * 2

    class Dear(PipelineDomain):
        def configs(self, context: Any, most: float) -> Any:
            return super().configs(context, most + 1.0)

    class Quick(PipelineDomain):
        def fastest_s(self, *args: Any, **options: Any) -> float:
            return 2 * super().fastest_s(*args, **options)

    class Forgetful(PipelineDomain):
        def parse_config(self, *args: Any) -> ReplicaConfig:
            return dataclasses.replace(super().parse_config(*args), replicas=1)

    class Still(PipelineDomain):
        def moves(self, context: Any, config: Any) -> Any:
            yield "stay", config

    for broken, words in (
        (Twice, "twice"), (Dear, "above"), (Quick, "can be quicker"), (Forgetful, "comes back"), (Still, "to itself"),
    ):  # fmt: skip
        monkeypatch.setattr("headway.testing.domain.load_domain", lambda kind, domain=broken(): domain)
        with pytest.raises(AssertionError, match=words):
            check_domain(load_domain_of(broken), example())


def load_domain_of(broken: type[PipelineDomain]) -> Any:
    import headway.testing.domain as suite

    return suite.load_domain("pipeline")


def test_the_shipped_policies_conform() -> None:
    check_batching(take)
    check_admission(full)
    check_pure(expired, [(1.0, 0.5), (1.0, 1.0), (1.0, 1.5)])
    check_pure(stage_at, [(rank, 3) for rank in range(3)])


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (lambda q, old, now, size, wait: (q, now), "takes"),
        (lambda q, old, now, size, wait: (0, now), "not later"),
        (lambda q, old, now, size, wait: (0, now + 1.0), "nothing waits|full batch"),
        (lambda q, old, now, size, wait: (min(q, size, 2), now if q > 0 else np.inf), "full batch"),
    ],
)
def test_broken_batching_policies_are_caught(policy: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_batching(policy)


def test_a_policy_that_remembers_is_caught() -> None:
    asked: list[int] = []

    def forgetting(queued: int) -> int:
        asked.append(queued)
        return len(asked)

    with pytest.raises(AssertionError, match="another decision"):
        check_pure(forgetting, [(1,), (2,), (3,)])


def engine(kind: type[Engine] = Engine) -> Engine:
    clock, limits = asyncio.get_running_loop().time, Limits(keep_promise=False)
    return kind(tiny_plan(), stations=fake_stations(tiny_plan()), clock=clock, limits=limits)


def test_the_shipped_engine_conforms() -> None:
    check_engine(engine)


def test_broken_engines_are_caught() -> None:
    class Open(Engine):
        async def drain(self, grace_s: float = 30.0) -> None:
            await asyncio.sleep(grace_s)

    class Twice(Engine):
        def submit(self, payload: Any, on_end: Any, timeout_s: float | None = None) -> Any:
            return super().submit(payload, lambda answer: (on_end(answer), on_end(answer)), timeout_s)

    class Silent(Engine):
        def submit(self, payload: Any, on_end: Any, timeout_s: float | None = None) -> Any:
            try:
                return super().submit(payload, on_end, timeout_s)
            except Rejected:
                return None

    for broken, words in ((Open, "while it drains"), (Twice, "exactly once"), (Silent, "before it was started")):
        with pytest.raises(AssertionError, match=words):
            check_engine(partial(engine, broken))
