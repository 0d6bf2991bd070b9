"""Every wrong spec in `goldens/spec_errors` is refused with the text that stands beside it.

After a wanted change of texts: `HEADWAY_WRITE_GOLDENS=1 pytest tests/units/test_spec_errors.py`, then read the diff.
"""

import os
from pathlib import Path

import pytest

from headway.errors import SpecError
from headway.spec import load

FOLDER = Path(__file__).parent.parent / "goldens" / "spec_errors"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".yaml", ".toml"))
JARGON = ("Input should", "Value error", "pydantic", "validation error", "NoneType", "(list)", "(mapping)", "__root__")


@pytest.mark.parametrize("name", CASES)
def test_wrong_spec_is_refused_with_the_expected_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    with pytest.raises(SpecError) as caught:
        load(name)
    text = str(caught.value) + "\n"
    expected = (FOLDER / name).with_suffix(".txt")
    if os.environ.get("HEADWAY_WRITE_GOLDENS"):
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")
    for line in text.splitlines():
        assert line.startswith(f"{name}:")
        assert line.split(":")[1].isdigit()
        assert not any(word in line for word in JARGON)


def test_there_are_enough_cases_and_no_text_without_a_case() -> None:
    assert len(CASES) >= 15
    assert {path.stem for path in FOLDER.glob("*.txt")} == {Path(name).stem for name in CASES}
