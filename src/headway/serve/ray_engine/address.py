"""Where a Ray is to be joined, and whether anything answers there: Ray itself waits for that without an end."""

from __future__ import annotations

import socket

from headway.errors import ServeError

ADDRESS_VARIABLE = "RAY_ADDRESS"
AUTO, LOCAL = "auto", "local"
VALID = "give the HOST:PORT that `ray start --head` printed, auto for the Ray of this machine, or leave it unset"
_CONNECT_S = 5.0


def joins(address: str | None) -> bool:
    """Return whether an address of the environment names a Ray that is there, and not one of our own.

    >>> joins("10.0.0.1:6379"), joins("auto"), joins("local"), joins(None)
    (True, True, False, False)
    """
    return bool(address) and address != LOCAL


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of `HOST:PORT`; an IPv6 host stands in brackets. Raises ServeError.

    >>> host_and_port("[::1]:6379")
    ('::1', 6379)
    """
    if address.startswith("ray://"):
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: run the server on a node of the cluster, and name it as auto")
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    known = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not name or not known or any(sign.isspace() or sign in "/[]@" for sign in name) or (":" in name) != bracketed:
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: this is no address of a Ray; {VALID}")
    return name, int(port)


def check_answers(address: str, found: str, timeout_s: float = _CONNECT_S) -> None:
    """Raise ServeError when nothing takes connections within the time at the `HOST:PORT` that `address` was found to
    mean."""
    try:
        socket.create_connection(host_and_port(found), timeout_s).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: no Ray answers at {found} ({reason}); {VALID}") from None
