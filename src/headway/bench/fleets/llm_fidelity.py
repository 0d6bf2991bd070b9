"""How far simulated LLM engines are from real ones: the demo's llama.cpp servers, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec

from headway.bench import BenchOptions, Row
from headway.bench.calm import ATTEMPTS, calmest
from headway.errors import HeadwayError

TIMEOUT_S = 600.0
BARRED = ("ttft_mean_s", "e2e_mean_s")


def llm_fidelity(options: BenchOptions) -> Iterator[Row]:
    """Times to the first and the last token, measured behind the gateway against simulated after calibration.

    A run that the machine's host disturbs is made again.
    """
    told, stolen = calmest(lambda: _demo(options), attempts=1 if options.quick else ATTEMPTS)
    requests, others = told["requests"], max(told["neighbors"].values(), default=0.0)
    yield Row("llm-fidelity/answered", requests["answered"], "requests", baseline=requests["offered"])
    yield Row("llm-fidelity/stolen", stolen, "of the processors the machine's host gave to others meanwhile")
    yield Row("llm-fidelity/others", others, "of the processors others used meanwhile, the host's share included")
    for name, each in told["engines"].items():
        yield Row(f"llm-fidelity/fit/{name}", each["error_ratio"], "mean error of the fit")
    for key, measured_s in told["measured"].items():
        simulated_s = told["simulated"][key]
        ratio = abs(simulated_s - measured_s) / measured_s
        bar = "<= 15%" if key in BARRED else None
        name = key.removesuffix("_s").replace("_", "-")
        yield Row(f"llm-fidelity/{name}", measured_s * 1e3, "ms", baseline=simulated_s * 1e3, ratio=ratio, bar=bar)


def _demo(options: BenchOptions) -> dict[str, Any]:
    """Run the demo and return what it tells."""
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
        command = [sys.executable, "-m", "headway", "demo", "llm", "--json", "--seed", str(options.seed), "-o", folder]
        command += [] if options.trace_path is None else ["--trace", str(options.trace_path)]
        done = subprocess.run(
            [*command, *(["--quick"] if options.quick else [])],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    if done.returncode:
        raise HeadwayError(f"bench llm-fidelity: the demo failed: {done.stderr.strip()[-400:]}")
    told: dict[str, Any] = msgspec.json.decode(done.stdout)
    return told
