"""One server on a MongoDB and a Redis of its own, which may be hurt, and the clients that see what comes of it."""

from __future__ import annotations

import contextlib
import http.client
import imaplib
import json
import poplib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_processes import REPLICA_SET, Engine
from peers import STEP_S, wait_until
from served import Account, Place, Served, start

from wd_trio.ops import admin

TIMEOUT_S = 60.0
ROOT_TOKEN = "root" * 10
LETTER = b"Subject: one\r\n\r\none\r\n"


@dataclass
class Pair:
    """The engines, by the names under which /health tells of them."""

    mongodb: Engine
    redis: Engine

    @property
    def store_url(self) -> str:
        return f"mongodb://127.0.0.1:{self.mongodb.port}/mail?replicaSet={REPLICA_SET}"

    def __getitem__(self, name: str) -> Engine:
        return {"mongodb": self.mongodb, "redis": self.redis}[name]

    def serve(self, folder: Path, *, workers: int = 2) -> Served:
        """A server on them, which need not be ready yet."""
        folder.mkdir(parents=True)
        return start(
            folder,
            workers=workers,
            settings={
                "store": {"url": self.store_url},
                "redis": {"url": self.redis.url},
                "api": {"access_token": ROOT_TOKEN},
                "tls": {"trusted_networks": ["127.0.0.0/8"]},
            },
        )

    @contextlib.contextmanager
    def serving(self, folder: Path) -> Iterator[Served]:
        """A server of one worker on them; where it has not ended by then, it must end well."""
        server = self.serve(folder, workers=1)
        try:
            yield server.wait_ready()
        finally:
            assert server.stop() == 0

    def kill(self) -> None:
        self.mongodb.kill()
        self.redis.kill()


def hurt(engine: Engine, how: str) -> None:
    """Kill it, or make it hang; either has happened when this returns."""
    if how == "killed":
        engine.kill()
        return
    engine.pause()
    tasks = Path(f"/proc/{engine.pid}/task")
    wait_until(
        lambda: all(
            task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()
        ),
        "every thread to stand still",
    )


@contextlib.contextmanager
def hurting(engine: Engine, how: str) -> Iterator[None]:
    """For the block it is "killed" or "hung"; after it, it comes back by and by."""
    hurt(engine, how)
    try:
        yield
    finally:
        engine.start(wait=False) if how == "killed" else engine.resume()


@dataclass
class User:
    """A user with a token, and everything that a client of theirs may ask for; each answer as it comes."""

    server: Served
    account: Account
    id: str = ""
    token: str = field(default="", repr=False)
    connections: list[imaplib.IMAP4] = field(default_factory=list, repr=False)

    @classmethod
    def made(cls, server: Served) -> User:
        user = cls(server, server.add_user())
        bodies: list[dict[str, Any]] = []

        def known() -> bool:  # the worker that answers may not have seen yet that its engine is back
            status, body, _ = user.authenticates()
            bodies.append(body)
            return status == 200

        wait_until(known, "a log-in")
        user.id, user.token = bodies[-1]["id"], bodies[-1]["token"]
        return user

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave every IMAP connection."""
        for imap in self.connections:
            imap.sock.close()

    def opens(self) -> imaplib.IMAP4:
        """A logged-in connection; imaplib.IMAP4.error with the server's words."""
        imap = imaplib.IMAP4(self.server.imap.host, self.server.imap.port, timeout=TIMEOUT_S)
        self.connections.append(imap)
        imap.login(self.account.username, self.account.password)
        return imap

    def logs_in(self) -> str:
        """What the server says to LOGIN: OK, or its text."""
        try:
            self.opens().logout()
        except imaplib.IMAP4.error as error:
            return words(error)
        return "OK"

    def takes_maildrop(self) -> str:
        """What the server says to a POP3 log-in: +OK…, or its text."""
        place = self.server.pop3
        pop3 = poplib.POP3(place.host, place.port, timeout=TIMEOUT_S)
        try:
            pop3.user(self.account.username)
            return pop3.pass_(self.account.password).decode()
        except poplib.error_proto as error:
            return words(error)
        finally:
            pop3.close()

    def is_sent(self, letter: bytes = LETTER) -> str:
        """The last reply to a delivery."""
        with LmtpSession(self.server.lmtp) as lmtp:
            return lmtp.deliver(self.account, letter)

    def calls(
        self, path: str, *, method: str = "GET", bearer: str | None = None, body: Any = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """The API's status, body and headers."""
        place = self.server.api
        connection = http.client.HTTPConnection(place.host, place.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {bearer or self.token}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read()), dict(response.headers)
        connection.close()
        return answer

    def authenticates(self) -> tuple[int, Any, Mapping[str, str]]:
        body = {"username": self.account.username, "password": self.account.password, "token": True}
        return self.calls("/authenticate", method="POST", bearer=ROOT_TOKEN, body=body)

    def sessions(self) -> set[str]:
        """The ids of the live sessions that the store knows."""
        return {session.id for session in admin.list_sessions(self.server.config(), self.account.username)}


class LmtpSession:
    def __init__(self, place: Place) -> None:
        self._sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
        self._replies = self._sock.makefile("rb")
        self._reply()
        self._says("LHLO client.example")

    def __enter__(self) -> LmtpSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._sock.close()

    def deliver(self, to: Account, letter: bytes) -> str:
        """The first reply that refuses, with the command that it refuses before it; or the one after the dot.
        EOFError when the server has gone."""
        for command in ("MAIL FROM:<>", f"RCPT TO:<{to.address}>", "DATA"):
            reply = self._says(command)
            if reply[0] not in "23":
                self._says("RSET")
                return f"{command[:4]}: {reply}"
        self._sock.sendall(letter + b".\r\n")
        return self._reply()

    def _says(self, command: str) -> str:
        self._sock.sendall(command.encode() + b"\r\n")
        return self._reply()

    def _reply(self) -> str:
        """The last line of a reply."""
        for line in self._replies:
            if line[3:4] != b"-":
                return line.decode().strip()
        raise EOFError


class Sender(threading.Thread):
    """Goes on delivering numbered letters, one after the other, each until it is accepted. A log of every attempt."""

    def __init__(self, user: User, name: str) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.refused: Counter[str] = Counter()
        """How often each letter was refused after its dot: so often its commit may have been made."""
        self.replies: Counter[str] = Counter()
        """How often a delivery ended with that code."""
        self.enough = threading.Event()
        self._user = user
        self._prefix = name

    def run(self) -> None:
        while not self.enough.is_set():
            with LmtpSession(self._user.server.lmtp) as lmtp, contextlib.suppress(EOFError):
                self._session(lmtp)

    def _session(self, lmtp: LmtpSession) -> None:
        """EOFError when the server has gone."""
        while not self.enough.is_set():
            name = f"{self._prefix}-{len(self.accepted)}"
            while not self._delivers(lmtp, name):
                self.enough.wait(STEP_S)
            self.accepted.append(name)

    def _delivers(self, lmtp: LmtpSession, name: str) -> bool:
        reply = lmtp.deliver(self._user.account, f"Subject: {name}\r\n\r\n{name}\r\n".encode())
        before_dot = reply[4:5] == ":"
        self.replies[reply[6:15] if before_dot else reply[:9]] += 1
        if reply.startswith("250 "):
            return True
        if not before_dot:
            self.refused[name] += 1
        return False

    def is_refused(self) -> None:
        """Wait until any delivery was refused, ever."""
        wait_until(lambda: any(not reply.startswith("250") for reply in self.replies.copy()), "a refusal")

    def goes_on(self) -> None:
        """Wait until some more letters have been accepted."""
        wanted = len(self.accepted) + 3
        wait_until(lambda: len(self.accepted) >= wanted, "deliveries that are accepted")


class Watcher:
    """A connection in IDLE."""

    def __init__(self, user: User) -> None:
        self.imap = user.opens()
        self.imap.select()
        self.imap.send(b"i1 IDLE\r\n")
        assert self.imap.readline().startswith(b"+ ")

    def hears(self, count: int) -> None:
        """Wait until it is told of so many messages."""
        told = 0
        while told < count:
            line = self.imap.readline()
            assert line, "the server has closed"
            if line.endswith(b" EXISTS\r\n"):
                told = int(line.split()[1])
        assert told == count


def words(error: Exception) -> str:
    """What the server said, of which a client library made an exception."""
    (said,) = error.args
    return said.decode() if isinstance(said, bytes) else str(said)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that run side by side: what hangs together is waited for once."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def said(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a server complained of as wrong with itself."""
    return [str(event) for event in log if event["level"] in ("error", "critical")]
