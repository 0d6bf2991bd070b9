"""The command line's manners: help, streams, exit codes, colors, settings. What verbs compute is tested elsewhere."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from headway.cli import app, frame, settings, traces
from headway.errors import HeadwayError

GOLDENS = Path(__file__).parent.parent / "goldens" / "cli"
VERBS = [
    "check",
    "profile",
    "simulate",
    "plan",
    "diff",
    "serve",
    "replay",
    "compare",
    "report",
    "calibrate",
    "tune",
    "export",
    "demo",
    "bench",
]
TRACE_VERBS = ["show", "poisson", "gamma", "mmpp2", "diurnal", "ramp", "spike", "edit", "fetch"]


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder, without any HEADWAY_* in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as stop:
            app.main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Said(stop.value.code, out, err)

    return call


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), ["trace"], *(["trace", v] for v in TRACE_VERBS)])
def test_every_verb_has_help_on_stdout(run: Run, verb: list[str]) -> None:
    said = run(*verb, "--help")
    assert said.code == 0
    assert said.err == ""
    assert f"Usage: headway {' '.join(verb)}".strip() in said.out
    if verb[:1] != ["trace"] or len(verb) == 1:
        assert "Examples:\n" in said.out
        assert f"headway {' '.join(verb)}" in said.out.split("Examples:")[1]


def test_the_list_of_verbs_is_complete_and_never_cut_short(run: Run) -> None:
    listed = run("--help").out.split("Commands:")[1]
    assert sorted(line.split()[0] for line in listed.strip().splitlines()) == sorted([*VERBS, "trace"])
    assert "..." not in listed


@pytest.mark.parametrize("verb", [*([v] for v in VERBS), *(["trace", v] for v in TRACE_VERBS)])
def test_every_verb_with_a_result_speaks_json(run: Run, verb: list[str]) -> None:
    assert "--json" in run(*verb, "--help").out


@pytest.mark.parametrize("verb", [*([v] for v in VERBS), *(["trace", v] for v in TRACE_VERBS)])
def test_a_seed_is_accepted_everywhere(run: Run, verb: list[str]) -> None:
    assert "--seed" in run(*verb, "--help").out


def test_the_default_of_what_is_parsed_is_text() -> None:
    parsed = 0
    for run in [*(verb.run for verb in app.VERBS), *(command.callback for command in traces.app.registered_commands)]:
        assert run is not None
        for parameter in inspect.signature(run, eval_str=True).parameters.values():
            for option in getattr(parameter.annotation, "__metadata__", ()):
                if getattr(option, "parser", None) is not None:
                    parsed += 1
                    default = parameter.default
                    assert default in (None, inspect.Parameter.empty) or isinstance(default, str), parameter
    assert parsed > 10


@pytest.mark.parametrize(
    "command",
    [
        "show t.csv",
        "poisson --rate 9/s --seconds 9",
        "gamma --rate 9/s --cv 2 --seconds 9",
        "mmpp2 --low 1/s --high 9/s --low-for 9s --high-for 3s --seconds 9",
        "diurnal --rate 9/s --peak-ratio 1.5 --period 1m --seconds 9",
        "ramp --start 1/s --end 9/s --seconds 9",
        "spike --rate 2/s --factor 5 --at 1s --for 5s --seconds 9",
        "edit t.csv",
        "fetch",
    ],
)
def test_every_trace_verb_runs_with_what_it_requires_alone(run: Run, command: str) -> None:
    run("trace", "poisson", "--rate", "9/s", "--seconds", "9", "-o", "t.csv")
    assert run("trace", *command.split()).code == 0


def test_a_trace_is_read_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BufferedReader(io.BytesIO(b"arrival_s\n0.5\nx\n2\n"))  # type: ignore[arg-type]
    monkeypatch.setattr(raw.raw, "name", "<stdin>", raising=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    said = run("trace", "show", "-", "--skip-bad", "--json")
    assert json.loads(said.out)["requests"] == 2
    assert said.err == "-: 1 malformed row left out\n"


def test_version(run: Run) -> None:
    from headway import __version__

    assert run("--version") == Said(0, f"headway {__version__}\n", "")


def test_goldens(run: Run, tmp_path: Path) -> None:
    """Each `$ headway ...` of the golden file is run beside the files of `inputs/`; what it says stands below it."""
    for source in (GOLDENS / "inputs").iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    golden = GOLDENS / "errors.txt"
    expected = golden.read_text(encoding="utf-8")
    blocks = []
    for line in [line for line in expected.splitlines() if line.startswith("$ ")]:
        said = run(*line.split()[2:])
        assert said.out == "", f"{line}: an error belongs on stderr"
        blocks.append(f"{line}\n{said.err}exit {said.code}\n")
    seen = "\n".join(blocks)
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(seen, encoding="utf-8")
    assert seen == expected


def test_json_is_all_there_is_on_stdout(run: Run) -> None:
    said = run("trace", "poisson", "--rate", "9/s", "--seconds", "9", "--seed", "3", "-o", "t.csv", "--json")
    assert said.code == 0
    assert json.loads(said.out)["duration_s"] == 9.0
    assert json.loads(run("trace", "show", "t.csv", "--json").out)["requests"] == json.loads(said.out)["requests"]


def test_without_an_output_file_the_trace_itself_is_the_result(run: Run, tmp_path: Path) -> None:
    flags = ["trace", "gamma", "--rate", "9/s", "--cv", "3", "--requests", "20", "--seed", "5"]
    printed = run(*flags)
    assert run(*flags) == printed
    (tmp_path / "t.csv").write_text(printed.out, encoding="utf-8")
    assert json.loads(run(*flags, "--json").out)["arrival_s"] == [
        float(line) for line in printed.out.splitlines() if line[0].isdigit()
    ]
    assert json.loads(run("trace", "show", "t.csv", "--json").out)["requests"] == 20


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("check", "a spec file is needed, or --schema"),
        ("plan good.yaml --profile p.csv", "--trace"),
        ("plan good.yaml --profile p.csv --trace t.csv --planner gredy", "'gredy' is not one of"),
        ("plan good.yaml --profile p.csv --trace t.csv --seed x", "--seed"),
        ("trace gamma --rate 50 --cv 4 --seconds 400", "'50' is not a rate"),
        ("serve plan.json --port 99999", "--port"),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_a_usage_on_stderr(run: Run, command: str, hint: str) -> None:
    said = run(*command.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Usage: headway")
    assert hint in said.err


@pytest.mark.parametrize("verb", ["poisson", "mmpp2", "diurnal", "ramp", "spike"])
def test_generators_take_rates_and_times_with_units(run: Run, verb: str) -> None:
    flags = {
        "poisson": "--rate 90/m",
        "mmpp2": "--low 1/s --high 20/s --low-for 30s --high-for 3s",
        "diurnal": "--rate 5/s --peak-ratio 1.5 --period 1m",
        "ramp": "--start 1/s --end 9/s",
        "spike": "--rate 2/s --factor 5 --at 10s --for 5s",
    }[verb]
    said = run("trace", verb, *flags.split(), "--seconds", "60", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["duration_s"] == 60.0


def test_edit_cuts_thins_and_stretches(run: Run) -> None:
    run("trace", "poisson", "--rate", "20/s", "--seconds", "60", "-o", "t.csv")
    edited = run(
        "trace", "edit", "t.csv", "--from", "10s", "--to", "40s", "--keep", "0.5", "--scale-time", "2", "--json"
    )
    value = json.loads(edited.out)
    assert value["duration_s"] == 60.0
    assert 150 < len(value["arrival_s"]) < 450


def test_fetch_says_where_and_in_which_format(run: Run) -> None:
    from headway.trace.formats import FORMATS

    every = json.loads(run("trace", "fetch", "--json").out)
    assert {entry["format"] for entry in every.values()} <= set(FORMATS)
    for name, entry in every.items():
        assert entry["url"] in run("trace", "fetch", name).out


def test_no_color_unless_on_a_terminal_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert not frame.stdout_console().is_terminal
    monkeypatch.delenv("COLUMNS", raising=False)
    assert frame.stdout_console().width == frame.FILE_COLUMNS
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert frame.stdout_console().no_color
    assert frame.stderr_console().no_color


# How errors become exit codes


def _raise(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_what_a_user_can_act_on_is_printed_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.guarded(_raise(HeadwayError("spec.yaml:3: one\nspec.yaml:4: two"))) == 1
    assert capsys.readouterr() == ("", "error: spec.yaml:3: one\nerror: spec.yaml:4: two\n")


def test_a_defect_is_one_line_that_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.guarded(_raise(ZeroDivisionError("division by zero"))) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ZeroDivisionError: division by zero;")
    assert "HEADWAY_DEBUG=1" in err


@pytest.mark.parametrize("error", [HeadwayError("no"), ZeroDivisionError()])
def test_debugging_raises_what_was_raised(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_DEBUG", "1")
    with pytest.raises(type(error)):
        frame.guarded(_raise(error))


def test_an_interruption_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.guarded(_raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "headway", "trace", "poisson", "--rate", "9000/s", "--seconds", "60"]
    # An unbuffered interpreter does not notice that only a part was written.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait(timeout=60) == frame.ERROR


# Flag, environment, file, default: in this order


def seed_of(said: Said) -> Any:
    return json.loads(said.out)["name"].rpartition("seed=")[2]


def test_flag_beats_environment_beats_file_beats_default(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*flags: str) -> str:
        run("trace", "poisson", "--rate", "5/s", "--seconds", "30", "-o", "t.csv", *flags)
        return (tmp_path / "t.csv").read_text()

    by_seed = {seed: drawn("--seed", str(seed)) for seed in range(4)}
    assert len(set(by_seed.values())) == 4
    assert drawn() == by_seed[0]
    (tmp_path / "headway.toml").write_text("[trace.poisson]\nseed = 1\n")
    assert drawn() == by_seed[1]
    monkeypatch.setenv("HEADWAY_SEED", "2")
    assert drawn() == by_seed[2]
    assert drawn("--seed", "3") == by_seed[3]


def test_a_settings_file_can_be_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_CONFIG", str(tmp_path / "other.toml"))
    said = run("trace", "fetch")
    assert (said.code, said.out) == (1, "")
    assert "other.toml: cannot read the settings" in said.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[paln]\nseed = 1\n", "settings: paln is unknown; did you mean 'plan'?"),
        ("[plan]\nsede = 1\n", "settings: plan.sede is unknown; did you mean 'seed'?"),
        ("plan = 3\n", "settings: plan is a verb; write its options in a table [plan]"),
        ("[plan\n", "headway.toml: not a TOML file"),
    ],
)
def test_settings_that_mean_nothing_are_errors(run: Run, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "headway.toml").write_text(text)
    said = run("trace", "fetch")
    assert (said.code, said.out) == (1, "")
    assert complaint in said.err


def test_no_settings_file_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.read({}) is None
