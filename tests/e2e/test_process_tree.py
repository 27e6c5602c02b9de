"""The process tree: start, hand-over, restart, reload and drain of the real program."""

from __future__ import annotations

import contextlib
import imaplib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Served, settings_of, write_config
from served_clients import Client


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ready_tells_the_bound_addresses(server: Served) -> None:
    assert {"imap", "pop3", "lmtp", "api"} == server.places.keys()
    assert all(place.port for place in server.places.values())
    assert len(server.log.all("ready")) == 1


def test_workers_are_processes_of_their_own_without_secrets(
    start_server: Callable[..., Served], tmp_path: Path
) -> None:
    server = start_server(environ={"WD_TRIO_API__ACCESS_TOKEN": "very-secret-token"}, workers=1)
    (pid,) = server.worker_pids()
    assert b"wd_trio.ops.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"very-secret-token" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"very-secret-token" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getpgid(pid) == pid
    assert server.stop() == 0
    assert "very-secret-token" not in str(server.log.all())


def test_connections_are_spread_over_the_workers(server: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            assert stack.enter_context(Client(server.imap)).line().startswith(b"* OK")
        assert [worker["connections"] for worker in server.ask("status")["workers"]] == [5, 5]


def test_a_killed_worker_is_replaced_and_others_go_on(start_server: Callable[..., Served]) -> None:
    server = start_server()
    with Client(server.imap) as first, Client(server.imap) as second:
        assert first.line().startswith(b"* OK")
        assert second.line().startswith(b"* OK")
        victim, survivor = server.worker_pids()
        os.kill(victim, signal.SIGKILL)
        assert server.log.wait("worker died")["status"] == "killed by SIGKILL"
        server.log.wait("worker ready", count=3)
        assert first.say(b"a NOOP").startswith(b"a OK")
        assert second.say(b"a NOOP").startswith(b"a OK")
        assert survivor in server.worker_pids()
        assert victim not in server.worker_pids()
        with Client(server.imap) as third, Client(server.imap) as fourth:
            assert third.line().startswith(b"* OK")
            assert fourth.line().startswith(b"* OK")
    assert server.stop() == 0


def test_with_every_worker_dead_connections_wait(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    with Client(server.imap) as client:
        assert client.line().startswith(b"* OK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(start_server: Callable[..., Served], number: int) -> None:
    server = start_server(workers=1)
    pids = server.worker_pids()
    with Client(server.imap) as imap, Client(server.lmtp) as lmtp:
        assert imap.line().startswith(b"* OK")
        assert lmtp.line().startswith(b"220")
        server.signal(number)
        assert imap.rest().startswith(b"* BYE")
        assert lmtp.rest().startswith(b"421 4.3.2")
    assert server.wait() == 0
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(ConnectionRefusedError):
        Client(server.imap)


def test_workers_end_when_their_supervisor_is_killed(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    with Client(server.imap) as client:
        assert client.line().startswith(b"* OK")
        server.signal(signal.SIGKILL)
        assert client.rest().startswith(b"* BYE")
    assert server.wait() == -signal.SIGKILL  # the log's end was read, so every holder of it is gone
    assert server.log.all("the supervisor is gone")


def test_a_second_start_on_the_same_store_is_refused(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    other = start_server(ready=False)
    assert other.wait() == 2
    assert "another server is running" in other.log.all("cannot start")[0]["error"]
    assert server.worker_pids()


def test_a_taken_address_is_a_clear_error(start_server: Callable[..., Served]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = start_server(ready=False, imap=address)
        assert server.wait() == 2
    assert address in server.log.all("cannot start")[0]["error"]


def test_a_store_that_cannot_be_opened_ends_the_start(
    start_server: Callable[..., Served], tmp_path: Path
) -> None:
    (tmp_path / "data" / "mail.db").mkdir(parents=True)
    server = start_server(ready=False)
    assert server.wait() == 2


def test_connections_per_ip_and_in_all_are_limited(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1, settings={"limits": {"connections_per_ip": 3}})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Client(server.imap)) for _ in range(3)]
        assert all(client.line().startswith(b"* OK") for client in held)
        with Client(server.imap) as refused:
            assert refused.line().startswith(b"* BYE [UNAVAILABLE]")
            assert refused.line() == b""
        with Client(server.lmtp) as refused:
            assert refused.line().startswith(b"421 4.3.2")
        assert server.metric('wildduck_connections_refused_total{protocol="imap",reason="address full"}') == 1
        held[0].say(b"a LOGOUT")
        assert held[0].rest().startswith(b"a OK")
        wait_for_connections(server, 2)
        with Client(server.imap) as client:
            assert client.line().startswith(b"* OK")


def wait_for_connections(server: Served, count: int) -> None:
    while server.ask("status")["connections"] != count:
        assert server.process.poll() is None


def test_unix_sockets_serve_and_leave_nothing_behind(
    start_server: Callable[..., Served], tmp_path: Path
) -> None:
    path = tmp_path / "lmtp.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = start_server(lmtp=f"unix:{path}", workers=1)
    with Client(server.lmtp) as client:
        assert client.line().startswith(b"220")
    assert server.stop() == 0
    assert not path.exists()
    assert not list((tmp_path / "data").glob("*.control"))


# --- reload


def test_sighup_with_a_bad_configuration_changes_nothing(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    before = server.worker_pids()
    server.config_path.write_text("[server]\nworkers = 'many'\n[imap]\nlisten = ['nowhere']\n")
    server.signal(signal.SIGHUP)
    server.log.wait("not reloaded", count=2)
    faults = [event["fault"] for event in server.log.all("not reloaded")]
    assert any("server.workers" in fault for fault in faults)
    assert any("imap.listen" in fault for fault in faults)
    with Client(server.imap) as client:
        assert client.line().startswith(b"* OK")
    write_config(
        server.config_path,
        settings_of(imap="127.0.0.1:0", lmtp="127.0.0.1:0", api="127.0.0.1:0", workers=2, more={}),
    )
    assert server.worker_pids() == before


def test_reload_rolls_the_workers_one_by_one(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    before = set(server.worker_pids())
    with Client(server.imap) as old:
        assert old.line().startswith(b"* OK")
        write_config(
            server.config_path,
            settings_of(
                imap="127.0.0.1:0",
                lmtp="127.0.0.1:0",
                api="127.0.0.1:0",
                workers=2,
                more={"server": {"hostname": "new.example.org"}},
            ),
        )
        assert server.ask("reload") == {"ok": True, "faults": []}
        assert old.say(b"a NOOP").startswith(b"a OK")
    with Client(server.lmtp) as new:
        assert new.line().startswith(b"220 new.example.org")
    assert server.get("/health")[0] == 200
    workers = [worker for worker in server.ask("status")["workers"] if worker["state"] == "ready"]
    assert len(workers) == 2
    assert not before & {worker["pid"] for worker in workers}
    assert server.stop() == 0


# --- across workers


@pytest.fixture
def two_logins(server: Served) -> Iterator[tuple[imaplib.IMAP4, imaplib.IMAP4]]:
    """Two sessions of one user; the door gave them to different workers."""
    user = server.add_user()
    with (
        imaplib.IMAP4(server.imap.host, server.imap.port) as one,
        imaplib.IMAP4(server.imap.host, server.imap.port) as other,
    ):
        for client in (one, other):
            client.login(user.username, user.password)
            assert client.select("INBOX")[0] == "OK"
        yield one, other


def test_a_change_is_pushed_to_an_idle_session_of_another_worker(
    server: Served, two_logins: tuple[imaplib.IMAP4, imaplib.IMAP4]
) -> None:
    assert [worker["connections"] for worker in server.ask("status")["workers"]] == [1, 1]
    writer, idler = two_logins
    tag = b"idle1"
    idler.send(tag + b" IDLE\r\n")
    assert idler.readline().startswith(b"+")
    writer.append("INBOX", "", "", b"Subject: hello\r\n\r\nhello\r\n")
    assert idler.readline() == b"* 1 EXISTS\r\n"
    idler.send(b"DONE\r\n")
    while not idler.readline().startswith(tag + b" OK"):
        pass
