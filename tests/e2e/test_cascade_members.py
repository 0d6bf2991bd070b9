"""The steps of a fitted cascade as a family in gears, as the documentation has it: profiled, planned and served."""

from __future__ import annotations

import importlib
import json
import pickle
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.test_cascade_live import fetch
from tests.units.test_docs import ROOT, blocks

import headway as hw
from headway.cascade import Cascade, Step, fit_cascade
from headway.cascade.run import FittedCascade
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.plan.plan import Plan
from headway.serve.engine import Limits
from headway.serve.run import LiveServer, ServeOptions, running_in_thread

pytest.importorskip("sklearn")

TEA = '''
"""Features and a model without scikit-learn, which takes each worker process seconds to import."""

import numpy as np

from headway.cascade import Feature, Features, Parts

spent_s = 0.0


def clock():
    return spent_s


def good(words):
    return sum(word in ("good", "fine") for word in words) - sum(word in ("bad", "poor") for word in words)


def cheap(texts):
    global spent_s
    spent_s += 1e-6 * len(texts)
    return [[good(text.split()[:3])] for text in texts]


def dear(texts):
    global spent_s
    spent_s += 1e-4 * len(texts)
    return [[good(text.split())] for text in texts]


class Normal:
    """Two normal distributions."""

    def fit(self, block, labels):
        self.classes_ = np.unique(labels)
        self.mean = np.array([block[labels == label].mean(axis=0) for label in self.classes_])
        self.var = np.array([block[labels == label].var(axis=0) + 0.1 for label in self.classes_])
        return self

    def predict_proba(self, block):
        odds = -(((block[:, None, :] - self.mean) ** 2 / self.var + np.log(self.var)).sum(axis=2)) / 2
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


parts = Parts(Features({"cheap": Feature(cheap), "dear": Feature(dear)}), ("cheap", "dear"), Normal())
'''
PATIENT = ServeOptions(limits=Limits(keep_promise=False))
"""A busy machine turns nobody away."""
WORDS = ("good", "fine", "bad", "poor", "tea", "cup")


def texts(many: int, seed: int) -> tuple[list[str], list[int]]:
    """Five words each, and whether more of them are good than bad; none is undecided."""
    drawn = np.random.default_rng(seed).choice(WORDS, size=(2 * many, 5))
    worth = np.isin(drawn, WORDS[:2]).sum(axis=1) - np.isin(drawn, WORDS[2:4]).sum(axis=1)
    kept = np.flatnonzero(worth)[:many]
    return [" ".join(drawn[at]) for at in kept], (worth[kept] > 0).astype(int).tolist()


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FittedCascade:
    """A small cascade, saved in the working folder beside the files that the documentation shows."""
    (tmp_path / "tea.py").write_text(TEA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in blocks((ROOT / "docs" / "cascades.md").read_text(encoding="utf-8")):
        if block.title in ("mood.py", "moods-in-gears.yaml"):
            Path(block.title).write_text(block.body, encoding="utf-8")
    tea = importlib.import_module("tea")
    made = fit_cascade(tea.parts, *texts(1500, 1), tolerance=0.05, folds=2, clock=tea.clock)
    assert made.cascade.models == ("cheap", "full")
    Path("mood.pickle").write_bytes(pickle.dumps(made))
    return made


def planned() -> Plan:
    """Gears for the two steps, from rows that the cascade was not fitted on."""
    spec = hw.load("moods-in-gears.yaml")
    samples, labels = texts(120, 2)
    profile = hw.profile(spec, samples, labels=labels, batch_sizes=[1], budget_s=1.0)
    return hw.plan(spec, profile, hw.Trace.poisson(rate=20.0, seconds=5.0, seed=1), feasibility="trace")


def answers(server: LiveServer, asked: Sequence[str]) -> list[dict[str, Any]]:
    def ask(text: str) -> dict[str, Any]:
        tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
        status, found = fetch(f"{server.url}/v2/models/moods/infer", json.dumps({"inputs": [tensor]}).encode())
        assert status == 200, found
        (output,) = json.loads(found)["outputs"]
        return {"answer": json.loads(output["data"][0]), **output["parameters"]}

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(ask, asked))


def test_a_family_made_of_a_cascades_steps_answers_as_these_do(fitted: FittedCascade) -> None:
    plan = planned()
    asked, right = texts(60, 3)
    steps = dict(zip(("cheap", "full"), (fitted.member(place).predict(asked) for place in (0, -1)), strict=True))
    with running_in_thread(plan, PATIENT) as server:
        for at, said in enumerate(answers(server, asked)):
            assert (said["answer"], said["certainty"]) == pytest.approx(steps[said["model"]][at])
        # With the thresholds of the fitted cascade it is that cascade.
        own = Cascade((Step("cheap", threshold=fitted.cascade.thresholds[0]), Step("full")))
        sizes = (("cheap", 1), ("full", 1))
        gears = (Gear(own, 1000.0, (1, 1)),)
        changed = replace(plan, stages={"cascade": GearPlan("cpu", (Group(own.models, 1),), sizes, gears)})
        request = urllib.request.Request(f"{server.url}/plan?watch=0s", changed.to_json().encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=60.0) as response:
            assert response.status == 200
        said_then = answers(server, asked)
        # What a replay is answered is held against the labels that are known.
        labels: list[int | None] = [*right[:40], *[None] * 20]
        trace = hw.Trace.from_arrivals(np.arange(60) * 0.01, {"payload": np.arange(60)})
        measured = hw.replay(server.url, trace, payloads=asked, labels=labels)
    hits = int((fitted.predict(asked)[:40] == np.array(right[:40])).sum())
    assert (measured.labeled["answers"], measured.labeled["right"], measured.labeled["unlabeled"]) == (40, hits, 20)
    assert measured.accuracy == hits / 40
    assert measured.labeled["predicted_accuracy"] == plan.predicted["accuracy"]
    assert [said["answer"] for said in said_then] == fitted.predict(asked).tolist()
    assert [said["model"] for said in said_then] == [("cheap", "full")[at] for at in fitted.answer(asked).step]
    assert {said["model"] for said in said_then} == {"cheap", "full"}
