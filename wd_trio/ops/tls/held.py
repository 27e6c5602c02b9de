"""One TLS connection in the holder: octets between a client's socket and the worker's, and nothing else.

Each call takes one step that never waits: at most one read of READ_BYTES, then whatever of it can be passed on.
What one side does not take is kept, and until it is gone nothing more is read for that side: so each direction
holds one read at most, and a slow reader is felt by the writer on the other side. Nor is anything read from a client
that takes nothing and makes TLS itself talk (key updates, renegotiations that are declined) beyond a piece.

Ends are passed on, each direction by itself: the client's close_notify (or its FIN) becomes shutdown(SHUT_WR)
towards the worker, once all before it was passed on; the worker's end becomes close_notify and FIN. When both have
ended the connection is over; so is it, in both directions at once, when either side breaks (`Over`).

Memory: OpenSSL's own buffers go when they are empty (CPython sets SSL_MODE_RELEASE_BUFFERS); a memory BIO keeps the
largest size that it ever had, which is why one is never given more than PIECE_BYTES at a time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from select import EPOLLIN, EPOLLOUT
from typing import Final

from wd_trio.servers.quickack import quickack

READ_BYTES: Final = 16384
PIECE_BYTES: Final = 4096


class Over(Exception):
    """The connection is at its end; the text is the reason in a fixed word."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


class Tls(ssl.SSLObject):
    """Knows the name its client asked for (SNI) while the handshake lasts."""

    asked = ""


def remember_name(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    """The context's `sni_callback`: one certificate serves all names."""
    if isinstance(tls, Tls):
        tls.asked = name or ""


class Held:
    """A connection from its handshake to its end. Takes the client's socket over."""

    __slots__ = (
        "_client_ended",
        "_incoming",
        "_is_tcp",
        "_outgoing",
        "_tls",
        "_to_client",
        "_to_worker",
        "_told_client",
        "_told_worker",
        "_worker_ended",
        "client",
        "client_events",
        "id",
        "moved",
        "until",
        "worker",
        "worker_events",
    )

    def __init__(self, number: int, client: socket.socket, context: ssl.SSLContext) -> None:
        client.setblocking(False)
        self._is_tcp = client.family != socket.AF_UNIX
        if self._is_tcp:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.id = number
        self.client = client
        self.worker: socket.socket | None = None
        self.client_events = self.worker_events = 0
        """What epoll watches now: its owner's notes."""
        self.until = 0.0
        """When its owner gives it up, 0 for never: its owner's note too."""
        self.moved = False
        """Octets went to the client, or to the worker, since somebody cleared this."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._to_client: bytes | memoryview = b""
        self._to_worker: bytes | memoryview = b""
        self._client_ended = self._worker_ended = False  # nothing more is read there
        self._told_client = self._told_worker = False  # of the other's end

    # -- the handshake

    def shake(self) -> bool:
        """Take the handshake on by what the client has sent; True when it is done. Over when it has failed."""
        try:
            data = self.client.recv(PIECE_BYTES)
        except (BlockingIOError, InterruptedError):
            data = None
        except OSError:
            raise Over("closed") from None
        if data == b"":
            raise Over("closed")
        if data:
            self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush_client()
            return False
        except ssl.SSLError as error:
            with contextlib.suppress(Over):
                self._flush_client()  # the alert
            raise Over("alert" if "ALERT" in (error.reason or "") else "no handshake") from error
        self._flush_client()
        return True

    def facts(self) -> tuple[str, str, str]:
        """Version, cipher and the name asked for, once."""
        cipher = self._tls.cipher()
        name = self._tls.asked if isinstance(self._tls, Tls) else ""
        self._tls.__dict__.pop("asked", None)
        return self._tls.version() or "", cipher[0] if cipher else "", name

    def connect(self) -> socket.socket:
        """The handshake is done: the worker's end, which already holds what the client sent after it."""
        self.worker, theirs = socket.socketpair()
        self.worker.setblocking(False)
        try:
            self._decrypt(b"")
        except BaseException:
            theirs.close()
            raise
        return theirs

    # -- octets

    def from_client(self) -> None:
        """Take a read's worth from the client to the worker. Over at the end."""
        try:
            data = self.client.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            raise Over("reset") from None
        self._client_ended = not data
        if data and len(data) < READ_BYTES and self._is_tcp:
            quickack(self.client)
        self._decrypt(data)

    def _decrypt(self, data: bytes) -> None:
        """Pass on what there is after these octets; some may have come with the handshake."""
        pieces: list[bytes] = []
        try:
            self._read_out(pieces)
            for at in range(0, len(data), PIECE_BYTES):
                self._incoming.write(data[at : at + PIECE_BYTES])
                self._read_out(pieces)
        except ssl.SSLError as error:
            self._flush_client()  # the alert
            raise Over("broken") from error
        if self._outgoing.pending:
            self._flush_client()  # what TLS itself has to say
        if pieces and not self._told_worker:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._to_worker = data
        self._flush_worker()
        self._check_over()

    def _read_out(self, pieces: list[bytes]) -> None:
        try:
            while self._incoming.pending or self._tls.pending():
                piece = self._tls.read(READ_BYTES)
                if not piece:
                    self._client_ended = True
                    return
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:
            self._client_ended = True

    def from_worker(self) -> None:
        """Take a read's worth from the worker to the client. Over at the end."""
        assert self.worker is not None
        try:
            data = self.worker.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it ended with octets unread
            data = b""
        if data:
            self._encrypt(data)
        else:
            self._worker_ended = True
            with contextlib.suppress(
                ssl.SSLError
            ):  # close_notify is said, whether the client's is there or not
                self._tls.unwrap()
        self.flush_client()

    def _encrypt(self, data: bytes) -> None:
        records = []
        for at in range(0, len(data), PIECE_BYTES):
            self._tls.write(data[at : at + PIECE_BYTES])
            records.append(self._outgoing.read())
        self._to_client = records[0] if len(records) == 1 else b"".join(records)

    def flush_client(self) -> None:
        """The client's socket takes octets again. Over at the end."""
        self._flush_client()
        self._check_over()

    def _flush_client(self) -> None:
        while True:
            if not self._to_client:
                if not self._outgoing.pending:
                    self._to_client = b""
                    break
                self._to_client = memoryview(self._outgoing.read())
            try:
                sent = self.client.send(self._to_client)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                raise Over("reset") from None
            self.moved = True
            self._to_client = self._to_client[sent:]
        if self._worker_ended and not self._told_client:
            self._told_client = True
            self._end_of(self.client)

    def flush_worker(self) -> None:
        """The worker's socket takes octets again. Over at the end."""
        self._flush_worker()
        self._check_over()

    def _flush_worker(self) -> None:
        if self.worker is None:
            return
        while self._to_worker:
            try:
                sent = self.worker.send(self._to_worker)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # it takes no more, but its last words may still be there to be read
                self._to_worker = b""
                self._told_worker = True  # what still comes is dropped, until the client ends or time is up
                return
            self.moved = True
            view = memoryview(self._to_worker)
            self._to_worker = view[sent:] if sent < len(view) else b""
        if self._client_ended and not self._told_worker:
            self._told_worker = True
            self._end_of(self.worker)

    def _end_of(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            sock.shutdown(socket.SHUT_WR)

    def _check_over(self) -> None:
        if self._told_client and self._told_worker and self._client_ended:
            raise Over("closed")

    # -- what its owner wants to know

    @property
    def wants(self) -> tuple[int, int]:
        """What to wait for now: epoll's events of the client's socket and of the worker's."""
        client = worker = 0
        # By TLS itself: all else goes to `_to_client` at once.
        talked_at = self._outgoing.pending > PIECE_BYTES
        if not (self._client_ended or self._to_worker or talked_at):
            client = EPOLLIN
        if self._to_client:
            client |= EPOLLOUT
        elif not self._worker_ended and self.worker is not None:
            worker = EPOLLIN
        if self._to_worker:
            worker |= EPOLLOUT
        return client, worker

    @property
    def stalled(self) -> bool:
        """Whether the client has something to take that it has not taken."""
        return bool(self._to_client)

    @property
    def lingering(self) -> bool:
        """Whether the worker has ended and all that it said is with the client's kernel."""
        return self._told_client

    def close(self) -> None:
        """End both sides now. Idempotent."""
        with contextlib.suppress(OSError):  # another process may have a duplicate; the client may be gone
            self.client.shutdown(socket.SHUT_RDWR)
        self.client.close()
        if self.worker is not None:
            self.worker.close()
