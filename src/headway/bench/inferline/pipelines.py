"""The four pipelines of InferLine's evaluation, with a synthetic profile and prices in the shape of the paper's.

The paper (Crankshaw et al., SoCC 2020) publishes neither a latency table nor a price list. What is here was made up by
Headway and measured by nobody; it follows what the paper says of its models: ResNet152 is 84 times faster on a K80 with
batches of 32 than on a CPU, preprocessing gains nothing from batches and cannot use a GPU. Prices follow list prices of
2020: $0.05 for a CPU core, and what a GPU instance costs beyond its cores, $0.65 per K80.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headway.errors import HeadwayError
from headway.profile import Profile, Row
from headway.spec.model import Spec

SLO_MS = 150.0
"""The promise of the paper's Figures 5 and 6, at the 99th percentile."""
STARTUP_S = 5.0
"""From asking for a replica to its first batch, on the paper's engines."""
BATCH_SIZES = (1, 2, 4, 8, 16)
"""Larger ones keep no promise that is made here."""
SPREAD = (0.985, 1.12, 1.3)
"""P50, P95 and P99 of a batch's latency relative to its mean; the paper's estimator knows the mean alone."""

CPU_USD_PER_HOUR = 0.05
GPU_USD_PER_HOUR = 0.65

MODELS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "preprocess": {"cpu": (0.5, 8.0)},
    "resnet152": {"cpu": (10.0, 1650.0), "k80": (40.0, 18.5)},
    "resnet50": {"cpu": (4.0, 420.0), "k80": (15.0, 7.0)},
    "yolo": {"cpu": (8.0, 900.0), "k80": (32.0, 16.0)},
    "plates": {"cpu": (3.0, 42.0)},
    "language": {"cpu": (1.0, 6.0), "k80": (4.0, 0.5)},
    "translate": {"cpu": (10.0, 240.0), "k80": (24.0, 5.0)},
    "topic": {"cpu": (0.5, 2.5)},
    "cheap-net": {"cpu": (3.0, 60.0), "k80": (8.0, 3.0)},
}
"""Milliseconds of a batch by model and hardware: fixed, and per item. ResNet152: 0.6/s on a CPU, 50.6/s at 32."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline: its stages as a spec declares them, the model behind each, and the two assumptions to vary.

    `gpu_usd_per_hour` is the price of a K80. `item_share` scales what an item adds to a batch on a K80, while a batch
    of one takes as long as before: below 1 batches gain more.

    >>> PIPELINES["image"].spec().supply["k80"].price_usd_per_hour
    0.65
    """

    name: str
    stages: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, str]
    slo_ms: float = SLO_MS
    gpu_usd_per_hour: float = GPU_USD_PER_HOUR
    item_share: float = 1.0

    def spec(self) -> Spec:
        """Return what is declared."""
        prices = {"cpu": CPU_USD_PER_HOUR, "k80": self.gpu_usd_per_hour}
        supply = {name: {"price": f"${price:g}/h", "startup": f"{STARTUP_S:g}s"} for name, price in prices.items()}
        slo = {"latency": f"{self.slo_ms:g}ms", "percentile": 99}
        return Spec.from_dict({"name": self.name, "slo": slo, "supply": supply, "stages": dict(self.stages)})

    def profile(self) -> Profile:
        """Return the synthetic profile. Raises HeadwayError when `item_share` leaves a batch without fixed time."""
        rows = []
        for stage, model in self.models.items():
            for hardware, (fixed_ms, item_ms) in MODELS[model].items():
                share = self.item_share if hardware == "k80" else 1.0
                added_ms = item_ms * share
                once_ms = fixed_ms + item_ms - added_ms
                if once_ms < 0:
                    raise HeadwayError(f"pipeline {self.name}: item_share {share:g} leaves {model} no fixed time")
                for batch in BATCH_SIZES:
                    mean_s = (once_ms + added_ms * batch) / 1e3
                    p50_s, p95_s, p99_s = (round(part * mean_s, 6) for part in SPREAD)
                    rows.append(
                        Row(stage, hardware, batch, mean_s, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s, evidence="prior")
                    )
        return Profile.from_rows(rows)

    def vary(self, **changes: float) -> Pipeline:
        """Return the same pipeline under other assumptions (`slo_ms`, `gpu_usd_per_hour`, `item_share`)."""
        return replace(self, **changes)  # type: ignore[arg-type]


PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            "image",
            {"preprocess": {}, "classify": {"after": "preprocess"}},
            {"preprocess": "preprocess", "classify": "resnet152"},
        ),
        Pipeline(
            "video",
            {
                "detect": {},
                "vehicle": {"after": "detect", "probability": 0.3},
                "person": {"after": "detect", "probability": 0.6},
                "plate": {"after": "detect", "probability": 0.2},
            },
            {"detect": "yolo", "vehicle": "resnet50", "person": "resnet50", "plate": "plates"},
        ),
        Pipeline(
            "social",
            {
                "classify": {},
                "language": {},
                "translate": {"after": "language", "probability": 0.4},
                "topic": {"after": ["classify", "language", "translate"]},
            },
            {"classify": "resnet152", "language": "language", "translate": "translate", "topic": "topic"},
        ),
        Pipeline(
            "cascade",
            {"cheap": {}, "expensive": {"after": "cheap", "probability": 0.3}},
            {"cheap": "cheap-net", "expensive": "resnet152"},
        ),
    )
}
"""Image Processing, Video Monitoring, Social Media and TF Cascade; scale factors are ours as well."""
