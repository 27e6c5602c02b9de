"""HTTP/1.1 connections: one task for each, which reads a request, runs the app and sends the answer.

Hypercorn's own protocol starts a task and a channel for each request and passes every event through four layers; that
costs more than all else that is done for it (docs/performance.md). Here the app asks the socket itself: `receive`
reads only as much as it is asked for, so that what nobody reads is not taken from the client; and an app that does
not ask learns of a client's going when it sends. What belongs to one answer leaves together: the head waits for the
first bytes of its body, which ASGI has come before anything is sent. Plain requests are read and answered by
plain.py, all others by h11, which is given the very octets that came. HTTP/2 is left out: a server need not heed an
Upgrade (RFC 9110 §7.8). A WebSocket is hypercorn's from its handshake on.

An answer may go out before its request came whole (a body that is too long, or not wanted). Then our side of the
connection ends, and what still comes is dropped for LINGER_S at most: to close with octets unread is to reset the
connection, which can cost the client the answer (RFC 9112 §9.6).

Leaving: connections that are idle close at once, others after the answer that is under way; what is left when the
grace is over is cancelled, in the middle of a send if need be. A WebSocket's sends are shielded by hypercorn: the
kernel bounds them (serve.py).
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import parse_socket_addr

from wd_trio.ops.http.plain import Header, PlainRequest, plain_answer, plain_request

log = structlog.get_logger()

LINGER_S: Final = 5.0
READ_BYTES: Final = 65_536
_ASGI: Final = {"spec_version": "2.1", "version": "3.0"}
_BODILESS: Final = (204, 304)
_CLOSE: Final[Header] = (b"connection", b"close")
_GONE: Final = {"type": "http.disconnect"}

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
Address: TypeAlias = tuple[str, int] | None


class Connection:
    """One connection: requests one after another, until it is over or idle for too long."""

    def __init__(self, app: App, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._reading = trio.CancelScope()
        self._writing = trio.Lock()
        self._client: Address = None
        self._server: Address = None
        self._requests = 0
        self._leaving = False
        self._broken = False  # nothing can be sent any more
        self._data = b""  # what came and was not read yet; h11 has it while there is one
        self._plain: PlainRequest | None = None  # the request at the beginning of it
        self._http: h11.Connection | None = None  # for a request, or an answer, that is not plain
        self._is_head = False
        self._start: tuple[int, list[Header]] | None = None  # of the answer, until its head is made
        self._head = b""  # of the answer, until there is something of its body

    def leave(self) -> None:
        """Close now if no request is under way, else after its answer."""
        self._leaving = True
        if self._reading.deadline < math.inf:
            self._reading.cancel()

    async def run(self) -> None:
        sock = self._stream.socket
        try:
            self._client = parse_socket_addr(sock.family, sock.getpeername())
            self._server = parse_socket_addr(sock.family, sock.getsockname())
            with self._reading:
                while True:
                    self._reading.deadline = trio.current_time() + self._config.keep_alive_timeout
                    if not await self._serve_one():
                        break
        except OSError:
            pass  # it went before it was asked for its addresses
        finally:
            self._shut()
            await self._stream.aclose()

    async def _serve_one(self) -> bool:
        """Read and answer one request; whether there may be another one."""
        if not self._data:
            self._data = await self._received()
            if not self._data:
                return False
        plain = self._plain = plain_request(self._data)
        if plain is not None:
            scope = self._scope(b"GET", plain.target, b"1.1", plain.headers)
        else:
            request = await self._next_request()
            if request is None:
                return False
            headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
            if request.method == b"GET" and _wants_websocket(headers):
                self._reading.deadline = math.inf
                websocket = WebSocket(self._app, self._config, self._context, self._stream)
                await websocket.serve(self._general(), request)
                return False
            scope = self._scope(request.method, request.target, request.http_version, headers)
        self._is_head = scope["method"] == "HEAD"
        self._reading.deadline = math.inf
        self._requests += 1
        try:
            await self._app(scope, self._receive, self._send)
        except* Exception:
            log.exception("a request failed")
        return await self._ended()

    def _scope(self, method: bytes, target: bytes, version: bytes, headers: list[Header]) -> dict[str, Any]:
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "http_version": version.decode("ascii"),
            "asgi": _ASGI,
            "method": method.decode("ascii").upper(),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            "extensions": {},
        }

    # -- requests

    def _general(self) -> h11.Connection:
        """h11, with all that came since the last answer."""
        if self._http is None:
            most = self._config.h11_max_incomplete_size
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
            self._http.receive_data(self._data)
            if self._plain is not None:
                self._http.next_event()
            self._data, self._plain = b"", None
        return self._http

    async def _next_request(self) -> h11.Request | None:
        """The one that begins with what came; None when the connection is over before it is whole, or it is no HTTP,
        which is answered."""
        http = self._general()
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return None
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            http.receive_data(await self._received())

    async def _received(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    async def _receive(self) -> Any:
        """ASGI's: a piece of the body, its end, and after that when the client has gone."""
        if self._plainly_answered:
            async with self._writing:  # who is told of a client's going may cancel what is being sent
                return _GONE
        http = self._general()
        while True:
            if http.they_are_waiting_for_100_continue:
                await self._write(http.send(h11.InformationalResponse(status_code=100, headers=[])))
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                self._broken = True
                return _GONE
            if event is h11.NEED_DATA:
                http.receive_data(await self._received())
            elif isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            elif isinstance(event, h11.EndOfMessage):
                return {"type": "http.request", "body": b"", "more_body": False}
            elif event is h11.PAUSED:
                await trio.sleep_forever()  # the next request is here, so the client is
            else:
                return _GONE

    # -- answers

    async def _send(self, message: Any) -> None:
        """ASGI's: an answer's start, and then its body."""
        if message["type"] == "http.response.start":
            date = (b"date", _date(int(time.time())))
            self._start = message["status"], [*message.get("headers", ()), date]
            if self._http is not None:
                self._begin(*self._start)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._plain is not None and self._start is not None and not (more or self._is_last()):
            answer = plain_answer(*self._start, body)
            if answer is not None:
                self._data = self._data[self._plain.size :]
                self._plain = self._start = None
                await self._write(answer)
                return
        self._general()
        if self._start is not None:
            self._begin(*self._start)
        await self._send_body(body, last=not more)

    @property
    def _plainly_answered(self) -> bool:
        return self._plain is None and self._http is None

    def _is_last(self) -> bool:
        """Whether the answer under way is this connection's last."""
        return self._leaving or self._requests > self._config.keep_alive_max_requests

    def _begin(self, status: int, headers: list[Header]) -> None:
        self._start = None
        if self._is_last():
            headers.append(_CLOSE)
        self._head = self._sendable(h11.Response(status_code=status, headers=headers))
        self._is_head = self._is_head or status in _BODILESS

    async def _send_body(self, body: bytes, *, last: bool) -> None:
        data, self._head = self._head, b""
        if body and not self._is_head:
            data += self._sendable(h11.Data(data=body))
        if last:
            data += self._sendable(h11.EndOfMessage())
        await self._write(data)

    def _sendable(self, event: h11.Event) -> bytes:
        """What an event is on the wire; nothing once there is nobody to tell it to."""
        return b"" if self._broken else self._general().send(event) or b""

    async def _write(self, data: bytes | None) -> None:
        if self._broken or not data:
            await trio.lowlevel.checkpoint()
            return
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()
        whole = False
        try:
            await self._stream.send_all(data)
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._writing.release()
            self._broken = self._broken or not whole

    async def _refuse(self, status: int) -> None:
        """Answer with a status alone and end our side, unless an answer has begun."""
        if self._general().our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._begin(status, [(b"content-length", b"0"), (b"date", _date(int(time.time()))), _CLOSE])
            await self._send_body(b"", last=True)

    async def _ended(self) -> bool:
        """After the app: whether another request may come. If this one has not come whole, the answer is given the
        time to be heard."""
        if self._plainly_answered:
            return not (self._broken or self._leaving)
        http = self._general()
        if http.our_state is h11.SEND_RESPONSE:
            await self._refuse(500)
        with suppress(h11.RemoteProtocolError):
            while http.their_state is h11.SEND_BODY and http.next_event() is not h11.NEED_DATA:
                pass  # what is here of a body that nobody read
        if self._broken:
            return False
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            self._data, self._http = http.trailing_data[0], None
            return not self._leaving
        if http.their_state is h11.SEND_BODY:
            self._shut()
            self._reading.deadline = trio.current_time() + LINGER_S
            while await self._received():
                pass
        return False

    def _shut(self) -> None:
        with suppress(OSError):  # the client may be gone already
            self._stream.socket.shutdown(socket.SHUT_WR)


def _wants_websocket(headers: list[Header]) -> bool:
    upgrade = connection = b""
    for name, value in headers:
        if name == b"upgrade":
            upgrade = value
        elif name == b"connection":
            connection = value
    tokens = [token.strip() for token in connection.lower().split(b",")]
    return upgrade.lower() == b"websocket" and b"upgrade" in tokens


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


class WebSocket(TCPServer):
    """A connection that asks to become a WebSocket, and what comes of it."""

    def __init__(self, app: App, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
        wrapped = ASGIWrapper(cast(ASGIFramework, app))
        super().__init__(wrapped, config, context, {}, cast(Any, stream))  # it says SSLStream, and takes both

    async def serve(self, http: h11.Connection, request: h11.Request) -> None:
        """Serve it from its handshake to its end."""
        sock = cast(Any, self.stream).socket
        async with TaskGroup() as tasks:
            protocol = self.protocol = _Handshake(  # type: ignore[assignment]  # its base puts HTTP/2 in between
                self.app,
                self.config,
                self.context,
                tasks,
                ConnectionState(self.state),
                False,
                parse_socket_addr(sock.family, sock.getpeername()),
                parse_socket_addr(sock.family, sock.getsockname()),
                self.protocol_send,
            )
            await protocol.begin(http, request)
            await self._read_data()


class _Handshake(H11Protocol):
    async def begin(self, http: h11.Connection, request: h11.Request) -> None:
        """Take over a connection whose handshake was read."""
        self.connection = http
        await self._create_stream(request)
        await self.handle(RawData(b""))  # what came behind it


async def serve(
    app: App,
    config: Config,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    leave: Callable[[], Awaitable[None]],
) -> None:
    """Serve an app until `leave` returns, and then for `config.graceful_timeout` what is under way. The listeners are
    closed at the end."""
    context = WorkerContext(None)
    live: set[Connection] = set()

    async def handle(stream: trio.SocketStream) -> None:
        connection = Connection(app, config, context, stream)
        live.add(connection)
        try:
            await connection.run()
        except* Exception:
            log.exception("an HTTP connection failed")
        finally:
            live.discard(connection)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, handle, cast(Any, listeners), handler_nursery=connections)
            )
            await leave()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        for connection in live:
            connection.leave()
