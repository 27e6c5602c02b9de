"""Twenty workers killed under load: whatever was acknowledged is there, once for each acknowledgement.

A delivery that got no answer may or may not be stored: LMTP knows no better, and its sender tries again.
"""

from __future__ import annotations

import imaplib
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from served import Account, Place, Served

KILLS = 20
WORKERS = 4
SENDERS = 6


class Sender(threading.Thread):
    """Delivers numbered messages until told to stop; remembers which were acknowledged."""

    def __init__(self, place: Place, user: Account, name: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self.tried = 0
        self.enough = threading.Event()
        self.first = threading.Event()
        self.failure = ""
        self._place = place
        self._user = user
        self._prefix = name

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                with socket.create_connection((self._place.host, self._place.port), 60) as sock:
                    self._session(sock)
            except (ConnectionError, EOFError):
                continue  # the worker was killed: try again elsewhere
            except OSError as error:
                self.failure = repr(error)
                return

    def _session(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as replies:
            expect(replies, b"220")
            sock.sendall(b"LHLO me\r\n")
            expect(replies, b"250 ")
            while not self.enough.is_set():
                self.tried += 1
                name = f"{self._prefix}-{self.tried}"
                sock.sendall(f"MAIL FROM:<>\r\nRCPT TO:<{self._user.address}>\r\nDATA\r\n".encode())
                expect(replies, b"354")
                sock.sendall(f"Subject: {name}\r\n\r\n{name}\r\n.\r\n".encode())
                expect(replies, b"250 ")
                self.acknowledged.append(name)
                self.first.set()


def expect(replies: object, wanted: bytes) -> None:
    """Read replies up to one that begins like that; 4xx is the drain of a worker and as good as an end."""
    for line in iter(replies.readline, b""):  # type: ignore[attr-defined]  # a binary file
        if line.startswith(b"4"):
            raise EOFError
        if line.startswith(wanted) and not (wanted == b"250 " and line.startswith(b"250 2.1")):
            return
    raise EOFError


def test_nothing_acknowledged_is_lost(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=WORKERS)
    user = server.add_user()
    senders = [Sender(server.lmtp, user, f"sender{number}") for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        assert sender.first.wait(60), sender.failure
    for killed in range(KILLS):
        slot = killed % WORKERS + 1  # in turn: a slot that dies often is given longer pauses
        server.log.wait("worker ready", count=killed // WORKERS + 1, where=partial(is_of_slot, slot))
        (pid,) = [worker["pid"] for worker in server.ask("status")["workers"] if worker["slot"] == slot]
        os.kill(pid, signal.SIGKILL)
        server.log.wait("worker died", count=killed + 1)
    for sender in senders:
        sender.enough.set()
    for sender in senders:
        sender.join()
        assert not sender.failure

    stored = stored_subjects(server, user)
    acknowledged = [name for sender in senders for name in sender.acknowledged]
    assert len(acknowledged) > KILLS
    assert [name for name in acknowledged if not stored[name]] == []
    assert [name for name, count in stored.items() if count > 1] == []
    assert server.stop() == 0
    assert leftovers(server.folder) == []


def is_of_slot(slot: int, event: dict[str, Any]) -> bool:
    return bool(event["slot"] == slot)


def stored_subjects(server: Served, user: Account) -> Counter[str]:
    with imaplib.IMAP4(server.imap.host, server.imap.port) as client:
        client.login(user.username, user.password)
        status, (count,) = client.select("INBOX")
        assert status == "OK"
        _, fetched = client.fetch("1:*", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    subjects = Counter(
        found[1].decode()
        for part in fetched
        if isinstance(part, tuple) and (found := re.search(rb"Subject: (\S+)", part[1]))
    )
    assert count is not None
    assert sum(subjects.values()) == int(count)
    return subjects


def leftovers(folder: Path) -> list[str]:
    """Files of the data folder that only a running server should have."""
    return [path.name for path in (folder / "data").iterdir() if path.suffix == ".control"]
