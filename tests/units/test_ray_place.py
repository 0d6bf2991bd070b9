"""The address of a Ray: how it is written, and what answers there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from headway.errors import ServeError
from headway.serve.ray_engine.address import check_answers, host_and_port


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "host:",
        ":6379",
        "host:0",
        "host:65536",
        "host:6379x",
        "::1:6379",
        "[host:6379",
        "http://host:80",
        "a b:6379",
    ],
)
def test_what_is_no_address_of_a_ray_is_refused_with_what_would_be(address: str) -> None:
    with pytest.raises(ServeError, match=r"RAY_ADDRESS=.*this is no address of a Ray; give the HOST:PORT .* auto"):
        host_and_port(address)


def test_addresses_of_rays_are_read() -> None:
    assert host_and_port("head.example:6379") == ("head.example", 6379)
    assert host_and_port("[::1]:1024") == ("::1", 1024)
    with pytest.raises(ServeError, match="run the server on a node of the cluster"):
        host_and_port("ray://head.example:10001")


@contextlib.contextmanager
def listener(says: bytes) -> Iterator[str]:
    """Take one connection, say something, and keep it until the other side goes."""
    with socket.create_server(("127.0.0.1", 0)) as there:

        def answer() -> None:
            with there.accept()[0] as client, contextlib.suppress(ConnectionResetError):
                client.sendall(says)
                while client.recv(1024):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{there.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n-ERR no such command\r\n"])
def test_what_speaks_another_language_is_no_ray(says: bytes) -> None:
    with listener(says) as found, pytest.raises(ServeError, match=f"what answers at {found} is not a Ray; give the"):
        check_answers("auto", found)


def test_what_says_nothing_is_no_ray() -> None:
    with listener(b"") as found, pytest.raises(ServeError, match=rf"no Ray answers at {found} \(timed out\); give"):
        check_answers("auto", found, timeout_s=0.05)


def test_what_begins_as_grpc_does_may_be_a_ray() -> None:
    with listener(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))) as found:
        check_answers("auto", found)
    with pytest.raises(ServeError, match=rf"RAY_ADDRESS=auto: no Ray answers at {found} \(.+\); give the HOST:PORT"):
        check_answers("auto", found)


def test_a_ray_that_speaks_tls_is_only_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listener(b"") as found:
        check_answers("auto", found, timeout_s=0.05)
