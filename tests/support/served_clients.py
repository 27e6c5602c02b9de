"""Clients of a running server that read lines, and what is seen of it from outside."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from served import Place, Served

from wd_trio.cli import main

TIMEOUT_S = 60.0


class Client:
    """A client that reads lines."""

    def __init__(self, place: Place) -> None:
        if place.path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(TIMEOUT_S)
            self.sock.connect(place.path)
        else:
            self.sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self) -> bytes:
        return self._file.readline()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def say(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.line()

    def rest(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def leave(self) -> None:
        assert self.say(b"q LOGOUT").startswith(b"* BYE")
        self.close()


def greeted(place: Place, word: bytes = b"* OK") -> Client:
    client = Client(place)
    assert client.line().startswith(word)
    return client


def logged_in(server: Served, username: str, password: str) -> Client:
    client = greeted(server.imap)
    client.send(f'l LOGIN {username} "{password}"\r\ns SELECT INBOX\r\n'.encode())
    while not (line := client.line()).startswith(b"s "):
        assert line
    assert line.startswith(b"s OK"), line
    return client


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(server: Served) -> Any:
    """What `wd-trio status --json` prints."""
    with contextlib.redirect_stdout(out := _Text()):
        assert main(["status", "--json", "--config", str(server.config_path)]) == 0
    return json.loads(out.text)


class _Text(contextlib.ExitStack):
    """Something to print to."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""
