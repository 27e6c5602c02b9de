"""What an IMAP session needs from outside: services, and options that ops/boot fills from the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from wd_trio.proto.imap.machine import EngineOptions
from wd_trio.servers.access import may_log_in
from wd_trio.servers.driver import Peer
from wd_trio.service.auth import Auth
from wd_trio.service.changes import ChangeHub
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.messages import Messages
from wd_trio.service.sessions import Sessions

PROTOCOL: Final = "imap"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapServices:
    auth: Auth
    sessions: Sessions
    mailboxes: Mailboxes
    messages: Messages
    hub: ChangeHub


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapOptions:
    hostname: str = "localhost"
    version: str = ""
    engine: EngineOptions = field(default_factory=EngineOptions)
    login_timeout_s: float = 180.0
    idle_timeout_s: float = 1800.0
    keepalive_s: float = 120.0
    park_after_s: float = 5.0
    """How long a connection that is quiet keeps its task. One in IDLE parks at once; inf: neither ever parks."""
    clock: Callable[[], float] = time.monotonic
    """What the deadlines in slots are told by: one clock for all processes of a machine."""
    bad_commands: int = 20
    failed_logins: int = 5
    starttls: bool = False
    """Whether there is a certificate to begin TLS with."""
    trusted_networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def may_log_in(self, peer: Peer) -> bool:
        """Whether passwords may be sent over this connection."""
        return may_log_in(peer, self.trusted_networks)
