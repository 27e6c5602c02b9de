"""The way from a listening socket to the door: direct, or past a balancer's PROXY header.

From `proxy_networks` every connection must begin with a header, and counts as its client's; from anywhere else none
is looked for, so that nobody outside can pretend. The header is read here, before the door counts and places: a
worker never sees it. Each unfinished header waits in a task of its own, for HEADER_S at most and among HEADERS at
most, so that a slow one costs nobody else anything. One that does not come is a closed connection without a word:
whoever is there is not the balancer that this network was named for.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import structlog
import trio

from wd_trio.errors import Invalid
from wd_trio.ops import metrics
from wd_trio.ops.connections import UNIX
from wd_trio.ops.door import Door
from wd_trio.ops.listeners import Listener, accept_all
from wd_trio.ops.tls.securing import Securing
from wd_trio.servers.proxy import read_header

log = structlog.get_logger()

HEADER_S: Final = 3.0
HEADERS: Final = 1000


class Entrance:
    """Lets the connections of all listeners but the API's come to the door."""

    def __init__(self, door: Door, proxy_networks: Sequence[str], securing: Securing | None = None) -> None:
        """`securing` is where clients of TLS listeners go."""
        self._door = door
        self._securing = securing
        self._networks: tuple[IPv4Network | IPv6Network, ...] = ()
        self._unfinished = 0
        self.trust(proxy_networks)

    def trust(self, proxy_networks: Sequence[str]) -> None:
        """Expect headers from these networks (each as address/bits) from now on, and from no others."""
        self._networks = tuple(ip_network(text) for text in proxy_networks)

    @property
    def unfinished(self) -> int:
        """Connections whose header has not come yet."""
        return self._unfinished

    async def serve(self, listener: Listener) -> None:
        """Accept a listener's connections for ever; cancelled, those whose header has not come are closed."""
        async with trio.open_nursery() as nursery:

            def accepted(sock: socket.socket, ip: str, port: int) -> None:
                self.come(nursery, listener.protocol, sock, ip, port, tls=listener.tls)

            gate = self._securing if listener.tls and self._securing is not None else self._door
            await accept_all(listener, accepted, wait_wanted=gate.wait_wanted)

    def come(
        self,
        nursery: trio.Nursery,
        protocol: str,
        sock: socket.socket,
        ip: str,
        port: int,
        *,
        tls: bool = False,
    ) -> None:
        """Bring an accepted connection to the door, past the end of TLS if it begins with that: now, or in a task of
        the nursery when its header has come."""
        if not self._speaks_for_others(ip):
            self._let_in(protocol, sock, ip, port, tls=tls)
        elif self._unfinished >= HEADERS:
            metrics.refused_total.labels(protocol, "headers full").inc()
            _shut(sock)
        else:
            self._unfinished += 1
            nursery.start_soon(self._hear, protocol, sock, ip, port, tls)

    def _let_in(
        self, protocol: str, sock: socket.socket, ip: str, port: int, *, tls: bool, secure: bool = False
    ) -> None:
        if tls:
            assert self._securing is not None  # its owner has TLS listeners
            self._securing.come(protocol, sock, ip, port)
        else:
            self._door.come(protocol, sock, ip, port, secure=secure)

    def _speaks_for_others(self, ip: str) -> bool:
        if not self._networks or ip == UNIX:
            return False
        address = ip_address(ip)
        return any(address in network for network in self._networks)

    async def _hear(self, protocol: str, sock: socket.socket, ip: str, port: int, tls: bool) -> None:
        origin, reason = None, "late"
        try:
            sock.setblocking(False)
            with trio.move_on_after(HEADER_S):
                origin = await read_header(sock)
                reason = ""
        except (Invalid, OSError) as error:
            reason = str(error)
        except Exception:  # a defect of ours ends this connection and no other
            log.exception("proxy header failed", protocol=protocol, balancer=ip)
            reason = "failed"
        finally:
            self._unfinished -= 1
            if origin is None:
                _shut(sock)
        if origin is not None:
            known = (origin.ip, origin.port) if origin.ip else (ip, port)
            self._let_in(protocol, sock, *known, tls=tls, secure=origin.secure)
        elif reason:  # else a look whether the port answers: it came and went without a word
            metrics.refused_total.labels(protocol, "no proxy header").inc()
            log.warning("no proxy header", protocol=protocol, balancer=ip, reason=reason)


def _shut(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):  # it may be gone already
        sock.shutdown(socket.SHUT_RDWR)
