"""Acknowledging at once what came, where more of it is awaited."""

from __future__ import annotations

import socket

from wd_trio.servers.tls import TlsSocket


def quickack(sock: socket.socket | TlsSocket) -> None:
    """Many clients send a message and the line end after it apart; their kernel holds the second back until ours
    acknowledges the first, which it would delay for 40 ms. The option lasts for one packet or so. TCP only."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
