"""What the user declares: models, units, and how they are read."""

from headway.spec.load import load, loads
from headway.spec.model import Edge, Hardware, MeasuredAccuracy, Pool, Slo, Spec, Stage, Variant
from headway.spec.schema import json_schema

__all__ = [
    "Edge",
    "Hardware",
    "MeasuredAccuracy",
    "Pool",
    "Slo",
    "Spec",
    "Stage",
    "Variant",
    "json_schema",
    "load",
    "loads",
]
