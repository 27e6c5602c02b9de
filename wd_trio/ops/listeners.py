"""Listening sockets: bound once, before any worker starts, and accepted from by the supervisor.

A failure to bind ends the start with a message that names the address. Accepting goes on through everything that
passes: a full descriptor table (EMFILE, ENFILE) or kernel memory (ENOBUFS, ENOMEM) means waiting a little, and a
connection that died in the queue is nobody's fault. While no worker can take connections nothing is accepted:
they wait in the backlog. A socket file left by a server that died is replaced; one that answers is not ours.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from wd_trio.addresses import Listen, parse_listen
from wd_trio.config import Config

log = structlog.get_logger()

BACKLOG: Final = 4096  # the kernel lowers it to net.core.somaxconn
ACCEPTS_PER_TURN: Final = 64
EXHAUSTED_PAUSE_S: Final = 0.1
UNIX_SOCKET_MODE: Final = 0o666
"""Whoever reaches the folder may connect, as with a TCP port; the folder's own mode is the fence."""

EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""accept(2): what the machine is short of for now."""
_NO_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# accept(2): errors of the new connection, to be treated like "try again"
_PASSING: Final = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EINTR,
}

Accepted = Callable[[socket.socket, str, int], None]
"""Takes over an accepted socket, with the client's address ("unix" for Unix sockets) and port."""


class BindFailed(Exception):
    """An address cannot be listened on; the text names it and the reason."""


@dataclass(slots=True)
class Listener:
    """A bound socket. `address` is the one bound: port 0 has become a number. `tls`: from the first byte."""

    protocol: str
    address: Listen
    sock: socket.socket
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}{'s' if self.tls else ''}://{self.address}"

    def close(self) -> None:
        """Stop listening, and remove the file of a Unix socket. Idempotent."""
        if self.sock.fileno() == -1:
            return
        if self.address.path:
            try:
                os.unlink(self.address.path)
            except FileNotFoundError:
                log.warning("socket file was gone", path=self.address.path)
        self.sock.close()


def addresses(config: Config) -> list[tuple[str, str, bool]]:
    """(protocol, address, whether TLS comes first) of everything that the configuration listens on."""
    sections = (("imap", config.imap), ("pop3", config.pop3), ("lmtp", config.lmtp), ("api", config.api))
    return [
        (protocol, text, tls)
        for protocol, section in sections
        for tls, texts in ((False, section.listen), (True, section.tls_listen))
        for text in texts
    ]


def bind_all(config: Config) -> list[Listener]:
    """Bind every configured address, or none: BindFailed for the first that cannot be."""
    bound: list[Listener] = []
    try:
        for protocol, text, tls in addresses(config):
            made = _bind(protocol, parse_listen(text))
            bound.extend(made)
            for listener in made:
                listener.tls = tls
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound


def _bind(protocol: str, address: Listen) -> list[Listener]:
    try:
        if address.is_unix:
            return [Listener(protocol, address, _bind_unix(address.path))]
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bind_some(protocol, list(dict.fromkeys((family, to) for family, _, _, _, to in found)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BindFailed(f"cannot listen on {address} for {protocol}: {reason}") from error


def _bind_some(protocol: str, targets: Sequence[tuple[int, Any]]) -> list[Listener]:
    """Bind all that a name stands for; a family that this machine does not have is left out, if not the only one."""
    bound: list[Listener] = []
    missing: OSError | None = None
    for family, to in targets:
        try:
            bound.append(_bind_tcp(protocol, family, to))
        except OSError as error:
            if error.errno not in _NO_FAMILY:
                for listener in bound:
                    listener.close()
                raise
            missing = error
    if missing is not None and not bound:
        raise missing
    return bound


def _bind_tcp(protocol: str, family: int, to: Any) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(to)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    host, port = sock.getsockname()[:2]
    return Listener(protocol, Listen(host, port), sock)


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, UNIX_SOCKET_MODE)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody answers on. OSError (EADDRINUSE) when somebody does or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "the path exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        else:
            raise OSError(errno.EADDRINUSE, "another server answers there")
    os.unlink(path)


async def accept_all(
    listener: Listener, accepted: Accepted, *, wait_wanted: Callable[[], Awaitable[None]]
) -> None:
    """Accept connections for ever, whenever `wait_wanted` returns; `accepted` takes each over."""
    while True:
        await wait_wanted()
        await trio.lowlevel.wait_readable(listener.sock)
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, name = listener.sock.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                if error.errno not in EXHAUSTED:
                    raise
                log.warning("cannot accept", address=str(listener), error=error.strerror)
                await trio.sleep(EXHAUSTED_PAUSE_S)
                break
            accepted(sock, *_client(sock, name))


def _client(sock: socket.socket, name: Sequence[str | int] | str) -> tuple[str, int]:
    if sock.family == socket.AF_UNIX or isinstance(name, str):
        return "unix", 0
    return str(name[0]).removeprefix("::ffff:"), int(name[1])
