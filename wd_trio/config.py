"""The configuration: every key with its type, default, meaning and range, declared once.

`config.toml` in the repository is printed from these classes (`wd-trio check-config --print-default`; a test
compares them). Each field's metadata holds its one-line comment ("help") and what a value must keep ("least",
"most", "choices"); fields of type Secret, and URLs that may hold a password, never print. Loading, environment
overrides and fault reports are in config_load.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wd_trio.secret import Secret


def _key(
    default: Any,
    help_text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    printed: bool = True,
) -> Any:
    """A declared key with an immutable default; not `printed` where a value may hold a password."""
    return field(default=default, repr=printed, metadata=_about(help_text, least, most, choices))


def _about(
    help_text: str, least: float | None = None, most: float | None = None, choices: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"help": help_text, "least": least, "most": most, "choices": choices}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    workers: int = _key(0, "worker processes; 0: one per core", least=0, most=256)
    hostname: str = _key("", "the name in greetings and trace headers; empty: the machine's own name")
    drain_s: float = _key(
        8.0, "seconds that sessions get to end after SIGTERM (at most 8)", least=0.1, most=8
    )
    drain_delay_s: float = _key(
        0.0,
        "so long after SIGTERM /health says draining before anything ends, for balancers to notice",
        least=0,
        most=300,
    )
    control: str = _key(
        "",
        "with MongoDB: the control socket's path; empty: wd-trio.control beside this file",
    )
    proxy_networks: tuple[str, ...] = _key(
        (), "balancers: connections from here must begin with a PROXY header, which names the client"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    url: str = _key(
        "sqlite:data/wd-trio.db",
        "where mail and users live: sqlite:PATH on a local disk, or mongodb://… of a replica set",
        printed=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    url: str = _key(
        "",
        "with MongoDB: redis://, rediss://, redis+sentinel:// or redis+cluster://; empty with the embedded engine",
        printed=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Imap:
    listen: tuple[str, ...] = _key(("127.0.0.1:1143",), "addresses as host:port, [ipv6]:port or unix:/path")
    tls_listen: tuple[str, ...] = _key((), "the same, TLS from the first byte")
    idle_timeout_s: float = _key(
        1800.0,
        "a silent connection is closed after this (RFC 3501: at least 30 minutes)",
        least=1,
        most=86400,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3:
    listen: tuple[str, ...] = _key(("127.0.0.1:1110",), "addresses as host:port, [ipv6]:port or unix:/path")
    tls_listen: tuple[str, ...] = _key((), "the same, TLS from the first byte")
    idle_timeout_s: float = _key(
        600.0,
        "a silent connection is closed after this (RFC 1939: at least 10 minutes)",
        least=1,
        most=86400,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lmtp:
    listen: tuple[str, ...] = _key(("127.0.0.1:1124",), "addresses as host:port, [ipv6]:port or unix:/path")
    tls_listen: tuple[str, ...] = _key((), "the same, TLS from the first byte")
    recipients: int = _key(1000, "recipients of one message at most", least=1, most=100000)
    idle_timeout_s: float = _key(300.0, "a silent connection is closed after this", least=1, most=86400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    listen: tuple[str, ...] = _key(("127.0.0.1:8080",), "addresses of the HTTP API, /health and /metrics")
    tls_listen: tuple[str, ...] = _key((), "the same, TLS from the first byte")
    access_token: Secret = field(
        default_factory=lambda: Secret(""), metadata=_about("root's bearer token; empty: none")
    )
    access_control: bool = _key(True, "false: every call is root's (tests and closed networks only)")
    cors_origins: tuple[str, ...] = _key(
        (), 'origins whose pages may call: "https://mail.example.org", or "*" for any; empty: none'
    )
    requests_per_s: float = _key(
        50.0, "calls a second of one user's token in each worker, ten seconds' worth at once; 0: any", least=0
    )
    root_requests_per_s: float = _key(0.0, "the same for one of root's tokens", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    certificate: str = _key("", "PEM file of the certificate chain; empty: no TLS, no STARTTLS")
    key: str = _key("", "PEM file of the private key")
    hold: bool = _key(
        True,
        "a process of its own ends TLS, so that connections outlive workers; false: each worker ends its own",
    )
    trusted_networks: tuple[str, ...] = _key(
        ("127.0.0.0/8", "::1/128"), "clients from here may log in without TLS"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections: int = _key(15000, "connections of one server at most", least=1)
    connections_per_user: int = _key(50, "of one user and protocol, over all workers", least=1)
    connections_per_ip: int = _key(1000, "of one client address and server, before and after log-in", least=1)
    message_bytes: int = _key(67108864, "the largest message that is taken", least=65536, most=2147483647)
    command_bytes: int = _key(
        65536,
        "the longest IMAP command after log-in, literals included (messages apart)",
        least=8192,
        most=16777216,
    )
    flush_s: float = _key(
        60.0, "a peer that takes none of a reply for this long is given up", least=0.05, most=3600
    )
    quota_bytes: int = _key(0, "room of a user who has no quota of their own; 0: unlimited", least=0)
    failed_logins_per_ip: int = _key(
        50, "wrong passwords from one address in 10 minutes; then refused for a while", least=1
    )
    failed_logins_per_user: int = _key(
        20, "wrong passwords for one user and address in 10 minutes; likewise", least=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    argon2_time_cost: int = _key(3, "passes of argon2id", least=1, most=100)
    argon2_memory_kib: int = _key(65536, "memory of argon2id in KiB", least=8, most=4194304)
    failure_delay_s: float = _key(1.0, "a wrong password is answered after this", least=0, most=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: str = _key("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    format: str = _key(
        "auto", "json, console, or auto: console on a terminal", choices=("json", "console", "auto")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration; each attribute is one [section]."""

    server: Server = field(default_factory=Server)
    store: Store = field(default_factory=Store)
    redis: Redis = field(default_factory=Redis)
    imap: Imap = field(default_factory=Imap)
    pop3: Pop3 = field(default_factory=Pop3)
    lmtp: Lmtp = field(default_factory=Lmtp)
    api: Api = field(default_factory=Api)
    tls: Tls = field(default_factory=Tls)
    limits: Limits = field(default_factory=Limits)
    auth: Auth = field(default_factory=Auth)
    log: Log = field(default_factory=Log)
