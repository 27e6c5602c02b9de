"""An upgrade of the running server: nobody is disconnected, and a new version that is no good changes nothing.

The program that is upgraded to is the same, or a copy of the package that a test has changed.
"""

from __future__ import annotations

import imaplib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from certificates import make_pair
from crowd import Account, Crowd, Places, subjects, summary
from served import ANYWHERE, ROOT, Place, Served

from wd_trio import __version__
from wd_trio.config import Config
from wd_trio.ops import control

UPGRADES = 3
TIMEOUT_S = 60.0


class Lmtp:
    """A client that is greeted once and for all."""

    def __init__(self, place: Place) -> None:
        self.sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
        self._file = self.sock.makefile("rb")
        assert self._file.readline().startswith(b"220")

    def noop(self) -> bytes:
        self.sock.sendall(b"NOOP\r\n")
        return self._file.readline()

    def rest(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@contextmanager
def clients(place: Place, count: int) -> Iterator[list[Lmtp]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Lmtp(place))
            stack.callback(made[-1].close)
        yield made


def upgrade(server: Served, config: Config | None = None) -> control.Upgraded:
    return control.upgrade(config or server.config())


def generation(server: Served) -> int:
    return int(server.ask("status")["upgrade"]["generation"])


@pytest.fixture
def house(start_server: Callable[..., Served]) -> tuple[Served, Crowd]:
    """A server of two workers, and a crowd before it."""
    server = start_server(workers=2)
    users = [server.add_user() for _ in range(6)]
    places = Places(
        (server.imap.host, server.imap.port),
        (server.pop3.host, server.pop3.port),
        (server.lmtp.host, server.lmtp.port),
    )
    return server, Crowd(places, [Account(user.username, user.address, user.password) for user in users])


async def test_upgrades_disconnect_nobody(house: tuple[Served, Crowd]) -> None:
    server, crowd = house
    wire = await crowd.open_lmtp()
    for number, account in enumerate(crowd.accounts * 3):
        await crowd.deliver(wire, account.address, f"first {number}")
    before = set(server.worker_pids())
    async with trio.open_nursery() as nursery:
        await crowd.gather(nursery, idlers=12, readers=12, talkers=2, droppers=3, senders=2)
        await crowd.check()
        for _ in range(UPGRADES):
            came = await trio.to_thread.run_sync(upgrade, server)
            assert came.ok, came
            await crowd.check()
        crowd.stop()
        await crowd.check()
        nursery.cancel_scope.cancel()
    await crowd.deliver(wire, crowd.accounts[0].address, "over a connection that saw them all")
    wire.close()
    about = summary(crowd.tally)
    assert not crowd.tally.wrong, about
    assert not crowd.tally.lost, about
    assert not crowd.tally.refused, about
    found: list[str] = []
    for account in crowd.accounts:
        found += await subjects(crowd.places, account)
    assert set(crowd.tally.acknowledged) <= set(found)
    status = server.ask("status")
    assert status["pid"] == server.process.pid
    assert status["upgrade"] == {"generation": UPGRADES, "underWay": False, "faults": []}
    assert not before & set(server.worker_pids())
    assert server.metric('wildduck_upgrades_total{result="done"}') == UPGRADES
    assert server.metric("wildduck_worker_starts_total") == 2 + UPGRADES * 2, "counters go on"
    assert server.metric("wildduck_worker_deaths_total") == 0


def test_tls_goes_on_wherever_it_was(start_server: Callable[..., Served], tmp_path: Path) -> None:
    """A connection under TLS, one that said STARTTLS and has not begun yet, and one on the TLS port likewise."""
    pair = make_pair(tmp_path)
    context = ssl.create_default_context(cafile=pair.certificate)
    server = start_server(
        workers=1,
        settings={
            "imap": {"tls_listen": [ANYWHERE]},
            "tls": {"certificate": pair.certificate, "key": pair.key},
        },
    )
    place = server.places["imaps"]
    with imaplib.IMAP4_SSL(place.host, place.port, ssl_context=context, timeout=TIMEOUT_S) as client:
        server.signal(signal.SIGUSR2)
        # The trial is over: whoever comes now has its whole time for a handshake before it, and the exec within that.
        server.log.wait("leaving", where=lambda event: event.get("role") == "worker 0")
        with (
            socket.create_connection((server.imap.host, server.imap.port), TIMEOUT_S) as clear,
            socket.create_connection((place.host, place.port), TIMEOUT_S) as silent,
        ):
            lines = clear.makefile("rb")
            assert lines.readline().startswith(b"* OK")
            clear.sendall(b"a STARTTLS\r\n")
            assert lines.readline().startswith(b"a OK")
            server.log.wait("succeeding")
            with context.wrap_socket(clear, server_hostname=place.host) as secured:
                secured.sendall(b"b NOOP\r\n")
                assert secured.recv(100).startswith(b"b OK")
            with context.wrap_socket(silent, server_hostname=place.host) as secured:
                assert secured.recv(100).startswith(b"* OK")
            lines.close()
        server.log.wait("upgraded")
        assert client.noop()[0] == "OK"
    assert server.stop() == 0


# --- to a version that is no good, or is another


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package, for a server to run and a test to change."""
    folder = tmp_path / "tree"
    shutil.copytree(ROOT / "wd_trio", folder / "wd_trio", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    try:
        yield
    finally:
        path.write_text(text, "utf-8")


def test_a_version_that_is_no_good_changes_nothing(start_server: Callable[..., Served], tree: Path) -> None:
    server = start_server(workers=1, environ={"PYTHONPATH": str(tree)})
    workers = server.worker_pids()
    package = tree / "wd_trio"
    config = server.config()

    def refused() -> str:
        came = upgrade(server, config)
        assert not came.ok
        assert came.before == came.after == (__version__, 0)
        (fault,) = came.faults
        return fault

    with clients(server.lmtp, 3) as held:
        with changed(package / "ops" / "supervisor.py", "class Supervisor:", "class Supervisor"):
            assert "SyntaxError" in refused()
        with changed(package / "ops" / "worker.py", "def main() -> int:", "def main() -> int:\n    return 9"):
            assert refused() == "a worker of the new version ended with status 9"
        with changed(package / "servers" / "slots.py", "SLOT_BYTES: Final = 320", "SLOT_BYTES: Final = 384"):
            assert "restart instead" in refused()
        with changed(
            package / "adapters" / "sqlite" / "schema.py",
            "    _OUTCOMES,\n)",
            '    _OUTCOMES,\n    ("CREATE TABLE more (number INTEGER)",),\n)',
        ):
            assert "stop the server" in refused()
        with changed(server.config_path, "workers = 1", "workers = -1"):
            assert refused() == "server.workers: must be at least 0"
        assert server.worker_pids() == workers
        assert all(client.noop().startswith(b"250") for client in held)
        with clients(server.lmtp, 1):
            pass
        assert len(server.log.all("not upgraded")) == 5
        assert server.metric('wildduck_upgrades_total{result="refused"}') == 5
        with changed(package / "cli" / "server.py", "import argparse", "import argparse, no_such_thing"):
            said = command(server)
        assert said.returncode == 1
        assert "No module named 'no_such_thing'" in said.stderr
        assert said.stdout == ""
        with changed(package / "__init__.py", f'"{__version__}"', '"9.9.9"'):
            said = command(server)
            assert said.stdout == f"upgraded from {__version__} (generation 0) to 9.9.9 (generation 1)\n"
            assert said.returncode == 0
            assert server.ask("status")["version"] == "9.9.9"
            assert all(client.noop().startswith(b"250") for client in held)
        assert not set(server.worker_pids()) & set(workers)
    assert server.stop() == 0


def command(server: Served) -> subprocess.CompletedProcess[str]:
    """`wd-trio upgrade` of the version that is installed."""
    return subprocess.run(
        [sys.executable, "-m", "wd_trio", "upgrade", "--config", str(server.config_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


# --- and something else happens meanwhile


def test_a_signal_to_stop_is_not_lost(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=1)
    with clients(server.lmtp, 2) as held:
        server.signal(signal.SIGUSR2)
        server.log.wait("handing over")
        server.signal(signal.SIGTERM)
        assert all(client.rest().startswith(b"421 4.3.2") for client in held)
    assert server.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        Lmtp(server.lmtp)


def test_a_worker_that_is_killed_meanwhile_costs_nobody_anything(
    start_server: Callable[..., Served],
) -> None:
    server = start_server(workers=2)
    with clients(server.lmtp, 6) as held:
        assert all(client.noop().startswith(b"250") for client in held)
        victim = server.worker_pids()[0]
        server.signal(signal.SIGUSR2)
        server.log.wait("handing over")
        os.kill(victim, signal.SIGKILL)
        server.log.wait("upgraded")
        assert all(client.noop().startswith(b"250") for client in held)
        assert generation(server) == 1
        assert server.ask("status")["connections"] == 6
    assert server.stop() == 0


def test_a_configuration_that_breaks_after_the_trial_keeps_the_old_one(
    start_server: Callable[..., Served],
) -> None:
    server = start_server(workers=1)
    server.signal(signal.SIGUSR2)
    server.log.wait("handing over")
    good = server.config_path.read_text("utf-8")
    server.config_path.write_text("[server]\nworkers = -1\n", "utf-8")
    fault = server.log.wait("upgraded with a fault")["fault"]
    server.config_path.write_text(good, "utf-8")
    assert "server.workers" in fault
    assert generation(server) == 1, "the program is the new one, and so are its workers"
    with clients(server.lmtp, 1):
        pass
    assert server.stop() == 0
