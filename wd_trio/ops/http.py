"""Hypercorn in a worker: serves the app on listeners that the supervisor bound.

Hypercorn accepts for itself, every worker on the same sockets. Its own limits are set here: its backlog (it calls
listen again), the time that idle and half-said requests may take, and what it tells the log. Its sends are shielded
from cancellation without a deadline, so whoever runs this bounds it from outside (ops/worker.py).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hypercorn.config
import hypercorn.trio

from wd_trio.ops.listeners import BACKLOG

KEEP_ALIVE_S: Final = 60


async def serve_http(
    app: object, descriptors: Sequence[int], *, leave: Callable[[], Awaitable[None]], grace_s: float
) -> None:
    """Serve an ASGI app on inherited listening sockets until `leave` returns; requests then get `grace_s`."""
    if not descriptors:
        await leave()
        return
    config = hypercorn.config.Config()
    config.bind = [f"fd://{descriptor}" for descriptor in descriptors]
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = grace_s
    config.shutdown_timeout = grace_s
    await hypercorn.trio.serve(cast(Any, app), config, shutdown_trigger=leave)
