"""Where a Ray is to be joined, and whether anything answers there: Ray itself waits for that without an end."""

from __future__ import annotations

import os
import socket

from headway.errors import ServeError

ADDRESS_VARIABLE = "RAY_ADDRESS"
AUTO, LOCAL = "auto", "local"
VALID = "give the HOST:PORT that `ray start --head` printed, auto for the Ray of this machine, or leave it unset"
_CONNECT_S = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES, _SETTINGS = 9, 4
"""How both sides of HTTP/2 begin (RFC 9113, sections 3.4, 4.1 and 6.5): the client's preface, each a settings frame."""


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
    """Raise ServeError when nothing that may be a Ray answers in time at the `HOST:PORT` that `address` was found to
    mean: Ray's own store speaks gRPC, which is HTTP/2, and what speaks that says its settings first."""
    try:
        with socket.create_connection(host_and_port(found), timeout_s) as there:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            there.sendall(_PREFACE + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
            header = there.recv(_HEADER_BYTES, socket.MSG_WAITALL)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: no Ray answers at {found} ({reason}); {VALID}") from None
    if len(header) < _HEADER_BYTES or header[3] != _SETTINGS:
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: what answers at {found} is not a Ray; {VALID}")
