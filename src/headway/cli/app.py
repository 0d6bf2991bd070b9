"""The command line as a whole: its verbs, and the one way in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from headway.cli import calibrate, compare, declare, export, extra, live, plans, settings, traces, tune
from headway.cli.frame import examples, guarded

HELP = f"""Find the cheapest deployment that keeps a latency promise, and run it.

Declare stages, a promise and prices in a spec; measure a profile; give a trace of requests. Results go to stdout,
progress to stderr. Exit codes: 0 fine, 1 error, 2 usage, 3 no feasible plan.

{
    examples(
        "headway check headway.yaml",
        "headway profile headway.yaml -o profile.csv",
        "headway plan headway.yaml --profile profile.csv --trace requests.csv --json > plan.json",
        "headway serve plan.json",
    )
}
"""

VERBS = (
    *declare.VERBS,
    *plans.VERBS,
    *live.VERBS,
    *compare.VERBS,
    *calibrate.VERBS,
    *tune.VERBS,
    *export.VERBS,
    *extra.VERBS,
)


def build() -> typer.Typer:
    """Return the application. Plain help texts: what draws boxes around them doubles the time that `--help` takes."""
    app = typer.Typer(
        name="headway",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    )
    app.callback()(_whole)
    for verb in VERBS:
        app.command(epilog=examples(*verb.examples))(verb.run)
    app.add_typer(traces.app, name="trace")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `headway` command with these arguments (by default the process's own) and exit with its code."""
    sys.exit(guarded(lambda: _run(list(sys.argv[1:] if arguments is None else arguments))))


def _run(arguments: list[str]) -> None:
    app = build()
    tables = settings.read()
    extra: dict[str, Any] = {}
    if tables is not None:
        extra["default_map"] = settings.defaults(tables, _options(typer.main.get_command(app)))
    app(arguments, prog_name="headway", **extra)


def _options(command: Any) -> dict[str, Any]:
    verbs = getattr(command, "commands", None)
    if verbs is not None:
        return {name: _options(verb) for name, verb in verbs.items()}
    return {
        option.removeprefix("--"): parameter.name
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }


def _version(shown: bool) -> None:
    if shown:
        from headway import __version__

        typer.echo(f"headway {__version__}")
        raise typer.Exit


def _whole(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
