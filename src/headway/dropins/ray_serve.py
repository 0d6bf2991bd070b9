"""A request router for Ray Serve: which replica gets a request is decided by Headway's policies.

    @serve.deployment(request_router_config=RequestRouterConfig(
        request_router_class="headway.dropins.ray_serve:PolicyRouter",
        request_router_kwargs={"policy": "power-of-d", "choices": 3},
    ))

Written for Ray 2.60, which calls this interface alpha: only what its documentation names is used.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from headway.policy.routing import (
    ROUND_ROBIN,
    Servers,
    draws,
    note_alive,
    note_answered,
    note_latency,
    note_sent,
    route,
    router,
    stretch,
)

__all__ = ["VERSIONS", "PolicyRouter"]

VERSIONS: Final = "2.60"
"""Releases of Ray that this was written for."""

_NOTHING_KNOWN: Final[tuple[Any, ...]] = (math.nan, -math.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, False)


class PolicyRouter(RequestRouter):  # type: ignore[misc]
    """Sends each request where a policy of `headway.policy.routing` wants it.

    A replica's load is what Ray last heard of its queue, with what was sent and answered since; where Ray holds that to
    be out of date it is unknown, and the policy goes by what this router has there itself. A deployment whose replicas
    differ says so: its `record_routing_stats` returns `{"speed": ...}`. Requests of one session go together under
    `consistent-hash`. A replica that is full is left out; where all are, Ray asks each. A request that the policy holds
    back waits in Ray's queue until its next try.
    """

    def initialize_state(self, policy: str = "power-of-d", seed: int | None = None, **parameters: Any) -> None:
        """Take `request_router_kwargs`: a policy by name, and its parameters. Raises ValueError as `router` does."""
        self._policy = router(policy, **parameters)
        self._draw = random.Random(seed).random
        self._servers = Servers(*([] for _ in _NOTHING_KNOWN))
        self._seats: dict[ReplicaID, int] = {}
        self._began: dict[str, tuple[float, float, int]] = {}
        self._routed = 0
        self._chosen: dict[str, tuple[int, PendingRequest]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replica that a request goes to; none when it has to wait."""
        if pending_request is not None:
            # Without it Ray would try again at once, for as long as nothing is chosen.
            pending_request.routing_context.should_backoff = True
        self._release(pending_request)
        free = self.select_available_replicas(candidate_replicas)
        if not free:
            return [candidate_replicas]
        seated = self._look(free)
        u = [self._draw() for _ in range(draws(self._policy))]
        chosen = route(self._policy, self._servers, u, _key(pending_request), time.monotonic())
        if chosen >= 0 and pending_request is not None:
            # Ray asks for others before it sends this one: it counts from here on.
            note_sent(self._servers, chosen, 0.0)
            self._chosen[pending_request.metadata.internal_request_id] = chosen, pending_request
        return [[seated[chosen]]] if chosen >= 0 else []

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Keep books of the replicas that there are. Who comes takes a seat that is free: others keep theirs."""
        there = {replica.replica_id for replica in replicas}
        self._seats = {replica: seat for replica, seat in self._seats.items() if replica in there}
        taken = set(self._seats.values())
        self._chosen = {name: booked for name, booked in self._chosen.items() if booked[0] in taken}
        free = iter([seat for seat in range(len(self._servers.alive) + len(there)) if seat not in taken])
        for replica in sorted(there - set(self._seats), key=str):
            seat = self._seats[replica] = next(free)
            for column, value in zip(self._servers, _NOTHING_KNOWN, strict=True):
                column[seat : seat + 1] = [value]
        super().update_replicas(replicas)

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Count a request that is sent."""
        super().on_send_request(replica_id)
        seat = self._seats.get(replica_id)
        booked = next((name for name, (chosen, _) in self._chosen.items() if chosen == seat), None)
        if booked is not None:
            del self._chosen[booked]
        elif seat is not None:
            note_sent(self._servers, seat, 0.0)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Take note of when a replica took a request, and of what else it had then."""
        super().on_request_routed(pending_request, replica_id, result)
        seat = self._seats.get(replica_id)
        if seat is not None:
            began = time.monotonic(), stretch(self._servers, seat), self._routed
            self._began[pending_request.metadata.internal_request_id] = began
            self._routed += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count a request that is answered, refused or lost, and how long it took."""
        super().on_request_completed(replica_id, internal_request_id)
        began = self._began.pop(internal_request_id, None)
        if replica_id not in self._seats:
            return
        seat = self._seats[replica_id]
        note_answered(self._servers, seat)
        if began is not None:
            began_s, stretched, number = began
            note_latency(self._servers, seat, time.monotonic() - began_s, stretched, number)

    def _release(self, again: PendingRequest | None) -> None:
        """Count requests no more that were given up before they were sent, nor one for which Ray asks again."""
        for name, (seat, request) in list(self._chosen.items()):
            if request is again or request.future.cancelled():
                del self._chosen[name]
                note_answered(self._servers, seat)

    def _look(self, free: Sequence[RunningReplica]) -> dict[int, RunningReplica]:
        """Write down what is known of the replicas that have room, and return them by their seats."""
        servers, now_s = self._servers, time.monotonic()
        seated = {self._seats[replica.replica_id]: replica for replica in free}
        for seat in range(len(servers.alive)):
            if seat not in seated:
                servers.alive[seat] = False
        for seat, replica in seated.items():
            queued = self.replica_queue_len_cache.get(replica.replica_id)
            servers.reported[seat] = math.nan if queued is None else float(queued)
            servers.reported_at_s[seat] = now_s
            servers.speed[seat] = servers.places[seat] = float(replica.routing_stats.get("speed", 1.0))
            if not servers.alive[seat]:
                note_alive(servers, seat, self._policy.code != ROUND_ROBIN)
        return seated


def _key(request: PendingRequest | None) -> int:
    """Return what requests that belong together share: a session, else a model, else nothing."""
    if request is None:
        return 0
    about = request.metadata
    return crc32((about.session_id or about.multiplexed_model_id or about.internal_request_id).encode())
