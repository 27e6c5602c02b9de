"""Bad days of the real server: its supervisor or a worker goes at the worst moment, or descriptors run out.

What is promised: who can go on goes on and is told nothing wrong; who cannot is closed; nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import trio
from certificates import make_pair
from crowd import Account, Crowd, Places, summary
from peers import wait_until
from served import ANYWHERE, Place, Served, start
from served import Account as SomeUser

from wd_trio.cli import main

TIMEOUT_S = 60.0
IMPATIENT = str(Path(__file__).parents[1] / "support" / "impatient.py")
FAILING = str(Path(__file__).parents[1] / "support" / "failing.py")


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
        self._file.close()
        self.sock.close()

    def line(self) -> bytes:
        return self._file.readline()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def say(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.line()

    def rest(self) -> bytes:
        return self._file.read()

    def leave(self) -> None:
        assert self.say(b"q LOGOUT").startswith(b"* BYE")
        self.__exit__()


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


def group(server: Served) -> list[int]:
    """The supervisor's children: workers, and the holder of TLS where there is one."""
    path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    return [int(pid) for pid in Path(path).read_text().split()]


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- the supervisor is killed


@pytest.mark.parametrize("at_once", [False, True], ids=["when all are gone", "at once"])
def test_a_server_whose_supervisor_was_killed_can_be_started_again(
    start_server: Callable[..., Served], tmp_path: Path, at_once: bool
) -> None:
    """On the same ports, socket file and store; also while its old worker still sees a transaction through."""
    pair = make_pair(tmp_path)
    settings = {
        "imap": {"tls_listen": [ANYWHERE]},
        "tls": {"certificate": pair.certificate, "key": pair.key},
    }
    server = start_server(workers=1, lmtp=f"unix:{tmp_path}/lmtp.sock", settings=settings)
    user = server.add_user()
    left = group(server)
    assert len(left) == 2, "a worker and a holder"
    with (
        logged_in(server, user.username, user.password) as imap,
        greeted(server.pop3, b"+OK") as pop3,
        greeted(server.lmtp, b"220") as lmtp,
    ):
        lmtp.send(f"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<{user.address}>\r\nDATA\r\n".encode())
        while not lmtp.line().startswith(b"354"):
            pass
        server.signal(signal.SIGKILL)
        assert imap.rest().startswith(b"* BYE")
        assert pop3.rest().startswith(b"-ERR")

        def finish() -> None:
            lmtp.send(b"Subject: late\r\n\r\nlate\r\n.\r\n")
            assert b"250 2." in lmtp.rest()
            assert server.wait() == -signal.SIGKILL
            wait_until(lambda: not any(alive(pid) for pid in left), "the end of all children")

        if not at_once:
            finish()
        again = start_server(
            workers=1,
            ready=False,
            imap=f"127.0.0.1:{server.imap.port}",
            lmtp=f"unix:{tmp_path}/lmtp.sock",
            api=f"127.0.0.1:{server.api.port}",
            settings=settings | {"imap": {"tls_listen": [f"127.0.0.1:{server.places['imaps'].port}"]}},
        )
        if at_once:
            finish()
    again.wait_ready()
    with logged_in(again, user.username, user.password) as imap:
        imap.send(b"a SEARCH SUBJECT late\r\n")
        assert imap.line() == b"* SEARCH 1\r\n"
    assert again.stop() == 0


# --- descriptors run out


@contextlib.contextmanager
def room_for(pid: int, more: int) -> Iterator[None]:
    """The process may open so many descriptors more, for a while."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (
        number for number in count() if number not in taken
    )  # the limit is one of numbers, and there are gaps
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(islice(free, more, None)), before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_supervisor_without_descriptors_serves_on_and_lets_in_who_waits(
    start_server: Callable[..., Served],
) -> None:
    server = start_server(workers=1)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(greeted(server.imap))
        with room_for(server.process.pid, 4):
            crowd = [stack.enter_context(Client(server.imap)) for _ in range(12)]
            server.log.wait("cannot accept")
            others = stack.enter_context(Client(server.pop3))
            assert first.say(b"a NOOP").startswith(b"a OK"), "whoever is in is served"
            assert server.get("/health")[0] == 200
            assert server.metric("wildduck_connections_without_worker") == 0
            assert len(server.log.all("worker ready")) == 1
            for number, client in enumerate(crowd):
                assert client.line().startswith(b"* OK")  # of the fifth and after: when one before has left
                if number == 3:
                    first.leave()  # a place for `others`
                if number >= 3:
                    crowd[number - 3].leave()
        assert others.line().startswith(b"+OK")
        assert server.worker_pids()
        assert server.metric("wildduck_worker_deaths_total") == 0
    assert server.stop() == 0


def test_what_a_worker_has_no_descriptors_for_goes_to_the_other(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=2)
    poor, _ = server.worker_pids()
    with contextlib.ExitStack() as stack, room_for(poor, 2):
        clients = [stack.enter_context(greeted(server.imap)) for _ in range(20)]
        assert all(client.say(b"a NOOP").startswith(b"a OK") for client in clients)
        has = {worker["pid"]: worker["connections"] for worker in server.ask("status")["workers"]}
        assert has[poor] <= 2
        assert sum(has.values()) == 20
        assert (
            server.metric('wildduck_connections_refused_total{protocol="imap",reason="no room in workers"}')
            == 0
        )
    assert server.stop() == 0


# --- a worker hangs


def test_the_connections_of_a_worker_that_hangs_go_on(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=2, program=(IMPATIENT,))
    user = server.add_user()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(logged_in(server, user.username, user.password)) for _ in range(10)]
        hung, _ = server.worker_pids()
        os.kill(hung, signal.SIGSTOP)
        assert all(client.say(b"a NOOP").startswith(b"a OK") for client in clients), (
            "they waited, that is all"
        )
        assert server.log.wait("worker hangs")["worker_pid"] == hung
        server.log.wait("worker ready", count=3)
        assert server.metric('wildduck_connections_moved_total{cause="died",protocol="imap"}') == 5
        assert server.metric('wildduck_worker_restarts_total{cause="hung"}') == 1
        assert not alive(hung)
        page = status(server)
        assert page["states"]["imap"]["logged in"] == 10
        assert page["moved"] == {"imap": {"died": 5}}
        assert (page["lost"], page["refused"]) == ({}, {})
        assert page["health"]["status"] == "healthy"
        assert [worker["state"] for worker in page["workers"]] == ["ready", "ready"]
        assert all(worker["memoryBytes"] for worker in page["workers"])
    assert server.stop() == 0


# --- a worker fails, or is told to go


def test_the_connections_of_a_worker_that_fails_go_on(start_server: Callable[..., Served]) -> None:
    """An exception where none is expected costs its clients no more than a kill."""
    server = start_server(workers=2, program=(FAILING,))
    user = server.add_user()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(logged_in(server, user.username, user.password)) for _ in range(10)]
        failing, _ = server.worker_pids()
        os.kill(failing, signal.SIGUSR1)
        server.log.wait("worker ready", count=3)
        assert server.log.wait("worker failed")["pid"] == failing
        assert all(client.say(b"a NOOP").startswith(b"a OK") for client in clients)
        page = status(server)
        assert page["moved"] == {"imap": {"died": 5}}
        assert (page["lost"], page["refused"]) == ({}, {})
    assert server.stop() == 0


def test_the_connections_of_the_only_worker_wait_for_the_next(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    user = server.add_user()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(logged_in(server, user.username, user.password)) for _ in range(3)]
        (pid,) = server.worker_pids()
        os.kill(pid, signal.SIGTERM)
        server.log.wait("leaving")
        assert all(client.say(b"a NOOP").startswith(b"a OK") for client in clients)
        server.log.wait("worker ready", count=2)
        assert server.worker_pids() != [pid]
        page = status(server)
        assert page["moved"] == {"imap": {"rolled": 3}}
        assert (page["lost"], page["refused"]) == ({}, {})
    assert server.stop() == 0


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


# --- a hand-over is interrupted


def _started(start_server: Callable[..., Served], users: int) -> tuple[Served, list[SomeUser]]:
    server = start_server(workers=2)
    return server, [server.add_user() for _ in range(users)]


async def test_a_reload_whose_new_workers_are_killed_at_once(start_server: Callable[..., Served]) -> None:
    server, users = await trio.to_thread.run_sync(_started, start_server, 4)
    place = server.imap.host
    crowd = Crowd(
        Places((place, server.imap.port), (place, server.pop3.port), (place, server.lmtp.port)),
        [Account(user.username, user.address, user.password) for user in users],
    )
    wire = await crowd.open_lmtp()
    for number, account in enumerate(crowd.accounts * 2):
        await crowd.deliver(wire, account.address, f"first {number}")
    wire.close()
    kills = 0
    async with trio.open_nursery() as nursery:
        await crowd.gather(nursery, idlers=20, readers=20, droppers=2)
        await crowd.check()
        async with trio.open_nursery() as reloading:

            async def reload() -> None:
                answer = await trio.to_thread.run_sync(server.ask, "reload")
                assert answer["ok"], answer

            reloading.start_soon(reload)
            for ready in (3, 4):
                wait = partial(server.log.wait, "worker ready", count=ready)
                event = await trio.to_thread.run_sync(wait)
                os.kill(event["worker_pid"], signal.SIGKILL)
                kills += 1
        await crowd.check()
        nursery.cancel_scope.cancel()
    about = summary(crowd.tally)
    assert kills == 2
    assert not crowd.tally.wrong, about
    assert sum(crowd.tally.lost.values()) <= kills, about
    lost = [value for counts in status(server)["lost"].values() for value in counts.values()]
    assert sum(crowd.tally.lost.values()) <= sum(lost), about
    assert server.stop() == 0


# --- a client sends while it is handed over


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one worker, for tests that only roll it."""
    served = start(tmp_path_factory.mktemp("steady"), workers=1)
    try:
        yield served.wait_ready()
        assert status(served)["lost"] == {}
    finally:
        ended = served.stop()
    assert ended == 0


def rolled(server: Served) -> dict[str, int]:
    """How many connections of each protocol have moved by a reload."""
    return {protocol: counts["rolled"] for protocol, counts in status(server)["moved"].items()}


def roll(server: Served) -> None:
    """Reload, and wait for the end of the workers before."""
    before = server.worker_pids()
    assert server.ask("reload")["ok"]
    wait_until(lambda: not any(alive(pid) for pid in before), "the end of the workers before")


def test_a_command_may_be_split_over_a_hand_over(steady: Served) -> None:
    server, user, before = steady, steady.add_user(), rolled(steady)
    with (
        logged_in(server, user.username, user.password) as imap,
        greeted(server.pop3, b"+OK") as pop3,
        greeted(server.lmtp, b"220") as lmtp,
    ):
        halves = [
            (imap, b"a1 NO", b"OP\r\na2 NO", [b"a1 OK"]),
            (pop3, b"CAP", b"A\r\n", [b"+OK"]),
            (lmtp, b"NOO", b"P\r\nNOOP\r", [b"250"]),
        ]
        for client, first, _, _ in halves:
            client.send(first)
        roll(server)
        for client, _, second, words in halves:
            client.send(second)
            for word in words:
                while (line := client.line()).startswith(b"* "):
                    pass
                assert line.startswith(word), line
        roll(server)
        imap.send(b"OP\r\n")
        while (line := imap.line()).startswith(b"* "):
            pass
        assert line.startswith(b"a2 OK")
        lmtp.send(b"\n")
        assert lmtp.line().startswith(b"250")
    moved = {protocol: count - before.get(protocol, 0) for protocol, count in rolled(server).items()}
    assert moved.keys() == {"imap", "pop3", "lmtp"}
    assert all(count >= 2 for count in moved.values()), moved


def test_what_is_half_there_is_waited_for(steady: Served) -> None:
    """A literal and a message cannot move: their worker sees them through, and then lets go."""
    server, user = steady, steady.add_user()
    mail = b"Subject: split\r\n\r\nbody\r\n"
    with logged_in(server, user.username, user.password) as imap, greeted(server.lmtp, b"220") as lmtp:
        imap.send(b"b1 APPEND INBOX {%d+}\r\n" % len(mail) + mail[:5])
        lmtp.send(f"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<{user.address}>\r\nDATA\r\n".encode())
        while not lmtp.line().startswith(b"354"):
            pass
        lmtp.send(mail[:5])
        assert server.ask("reload")["ok"]
        imap.send(mail[5:] + b"\r\nb2 NOOP\r\n")
        lmtp.send(mail[5:] + b".\r\nNOOP\r\n")
        for tag in (b"b1", b"b2"):
            while (line := imap.line()).startswith(b"* "):
                pass
            assert line.startswith(tag + b" OK"), line
        assert [lmtp.line()[:3] for _ in range(2)] == [b"250", b"250"]
        roll(server)
        imap.send(b"b3 NOOP\r\nb4 SEARCH SUBJECT split\r\n")
        while not (line := imap.line()).startswith(b"* SEARCH"):
            assert line
        assert line == b"* SEARCH 1 2\r\n"
        assert lmtp.say(b"NOOP").startswith(b"250")


async def test_clients_that_send_without_end_are_answered_in_order(steady: Served) -> None:
    """One sends octet by octet, another in batches that end anywhere, while workers are rolled."""
    user = await trio.to_thread.run_sync(steady.add_user)
    before = await trio.to_thread.run_sync(rolled, steady)
    talkers = [Talker(logged_in(steady, user.username, user.password), piece) for piece in (1, 700)]
    async with trio.open_nursery() as nursery:
        for talker in talkers:
            nursery.start_soon(talker.run)
        await trio.to_thread.run_sync(roll, steady)
        for talker in talkers:
            talker.over = True
    assert all(talker.answered > talker.at_once for talker in talkers)
    assert (await trio.to_thread.run_sync(rolled, steady))["imap"] - before.get("imap", 0) >= 2
    for talker in talkers:
        talker.close()


class Talker:
    """Sends commands in pieces of that many octets, some ahead of the answers, until it is `over`; their order is
    checked."""

    def __init__(self, client: Client, piece: int) -> None:
        self.over = False
        self.answered = 0
        self.at_once = 5 + piece // 5
        self._client = client
        self._sock = trio.socket.from_stdlib_socket(client.sock)
        self._piece = piece
        self._sent = 0
        self._last = False
        self._room = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            await self._hear()
            nursery.cancel_scope.cancel()

    async def _send(self) -> None:
        data = b""
        while not self._last:
            while len(data) < self._piece and not self._last:
                self._last = self.over
                self._sent += 1
                data += b"c%d NOOP\r\n" % self._sent
            data = data[await self._sock.send(data[: self._piece]) :]
            while self._sent - self.answered > self.at_once and not self.over:
                self._room = trio.Event()
                await self._room.wait()
        while data:
            data = data[await self._sock.send(data[: self._piece]) :]

    async def _hear(self) -> None:
        buffer = b""
        while not (self._last and self.answered == self._sent):
            more = await self._sock.recv(65536)
            assert more, "closed"
            *lines, buffer = (buffer + more).split(b"\r\n")
            for line in lines:
                self.answered += 1
                assert line.startswith(b"c%d OK" % self.answered), line
            self._room.set()

    def close(self) -> None:
        self._client.sock.setblocking(True)
        self._client.__exit__()


# --- thousands come at once


async def test_thousands_come_while_all_workers_are_rolled(start_server: Callable[..., Served]) -> None:
    """Each is greeted once and goes on, whichever worker had it."""
    many = 3000
    server = start_server(workers=2, settings={"limits": {"connections_per_ip": many + 100}})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(many + 500, before[1])), before[1]))
    socks: list[trio.socket.SocketType] = []
    try:
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                sock = trio.socket.socket()
                socks.append(sock)
                await sock.connect((server.imap.host, server.imap.port))
                assert (await heard(sock)).startswith(b"* OK")

            async def rolled() -> None:
                assert (await trio.to_thread.run_sync(server.ask, "reload"))["ok"]

            nursery.start_soon(rolled)
            for _ in range(many):
                nursery.start_soon(come)
        page = await trio.to_thread.run_sync(status, server)
        assert page["states"]["imap"]["greeted"] == many
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rolled)
            for sock in socks:
                nursery.start_soon(asks, sock)
        page = await trio.to_thread.run_sync(status, server)
        assert page["connections"] == many
        assert page["moved"]["imap"]["rolled"] > many
        assert (page["lost"], page["refused"]) == ({}, {})
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert await trio.to_thread.run_sync(server.stop) == 0


async def heard(sock: trio.socket.SocketType) -> bytes:
    """A line, of which there is one and no more."""
    data = b""
    while not data.endswith(b"\r\n"):
        more = await sock.recv(1000)
        assert more, data
        data += more
    assert data.count(b"\r\n") == 1, data
    return data


async def asks(sock: trio.socket.SocketType) -> None:
    for piece in (b"a NO", b"OP\r\n"):
        await sock.send(piece)
    assert (await heard(sock)).startswith(b"a OK")
