"""The command line: verbs that call the functions of the same name, and nothing else."""

from headway.cli.app import main

__all__ = ["main"]
