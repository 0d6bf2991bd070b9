"""Small models to measure, and the specs that name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.profile import Profile
from headway.profile.cell import Effort
from headway.profile.measure import measure
from headway.serve.wire import Payload
from headway.spec.model import Spec

MODELS = '''
import os, time

class Split:
    """Words of a text go to `word`; "empty" chooses nothing, a number goes to `number` as well."""
    def __init__(self, times=1):
        self.times = times
    def predict(self, batch):
        return [{"word": [w for w in text.split() if w.isalpha()] * self.times,
                 "number": [w for w in text.split() if w.isdigit()]} for text in batch]

class Upper:
    def predict(self, batch):
        return [text.upper() for text in batch]

class Count:
    """Takes what the parents made, by stage; the text must be in capitals if it went through Upper."""
    def predict(self, batch):
        return [{name: sorted(parts) for name, parts in item.items()} for item in batch]

class OnlyCapitals:
    def predict(self, batch):
        return [text if text.isupper() else ValueError("not in capitals") for text in batch]

class Pairs:
    """Cannot do more than two at once: exits."""
    def predict(self, batch):
        if len(batch) > 2:
            os._exit(3)
        return batch

class Slow:
    """Hangs on more than one."""
    def predict(self, batch):
        if len(batch) > 1:
            time.sleep(600)
        return batch

class Picky:
    def predict(self, batch):
        return [ValueError("odd") if "odd" in text else text for text in batch]

class Never:
    def predict(self, batch):
        raise RuntimeError("never works")

class Counts:
    """Writes the size of every batch to a file."""
    def __init__(self, path):
        self.path = path
    def predict(self, batch):
        with open(self.path, "a") as out:
            print(len(batch), file=out)
        return batch

class Lazy:
    def predict(self, batch):
        time.sleep(0.02 * len(batch))
        return batch
'''
QUICK = Effort(min_repeats=2, good_repeats=3, max_repeats=4, warmup=1, timeout_s=30.0)
TEXTS = [Payload("text", text) for text in (b"a b 1", b"c", b"", b"d e f")]


def spec_of(stages: Mapping[str, Any], **supply: Any) -> Spec:
    supply = supply or {"cpu": {"price": "$1/h"}}
    return Spec.from_dict({"slo": {"latency": "9s"}, "supply": supply, "stages": dict(stages)})


def run(spec: Spec, folder: Path, samples: list[Payload] = TEXTS, **kw: Any) -> Profile:
    given = {"effort": QUICK, "batch_sizes": [1, 2], "log": lambda line: None, **kw}
    return measure(spec, samples, folder=folder, **given)


def cells(profile: Profile) -> list[tuple[str, str, str, int]]:
    return [(row.stage, row.variant, row.hardware, row.batch_size) for row in profile.rows]


def problems(profile: Profile) -> list[tuple[Any, ...]]:
    names = ("status", "stage", "hardware", "batch_size")
    return [tuple(problem.get(name) for name in names) for problem in profile.stamp.get("problems", [])]


SPLIT = {
    "split": {"model": "m.py:Split", "variants": {"once": {}, "twice": {"options": {"times": 2}}}},
    "word": {"model": "m.py:Upper", "after": "split"},
    "check": {"model": "m.py:OnlyCapitals", "after": "word"},
    "number": {"model": "m.py:Upper", "after": "split"},
    "count": {"model": "m.py:Count", "after": ["word", "number"]},
    "all": {"model": "m.py:Count", "after": "word", "gather": True},
}
