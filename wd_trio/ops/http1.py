"""HTTP/1.1 connections: hypercorn's protocol and h11, with less around each request.

What hypercorn does for a request beside parsing it is most of its cost (docs/performance.md): it starts a task that
waits out the idle time and stops it again, and sends head, body and the end of the body apart. Here the idle time is
a deadline that moves, and what belongs to one answer leaves together: the head waits for the first bytes of its body,
which ASGI has come before anything is sent. HTTP/2 is left out: a server need not heed an Upgrade (RFC 9110 §7.8).

An answer may go out before its request came whole (a body that is too long, or not wanted). Then our side of the
connection ends, and what still comes is dropped for LINGER_S at most: to close with octets unread is to reset the
connection, which can cost the client the answer (RFC 9112 §9.6).

Leaving: connections that are idle close at once, others after the answer that is under way; what is left when the
grace is over is cancelled. Sends are shielded, as hypercorn's are: the kernel bounds them (ops/http.py).
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState
from hypercorn.utils import parse_socket_addr

log = structlog.get_logger()

LINGER_S: Final = 5.0
READ_BYTES: Final = 65_536


class Protocol(H11Protocol):
    """One connection's requests and answers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._send_now = self.send
        self.send = self._send_together
        self._is_head = False
        self._head = b""

    async def stream_send(self, event: StreamEvent) -> None:
        self._is_head = isinstance(event, Response) and event.status_code >= 200
        try:
            await super().stream_send(event)
        finally:
            self._is_head = False

    async def _send_together(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await self._send_now(event)
            return
        data, self._head = self._head + event.data, b""
        if self._is_head:
            self._head = data
        elif data:  # the end of a body of known length has no bytes
            await self._send_now(RawData(data=data))

    async def _check_protocol(self, event: Any) -> None:
        """Every request is one of HTTP/1."""


class Connection(TCPServer):
    """One connection: reads until it is over, or idle for too long."""

    stream: trio.SocketStream  # type: ignore[assignment]  # its base says SSLStream, and takes both

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        super().__init__(app, config, context, {}, cast(Any, stream))
        self._reading = trio.CancelScope()
        self._ended = False  # no more is to be said here

    def leave(self) -> None:
        """Close now if no request is under way; else hypercorn does after its answer."""
        if self._reading.deadline < math.inf:
            self._reading.cancel()

    async def run(self) -> None:
        family = self.stream.socket.family
        try:
            client = parse_socket_addr(family, self.stream.socket.getpeername())
            server = parse_socket_addr(family, self.stream.socket.getsockname())
            async with TaskGroup() as tasks:
                self.protocol = Protocol(  # type: ignore[assignment]  # its base puts HTTP/2 in between
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState(self.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                self._be_idle()
                with self._reading:
                    await self._read_data()
                await self.protocol.handle(Closed())
        except OSError:
            pass  # it went before it was asked for its addresses
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed):
            self._end()  # nothing is awaited: who says so may be cancelled
        elif not isinstance(event, Updated):
            await super().protocol_send(event)
        elif event.idle:
            self._be_idle()
        else:
            self._reading.deadline = math.inf

    def _end(self) -> None:
        """Say no more, and read no more; but let a client that still sends its request hear the answer."""
        self._ended = True
        if self.protocol.connection.their_state is h11.SEND_BODY:  # type: ignore[attr-defined]  # as in `run`
            self._shut()
            self._reading.deadline = trio.current_time() + LINGER_S
        else:
            self._reading.cancel()

    async def _read_data(self) -> None:
        data: bytes | bytearray | None = None
        while data != b"":
            try:
                data = await self.stream.receive_some(READ_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if not self._ended:
                await self.protocol.handle(RawData(bytes(data)))

    async def _close(self) -> None:
        self._shut()
        await self.stream.aclose()

    def _shut(self) -> None:
        with suppress(OSError):  # the client may be gone already
            self.stream.socket.shutdown(socket.SHUT_WR)

    def _be_idle(self) -> None:
        self._reading.deadline = trio.current_time() + self.config.keep_alive_timeout


async def serve(
    app: ASGIFramework,
    config: Config,
    listeners: list[trio.SocketListener],
    *,
    leave: Callable[[], Awaitable[None]],
) -> None:
    """Serve an app until `leave` returns, and then for `config.graceful_timeout` what is under way. The listeners are
    closed at the end."""
    context = WorkerContext(None)
    wrapped = ASGIWrapper(app)
    live: set[Connection] = set()

    async def handle(stream: trio.SocketStream) -> None:
        connection = Connection(wrapped, config, context, stream)
        live.add(connection)
        try:
            await connection.run()
        except Exception:
            log.exception("an HTTP connection failed")
        finally:
            live.discard(connection)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, handle, listeners, handler_nursery=connections)
            )
            await leave()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        for connection in live:
            connection.leave()
