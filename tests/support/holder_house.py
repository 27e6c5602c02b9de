"""A holder with its keeper and a listening port before it, and TLS clients that can do one half of everything."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from certificates import Pair, trusting_anything

from wd_trio.ops.tls.channel import HolderOptions
from wd_trio.ops.tls.holding import Holding, HoldingOptions, Newcomer, TlsFacts

PATIENCE_S = 20.0
T = TypeVar("T")


@dataclass
class House:
    """A running holder; `secured` and `failed` are what it told."""

    port: int = 0
    holding: Holding = field(init=False)
    secured: list[tuple[Newcomer, socket.socket, TlsFacts]] = field(default_factory=list)
    failed: list[tuple[Newcomer, str]] = field(default_factory=list)
    _streams: list[trio.SocketStream] = field(default_factory=list)
    _told: trio.Event = field(default_factory=trio.Event)

    def on_secured(self, newcomer: Newcomer, sock: socket.socket, facts: TlsFacts) -> None:
        self.secured.append((newcomer, sock, facts))
        self._tell()

    def on_failed(self, newcomer: Newcomer, reason: str) -> None:
        self.failed.append((newcomer, reason))
        self._tell()

    def _tell(self) -> None:
        self._told.set()
        self._told = trio.Event()

    async def wait_secured(self, count: int) -> trio.SocketStream:
        """Wait for so many handshakes; the worker's end of the last, as a stream."""
        with trio.fail_after(PATIENCE_S):
            while len(self.secured) < count:
                await self._told.wait()
        return trio.SocketStream(trio.socket.from_stdlib_socket(self.secured[count - 1][1]))

    async def wait_failed(self, count: int = 1) -> list[str]:
        with trio.fail_after(PATIENCE_S):
            while len(self.failed) < count:
                await self._told.wait()
        return [reason for _, reason in self.failed]

    async def wait_ready(self, *, not_pid: int = 0) -> int:
        """The pid of a holder that is ready."""
        return (await until(self.holding.statistics, lambda now: now.ready and now.pid != not_pid)).pid

    async def wait_open(self, count: int) -> None:
        await until(lambda: self.holding.statistics().open, lambda now: now == count)

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()
        for _, sock, _ in self.secured:
            sock.close()

    async def pair(self) -> tuple[Client, trio.SocketStream]:
        """A client whose handshake is done, and the worker's end of it."""
        client = Client(await self.connect())
        before = len(self.secured)
        await client.handshake()
        return client, await self.wait_secured(before + 1)


async def until(look: Callable[[], T], fits: Callable[[T], bool]) -> T:
    """What `look` returns once it fits; another process makes it so, hence no event."""
    with trio.fail_after(PATIENCE_S):
        while not fits(seen := look()):
            await trio.sleep(0.01)
        return seen


@contextlib.asynccontextmanager
async def house(
    pair: Pair, *, holder: HolderOptions | None = None, ping_s: float = 0.05
) -> AsyncIterator[House]:
    """A holder that is ready, and a port whose clients go to it."""
    made = House()
    options = HoldingOptions(holder=holder or HolderOptions(), ping_s=ping_s)
    made.holding = Holding(
        pair.certificate, pair.key, on_secured=made.on_secured, on_failed=made.on_failed, options=options
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2000) as listening:
        made.port = listening.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.holding.run)
            nursery.start_soon(_accept, listening, made)
            await made.wait_ready()
            try:
                yield made
            finally:
                made.holding.kill()
                with trio.CancelScope(shield=True):
                    await made.holding.stop(deadline_s=1.0)
                nursery.cancel_scope.cancel()
                made.close()


async def _accept(listening: socket.socket, made: House) -> None:
    listening.setblocking(False)
    while True:
        await trio.lowlevel.wait_readable(listening)
        sock, (ip, port) = listening.accept()
        made.holding.come(Newcomer("imap", ip, port), sock)


class Client:
    """TLS over a stream, each step by itself."""

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        context: ssl.SSLContext | None = None,
        name: str = "mail.example.org",
    ) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or trusting_anything()).wrap_bio(
            self._incoming, self._outgoing, server_hostname=name
        )

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self.stream.send_all(self._outgoing.read())

    async def _fill(self) -> bool:
        data = await self.stream.receive_some(65536)
        self._incoming.write(data)
        return bool(data)

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                assert await self._fill(), "the server ended the handshake"
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), 16384):
            self.tls.write(data[at : at + 16384])
            await self._flush()

    async def receive(self) -> bytes:
        """The next octets; b"" after the server's close_notify. AssertionError for an end without it."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                assert await self._fill(), "an end without close_notify"
            except ssl.SSLZeroReturnError:
                return b""

    async def receive_exactly(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            data = await self.receive()
            assert data, "too early an end"
            got += data
        return bytes(got)

    async def end(self) -> None:
        """Our side is over: close_notify, and no more."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        await self._flush()


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        data = await stream.receive_some(65536)
        assert data, "too early an end"
        got += data
    return bytes(got)
