"""A proxy between the daemon and PostgreSQL that cuts connections at a chosen moment of a COMMIT.

It understands as much of the frontend protocol as it takes to find the messages that carry
COMMIT: everything is passed on as it came. Only the COMMIT of a transaction that copied rows is
counted, since the others decide nothing.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict

# before: the server never sees the COMMIT. at once: it is sent, and the line is cut in the same
# moment, so whether the server commits is open. after: it has committed and answered. The client
# never gets an answer: a server may answer before this process comes to cut the line.
Cut = Literal["before", "at once", "after"]
_CHUNK = 1 << 16
_STARTUP_CODES = {80877103, 80877104, 80877102}  # TLS, GSS and cancel requests: 8 bytes and more


class Proxy:
    """Listens on a TCP port of its own and passes everything on to one server.

    Args:
        url: the server's database, on a Unix socket.
        decide: asked at each COMMIT that matters; None lets it pass.
    """

    def __init__(self, url: str, decide: Callable[[], Cut | None] = lambda: None) -> None:
        place = conninfo_to_dict(url)
        self._server = f"{place['host']}/.s.PGSQL.{place.get('port') or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._lines: set[_Line] = set()
        self._open = True
        self._reachable = True
        self.decide = decide
        self.cuts: dict[Cut, int] = {"before": 0, "at once": 0, "after": 0}
        self.commits = 0
        port = self._listener.getsockname()[1]
        options = urlencode({"sslmode": "disable", "gssencmode": "disable"})
        self.url = f"postgresql://{place['user']}@127.0.0.1:{port}/{place['dbname']}?{options}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        # Wakes the thread that waits for connections.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.unplug()

    def unplug(self) -> None:
        """Make the database unreachable: cut every line, and accept none."""
        with self._lock:
            self._reachable = False
            lines = list(self._lines)
        for line in lines:
            line.cut()

    def plug_in(self) -> None:
        """Make the database reachable again."""
        with self._lock:
            self._reachable = True

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._reachable:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:
                    client.close()
                    server.close()
                    continue
                line = _Line(self, client, server)
                self._lines.add(line)
            line.start()

    def _ended(self, line: _Line) -> None:
        with self._lock:
            self._lines.discard(line)

    def _at_commit(self) -> Cut | None:
        with self._lock:
            self.commits += 1
            cut = self.decide()
            if cut is not None:
                self.cuts[cut] += 1
            return cut


class _Line:
    """One connection, in both directions."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._parser = _Parser()
        self._silenced = threading.Event()
        self._answered = threading.Event()

    def start(self) -> None:
        for work in (self._forward, self._backward):
            threading.Thread(target=work, daemon=True).start()

    def cut(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _forward(self) -> None:
        try:
            while data := self._client.recv(_CHUNK):
                at = self._parser.feed(data)
                cut = None if at is None else self._proxy._at_commit()
                if cut == "before" and at is not None:
                    self._server.sendall(data[: max(0, at)])
                    break
                if cut is not None:
                    self._silenced.set()
                self._server.sendall(data)
                if cut == "after":
                    # Until the server has said that it is done.
                    self._answered.wait()
                if cut is not None:
                    break
        except OSError:
            pass
        finally:
            self.cut()
            self._proxy._ended(self)

    def _backward(self) -> None:
        heard = b""
        try:
            while data := self._server.recv(_CHUNK):
                if self._silenced.is_set():
                    heard += data
                    if b"COMMIT\0" in heard:
                        break
                    continue
                self._client.sendall(data)
        except OSError:
            pass
        finally:
            self._answered.set()
            self.cut()
            self._client.close()
            self._server.close()


class _Parser:
    """Finds the COMMIT that ends a transaction with rows in it, in what a client sends."""

    def __init__(self) -> None:
        self._pending = b""
        self._skip = 0
        self._started = False
        self._copied = False

    def feed(self, data: bytes) -> int | None:
        """Take what was sent; return where in it such a COMMIT message starts (≤ 0: before it)."""
        before = len(self._pending)
        buffer = self._pending + data
        at, found = 0, None
        if self._skip:
            at = min(self._skip, len(buffer))
            self._skip -= at
        while True:
            if not self._started:
                if len(buffer) - at < 8:
                    break
                length, code = struct.unpack_from("!II", buffer, at)
                if len(buffer) - at < length:
                    break
                self._started = code not in _STARTUP_CODES
                at += length
                continue
            if len(buffer) - at < 5:
                break
            kind = buffer[at : at + 1]
            size = 1 + int(struct.unpack_from("!I", buffer, at + 1)[0])
            if kind == b"d":  # rows: of no interest, and many
                self._copied = True
                if len(buffer) - at < size:
                    self._skip = size - (len(buffer) - at)
                    at = len(buffer)
                    break
                at += size
                continue
            if len(buffer) - at < size:
                break
            body = buffer[at + 5 : at + size]
            if kind == b"P":
                body = body.partition(b"\0")[2]
            if kind in {b"Q", b"P"} and body.partition(b"\0")[0].strip().upper() == b"COMMIT":
                if self._copied:
                    found = at - before
                self._copied = False
            at += size
        self._pending = buffer[at:]
        return found
