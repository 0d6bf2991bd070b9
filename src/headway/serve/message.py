"""An HTTP/1.1 request as it came, and the first lines of its answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from headway.serve.infer import Refused

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


@dataclass(slots=True, eq=False)
class Message:
    """One request, its header names in lower case. `refused`: the answer that its head alone has earned it."""

    method: bytes
    url: bytes
    headers: list[tuple[bytes, bytes]]
    named: dict[bytes, bytes]
    http_version: str
    keep_alive: bool
    body: bytes = b""
    refused: Refused | None = None


def origin_form(url: bytes) -> bytes:
    """Return what a URL asks of this server: clients that take it for a proxy send a whole one (RFC 9112, 3.2.2).

    >>> origin_form(b"http://127.0.0.1:8000/v1/models"), origin_form(b"http://localhost"), origin_form(b"/v1/models")
    (b'/v1/models', b'/', b'/v1/models')
    """
    if not url.lower().startswith((b"http://", b"https://")):
        return url
    return b"/" + url.partition(b"//")[2].partition(b"/")[2]


def head(status: int, headers: Iterable[tuple[bytes, bytes]], http_version: str, keep: bool) -> bytes:
    r"""Return the status line and headers of an answer, with what the client must know of the connection.

    >>> head(200, [(b"content-length", b"2")], "1.1", keep=True)
    b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n'
    """
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"connection"]
    if not keep:
        lines.append(b"connection: close\r\n")
    elif http_version == "1.0":
        lines.append(b"connection: keep-alive\r\n")
    return b"".join((_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, *lines, b"\r\n"))
