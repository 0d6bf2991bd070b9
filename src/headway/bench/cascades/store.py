"""A small key-value store in a process of its own: what remote look-ups ask over a socket, as they would ask Redis.

Keys and values are bytes, tables are named, one request asks for many keys of one table. Run as a module it serves the
file of tables that it is given, on a free port of the loopback interface which it prints.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headway.cascade.lookup import Key
from headway.errors import HeadwayError

Row = Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]
_LENGTH = struct.Struct("!I")
STOP_S = 10.0


class Client:
    """Asks a store; every thread that uses it has a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()
        self._open: list[socket.socket] = []

    def table(self, name: str) -> Callable[[list[Key]], list[Row | None]]:
        """Return a `fetch` for `Lookup`: one request for all its keys."""

        def fetch(keys: list[Key]) -> list[Row | None]:
            connection = self._connection()
            _send(connection, msgspec.msgpack.encode((name, [_bytes(key) for key in keys])))
            rows = msgspec.msgpack.decode(_receive(connection))
            return [None if row is None else np.frombuffer(row) for row in rows]

        return fetch

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.close()

    def _connection(self) -> socket.socket:
        connection: socket.socket | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = socket.create_connection(("127.0.0.1", self._port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
        return connection


@contextlib.contextmanager
def serving(tables: Mapping[str, Mapping[Hashable, Row]]) -> Iterator[Client]:
    """Serve tables from another process and yield a client of it; end the process with the block.

    Raises HeadwayError when it does not start.
    """
    content = {
        name: [(_bytes(key), np.asarray(row, dtype=np.float64).tobytes()) for key, row in table.items()]
        for name, table in tables.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables"
        path.write_bytes(msgspec.msgpack.encode(content))
        process = subprocess.Popen([sys.executable, "-m", __name__, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said.strip().isdigit():
                raise HeadwayError("bench: the key-value store does not start")
            client = Client(int(said))
            yield client
            client.close()
        finally:
            process.terminate()
            process.wait(STOP_S)
            if process.stdout is not None:
                process.stdout.close()


def _serve(path: str) -> None:
    content = msgspec.msgpack.decode(Path(path).read_bytes())
    tables: dict[str, dict[bytes, bytes]] = {name: dict(rows) for name, rows in content.items()}

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(ConnectionError):
                while True:
                    name, keys = msgspec.msgpack.decode(_receive(self.request))
                    _send(self.request, msgspec.msgpack.encode([tables[name].get(key) for key in keys]))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Connection) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


def _bytes(key: Hashable) -> bytes:
    return repr(key).encode()


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _receive(connection: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = connection.recv(length)
    while len(received) < length:
        more = connection.recv(length - len(received))
        if not more:
            raise ConnectionError("the other side has closed the connection")
        received += more
    return received


if __name__ == "__main__":
    _serve(sys.argv[1])
