"""The hosts of a worker: what serves the connections of each protocol, over the services that boot composed."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

import trio

from wd_trio import __version__
from wd_trio.config import Config
from wd_trio.ops.boot import Services, hostname
from wd_trio.servers.driver import DriverOptions
from wd_trio.servers.imap.host import ImapHost
from wd_trio.servers.imap.options import ImapOptions, ImapServices
from wd_trio.servers.listener import ConnectionHost, Handler
from wd_trio.servers.lmtp.session import LmtpOptions, LmtpServices, serve_lmtp
from wd_trio.servers.pop3.options import Pop3Options, Pop3Services
from wd_trio.servers.pop3.serve import serve_pop3
from wd_trio.servers.slots import Slot, Slots
from wd_trio.servers.tls import server_context

Host: TypeAlias = ConnectionHost | ImapHost
HostMaker: TypeAlias = Callable[[trio.Nursery], Host]
"""Makes what serves the connections of a protocol, in a nursery that is open as long as it serves."""


def hosts(
    services: Services,
    config: Config,
    *,
    slots: Slots,
    on_end: Callable[[Slot], None],
    on_leave: Callable[[Slot, str, socket.socket, bytes], None],
    vital: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = lambda run: run(),
) -> dict[str, HostMaker]:
    """What makes the host of each protocol; `on_end` and `on_leave` are those of servers/listener.py, `vital` is that
    of servers/imap/host.py. Invalid when workers are to end TLS and the certificate is no good."""
    driver = driver_options(config)
    imap_services, imap_options = _imap(services, config)

    def imap(nursery: trio.Nursery) -> ImapHost:
        return ImapHost(
            imap_services,
            imap_options,
            slots=slots,
            nursery=nursery,
            options=driver,
            on_end=on_end,
            on_leave=on_leave,
            vital=vital,
        )

    def other(protocol: str, handler: Handler) -> HostMaker:
        return lambda nursery: ConnectionHost(
            protocol, handler, nursery=nursery, options=driver, on_end=on_end, on_leave=on_leave
        )

    return {
        "imap": imap,
        "pop3": other("pop3", _pop3(services, config)),
        "lmtp": other("lmtp", _lmtp(services, config)),
    }


def _imap(services: Services, config: Config) -> tuple[ImapServices, ImapOptions]:
    imap_services = ImapServices(
        auth=services.auth,
        sessions=services.sessions,
        mailboxes=services.mailboxes,
        messages=services.messages,
        hub=services.hub,
    )
    imap_options = ImapOptions(
        hostname=hostname(config),
        version=__version__,
        engine=replace(
            ImapOptions().engine,
            max_command_bytes=config.limits.command_bytes,
            max_message_bytes=config.limits.message_bytes,
        ),
        idle_timeout_s=config.imap.idle_timeout_s,
        starttls=bool(config.tls.certificate),
        trusted_networks=_trusted(config),
    )
    return imap_services, imap_options


def _pop3(services: Services, config: Config) -> Handler:
    pop3 = Pop3Services(auth=services.auth, sessions=services.sessions, maildrops=services.maildrops)
    options = Pop3Options(
        hostname=hostname(config),
        idle_timeout_s=config.pop3.idle_timeout_s,
        starttls=bool(config.tls.certificate),
        trusted_networks=_trusted(config),
    )
    return lambda connection: serve_pop3(connection, pop3, options)


def _lmtp(services: Services, config: Config) -> Handler:
    lmtp = LmtpServices(delivery=services.delivery)
    options = LmtpOptions(
        hostname=hostname(config),
        idle_timeout_s=config.lmtp.idle_timeout_s,
        message_bytes=config.limits.message_bytes,
        recipients=config.lmtp.recipients,
        starttls=bool(config.tls.certificate),
    )
    return lambda connection: serve_lmtp(connection, lmtp, options)


def driver_options(config: Config) -> DriverOptions:
    """What every connection is made with. Invalid when workers are to end TLS and the certificate is no good."""
    tls = config.tls
    ends_tls = bool(tls.certificate) and not tls.hold
    return DriverOptions(
        flush_s=config.limits.flush_s,
        tls=server_context(tls.certificate, tls.key) if ends_tls else None,
    )


def _trusted(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in config.tls.trusted_networks)
