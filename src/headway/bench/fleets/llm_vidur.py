"""The same LLM engines in Vidur (MLSys 2024), given the same latency model: `pip install --no-deps vidur`.

Vidur's own predictors learn from profiles that must be downloaded; a linear one takes their place. What it imports only
to plot, to upload and to download is stood in for where it is not installed, and its metrics are not written.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import tempfile
import time
from types import ModuleType
from typing import Any

import numpy as np

from headway.errors import HeadwayError
from headway.fleet.engines import LlmFleet
from headway.fleet.llm_state import Requests
from headway.sim.station import Floats

MISSING = "vidur is not installed; pip install --no-deps vidur, beside pandas and scikit-learn"
UNUSED = ("wandb", "plotly_express", "fasteners", "ddsketch", "ddsketch.ddsketch", "huggingface_hub")


class _Nothing:
    """Stands for whatever an unused module would give."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class _Unused(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None if name == "run" else _Nothing()


def installed() -> bool:
    """Return whether Vidur can be imported here."""
    return importlib.util.find_spec("vidur") is not None


def serve(fleet: LlmFleet, requests: Requests) -> tuple[Floats, Floats, float]:
    """Return when each request gets its first and its last token, and the CPU seconds of Vidur's event loop.

    Engines are equal, decode-first and dealt to in turn. Raises HeadwayError where Vidur is not installed.
    """
    if not installed():
        raise HeadwayError(f"bench sim-llm-vidur: {MISSING}")
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            unused = _Unused(name)
            unused.__path__ = []
            sys.modules[name] = unused
    config, simulator = importlib.import_module("vidur.config"), importlib.import_module("vidur.simulator")
    entities, events = importlib.import_module("vidur.entities"), importlib.import_module("vidur.events")
    predictors = importlib.import_module("vidur.execution_time_predictor")
    execution_time = importlib.import_module("vidur._native.entities").ExecutionTime
    step = fleet.engines[0].step

    class Linear:
        """The latency model of the fleet, in the place of a learned one."""

        def get_execution_time(self, batch: Any, _: int) -> Any:
            asked, held = np.array(batch.num_q_tokens), np.array(batch.num_kv_tokens)
            context = float((held - asked)[asked == 1].sum())
            return execution_time(1, 1e3 * step.seconds(float(asked.sum()), context), *([0.0] * 13))

    columns = zip(requests.arrival_s.tolist(), requests.prompt.tolist(), requests.output.tolist(), strict=True)
    every = [entities.Request(*row) for row in columns]

    def arrivals(self: Any) -> None:
        for request in every:
            self._add_event(events.RequestArrivalEvent(request.arrived_at, request))

    predictors.ExecutionTimePredictorRegistry.get = classmethod(lambda *_, **__: Linear())
    simulator.Simulator._init_event_queue = arrivals
    simulator.Simulator._write_output = lambda _: None
    logging.getLogger("vidur").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="headway-vidur-") as folder:
        run = simulator.Simulator(_config(config, fleet, folder))
    begun = time.process_time()
    run.run()
    seconds = time.process_time() - begun
    return (
        np.array([request.prefill_completed_at for request in every]),
        np.array([request.completed_at for request in every]),
        seconds,
    )


def _config(config: Any, fleet: LlmFleet, folder: str) -> Any:
    engine = fleet.engines[0]
    return config.SimulationConfig(
        log_level="error",
        cluster_config=config.ClusterConfig(
            num_replicas=fleet.size,
            replica_config=config.ReplicaConfig(num_pipeline_stages=1, tensor_parallel_size=1),
            cache_config=config.CacheConfig(
                block_size=fleet.block_tokens,
                num_blocks=engine.kv_tokens // fleet.block_tokens,
                watermark_blocks_fraction=fleet.admission.watermark,
            ),
            global_scheduler_config=config.RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=config.SarathiSchedulerConfig(
                batch_size_cap=engine.most_running, chunk_size=engine.token_budget
            ),
        ),
        metrics_config=config.MetricsConfig(
            write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
        ),
    )
