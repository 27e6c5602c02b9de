"""TLS from the certificate's files: what the holder, the workers and check-config make of them.

One chain and one key for every name that clients ask for. TLS 1.2 is the oldest that is spoken, with Python's
ciphers; no compression, no renegotiation (both are ways to attack), no ALPN, no client certificates. One session
ticket instead of two: a mail client keeps few connections, and each ticket is written to each.

`TlsSocket` is a connection whose TLS the worker itself ends, in the shape of the socket that servers/driver.py
uses: what would block raises BlockingIOError, and `wants_write` says which way the wait goes, since TLS may have to
write before it can read. Nothing here waits: this module must stay light, for the holder imports it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Final

from wd_trio.errors import Invalid

TICKETS: Final = 1
CERTIFICATE: Final = "tls.certificate"
KEY: Final = "tls.key"
_MISMATCHES: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""Another key of the same kind; of another kind; of one that none of the certificates has."""


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """The context of a server with this chain and this key (paths of PEM files).

    Invalid, its `what` naming the configuration's key at fault, when a file cannot be read, holds none, or both do
    not belong together.
    """
    for what, path in ((CERTIFICATE, certificate), (KEY, key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise Invalid(f"{path} cannot be read: {error.strerror}", what=what) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise Invalid(f"{certificate} holds no certificate in PEM form", what=CERTIFICATE) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise Invalid(f"{key} is not the key of the certificate", what=KEY) from error
        if error.reason is not None and error.library == "SSL":  # a chain that is too weak for our ciphers
            raise Invalid(f"{certificate} cannot be used: {error.reason}", what=CERTIFICATE) from error
        raise Invalid(f"{key} holds no private key in PEM form", what=KEY) from error
    except _Encrypted as error:
        raise Invalid(f"{key} is encrypted: nobody is here to say its password", what=KEY) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = TICKETS
    return context


class _Encrypted(Exception):
    """OpenSSL asked for the key's password."""


def _no_password() -> str:
    raise _Encrypted


class TlsSocket:
    """A connected socket with TLS ended here. Takes the socket over; the handshake comes first."""

    __slots__ = ("_tls", "wants_write")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.wants_write = False
        """After BlockingIOError: the descriptor must become writable, not readable, before it is worth trying
        again."""

    @property
    def family(self) -> int:
        return self._tls.family

    @property
    def pending_bytes(self) -> int:
        """Octets that are decrypted already: no epoll tells of them."""
        return self._tls.pending()

    def fileno(self) -> int:
        return self._tls.fileno()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._tls.setsockopt(level, option, value)

    def handshake(self) -> None:
        """Take the handshake one step on; returns when it is done. BlockingIOError when the client is to go on,
        OSError when it has failed."""
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
            raise self._blocked(wants) from None

    def recv(self, size: int) -> bytes:
        """At most `size` octets; b"" at the end, told by close_notify or not. BlockingIOError when there are none
        yet,
        OSError when there is no use in going on."""
        try:
            return self._tls.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
            raise self._blocked(wants) from None
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send what goes; how much it was, not 0. BlockingIOError when nothing goes: the next call must begin with
        the same octets (TLS has them in a record already)."""
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            try:
                sent += self._tls.send(view[sent:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                blocked = self._blocked(wants)
                if sent:
                    break
                raise blocked from None
        return sent

    def _blocked(self, wants: ssl.SSLError) -> BlockingIOError:
        self.wants_write = isinstance(wants, ssl.SSLWantWriteError)
        return BlockingIOError()

    def shutdown(self, how: int) -> None:
        """As of a socket; our side ends with close_notify, if it goes at once."""
        if how != socket.SHUT_RD:
            with contextlib.suppress(OSError, ValueError):  # a client that has ended already needs no telling
                self._tls.unwrap()
        _raw_shutdown(self._tls, how)

    def close(self) -> None:
        self._tls.close()


def _raw_shutdown(sock: Any, how: int) -> None:
    """The socket's own shutdown: SSLSocket's forgets its TLS, and what is still read would come undeciphered."""
    socket.socket.shutdown(sock, how)
