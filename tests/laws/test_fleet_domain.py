"""Both kinds of fleets keep the laws of every domain."""

from __future__ import annotations

import itertools

import pytest
from tests.units.fleet_specs import chats, cores_spec, llm_spec, looks

from headway.domains.fleet import DOMAIN
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.testing.domain import (
    Example,
    check_configs,
    check_declaration,
    check_domain,
    check_doors,
    check_moves,
    check_station,
)
from headway.trace import Trace

ROWS = (Row("look", "cpu-4", 1, 0.02, p50_s=0.015, p95_s=0.05, p99_s=0.09),)
EVERY_CHOICE = {"routing": ["power-of-d", "sal"], "order": ["fcfs", "sjf"], "admission": ["optimistic", "reserve"]}


def test_llm_engines_keep_the_laws_of_a_domain() -> None:
    spec = llm_spec(hardware="a100-80gb", tensor_parallel=[1, 2], token_budget=[64, 256])
    check_domain(DOMAIN, Example(spec, Profile.from_rows(()), "answer", 4.0), chats(3.0, 20.0, seed=1))


def test_policies_of_engines_are_choices_like_any() -> None:
    example = Example(
        llm_spec(hardware="a100-80gb", tensor_parallel=1, token_budget=256, **EVERY_CHOICE),
        Profile.from_rows(()), "answer", 2.0,
    )  # fmt: skip
    configs = check_configs(DOMAIN, example)
    check_moves(DOMAIN, example, configs)
    for config in configs:
        check_station(DOMAIN, example, config, chats(8.0, 8.0, seed=2), sampled=False)


@pytest.mark.parametrize(
    ("spec", "profile", "trace"),
    [
        (cores_spec(), Profile.from_rows(()), looks(30.0, 8.0, seed=1)),
        (cores_spec(queues=["slo", "priority"], affinity=True), Profile.from_rows(ROWS), looks(40.0, 6.0, seed=2)),
    ],
    ids=["by-the-trace", "by-the-profile"],
)
def test_servers_with_workers_keep_the_laws_of_a_domain(spec: Spec, profile: Profile, trace: Trace) -> None:
    example = Example(spec, profile, "look", 0.6)
    check_declaration(DOMAIN, example)
    configs = check_configs(DOMAIN, example)
    check_moves(DOMAIN, example, configs)
    check_doors(DOMAIN, example, configs)
    for config, sampled in itertools.product(configs, (False, True)):
        check_station(DOMAIN, example, config, trace, sampled=sampled)
