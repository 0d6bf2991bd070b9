"""A process that was started for another ends with it, however that one ends: it holds one end of a pipe or socket."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable


def when_gone(descriptor: int, act: Callable[[], object]) -> None:
    """Call `act` once nobody holds the other end of a pipe or socket any more, whatever this process does meanwhile.

    It is called in a thread of its own. What comes through is not read.

    >>> gone, (ours, theirs) = threading.Event(), os.pipe()
    >>> when_gone(ours, gone.set)
    >>> os.close(theirs)
    >>> gone.wait(10.0)
    True
    >>> os.close(ours)
    """
    poller = select.poll()
    poller.register(descriptor, 0)

    def watch() -> None:
        poller.poll()
        act()

    threading.Thread(target=watch, name="headway-parent", daemon=True).start()


def end_with_parent() -> None:
    """Have this process told to end, as by SIGTERM, when the process that holds its standard input's other end is gone.

    The parent need not do anything for it: the system closes its files even when it is killed.
    """
    when_gone(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
