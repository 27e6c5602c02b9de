"""Telling the service manager how the server stands: sd_notify(3), as far as `Type=notify` needs it.

A datagram to the socket that $NOTIFY_SOCKET names; without that variable nobody wants to know. It is sent without
waiting, and one that cannot be sent is logged and lost: no service manager may hold up the server.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

import structlog

log = structlog.get_logger()

VARIABLE: Final = "NOTIFY_SOCKET"


def ready(status: str) -> None:
    """Everything is served, again after `reloading`; `status` is a line for people."""
    _tell("READY=1", f"STATUS={status}")


def reloading() -> None:
    """The configuration is being loaded again; `ready` follows, whatever comes of it."""
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The server is on its way out."""
    _tell("STOPPING=1", "STATUS=draining")


def _tell(*lines: str) -> None:
    name = os.environ.get(VARIABLE)
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("the service manager does not hear", message=lines[0], error=str(error))
