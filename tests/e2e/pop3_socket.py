"""A POP3 client that is nothing but a socket: it says bytes and reads lines."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from peers import LmtpClient
from served import Account, Place, Served

TIMEOUT_S = 60.0


class Pop3Socket:
    """One connection; the greeting is read."""

    def __init__(self, place: Place) -> None:
        self.sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")
        self.greeting = self.line()

    def __enter__(self) -> Pop3Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line without its end; b"" when the server has closed."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            return b""
        assert not line or line.endswith(b"\r\n"), line
        return line.removesuffix(b"\r\n")

    def say(self, command: bytes) -> bytes:
        """The first line of a command's answer."""
        self.send(command + b"\r\n")
        return self.line()

    def body(self) -> bytes:
        """The rest of a multi-line answer, unstuffed."""
        lines = []
        while (line := self._file.readline()) != b".\r\n":
            assert line, "closed within a body"
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            return self._file.read()
        except ConnectionResetError:
            return b""

    def log_in(self, user: Account) -> Pop3Socket:
        assert self.say(b"USER " + user.username.encode()) == b"+OK Now the password"
        assert self.say(b"PASS " + user.password.encode()) == b"+OK Logged in"
        return self

    def count(self) -> int:
        """How many messages there are."""
        word, count, _ = self.say(b"STAT").split()
        assert word == b"+OK"
        return int(count)

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def messages(count: int) -> list[bytes]:
    return [b"Subject: number %d\r\n\r\nbody %d\r\n.\r\n..end\r\n" % (n, n) for n in range(1, count + 1)]


def deliver(server: Served, user: Account, mail: Sequence[bytes]) -> None:
    with LmtpClient(server.lmtp.host, server.lmtp.port) as client:
        for message in mail:
            _, replies = client.deliver("ann@example.org", [user.address], message)
            assert [code for code, _ in replies.values()] == [250]
