"""A llama.cpp server in a process of its own: `python -m headway.demo.llm.child JSON`, as `engines.running` starts it.

Prints its URL when it is ready, and ends when it is told to, or when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from headway.serve.parent import end_with_parent


def main() -> None:
    """Serve one model until told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    said = os.dup(1)
    # What the library prints is no URL.
    os.dup2(2, 1)
    given: dict[str, Any] = json.loads(sys.argv[1])
    if given["core"] is not None:
        os.sched_setaffinity(0, {given["core"]})
    server = serve(given)
    os.write(said, f"{server.listening_address}\n".encode())
    while True:
        signal.pause()


def serve(given: dict[str, Any]) -> Any:
    """Return a server that answers on a free port of this machine: of the `model` given, with the fields of `Llama`.

    It listens on the loopback address, as is its default. Nothing is kept of a prompt when its request has ended: each
    costs what it costs on its own.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = given["model"], {Path(given["model"]).stem}
    params.port = 0
    params.endpoint_metrics = True
    params.n_parallel, params.kv_unified, params.cont_batching = given["slots"], False, True
    params.n_ctx = given["context_tokens"]
    params.n_batch = params.n_ubatch = given["batch_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_prompt, params.cache_ram_mib, params.cache_idle_slots, params.n_ctx_checkpoints = False, 0, False, 0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
