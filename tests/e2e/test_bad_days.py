"""Bad days of the real server: its supervisor or a worker goes at the worst moment, or descriptors run out.

What is promised: who can go on goes on and is told nothing wrong; who cannot is closed; nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from certificates import make_pair
from peers import wait_until
from served import ANYWHERE, Served
from served_clients import Client, alive, greeted, logged_in, status

IMPATIENT = str(Path(__file__).parents[1] / "support" / "impatient.py")
FAILING = str(Path(__file__).parents[1] / "support" / "failing.py")


def group(server: Served) -> list[int]:
    """The supervisor's children: workers, and the holder of TLS where there is one."""
    path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    return [int(pid) for pid in Path(path).read_text().split()]


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
