"""HTTP in a worker: serves the app on listeners that the supervisor bound.

Every worker accepts for itself, on the same sockets; connections are http1.py's, WebSockets hypercorn's. Limits of
both are set here: the time that idle and half-said requests may take, and what is told to the log. Hypercorn's sends
are shielded from cancellation without a deadline: the kernel gives up a client that takes nothing for `flush_s`,
which accepted sockets have from their listener, and whoever runs this bounds the rest from outside (ops/worker.py).
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import trio
from hypercorn.config import Config

from wd_trio.ops.http import http1
from wd_trio.ops.http.https import TlsListener
from wd_trio.ops.listeners import BACKLOG

KEEP_ALIVE_S: Final = 60


async def serve_http(
    app: object,
    descriptors: Sequence[int],
    *,
    leave: Callable[[], Awaitable[None]],
    grace_s: float,
    flush_s: float,
    tls_descriptors: Sequence[int] = (),
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve an ASGI app on inherited listening sockets until `leave` returns; requests then get `grace_s`. A client
    that takes nothing of an answer for `flush_s` is given up. On `tls_descriptors` connections begin with TLS."""
    for descriptor in (*descriptors, *tls_descriptors):
        bound_sends(descriptor, flush_s)
    if not descriptors and not tls_descriptors:
        await leave()
        return
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = grace_s
    listeners: list[trio.abc.Listener[Any]] = [_listener(descriptor) for descriptor in descriptors]
    if tls is not None:
        listeners += [TlsListener(_listener(descriptor), tls) for descriptor in tls_descriptors]
    await http1.serve(cast(http1.App, app), config, listeners, leave=leave)


def _listener(descriptor: int) -> trio.SocketListener:
    sock = socket.socket(fileno=descriptor)
    sock.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def bound_sends(descriptor: int, flush_s: float) -> None:
    """RFC 5482's user timeout for what a listener accepts; Unix sockets have none, and their clients are proxies."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(flush_s * 1000)))
