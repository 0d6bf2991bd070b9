"""Run a program that ends with who started it: `python -m headway.bench.tied PARENT PROGRAM ARGUMENT...`.

Ours watch their standard input (`headway.serve.parent`); of one that does not, the system sees to it. This process
becomes the program, so that its number is the program's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PARENT_DEATH_SIGNAL: Final = 1
"""`PR_SET_PDEATHSIG` of Linux (prctl(2)); it outlasts the call that makes another program of a process."""


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that runs another one until this process ends, however it does; elsewhere than on Linux as is.

    >>> tied(["nginx"])[-1]
    'nginx'
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-m", "headway.bench.tied", str(os.getpid()), *command]


def main(parent: str, *command: str) -> None:
    """Become a program that is killed when the process `parent`, which started this one, ends."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    # Who has ended before that is not seen to end.
    if os.getppid() == int(parent):
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
