"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wd_trio.ops import notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The manager's socket, of both kinds that systemd uses."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@wd-trio-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(10)
        monkeypatch.setenv(notify.VARIABLE, name)
        yield sock


def heard(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(1000).decode().splitlines())


def test_the_three_messages(manager: socket.socket) -> None:
    notify.ready("serving with 2 workers")
    assert heard(manager) == {"READY": "1", "STATUS": "serving with 2 workers"}
    notify.reloading()
    told = heard(manager)
    assert told["RELOADING"] == "1"
    assert int(told["MONOTONIC_USEC"]) > 0
    notify.stopping()
    assert heard(manager)["STOPPING"] == "1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.VARIABLE, raising=False)
    monkeypatch.setattr(notify.socket, "socket", None)  # would raise
    notify.ready("")


def test_a_manager_that_is_gone_or_deaf_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv(notify.VARIABLE, str(path))
    notify.ready("")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        for _ in range(1000):  # more than a queue that nobody reads can hold
            notify.ready("")
