"""What every verb shares: its common options, the two streams, and how errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from rich.console import Console

    from headway.plan.plan import Plan
    from headway.profile import Profile
    from headway.spec.model import Spec
    from headway.trace import Trace

FILE_COLUMNS = 100
"""How wide tables are where no terminal says it."""

FINE, ERROR, USAGE, INFEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130

Json = Annotated[bool, typer.Option("--json", envvar="HEADWAY_JSON", help="Print the result as JSON on stdout.")]
Seed = Annotated[int, typer.Option("--seed", envvar="HEADWAY_SEED", min=0, help="Same seed, same bytes.")]
NoSeed = Annotated[
    int, typer.Option("--seed", envvar="HEADWAY_SEED", min=0, help="As everywhere; nothing is drawn here.")
]
TraceFile = Annotated[
    Path, typer.Option("--trace", envvar="HEADWAY_TRACE", help="When requests come: a trace file; - is stdin.")
]
Format = Annotated[str | None, typer.Option("--format", help="Of the trace file; else recognised by its head.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows of the trace out and count them.")]
ProfileFile = Annotated[Path, typer.Option("--profile", envvar="HEADWAY_PROFILE", help="What work costs: a CSV file.")]
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="What is declared: a YAML or TOML file.")]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan: a JSON file that `headway plan` wrote.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the result to this file.")]


class Verb(NamedTuple):
    """A verb's function, whose docstring is its help, and command lines to show below it."""

    run: Callable[..., None]
    examples: tuple[str, ...]


def examples(*lines: str) -> str:
    """Return the end of a help text; the control character tells typer to keep its lines as they stand.

    >>> examples("headway check headway.yaml").splitlines()[1:]
    ['Examples:', '  headway check headway.yaml']
    """
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def duration(text: str) -> float:
    """Return the seconds that an option such as 90s stands for."""
    from headway.spec.units import duration_s

    return _with_unit(duration_s, text)


def rate(text: str) -> float:
    """Return the requests per second that an option such as 50/s stands for."""
    from headway.spec.units import rate_per_s

    return _with_unit(rate_per_s, text)


def _with_unit(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def emit(value: Any, as_json: bool, render: Callable[[], Any]) -> None:
    """Print a result on stdout: as JSON, or as what `render` returns (text, or anything that `rich` prints)."""
    if as_json:
        from headway.files import canonical_json

        sys.stdout.write(canonical_json(value))
        return
    shown = render()
    if isinstance(shown, str):
        sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")
    else:
        from rich.table import Table

        console = stdout_console()
        if isinstance(shown, Table) and not console.is_terminal:
            # A file has no edge, and a figure cut short is lost.
            unbounded = console.options.update_width(1 << 16)
            console.width = max(console.width, console.measure(shown, options=unbounded).maximum)
        console.print(shown)


def stdout_console() -> Console:
    """Return a console for results: no color unless stdout is a terminal and NO_COLOR is unset."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_COLUMNS
    return console


def stderr_console() -> Console:
    """Return a console for progress and logs."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one line for a person on stderr."""
    print(text, file=sys.stderr)


def read_spec(path: Path) -> Spec:
    """Read a spec file."""
    from headway.api import load

    return load(path)


def read_plan(path: Path) -> Plan:
    """Read a plan file; a spec given by mistake is named as such."""
    from headway.plan.plan import Plan

    if path.suffix in (".yaml", ".yml"):
        raise HeadwayError(f"{path}: this is a spec, a plan (JSON) is needed; make one: headway plan {path} ...")
    return Plan.read(path)


def read_profile(path: Path, spec: Spec | None = None) -> Profile:
    """Read a profile CSV; rows that a spec has no use for are said on stderr."""
    from headway.profile import Profile

    read = Profile.read(path)
    if spec is not None:
        from headway.profile.match import unmatched

        for sentence in unmatched(read, spec):
            say(f"warning: {path}: {sentence}")
    return read


def read_trace(path: Path, seed: int = 0, format: str | None = None, skip_bad: bool = False) -> Trace:
    """Read a trace file, `-` for stdin; `seed` spreads arrivals that the file gives only as counts.

    How many malformed rows were left out is said on stderr.
    """
    from headway.trace import Trace

    source = cast(BufferedReader, sys.stdin.buffer) if str(path) == "-" else path
    read = Trace.read(source, format=format, skip_bad=skip_bad, seed=seed)
    if read.skipped:
        say(f"{path}: {read.skipped} malformed {'row' if read.skipped == 1 else 'rows'} left out")
    return read


def target(output: Path | None, what: str) -> Path | None:
    """Return where a result will be written, whichever the working folder is by then.

    Asked before long work begins: raises HeadwayError when there is no such folder to write `what` to.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise HeadwayError(f"{output}: there is no folder {output.absolute().parent} to write {what} to")
    return None if output is None else output.absolute()


def guarded(call: Callable[[], Any]) -> int:
    """Run the command line and return its exit code; what a user can act on is one line on stderr.

    With HEADWAY_DEBUG=1 exceptions are raised as they are.
    """
    debug = os.environ.get("HEADWAY_DEBUG", "") not in ("", "0")
    try:
        try:
            call()
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FINE if stop.code is None else ERROR
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except HeadwayError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            say(f"error: {line}")
        return ERROR
    except Exception as error:
        if debug:
            raise
        say(f"error: {type(error).__name__}: {error}; this is a defect of Headway: HEADWAY_DEBUG=1 shows where")
        return ERROR
    return FINE
