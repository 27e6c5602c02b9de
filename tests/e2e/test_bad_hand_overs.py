"""Bad hand-overs of the real server: new workers are killed, clients send without end, thousands come meanwhile."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import trio
from crowd import Account, Crowd, Places, summary
from peers import wait_until
from served import Account as SomeUser
from served import Served, start
from served_clients import Client, alive, greeted, logged_in, status

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
