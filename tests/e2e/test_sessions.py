"""Sessions of the running server: who is listed, who is counted, and what ends them."""

from __future__ import annotations

import contextlib
import imaplib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Account, Served

from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.limits import open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.cli import main
from wd_trio.ops import admin

Run = Callable[..., tuple[int, list[list[str]]]]


@pytest.fixture
def run(server: Served, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command beside the server: its exit status, its output's lines and fields."""

    def call(*arguments: str) -> tuple[int, list[list[str]]]:
        status = main(["--config", str(server.config_path), *arguments])
        return status, [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.fixture(autouse=True)
def in_its_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration's relative paths are the server's."""
    if "server" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("server").folder)


@contextlib.contextmanager
def connected(server: Served, account: Account, count: int = 1) -> Iterator[list[imaplib.IMAP4]]:
    clients: list[imaplib.IMAP4] = []
    try:
        for _ in range(count):
            clients.append(imaplib.IMAP4(server.imap.host, server.imap.port))
            clients[-1].login(account.username, account.password)
        yield clients
    finally:
        for client in clients:
            with contextlib.suppress(OSError):  # closed already
                client.shutdown()


def sessions_of(server: Served, account: Account) -> list[admin.OpenSession]:
    return admin.list_sessions(server.config(), account.username)


def test_sessions_of_all_workers_are_listed_and_go_with_their_connections(server: Served, run: Run) -> None:
    account, other = server.add_user(), server.add_user()
    with connected(server, account, 2) as (first, second), connected(server, other):
        status, rows = run("sessions", "list", "--user", account.username)
        assert status == 0
        assert len(rows) == 2
        assert {row[1] for row in rows} == {account.username}
        assert {(row[2], row[3]) for row in rows} == {("imap", "127.0.0.1")}
        assert len({row[6] for row in rows}) == 2, "on both workers"
        assert {row[1] for row in run("sessions", "list")[1]} >= {account.username, other.username}
        first.logout()
        second.shutdown()  # without a word
        while sessions_of(server, account):
            assert server.process.poll() is None
    assert run("sessions", "list", "--user", "nobody")[0] == 1


def test_a_session_is_killed_wherever_it_is(server: Served, run: Run) -> None:
    account, other = server.add_user(), server.add_user()
    with connected(server, account, 4) as clients, connected(server, other) as (bystander,):
        victim = sessions_of(server, account)[0]
        assert run("sessions", "kill", victim.id) == (0, [["ended 1 session"]])
        assert len(sessions_of(server, account)) == 3
        tag = b"idle1"
        clients[3].send(tag + b" IDLE\r\n")
        assert clients[3].readline().startswith(b"+")
        assert run("sessions", "kill", "--user", account.username) == (0, [["ended 3 sessions"]])
        for client in clients:
            assert client.readline().startswith(b"* BYE ")
            with pytest.raises(imaplib.IMAP4.abort):
                client.noop()
        assert bystander.noop()[0] == "OK"
        assert run("sessions", "kill", "--user", account.username) == (0, [["ended 0 sessions"]])
        assert run("sessions", "kill", victim.id)[0] == 1


def test_killed_workers_sessions_go_on_and_count_once(start_server: Callable[..., Served]) -> None:
    server = start_server(settings={"limits": {"connections_per_user": 2}})
    account = server.add_user()
    with connected(server, account, 2) as clients:
        victim, survivor = server.worker_pids()
        os.kill(victim, signal.SIGKILL)
        server.log.wait("worker ready", count=3)
        assert [client.noop()[0] for client in clients] == ["OK", "OK"]
        assert len(sessions_of(server, account)) == 2
        with imaplib.IMAP4(server.imap.host, server.imap.port) as third, pytest.raises(imaplib.IMAP4.error):
            third.login(account.username, account.password)
        clients[0].logout()
        clients[1].shutdown()  # without a word
        while sessions_of(server, account):
            assert server.process.poll() is None
    with connected(server, account, 2):
        assert survivor in server.worker_pids()


def test_sessions_of_who_left_while_his_worker_died_end(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1, settings={"limits": {"connections_per_user": 1}})
    account = server.add_user()
    (pid,) = server.worker_pids()
    with connected(server, account) as (client,):
        os.kill(pid, signal.SIGSTOP)  # so that it does not see the client go
        client.shutdown()
        os.kill(pid, signal.SIGKILL)
        server.log.wait("worker ready", count=2)
        while sessions_of(server, account):
            assert server.process.poll() is None
        with connected(server, account):
            assert len(sessions_of(server, account)) == 1


def test_a_dead_servers_sessions_end_with_its_lease_and_at_its_next_start(
    start_server: Callable[..., Served], tmp_path: Path
) -> None:
    server = start_server(workers=1)
    account = server.add_user()
    with connected(server, account):
        (pid,) = server.worker_pids()
        os.kill(pid, signal.SIGSTOP)  # so that it ends nothing itself
        server.signal(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        assert len(sessions_of(server, account)) == 1
        later = open_state(tmp_path / "data" / "mail.db", SqliteOptions(clock=lambda: time.time() + 30))
        try:
            assert SqliteSessions(later).page().documents == ()
        finally:
            later.close()
        again = start_server(workers=1)
        assert sessions_of(again, account) == []
        with connected(again, account):
            assert len(sessions_of(again, account)) == 1
