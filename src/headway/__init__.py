"""Headway plans, serves and tunes inference and data pipelines."""

from __future__ import annotations
