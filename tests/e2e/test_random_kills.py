"""Three clients on one mailbox, workers killed between their steps: a seeded random walk over the real server.

Every step is answered before a kill, so the model is exact: what OK acknowledged is there for whoever connects
next, on whichever worker, and no client is ever told a number that means another message.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import smtplib
import socket
import time
from collections.abc import Callable

import pytest
from imap_client_model import Believer
from served import Account, Served

STEPS = 60
KILL_EVERY = 10
CLIENTS = 3
HINTS_WITHIN_S = 30.0
FLAGS = ("\\Seen", "\\Flagged", "\\Deleted", "Later")


class Wire:
    """One IMAP connection that believes what it is told."""

    def __init__(self, server: Served, account: Account) -> None:
        self._sock = socket.create_connection((server.imap.host, server.imap.port), 60)
        self._lines = self._sock.makefile("rb")
        self._tag = 0
        self.believer = Believer()
        assert self._lines.readline().startswith(b"* OK")
        self.ok("LOGIN", f'LOGIN {account.username} "{account.password}"')
        self.ok("SELECT", "SELECT INBOX")

    def ok(self, word: str, text: str) -> None:
        status = self.command(word, text)
        assert status.startswith("OK"), f"{text}: {status}"

    def command(self, word: str, text: str) -> str:
        self._tag += 1
        self._sock.sendall(f"t{self._tag} {text}\r\n".encode())
        lines: list[str] = []
        while True:
            line = self._lines.readline().decode().rstrip("\r\n")
            if not line:
                raise ConnectionError
            if line.startswith(f"t{self._tag} "):
                self.believer.hear(lines, word)
                return line.split(" ", 1)[1]
            lines.append(line)

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


class Walk:
    def __init__(self, server: Served, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.account = server.add_user()
        self.model: dict[int, frozenset[str]] = {}
        self.next_uid = 1
        self.wires = [Wire(server, self.account) for _ in range(CLIENTS)]

    def settle(self, number: int) -> Wire:
        """The client, once it knows what the model knows: hints from other workers take a moment."""
        ends = time.monotonic() + HINTS_WITHIN_S
        while True:
            wire = self.wires[number]
            try:
                wire.ok("NOOP", "NOOP")
                if wire.believer.uids:
                    wire.command("FETCH", "FETCH 1:* (UID FLAGS)")
            except ConnectionError:  # its worker was killed: it comes back, as clients do
                wire.close()
                self.wires[number] = Wire(self.server, self.account)
                continue
            told = {uid: wire.believer.flags[uid] for uid in wire.believer.uids if uid is not None}
            if wire.believer.uids == sorted(self.model) and told == self.model:
                return wire
            assert time.monotonic() < ends, f"told {told}, is {self.model}"
            time.sleep(0.01)

    def step(self) -> None:
        wire = self.settle(self.random.randrange(CLIENTS))
        action = self.random.choice(["deliver", "deliver", "store", "store", "expunge", "copy", "move"])
        if action == "deliver" or not self.model:
            self.deliver()
        elif action == "expunge":
            wire.ok("EXPUNGE", "EXPUNGE")
            self.model = {uid: flags for uid, flags in self.model.items() if "\\Deleted" not in flags}
        else:
            uids = sorted(self.random.sample(sorted(self.model), min(2, len(self.model))))
            getattr(self, action)(wire, uids)

    def deliver(self) -> None:
        with smtplib.LMTP(self.server.lmtp.host, self.server.lmtp.port) as lmtp:
            lmtp.sendmail("a@example.org", [self.account.address], b"Subject: x\r\n\r\nbody\r\n")
        self.model[self.next_uid] = frozenset()
        self.next_uid += 1

    def store(self, wire: Wire, uids: list[int]) -> None:
        flags = frozenset(self.random.sample(FLAGS, 2))
        wire.ok("UID STORE", f"UID STORE {','.join(map(str, uids))} FLAGS ({' '.join(flags)})")
        self.model.update(dict.fromkeys(uids, flags))

    def copy(self, wire: Wire, uids: list[int], word: str = "COPY") -> None:
        wire.ok(f"UID {word}", f"UID {word} {','.join(map(str, uids))} INBOX")
        for uid in uids:
            self.model[self.next_uid] = self.model[uid]
            self.next_uid += 1

    def move(self, wire: Wire, uids: list[int]) -> None:
        self.copy(wire, uids, "MOVE")
        for uid in uids:
            del self.model[uid]


@pytest.mark.parametrize("seed", [1])
def test_nothing_acknowledged_is_lost_and_no_number_is_wrong(
    start_server: Callable[..., Served], seed: int
) -> None:
    server = start_server(workers=2)
    walk = Walk(server, seed)
    for step in range(STEPS):
        walk.step()
        if step % KILL_EVERY == KILL_EVERY - 1:
            with contextlib.suppress(ProcessLookupError):  # it may be the one killed before, not noticed yet
                os.kill(walk.random.choice(server.worker_pids()), signal.SIGKILL)
    for number in range(CLIENTS):
        walk.settle(number).close()
