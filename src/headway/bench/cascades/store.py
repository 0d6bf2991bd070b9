"""A small key-value store in a process of its own: what remote look-ups ask over a socket, as they would ask Redis.

Keys and values are bytes, tables are named, one request asks for many keys of one table. Run as a module it serves the
file of tables that it is given, on a free port of the loopback interface which it prints; each answer comes the given
number of seconds late, as over a network.
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
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headway.cascade.cache import Key
from headway.errors import HeadwayError

Row = Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]
_LENGTH = struct.Struct("!I")
STOP_S = 10.0


class Client:
    """Asks a store; every thread has a connection of its own for each table, so that several can be asked at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()
        self._open: list[_Connection] = []

    def table(self, name: str) -> Table:
        """Return a `fetch` for `Lookup`: one request for all its keys."""
        return Table(partial(self._connection, name), name)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.socket.close()

    def _connection(self, table: str) -> _Connection:
        mine: dict[str, _Connection] = self._local.__dict__
        if table not in mine:
            mine[table] = _Connection(socket.create_connection(("127.0.0.1", self._port)))
            self._open.append(mine[table])
        return mine[table]


class Table:
    """One table of a store: called with keys it returns their rows; `begin` asks first and waits when told to."""

    def __init__(self, connection: Callable[[], _Connection], name: str) -> None:
        self._connection, self._name = connection, name

    def __call__(self, keys: list[Key]) -> list[Row | None]:
        return self.begin(keys)()

    def begin(self, keys: list[Key]) -> Callable[[], list[Row | None]]:
        """Ask for the rows of keys; what is returned waits for them."""
        connection = self._connection()
        number = connection.ask(msgspec.msgpack.encode((self._name, [_bytes(key) for key in keys])))

        def rows() -> list[Row | None]:
            found = msgspec.msgpack.decode(connection.answer(number))
            return [None if row is None else np.frombuffer(row) for row in found]

        return rows


class _Connection:
    """A socket on which questions are answered in their order; answers that nobody waits for are passed over."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self._asked = self._answered = 0

    def ask(self, message: bytes) -> int:
        """Send a question and return its number."""
        _send(self.socket, message)
        self._asked += 1
        return self._asked

    def answer(self, number: int) -> bytes:
        """Return the answer to a question."""
        while self._answered < number:
            found = _receive(self.socket)
            self._answered += 1
        return found


@contextlib.contextmanager
def serving(tables: Mapping[str, Mapping[Hashable, Row]], late_s: float = 0.0) -> Iterator[Client]:
    """Serve tables from another process and yield a client of it; end the process with the block.

    Every answer comes `late_s` seconds late. Raises HeadwayError when it does not start.
    """
    content = {
        name: [(_bytes(key), np.asarray(row, dtype=np.float64).tobytes()) for key, row in table.items()]
        for name, table in tables.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables"
        path.write_bytes(msgspec.msgpack.encode(content))
        command = [sys.executable, "-m", __name__, str(path), str(late_s)]
        # It ends with its standard input, also when this process is killed.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said.strip().isdigit():
                raise HeadwayError("bench: the key-value store does not start")
            client = Client(int(said))
            yield client
            client.close()
        finally:
            process.communicate(timeout=STOP_S)


def _serve(path: str, late_s: float) -> None:
    content = msgspec.msgpack.decode(Path(path).read_bytes())
    tables: dict[str, dict[bytes, bytes]] = {name: dict(rows) for name, rows in content.items()}

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(ConnectionError):
                while True:
                    name, keys = msgspec.msgpack.decode(_receive(self.request))
                    if late_s:
                        time.sleep(late_s)
                    _send(self.request, msgspec.msgpack.encode([tables[name].get(key) for key in keys]))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Connection) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()


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
    _serve(sys.argv[1], float(sys.argv[2]))
