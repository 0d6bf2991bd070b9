"""The request router in a real Ray Serve, which loads it by its qualified name."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    from headway.serve.ray_engine.runtime import local_ray

    with local_ray():
        yield


def deploy(name: str, policy: str, most: int = 5, **named: Any) -> Any:
    """Deploy two replicas that say who they are, and return a handle."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    class Who:
        def __init__(self) -> None:
            self._name = serve.get_replica_context().replica_id.unique_id

        async def __call__(self, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return self._name

    routed = RequestRouterConfig(
        request_router_class="headway.dropins.ray_serve:PolicyRouter",
        request_router_kwargs={"policy": policy, **named},
    )
    deployment = serve.deployment(
        name=name,
        num_replicas=2,
        max_ongoing_requests=most,
        ray_actor_options={"num_cpus": 0.001},
        request_router_config=routed,
    )
    return serve.run(deployment(Who).bind(), name=name, route_prefix=None)


def test_a_session_stays_with_its_replica_and_sessions_are_spread(ray: None) -> None:
    handle = deploy("sessions", "consistent-hash", bound=100.0)
    found = {}
    for session in range(12):
        one = handle.options(session_id=f"s{session}")
        [found[session]] = {one.remote(0.0).result(timeout_s=60.0) for _ in range(3)}
    assert len(set(found.values())) == 2


def test_no_more_are_sent_than_a_bounded_queue_lets_through(ray: None) -> None:
    """Two replicas with one place each: of three requests the last waits in the router, and is answered in the end."""
    handle = deploy("bounded", "central")
    answers = [handle.remote(0.3) for _ in range(3)]
    found = [answer.result(timeout_s=60.0) for answer in answers]
    assert set(Counter(found).values()) == {1, 2}
