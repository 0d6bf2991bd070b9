"""The planner's reference cases: pipelines, synthetic profiles and traffic, all committed here as numbers.

Latencies are made up in the shape that measured ones have: no gain from batching on a CPU, a fixed and a small cost
per item on accelerators, the larger one slower for a single item and quicker for many. None of them was measured by
anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace

SLO = "300ms"
REQUESTS = 20_000
BATCH_SIZES = (1, 2, 4, 8)
PRICES = {"cpu": "$0.20/h", "gpu-a": "$0.65/h", "gpu-b": "$2.60/h", "gpu-c": "$1.30/h"}
SPREAD = (0.985, 1.12, 1.3)
"""P50, P95 and P99 relative to the mean."""

MODELS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "prepare": {"cpu": (0.5, 7.5)},
    "small-net": {"cpu": (3.0, 60.0), "gpu-a": (7.0, 5.5), "gpu-b": (13.0, 4.5), "gpu-c": (8.0, 5.0)},
    "middle-net": {"cpu": (5.0, 92.0), "gpu-a": (10.0, 17.0), "gpu-b": (18.0, 16.0), "gpu-c": (11.0, 12.0)},
    "large-net": {"cpu": (8.0, 260.0), "gpu-a": (22.0, 20.0), "gpu-b": (33.0, 17.0), "gpu-c": (24.0, 13.0)},
    "detector": {"cpu": (6.0, 130.0), "gpu-a": (9.0, 11.0), "gpu-b": (16.0, 7.5), "gpu-c": (10.0, 8.0)},
    "ranker": {"cpu": (1.0, 14.0), "gpu-a": (4.0, 2.5), "gpu-b": (6.0, 1.2), "gpu-c": (4.5, 1.8)},
}
"""Milliseconds of a batch by model and hardware: fixed, and per item."""


@dataclass(frozen=True, slots=True)
class Case:
    """One planning problem: a pipeline, the model behind each stage, the hardware on offer, and the traffic."""

    name: str
    stages: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, str]
    rate_per_s: float
    cv: float
    hardware: tuple[str, ...] = ("cpu", "gpu-a", "gpu-b")

    def spec(self) -> Spec:
        """Return what is declared."""
        supply = {name: {"price": PRICES[name]} for name in self.hardware}
        return Spec.from_dict(
            {"name": self.name, "slo": {"latency": SLO}, "supply": supply, "stages": dict(self.stages)}
        )

    def profile(self) -> Profile:
        """Return the synthetic profile."""
        rows = []
        for stage, model in self.models.items():
            for hardware, (fixed_ms, item_ms) in MODELS[model].items():
                if hardware in self.hardware:
                    for batch in BATCH_SIZES:
                        mean_s = (fixed_ms + item_ms * batch) / 1e3
                        p50_s, p95_s, p99_s = (round(share * mean_s, 6) for share in SPREAD)
                        rows.append(Row(stage, hardware, batch, mean_s, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s))
        return Profile.from_rows(rows)

    def trace(self, seed: int, requests: int = REQUESTS) -> Trace:
        """Return traffic with gamma inter-arrival times of this rate and coefficient of variation."""
        return Trace.gamma(self.rate_per_s, self.cv, requests=requests, seed=seed)


Stages = Mapping[str, Mapping[str, Any]]

_IMAGE: Stages = {"prepare": {}, "classify": {"after": "prepare"}}
_SOCIAL: Stages = {"prepare": {}, "detect": {"after": "prepare"}, "topic": {"after": "detect", "probability": 0.5}}
_VIDEO: Stages = {
    "detect": {},
    "person": {"after": "detect", "probability": 0.6},
    "vehicle": {"after": "detect", "probability": 0.3},
}
_STREET: Stages = {
    "prepare": {},
    "detect": {"after": "prepare"},
    "person": {"after": "detect", "probability": 0.6},
    "vehicle": {"after": "detect", "probability": 0.4},
    "merge": {"after": ["person", "vehicle"]},
}
_IMAGE_MODELS = {"prepare": "prepare", "classify": "large-net"}
_SOCIAL_MODELS = {"prepare": "prepare", "detect": "detector", "topic": "middle-net"}
_VIDEO_MODELS = {"detect": "small-net", "person": "middle-net", "vehicle": "large-net"}
_STREET_MODELS = {
    "prepare": "prepare", "detect": "detector", "person": "small-net", "vehicle": "middle-net", "merge": "ranker",
}  # fmt: skip

NINE = (
    Case("image-50-cv1", _IMAGE, _IMAGE_MODELS, 50, 1),
    Case("image-50-cv4", _IMAGE, _IMAGE_MODELS, 50, 4),
    Case("image-150-cv1", _IMAGE, _IMAGE_MODELS, 150, 1),
    Case("image-150-cv4", _IMAGE, _IMAGE_MODELS, 150, 4),
    Case("social-50-cv4", _SOCIAL, _SOCIAL_MODELS, 50, 4),
    Case("social-150-cv1", _SOCIAL, _SOCIAL_MODELS, 150, 1),
    Case("social-150-cv4", _SOCIAL, _SOCIAL_MODELS, 150, 4),
    Case("video-150-cv1", _VIDEO, _VIDEO_MODELS, 150, 1),
    Case("video-150-cv4", _VIDEO, _VIDEO_MODELS, 150, 4),
)
FIVE_STAGES = Case("street-100-cv2", _STREET, _STREET_MODELS, 100, 2, ("cpu", "gpu-a", "gpu-b", "gpu-c"))
