"""Looks after upstreams beside the requests: are they well, how much have they to do, which models do they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from headway.errors import ServeError
from headway.gateway.gateway import Gateway
from headway.gateway.replica import Replica
from headway.gateway.reports import parse
from headway.serve.http1 import Client, Reply

MAX_BYTES: Final = 4 * 2**20
"""The largest page of metrics or list of models that is read."""
_MODELS_EVERY_S: Final = 30.0


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_decode_models: Final = msgspec.json.Decoder(_Models).decode


class Watch:
    """Asks one upstream again and again until it is cancelled."""

    def __init__(self, gateway: Gateway, replica: Replica) -> None:
        self._gateway = gateway
        self._replica = replica
        options = gateway.options
        self._base = replica.upstream.base
        self._timeout_s = min(options.health_every_s, options.connect_s)

    async def run(self) -> None:
        """Look after the upstream until cancelled, or at once where there is nothing to ask it."""
        kind = self._replica.kind
        self._client = self._opened()
        jobs = [self._models()]
        if kind.health_path is not None:
            jobs.append(self._every("health_every_s", self._base + kind.health_path, self.healthy))
        if kind.metrics_path is not None:
            jobs.append(self._every("scrape_every_s", self._base + kind.metrics_path, self.reported))
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(job)
        finally:
            await self._client.close()

    async def reached(self) -> None:
        """Ask the upstream once how it is, and what it serves. Raises ServeError when it is not there, or not well."""
        listed, client = f"{self._base}/v1/models", self._opened()
        try:
            path = self._replica.kind.health_path
            asked = listed if path is None else self._base + path
            reply = await client.request("GET", asked, timeout_s=self._timeout_s)
            if not 0 < reply.status < 500:
                said = f"answers {reply.status}" if reply.status else f"gives no answer: {reply.error}"
                raise ServeError(f"the upstream {self._replica.name} {said}; start it before it is added")
            if path is not None:
                reply = await client.request("GET", listed, timeout_s=self._timeout_s)
            if not self._replica.upstream.models:
                self.listed(reply)
        finally:
            await client.close()

    def _opened(self) -> Client:
        upstream = self._replica.upstream
        return Client(upstream.url, token=upstream.token, max_connections=1, max_bytes=MAX_BYTES)

    async def _every(self, option: str, path: str, take: Callable[[Reply, float], None]) -> None:
        while True:
            asked_s = self._gateway.clock()
            reply = await self._client.request("GET", path, timeout_s=self._timeout_s)
            take(reply, asked_s)
            await asyncio.sleep(getattr(self._gateway.options, option))

    async def _models(self) -> None:
        if self._replica.upstream.models:
            return
        pause_s = self._gateway.options.health_every_s
        while True:
            reply = await self._client.request("GET", f"{self._base}/v1/models", timeout_s=self._timeout_s)
            self.listed(reply)
            pause_s = _MODELS_EVERY_S if self._replica.models else min(2.0 * pause_s, _MODELS_EVERY_S)
            await asyncio.sleep(pause_s)

    def healthy(self, reply: Reply, asked_s: float) -> None:
        """Take in the answer to a health check; one who has no such page, or guards it, is there at least."""
        now_s = self._gateway.clock()
        self._replica.checked(0 < reply.status < 500, now_s)
        self._gateway.serve_waiting(now_s)

    def reported(self, reply: Reply, asked_s: float) -> None:
        """Take in a page of metrics; what cannot be read is no report, and the last one grows old."""
        if reply.status != 200:
            return
        report = parse(self._replica.upstream.kind, reply.body.decode("utf-8", "replace"))
        # From when it was asked for: what it says may be as old as that.
        self._replica.reported(report, asked_s)
        self._gateway.reported(self._replica, report)

    def listed(self, reply: Reply) -> None:
        """Take in a list of models; an upstream whose list cannot be read is taken to serve what it is asked."""
        if reply.status != 200:
            return
        try:
            found = frozenset(model.id for model in _decode_models(reply.body).data)
        except msgspec.DecodeError:
            return
        if found and found != self._replica.models:
            self._replica.models = found
            self._gateway.models_changed()
