"""The control socket: questions and answers, one server only, and folders of any depth."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from wd_trio.config import Config, Store
from wd_trio.errors import Conflict, Unavailable
from wd_trio.ops import control as control_
from wd_trio.ops.control import REQUEST_BYTES, ControlSocket, Upgraded, control_path, request


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 30)
    folder.mkdir(parents=True)
    return Config(store=replace(Store(), url=f"sqlite:{folder}/mail.db"))


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[None]:
    control = ControlSocket(control_path(config))
    control.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, answer)
        yield
        nursery.cancel_scope.cancel()
    control.close()


async def answer(op: str, asked: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    if op == "fail":
        raise RuntimeError("broken")
    if op == "riddle":
        return {"ok": object()}  # no JSON
    return {"ok": True} | asked


async def test_a_request_is_answered(config: Config) -> None:
    async with serving(config):
        assert stat.S_IMODE(control_path(config).stat().st_mode) == 0o600
        for op in ("status", "reload"):
            assert await trio.to_thread.run_sync(request, config, op) == {"ok": True, "op": op}
        reply = await trio.to_thread.run_sync(lambda: request(config, "kill", user="u1"))
        assert reply == {"ok": True, "op": "kill", "user": "u1"}
        failed = await trio.to_thread.run_sync(request, config, "fail")
    assert failed["ok"] is False
    assert "broken" not in failed["error"]


async def test_nonsense_and_silence_harm_nobody(tmp_path: Path) -> None:
    config = Config(store=replace(Store(), url=f"sqlite:{tmp_path}/mail.db"))
    async with serving(config):
        for said in (b"", b"\n", b"[]\n", b'{"op"\n', b"x" * 100_000):
            async with await trio.open_unix_socket(str(control_path(config))) as client:
                try:
                    await client.send_all(said)
                    await client.send_eof()
                    reply = await client.receive_some(1000)
                except trio.BrokenResourceError:
                    continue  # it did not care to read all that
                assert b'"ok": false' in reply
        assert (await trio.to_thread.run_sync(request, config, "status"))["ok"]


async def test_a_client_that_breaks_its_task_ends_alone(config: Config) -> None:
    async with serving(config):
        with pytest.raises(Unavailable, match="went away"):
            await trio.to_thread.run_sync(request, config, "riddle")
        assert (await trio.to_thread.run_sync(request, config, "status"))["ok"]


async def test_a_line_nested_too_deep_ends_its_client_only(tmp_path: Path) -> None:
    config = Config(store=replace(Store(), url=f"sqlite:{tmp_path}/mail.db"))
    async with serving(config):
        async with await trio.open_unix_socket(str(control_path(config))) as client:
            await client.send_all(b"[" * REQUEST_BYTES)
            assert await client.receive_some(1000) == b""
        assert (await trio.to_thread.run_sync(request, config, "status"))["ok"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_accepting_survives_a_full_table(
    number: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [number, number]
    accept = trio.SocketListener.accept

    async def troubled(listener: trio.SocketListener) -> trio.SocketStream:
        if errors:
            raise OSError(errors[0], os.strerror(errors.pop()))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", troubled)
    monkeypatch.setattr(control_, "EXHAUSTED_PAUSE_S", 0.0)
    async with serving(config):
        assert (await trio.to_thread.run_sync(request, config, "status"))["ok"]
    assert not errors


def test_without_a_server_it_is_unavailable(config: Config) -> None:
    with pytest.raises(Unavailable, match="no server is running"):
        request(config, "status")


def test_the_place_of_a_dead_server_is_taken_over_and_that_of_a_living_one_is_not(config: Config) -> None:
    first = ControlSocket(control_path(config))
    first.bind()
    second = ControlSocket(control_path(config))
    with pytest.raises(Conflict, match="another server is running"):
        second.bind()
    first._sock.close()  # as a kill leaves it: the file stays
    assert control_path(config).exists()
    with pytest.raises(Unavailable):
        request(config, "status")
    second.bind()
    second.close()
    second.close()
    assert not control_path(config).exists()


@pytest.mark.parametrize(
    ("begun", "then", "expected"),
    [
        ({"ok": False, "error": "no"}, [], Upgraded(("1", 0), ("1", 0), ["no"])),
        ({"ok": True}, [{"generation": 0, "faults": ["bad"]}], Upgraded(("1", 0), ("2", 0), ["bad"])),
        ({"ok": True}, [{"underWay": True}, None, {}], Upgraded(("1", 0), ("2", 1), [])),
        ({"ok": True}, [None, {"faults": ["half"]}], Upgraded(("1", 0), ("2", 1), ["half"])),
    ],
)
def test_an_upgrade_is_waited_for(
    config: Config,
    begun: dict[str, Any],
    then: list[dict[str, Any] | None],
    expected: Upgraded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies = iter(then)

    def answers(_config: Config, op: str) -> dict[str, Any]:
        if op == "upgrade":
            return {"version": "1", "generation": 0} | begun
        about = next(replies)
        if about is None:
            raise control_.WentAway("between two programs")
        return {"version": "2", "upgrade": {"generation": 1, "underWay": False, "faults": []} | about}

    monkeypatch.setattr(control_, "request", answers)
    monkeypatch.setattr(control_, "UPGRADE_POLL_S", 0.0)
    came = control_.upgrade(config)
    assert came == expected
    assert came.ok == (expected.after == ("2", 1) and not expected.faults)
    assert next(replies, None) is None


def test_a_socket_that_was_bound_before_goes_on(config: Config) -> None:
    first = ControlSocket(control_path(config))
    first.bind()
    second = ControlSocket(first.path, socket.socket(fileno=os.dup(first.fileno())))
    first._sock.close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.serve, answer)
            assert (await trio.to_thread.run_sync(request, config, "status"))["ok"]
            nursery.cancel_scope.cancel()

    trio.run(main)
    second.close()
    assert not control_path(config).exists()


def test_a_server_that_goes_away_while_answering(config: Config) -> None:
    control = ControlSocket(control_path(config))
    control.bind()

    async def main() -> None:
        async def accept_and_close() -> None:
            control._sock.setblocking(True)
            client = await trio.to_thread.run_sync(lambda: control._sock.accept()[0])
            client.shutdown(socket.SHUT_RDWR)
            client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_and_close)
            with pytest.raises(Unavailable):
                await trio.to_thread.run_sync(request, config, "status")

    trio.run(main)
    control.close()
