"""One connection: one reader, one way to write, every timer in one place, one way to end.

A session (servers/imap, servers/lmtp) owns a `Connection` and calls `receive` and `send`; it never sees the
socket. The descriptor is used directly (non-blocking calls first, then trio's epoll), because most reads find
nothing and most writes fit the kernel's buffer: a round trip then costs one wait.

- `receive` carries the idle deadline, and is the only place where a session can be woken (a change elsewhere),
  told to drain, or kicked out.
- `send` carries the flush deadline: a client that never reads cannot hold memory or a drain for longer.
- Octets are counted in lots of COUNT_BYTES and at the end, so that counting costs a send or a read next to nothing.
- `end` is the one function that ends a connection: unregister from epoll, shutdown, close, tell the owner. While
  a duplicate of the descriptor lives in another process, close() alone would send no FIN, and a descriptor
  closed while registered would fire for ever. `leave` is the other way out: the connection goes on elsewhere.
- TLS that ends here (tls.py) is behind the same few calls; such a connection ends with its worker. Where it ends
  elsewhere, the session leaves it to that (`upgrade`).
- The slot (slots.py) is told before octets are taken from the socket and before any are sent; when all was dealt with
  and said, only the session knows, and settles it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from wd_trio import telemetry
from wd_trio.servers.quickack import quickack
from wd_trio.servers.slots import PROTOCOLS, Phase, Progress, Slot, Standing
from wd_trio.servers.tls import TlsSocket

RECEIVE_BYTES: Final = 65536
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1 << 20
COUNT_BYTES: Final = 256 << 10
_READING: Final = int(Progress.READING)  # an enum's own "|" would cost more than the read
_SAYING: Final = int(Progress.SAYING)
KICK_GRACE_S: Final = 5.0
"""What a kicked connection may still send of a reply that it is in, and say goodbye."""


MOVED: Final = "moved"
PARKED: Final = "parked"
UPGRADED: Final = "starttls"
"""Why a connection leaves: another worker has it next, this worker's parking has, the end of TLS has."""


class ConnectionOver(Exception):
    """The connection cannot go on; `reason` is one of a few fixed words, for logs and metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PeerLost(ConnectionOver):
    """The peer reset the connection or stopped reading past the flush deadline: nothing more can be said."""


class IdleTooLong(ConnectionOver):
    """The peer said nothing for the whole idle time."""

    def __init__(self) -> None:
        super().__init__("idle")


class Draining(ConnectionOver):
    """This worker is going: say goodbye in the protocol's words, then return."""

    def __init__(self) -> None:
        super().__init__("drain")


class Moving(ConnectionOver):
    """This worker is going and another goes on: leave, if the connection can move from where it is."""

    def __init__(self) -> None:
        super().__init__(MOVED)


class Quiet(ConnectionOver):
    """Nothing came for as long as the session would wait with a task of its own: it may park."""

    def __init__(self) -> None:
        super().__init__(PARKED)


class Kicked(ConnectionOver):
    """Somebody wants this connection to end, now: say goodbye in the protocol's words, then return."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a connection from its acceptance. `id` is unique on this server."""

    id: str
    protocol: str
    ip: str  # "unix" for Unix sockets
    port: int
    secure: bool = False


def peer_of(slot: Slot) -> Peer:
    """The peer of the connection that a slot is of."""
    return Peer(f"{slot.id:x}", slot.protocol, slot.ip, slot.port, slot.has(Standing.SECURE))


def _slot_of(peer: Peer) -> Slot:
    """A slot of no table for a connection that nobody else knows of."""
    slot = Slot.alone()
    if peer.protocol in PROTOCOLS:
        slot.protocol = peer.protocol
    slot.phase, slot.ip, slot.port = Phase.ARRIVED, peer.ip, peer.port
    slot.standing = Standing.SECURE if peer.secure else 0
    return slot


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverOptions:
    flush_s: float = 60.0
    """One `send` (at most a few hundred KB) is accepted by the peer's side within this, or the peer is lost."""
    tls: ssl.SSLContext | None = None
    """What TLS is made with where the worker itself ends it; None: elsewhere, or nowhere."""
    handshake_s: float = 10.0


class Connection:
    """A non-blocking stream socket with its deadlines. One task reads and writes; `wake`, `begin_drain`,
    `kick` and `end` may be called by any task of the same loop."""

    __slots__ = (
        "_counted_in",
        "_counted_out",
        "_drain",
        "_ended",
        "_is_tcp",
        "_kick",
        "_moving",
        "_on_end",
        "_on_leave",
        "_options",
        "_receiving",
        "_send_until",
        "_sending",
        "_sock",
        "_through_drain",
        "_wakeable",
        "_woken",
        "bytes_in",
        "bytes_out",
        "peer",
        "slot",
        "unread",
    )

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        *,
        options: DriverOptions,
        on_end: Callable[[Connection, str], None],
        on_leave: Callable[[Connection, str, socket.socket, bytes], None] | None = None,
        slot: Slot | None = None,
        unread: bytes = b"",
    ) -> None:
        """`on_end` is called when it has ended; `on_leave` when it goes on elsewhere, with why (MOVED, PARKED,
        UPGRADED), the socket, which is then the callee's, and input that nobody has dealt with. Without it the
        connection cannot leave. `unread`: what such a connection brought along, the first that `receive` returns."""
        sock.setblocking(False)
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if self._is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock: socket.socket | TlsSocket = sock
        self._options = options
        self._on_end = on_end
        self._on_leave = on_leave
        self.slot = slot or _slot_of(peer)
        self.unread = unread
        self._moving = False
        self._receiving: trio.CancelScope | None = None
        self._sending: trio.CancelScope | None = None
        self._send_until = math.inf
        self._kick = ""
        self._wakeable = False
        self._through_drain = False
        self._woken = False
        self._drain = False
        self._ended = False
        self.peer = peer
        self.bytes_in = 0
        self.bytes_out = 0
        self._counted_in = 0
        self._counted_out = 0

    @property
    def draining(self) -> bool:
        return self._drain

    @property
    def moving(self) -> bool:
        """Whether it is to leave for another worker, as soon as it can move from where it stands."""
        return self._drain and self._moving and self.can_leave

    @property
    def can_leave(self) -> bool:
        """Whether somebody would go on with it."""
        return self._on_leave is not None and not self._ended and not isinstance(self._sock, TlsSocket)

    @property
    def can_upgrade(self) -> bool:
        """Whether TLS may begin on this connection, somewhere."""
        return not self.peer.secure and (self._options.tls is not None or self.can_leave)

    @property
    def ended(self) -> bool:
        return self._ended

    async def receive(
        self,
        *,
        timeout_s: float,
        wakeable: bool = False,
        through_drain: bool = False,
        quiet_s: float = math.inf,
    ) -> bytes | None:
        """The next bytes; b"" at the end of the stream; None when `wakeable` and `wake` was called.

        Raises IdleTooLong, PeerLost, Kicked; Quiet when nothing came for `quiet_s` (0: when nothing is there now);
        Draining or Moving unless `through_drain` (a message half received is worth finishing: the drain's own
        deadline bounds it).
        """
        self._heed_interruption(through_drain)
        # Before any wake-up: what the client says comes first, however much is new.
        data = self._take_nowait()
        if data is not None or (wakeable and self._woken):
            self._woken = self._woken and data is not None
            await trio.lowlevel.checkpoint()
            return data
        if quiet_s <= 0:
            await trio.lowlevel.checkpoint()
            self._heed_interruption(through_drain)
            if not (wakeable and self._woken):
                raise Quiet
            self._woken = False
            return None
        if through_drain and self._is_tcp:
            quickack(self._sock)
        with trio.CancelScope(deadline=trio.current_time() + min(timeout_s, quiet_s)) as scope:
            self._receiving, self._wakeable, self._through_drain = scope, wakeable, through_drain
            try:
                while data is None:
                    await self._wait_to_read()
                    data = self._read_nowait()
            except (OSError, trio.ClosedResourceError) as error:
                raise PeerLost("closed") from error
            finally:
                self._receiving = None
        if data is not None:
            return data
        self._heed_interruption(through_drain)
        if wakeable and self._woken:
            self._woken = False
            return None
        raise Quiet if quiet_s < timeout_s else IdleTooLong

    def heed(self) -> None:
        """Raise what the next `receive` would if somebody wants the connection to end or to move, for those who wait
        for something else."""
        self._heed_interruption(False)

    def _heed_interruption(self, through_drain: bool) -> None:
        if self._kick:
            raise Kicked(self._kick)
        if self._drain and not through_drain:
            raise self._goodbye()

    def _take_nowait(self) -> bytes | None:
        if not self.unread:
            return self._read_nowait()
        data, self.unread = self.unread, b""
        self.slot.progress |= _READING
        return data

    def _goodbye(self) -> ConnectionOver:
        return Moving() if self._moving and self.can_leave else Draining()

    def _read_nowait(self) -> bytes | None:
        slot = self.slot
        before = slot.progress
        slot.progress = before | _READING
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            slot.progress = before
            return None
        except OSError as error:
            raise PeerLost("reset") from error
        self.bytes_in += len(data)
        if self.bytes_in - self._counted_in >= COUNT_BYTES:
            self._count_bytes()
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all of `data` to the kernel, in order. PeerLost when the peer is gone or takes too long, or when
        the connection was kicked a while ago.

        Returns without a checkpoint when everything fitted: `receive` is where a session gives way.
        """
        now = trio.current_time()
        if now >= self._send_until:
            raise PeerLost(self._kick)
        self.slot.progress |= _SAYING
        sent = self._write_nowait(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        with trio.CancelScope(deadline=min(now + self._options.flush_s, self._send_until)) as scope:
            self._sending = scope
            try:
                while rest:
                    await self._wait_to_write()
                    rest = rest[self._write_nowait(rest) :]
            except (OSError, trio.ClosedResourceError) as error:
                raise PeerLost("closed") from error
            finally:
                self._sending = None
        if scope.cancelled_caught:
            raise PeerLost(self._kick or "flush deadline")

    def _write_nowait(self, data: bytes | bytearray | memoryview) -> int:
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise PeerLost("reset") from error
        self.bytes_out += sent
        if self.bytes_out - self._counted_out >= COUNT_BYTES:
            self._count_bytes()
        return sent

    async def _wait_to_read(self) -> None:
        sock = self._sock
        if isinstance(sock, TlsSocket) and sock.wants_write:
            await trio.lowlevel.wait_writable(sock)
        else:
            await trio.lowlevel.wait_readable(sock)

    async def _wait_to_write(self) -> None:
        sock = self._sock
        if isinstance(sock, TlsSocket) and not sock.wants_write:
            await trio.lowlevel.wait_readable(sock)
        else:
            await trio.lowlevel.wait_writable(sock)

    async def upgrade(self) -> None:
        """Begin TLS, as the client was told to (STARTTLS). Everything was said, the slot is settled, and nothing that
        was read is left. Returns when TLS ends here; where it ends elsewhere the connection has left, and
        ConnectionOver says so. PeerLost when the handshake comes to nothing."""
        if self._options.tls is None:
            self.leave(UPGRADED)
            raise ConnectionOver(UPGRADED)
        await self.secure()

    async def secure(self) -> None:
        """Make TLS with the client, here. PeerLost when that comes to nothing, or takes longer than `handshake_s`."""
        context, plain = self._options.tls, self._sock
        assert context is not None
        assert isinstance(plain, socket.socket)
        self._sock = sock = TlsSocket(plain, context)
        self.slot.standing |= Standing.INSIDE
        with trio.move_on_after(self._options.handshake_s):
            while True:
                try:
                    sock.handshake()
                except BlockingIOError:
                    await self._wait_to_read()
                except OSError as error:
                    raise PeerLost("no handshake") from error
                else:
                    break
            self.peer = replace(self.peer, secure=True)
            self.slot.standing |= Standing.SECURE
            return
        raise PeerLost("no handshake")

    def _count_bytes(self) -> None:
        protocol = self.peer.protocol
        telemetry.bytes_total.add((protocol, "in"), self.bytes_in - self._counted_in)
        telemetry.bytes_total.add((protocol, "out"), self.bytes_out - self._counted_out)
        self._counted_in, self._counted_out = self.bytes_in, self.bytes_out

    def wake(self) -> None:
        """Make the pending wakeable `receive` return None, or the next one."""
        self._woken = True
        if self._receiving is not None and self._wakeable:
            self._receiving.cancel()

    def begin_drain(self, *, moving: bool = False) -> None:
        """Make the pending `receive` and every later one raise Draining, or Moving where another worker can go on;
        but those that read through it."""
        self._drain = True
        self._moving = moving
        if self._receiving is not None and not self._through_drain:
            self._receiving.cancel()

    def kick(self, reason: str) -> None:
        """Make the pending `receive` and every later one raise Kicked with this fixed word, and let nothing be
        sent after KICK_GRACE_S. Idempotent."""
        if self._kick or self._ended:
            return
        self._kick = reason
        self._send_until = trio.current_time() + KICK_GRACE_S
        if self._receiving is not None:
            self._receiving.cancel()
        if self._sending is not None:
            self._sending.deadline = min(self._sending.deadline, self._send_until)

    def leave(self, why: str, unread: bytes = b"") -> None:
        """Let the connection go on elsewhere: unregister, and no shutdown. Everything was said, the slot is settled;
        `unread` is what was taken from the socket and not dealt with."""
        assert self._on_leave is not None  # can_leave says so
        assert isinstance(self._sock, socket.socket)  # likewise
        assert not self._ended
        self._ended = True
        self._count_bytes()
        trio.lowlevel.notify_closing(self._sock)
        self._on_leave(self, why, self._sock, unread)

    async def finish(self, reason: str) -> None:
        """End after the last words: half-close, then read for a moment, so that unread input does not turn
        them into a reset before the peer has seen them."""
        if self._ended:
            return
        with (
            trio.move_on_after(LINGER_S),
            contextlib.suppress(OSError, ConnectionOver, trio.ClosedResourceError),
        ):
            self._sock.shutdown(socket.SHUT_WR)
            read = 0
            while read < LINGER_BYTES:
                data = self._read_nowait()
                if data is None:
                    await self._wait_to_read()
                elif data:
                    read += len(data)
                else:
                    break
        self.end(reason)

    def end(self, reason: str) -> None:
        """End the connection now; idempotent. `reason` is a fixed word, for logs and metrics."""
        if self._ended:
            return
        self._ended = True
        self._count_bytes()
        trio.lowlevel.notify_closing(self._sock)
        with contextlib.suppress(OSError):  # the peer may be gone already: there is nobody left to tell
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._on_end(self, reason)
