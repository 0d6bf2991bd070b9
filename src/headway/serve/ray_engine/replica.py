"""What runs in a process of Ray's: a stage's model, spoken to in the same frames as a worker process of our own."""

from __future__ import annotations

import faulthandler
import time

import msgspec

from headway.serve.child import Conversation
from headway.serve.wire import Batch, Broken, Start, from_worker_decoder, to_worker_decoder, unpack

BROKEN = "the model cannot be set up: "
"""Begins the error of a replica whose model cannot be set up; Ray passes it on among other text."""

_STDERR = 2


class StageReplica:
    """A replica of a stage's deployment. `start` is the frame that a worker process gets first.

    `home` is the node that the server runs on. Raises RuntimeError, beginning with `BROKEN`, when the model cannot be
    set up: Ray then starts no requests here.
    """

    def __init__(self, start: bytes, home: str) -> None:
        import ray
        from ray import serve

        self._away = ray.get_runtime_context().get_node_id() != home
        self._frames: list[bytes] = []
        self._conversation = Conversation(self._frames.append)
        message, body = unpack(start, to_worker_decoder)
        if isinstance(message, Start):
            # Replicas that sleep must not all draw the same times.
            rank = serve.get_replica_context().rank.rank
            message.ref = msgspec.structs.replace(message.ref, seed=message.ref.seed + rank)
            if self._away:
                message.cores = None
        self._conversation.receive(message, body)
        answer, _ = unpack(self._frames.pop(), from_worker_decoder)
        if isinstance(answer, Broken):
            raise RuntimeError(BROKEN + " ".join(answer.message.split()))

    async def __call__(self, frame: bytes, timeout_s: float | None) -> bytes:
        """Answer one frame. The process ends, having said where it was, when that takes longer than `timeout_s`."""
        message, body = unpack(frame, to_worker_decoder)
        if self._away and isinstance(message, Batch):
            message.handed_s = time.monotonic()  # clocks of two machines have nothing to do with each other
        if timeout_s is not None:
            # A timer that does not need the interpreter: it works when the model never gives it back.
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=_STDERR)
        try:
            self._conversation.receive(message, body)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return self._frames.pop()
