"""Listening sockets: addresses, stale and taken socket files, and accepting through everything that passes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from wd_trio.config import Api, Config, Imap, Lmtp, Pop3
from wd_trio.ops.listeners import BindFailed, Listener, accept_all, bind_all


def config_of(imap: list[str], lmtp: list[str] | None = None) -> Config:
    return Config(
        imap=replace(Imap(), listen=tuple(imap)),
        pop3=replace(Pop3(), listen=()),
        lmtp=replace(Lmtp(), listen=tuple(lmtp or ())),
        api=replace(Api(), listen=()),
    )


def close(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.close()
        listener.close()


def test_port_0_becomes_the_bound_port() -> None:
    listeners = bind_all(config_of(["127.0.0.1:0", "127.0.0.1:0"], ["127.0.0.1:0"]))
    assert [listener.protocol for listener in listeners] == ["imap", "imap", "lmtp"]
    for listener in listeners:
        assert str(listener) == f"{listener.protocol}://127.0.0.1:{listener.sock.getsockname()[1]}"
        socket.create_connection(("127.0.0.1", listener.address.port)).close()
    close(listeners)


def test_one_address_that_is_taken_frees_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindFailed, match=f"127.0.0.1:{port} for lmtp: Address already in use"):
            bind_all(config_of(["127.0.0.1:0"], [f"127.0.0.1:{port}"]))


def test_a_name_that_means_nothing_is_a_clear_fault() -> None:
    with pytest.raises(BindFailed, match=r"cannot listen on nowhere\.invalid:1143 for imap"):
        bind_all(config_of(["nowhere.invalid:1143"]))


def test_a_stale_socket_file_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listeners = bind_all(config_of([f"unix:{path}"]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close(listeners)
    assert not path.exists()


def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(BindFailed, match="another server answers there"):
            bind_all(config_of([f"unix:{path}"]))
    assert path.exists()


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(BindFailed, match="is no socket"):
        bind_all(config_of([f"unix:{path}"]))
    assert path.read_text() == "data"


# --- accepting


class Trouble(socket.socket):
    """A listening socket whose accept fails as told before it succeeds."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.fixture
def troubled() -> Iterator[Trouble]:
    with Trouble(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        yield sock


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED]
)
async def test_accepting_survives(
    number: int, troubled: Trouble, autojump_clock: trio.testing.MockClock
) -> None:
    troubled.errors = [number] * 3
    (listener,) = bind_all(config_of(["127.0.0.1:0"]))
    listener.close()
    listener.sock = troubled
    got: list[tuple[str, int]] = []
    came = trio.Event()

    def accepted(sock: socket.socket, ip: str, port: int) -> None:
        sock.close()
        got.append((ip, port))
        came.set()

    with socket.create_connection(troubled.getsockname()) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: accept_all(listener, accepted, wait_wanted=trio.lowlevel.checkpoint))
            await came.wait()
            nursery.cancel_scope.cancel()
        assert got == [client.getsockname()]
    assert troubled.errors == []


async def test_nothing_is_accepted_until_it_is_wanted(autojump_clock: trio.testing.MockClock) -> None:
    (listener,) = bind_all(config_of(["127.0.0.1:0"]))
    wanted = trio.Event()
    came = trio.Event()

    def accepted(sock: socket.socket, ip: str, port: int) -> None:
        sock.close()
        came.set()

    with socket.create_connection(("127.0.0.1", listener.address.port)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: accept_all(listener, accepted, wait_wanted=wanted.wait))
            await trio.sleep(100)
            assert not came.is_set()
            wanted.set()
            await came.wait()
            nursery.cancel_scope.cancel()
    listener.close()
