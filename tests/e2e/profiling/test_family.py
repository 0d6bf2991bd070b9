"""A family of models from labeled samples: rows of every model, and the validation table, as real workers say it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.profiling.measuring import cells, run, spec_of

from headway.cascade import ValidationTable
from headway.cli.app import main
from headway.errors import CascadeError, ProfileError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile.labeled import validate
from headway.serve.wire import Payload
from headway.spec.model import Spec

FAMILY = '''
import numpy as np

def sure(results):
    return [0.25 * len(result) for result in results]

class Scores:
    """The classes even and odd by the length of a text, in the order of their names; unsure of long texts."""
    def predict(self, batch):
        rows = []
        for text in batch:
            row = np.zeros(2)
            row[len(text) % 2] = 1.0 / (1 + len(text))
            rows.append(row)
        return rows

class Answers:
    def predict(self, batch):
        return [("odd" if len(text) % 2 else "even", 0.75) for text in batch]

class Numbers:
    def predict(self, batch):
        return [(np.int64(len(text) % 2), 0.5) for text in batch]

class Capitals:
    def predict(self, batch):
        return [(text, 1.0) for text in batch]

class Silent:
    def predict(self, batch):
        return ["even" for text in batch]

class Picky:
    def predict(self, batch):
        return [ValueError("too short") if len(text) < 2 else ("odd", 1.0) for text in batch]

class Upper:
    def predict(self, batch):
        return [text.upper() for text in batch]

class Split:
    def predict(self, batch):
        return [{"sort": list(text)} for text in batch]
'''
TEXTS = [Payload("text", b"x" * length) for length in (1, 2, 3, 4)]
LABELS = ["odd", "even", "odd", "odd"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.py").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def family(*models: str, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "cascade", "table": "validation.csv", "max_rate": "50/s",
        "models": {name.lower(): {"model": f"m.py:{name}"} for name in models}, **fields,
    }  # fmt: skip


def asked(spec: Spec, labels: list[str] = LABELS, samples: list[Payload] = TEXTS) -> ValidationTable:
    (line,) = validate(spec, samples, labels, log=lambda text: None).values()
    assert line.startswith(f"validation.csv: of {len(samples)} samples right: ")
    return ValidationTable.read("validation.csv")


def test_every_model_has_rows_and_says_what_it_says_when_it_serves(folder: Path) -> None:
    spec = spec_of({"sort": family("Scores", "Answers")})
    profile = run(spec, folder, TEXTS)
    assert cells(profile) == [("sort", name, "cpu", size) for name in ("scores", "answers") for size in (1, 2)]
    assert all((row.startup_s or 0) > 0 and (row.memory_mb or 0) > 1 for row in profile.rows)
    table = asked(spec)
    assert table.labels is not None
    assert table.predicted is not None
    assert table.labels.tolist() == LABELS
    assert table.predicted["scores"].tolist() == table.predicted["answers"].tolist() == ["odd", "even", "odd", "even"]
    assert table.certainty["scores"].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert table.certainty["answers"].tolist() == [0.75] * 4
    assert table.accuracy("scores") == 0.75


def test_whole_numbers_are_classes_and_places_of_scores_too(folder: Path) -> None:
    table = asked(spec_of({"sort": family("Scores", "Numbers")}), ["1", "0", "1", "1"])
    assert table.predicted is not None
    assert table.predicted["scores"].tolist() == table.predicted["numbers"].tolist() == [1, 0, 1, 0]


def test_certainty_may_be_a_function_of_the_results(folder: Path) -> None:
    stages = {"sort": family("Upper", certainty="m.py:sure")}
    table = asked(spec_of(stages), ["X", "XX", "XXX", "Y"])
    assert table.certainty["upper"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert table.accuracy("upper") == 0.75


def test_samples_come_to_a_stage_by_way_of_those_above_it(folder: Path) -> None:
    stages = {"up": {"model": "m.py:Upper"}, "sort": family("Capitals", after="up"), "last": {"model": "m.py:Upper",
              "after": "sort"}}  # fmt: skip
    spec = spec_of(stages)
    assert asked(spec, ["X", "XX", "XXX", "x"]).accuracy("capitals") == 0.75
    profile = run(spec, folder, TEXTS, batch_sizes=[1])
    assert [row.stage for row in profile.rows] == ["up", "sort", "last"]
    assert profile.stamp.get("problems") is None
    split = spec_of({"up": {"model": "m.py:Split"}, "sort": family("Capitals", after="up")})
    with pytest.raises(CascadeError, match=r"stages\.sort: sample 2 becomes 2 items there where a label is of one"):
        asked(split)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Silent", r"models\.silent: sample 1: ServeError: .*returned str; scores of classes or \(answer, certainty\)"),
        ("Picky", r"models\.picky: sample 1: ValueError: too short"),
    ],
)
def test_what_cannot_be_held_against_labels_is_named(folder: Path, model: str, said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        asked(spec_of({"sort": family(model)}))
    assert not Path("validation.csv").exists()


def test_labels_are_for_every_sample_and_some_stage(folder: Path) -> None:
    with pytest.raises(CascadeError, match=r"stages\.sort: 3 labels for 4 samples"):
        asked(spec_of({"sort": family("Answers")}), LABELS[:3])
    with pytest.raises(ProfileError, match="no stage of the spec is planned with them"):
        asked(spec_of({"sort": {"model": "m.py:Upper"}}))
    named = family("Answers")
    named["models"]["unnamed"] = {}
    with pytest.raises(CascadeError, match=r"models\.unnamed: names no model"):
        asked(spec_of({"sort": named}))


SPEC = """\
name: sort
kind: cascade
slo: {latency: 5s, percentile: 95}
supply: {cpu: {price: $1/h}}
models:
  small: {model: "m.py:Scores"}
  large: {model: "m.py:Answers"}
table: validation.csv
max_rate: 20/s
"""


def headway(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_the_command_measures_writes_the_table_and_can_be_planned_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "headway.yaml").write_text(SPEC)
    (folder / "samples.jsonl").write_text("".join(f'"{"x" * (1 + at % 9)}"\n' for at in range(40)))
    (folder / "labels.csv").write_text(
        "label\n" + "".join(("even", "odd")[(1 + at % 9) % 2] + "\n" for at in range(40))
    )
    measure = ("profile", "headway.yaml", "--budget", "0.2s", "--batch-size", "1", "-o", "profile.csv")
    assert headway(*measure) == 0
    out, err = capsys.readouterr()
    assert "small" in out
    assert "profile: validation.csv: of 40 samples right: small 100.0%, large 100.0%" in err
    assert {row.variant for row in Profile.read("profile.csv").rows} == {"small", "large"}
    assert headway("trace", "poisson", "--rate", "10/s", "--seconds", "10", "-o", "t.csv") == 0
    assert headway("plan", "headway.yaml", "--profile", "profile.csv", "--trace", "t.csv", "--feasibility", "trace",
                   "-o", "plan.json") == 0  # fmt: skip
    assert Plan.read("plan.json").feasible


def test_the_command_says_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "headway.yaml").write_text(SPEC)
    (folder / "samples.jsonl").write_text('"x"\n"xx"\n')
    measure = ("profile", "headway.yaml", "--budget", "0.1s", "--batch-size", "1", "-o", "profile.csv")
    assert headway(*measure) == 1
    assert "there is no validation.csv, and no labels to make it from" in capsys.readouterr().err
    assert {row.variant for row in Profile.read("profile.csv").rows} == {"small", "large"}
    (folder / "right.csv").write_text("sample,label\n1,odd\n")
    assert headway(*measure, "--labels", "right.csv") == 1
    assert "right.csv: no label for 1 of 2 samples: 2; add them" in capsys.readouterr().err
    assert math.isfinite(Profile.read("profile.csv").rows[0].mean_s)
