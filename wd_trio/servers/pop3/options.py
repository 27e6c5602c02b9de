"""What a POP3 session needs from outside: services, and options that ops/boot fills from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from wd_trio.proto.pop3.engine import EngineOptions
from wd_trio.service.auth import Auth
from wd_trio.service.maildrop import Maildrops
from wd_trio.service.sessions import Sessions

PROTOCOL: Final = "pop3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Services:
    auth: Auth
    sessions: Sessions
    maildrops: Maildrops


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Options:
    hostname: str = "localhost"
    engine: EngineOptions = field(default_factory=EngineOptions)
    login_timeout_s: float = 180.0
    idle_timeout_s: float = 600.0
    failed_logins: int = 5
    starttls: bool = False
    """Whether there is a certificate to begin TLS with."""
    trusted_networks: tuple[IPv4Network | IPv6Network, ...] = ()
