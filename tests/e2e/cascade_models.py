"""A family of two models for served cascades, as the file that a spec names."""

FAMILY = '''
import os
import time

import numpy as np


class Small:
    """Scores of "short" and "long" for a text, sure of the very short and the very long."""

    def predict(self, batch):
        long = [min(1.0, len(text) / 20) for text in batch]
        return [np.array([1 - share, share]) for share in long]


class Large:
    """An answer with a certainty; a text that says so is a failure."""

    def predict(self, batch):
        out = []
        for text in batch:
            if text.startswith("bad"):
                out.append(ValueError("cannot read it"))
            else:
                out.append(("short" if len(text) < 10 else "long", 0.99))
        return out


class Plain:
    """Returns what only a function of one's own can tell the certainty of."""

    def predict(self, batch):
        return [{"length": len(text)} for text in batch]


class Gated:
    """Works for as long as a file is not there."""

    def __init__(self, gate):
        self.gate = gate

    def predict(self, batch):
        while not os.path.exists(self.gate):
            time.sleep(0.005)
        return [("long", 0.99) for _ in batch]


def length(texts):
    return [len(text) for text in texts]


def nothing(texts):
    if not all(texts):
        raise ValueError("it is empty")
    return [0 for _ in texts]


def sure(results):
    return [min(1.0, abs(result["length"] - 10) / 10) for result in results]


class Upper:
    def predict(self, batch):
        return [str(item).upper() for item in batch]
'''
