"""A fitted feature cascade as a stage of a served pipeline: saved, loaded by every worker, the same answers."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from headway.cascade import Cascade, FittedCascade, Step
from headway.cascade.adapt import adapt, scorer
from headway.cascade.certainty import certainty
from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.run import running_in_thread
from headway.spec.model import Spec

PAGE = Path(__file__).parents[2] / "docs" / "cascades.md"


def learned(texts: list[str]) -> FittedCascade:
    """A cascade of words, then words and characters, that answers some texts at the first step."""
    glad = np.array([sum(text.count(word) for word in ("good", "fine", "fresh")) > 1 for text in texts])
    labels = np.where(glad, "glad", "sour")
    characters = TfidfVectorizer(analyzer="char", ngram_range=(2, 3))
    parts = adapt(make_pipeline(make_union(TfidfVectorizer(), characters), LogisticRegression()), texts)
    features, known = parts.features.fit(texts, labels)
    seen = {"words": parts.inputs[:1], "full": parts.inputs}
    models = {name: scorer(LogisticRegression().fit(known.stacked(inputs), labels)) for name, inputs in seen.items()}
    cascade = Cascade((Step("words", seen["words"], 0.5), Step("full", seen["full"])))
    return FittedCascade(cascade, features, models, dict.fromkeys(models, certainty("margin")))


def generated(many: int) -> list[str]:
    words = np.array(["bad", "poor", "stale", "tea", "cup", "good", "fine", "fresh"])
    return [" ".join(line) for line in np.random.default_rng(1).choice(words, size=(many, 4))]


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[Path, FittedCascade]:
    """The classes that the documentation shows, beside the saved cascade."""
    (written,) = re.findall(r'```python title="mood.py"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "mood.py").write_text(written)
    cascade = learned(generated(400))
    (tmp_path / "mood.pickle").write_bytes(pickle.dumps(cascade))
    return tmp_path, cascade


def ask(url: str, text: str) -> Any:
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
    answer = httpx.post(f"{url}/v2/models/moods/infer", json={"inputs": [tensor]}, timeout=60.0)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    return output["data"][0]


def test_two_workers_of_a_pipeline_answer_as_the_cascade_does(deployed: tuple[Path, FittedCascade]) -> None:
    folder, cascade = deployed
    model, path = folder / "mood.py", str(folder / "mood.pickle")
    stages = {
        "clean": {"model": f"{model}:Clean"},
        "mood": {"after": "clean", "model": f"{model}:Mood", "options": {"path": path}},
    }
    spec = Spec.from_dict(
        {"name": "moods", "slo": {"latency": "30s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": stages}
    )
    profile = Profile.from_rows([Row(name, "cpu", size, 0.005) for name in stages for size in (1, 4)])
    plan = Plan(
        spec,
        profile,
        {"clean": ReplicaConfig("cpu", max_batch_size=4), "mood": ReplicaConfig("cpu", replicas=2, max_batch_size=4)},
    )
    texts = generated(40)
    cascade.reset()
    expected = cascade.predict(texts).tolist()
    assert 0 < cascade.counters.shares["words"] < 1
    with running_in_thread(plan) as server, ThreadPoolExecutor(8) as clients:
        said = list(clients.map(lambda text: ask(server.url, f"  {text.upper()} "), texts))
        stats = httpx.get(f"{server.url}/stats", timeout=60.0).json()
    assert said == expected
    assert stats["stages"]["mood"]["replicas"]["ready"] == 2
