"""Willump's evaluation, rebuilt on data that anyone has: `python -m headway.bench.willump` writes its page."""
