"""A case served by Ray Serve: a deployment per model, batches by its decorator. `python -m ... CASE PORT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve

from headway.bench.rivals import BATCH_WAIT_S, PATH
from headway.bench.served import Case, case_of, models, payload_of, response_of
from headway.serve.parent import when_gone

# Fractions of the two cores, so that all deployments find a place.
OPTIONS: dict[str, Any] = {"max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0.25}}


def application(case: Case) -> Any:
    """Return the application of a case. Its classes are made here because the decorator holds the batch size."""

    class Model:
        def __init__(self, index: int) -> None:
            self.model = models(case)[index]

        @serve.batch(max_batch_size=case.max_batch_size, batch_wait_timeout_s=BATCH_WAIT_S)  # type: ignore[untyped-decorator, unused-ignore]
        async def batch(self, asked: list[Any]) -> list[Any]:
            results: list[Any] = self.model.predict(asked)
            return results

        async def predict(self, asked: Any) -> Any:
            return await self.batch(asked) if case.max_batch_size > 1 else self.model.predict([asked])[0]

    class Single(Model):
        async def __call__(self, request: Any) -> dict[str, Any]:
            return response_of(await self.predict(payload_of(await request.json())))

    class Document:
        def __init__(self, *stages: Any) -> None:
            self.detect, self.orient, self.recognise = stages

        async def __call__(self, request: Any) -> dict[str, Any]:
            found = await self.detect.predict.remote(payload_of(await request.json()))
            return response_of(await asyncio.gather(*map(self.read, found["orient"])))

        async def read(self, line: Any) -> Any:
            return await self.recognise.predict.remote(await self.orient.predict.remote(line))

    if len(case.stages) == 1:
        return serve.deployment(Single, **OPTIONS).bind(0)
    stage = serve.deployment(Model, **OPTIONS)
    stages = [stage.options(name=name, num_replicas=case.workers).bind(index) for index, name in enumerate(case.stages)]
    return serve.deployment(Document, **OPTIONS).bind(*stages)


def main() -> None:
    """Serve until SIGTERM."""
    when_gone(0, lambda: os.killpg(0, signal.SIGKILL))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(application(case_of(sys.argv[1])), route_prefix=PATH)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
