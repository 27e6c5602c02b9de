"""The holder's keeper: certificates renewed, holders that die or hang, a supervisor that goes or replaces itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from certificates import Pair, make_pair
from holder_house import Client, House, house, until

from wd_trio.errors import Invalid
from wd_trio.ops import metrics
from wd_trio.ops.tls.channel import HolderOptions
from wd_trio.ops.tls.holding import Holding, HoldingOptions, HoldingState, Newcomer
from wd_trio.servers.tls import server_context


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("others"), "other", kind="rsa")


@pytest.fixture
async def held(pair: Pair) -> AsyncIterator[House]:
    async with house(pair) as made:
        yield made


# --- certificates


async def test_a_new_certificate_is_for_those_who_come_after(held: House, pair: Pair, other: Pair) -> None:
    old, old_worker = await held.pair()
    assert await held.holding.reload(other.certificate, other.key) == []
    new, _ = await held.pair()
    assert new.tls.getpeercert(binary_form=True) == other.der
    await old.send(b"still here")
    assert await old_worker.receive_some() == b"still here"
    held.holding.kill()
    await held.wait_ready(not_pid=held.holding.statistics().pid)
    again, _ = await held.pair()
    assert again.tls.getpeercert(binary_form=True) == other.der


async def test_a_holder_that_is_starting_gets_the_new_certificate_too(pair: Pair, other: Pair) -> None:
    """It was told of the old one, and is not ready."""
    made = House()
    made.holding = Holding(pair.certificate, pair.key, on_secured=made.on_secured, on_failed=made.on_failed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.holding.run)
        await trio.testing.wait_all_tasks_blocked()
        assert made.holding.statistics().pid
        assert not made.holding.statistics().ready
        assert await made.holding.reload(other.certificate, other.key) == []
        client, worker = await _through(made, made.holding)
        assert client.tls.getpeercert(binary_form=True) == other.der
        await worker.aclose()
        await client.stream.aclose()
        assert await made.holding.stop(deadline_s=5.0)


async def test_a_holder_that_dies_of_its_reload_is_followed_by_one_with_the_new_certificate(
    held: House, other: Pair
) -> None:
    pid = held.holding.statistics().pid
    os.kill(pid, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        faults: list[str] = []

        async def reload() -> None:
            faults.extend(await held.holding.reload(other.certificate, other.key))

        nursery.start_soon(reload)
        await until(lambda: held.holding._loads, bool)
        held.holding.kill()
    assert faults == []
    await held.wait_ready(not_pid=pid)
    client, _ = await held.pair()
    assert client.tls.getpeercert(binary_form=True) == other.der


async def test_a_bad_certificate_changes_nothing(
    held: House, pair: Pair, other: Pair, tmp_path: Path
) -> None:
    assert await held.holding.reload(other.certificate, pair.key) == [
        f"tls.key: {pair.key} is not the key of the certificate"
    ]
    client, _ = await held.pair()
    assert client.tls.getpeercert(binary_form=True) == pair.der
    assert held.holding.statistics().ready


async def test_a_certificate_that_goes_bad_under_the_holder_is_told_of(
    held: House, pair: Pair, other: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good when we looked, bad when the holder did."""
    monkeypatch.setattr("wd_trio.ops.tls.holding.server_context", lambda certificate, key: None)
    missing = str(tmp_path / "none.pem")
    faults = await held.holding.reload(missing, other.key)
    assert faults == [f"tls.certificate: {missing} cannot be read: No such file or directory"]
    client, _ = await held.pair()
    assert client.tls.getpeercert(binary_form=True) == pair.der


def _files(folder: Path, pair: Pair, other: Pair) -> dict[str, tuple[str, str, str]]:
    empty = folder / "empty.pem"
    empty.write_text("nothing here\n", "ascii")
    locked = make_pair(folder, "locked", encrypted=True)
    return {
        "missing": (str(folder / "no"), pair.key, "tls.certificate"),
        "missing key": (pair.certificate, str(folder / "no"), "tls.key"),
        "empty": (str(empty), pair.key, "tls.certificate"),
        "empty key": (pair.certificate, str(empty), "tls.key"),
        "key as certificate": (pair.key, pair.key, "tls.certificate"),
        "another's key": (pair.certificate, other.key, "tls.key"),
        "encrypted": (locked.certificate, locked.key, "tls.key"),
    }


def test_what_is_wrong_with_a_certificate(tmp_path: Path, pair: Pair, other: Pair) -> None:
    for case, (certificate, key, what) in _files(tmp_path, pair, other).items():
        with pytest.raises(Invalid) as caught:
            server_context(certificate, key)
        assert caught.value.what == what, case
    server_context(pair.certificate, pair.key)
    both = tmp_path / "both.pem"
    both.write_bytes(Path(pair.certificate).read_bytes() + Path(pair.key).read_bytes())
    server_context(str(both), str(both))


# --- no certificate


async def test_without_a_certificate_there_is_no_holder_until_one_is_given(pair: Pair) -> None:
    async with house(pair) as made:
        made.holding.kill()
        failed: list[str] = []
        holding = Holding(
            "", "", on_secured=made.on_secured, on_failed=lambda _, reason: failed.append(reason)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holding.run)
            await trio.testing.wait_all_tasks_blocked()
            theirs, ours = socket.socketpair()
            with ours:
                holding.come(Newcomer("imap", "192.0.2.1", 1), theirs)
                assert failed == ["no certificate"]
                assert ours.recv(1) == b""
            assert holding.statistics().pid == 0
            assert await holding.reload(pair.certificate, pair.key) == []
            await until(holding.statistics, lambda now: now.ready)
            assert await holding.stop(deadline_s=5.0)


# --- holders that die


async def test_a_holder_that_is_killed_takes_its_own_along_and_is_replaced(held: House) -> None:
    clients = [await held.pair() for _ in range(3)]
    half = await held.connect()
    await until(held.holding.statistics, lambda now: now.unfinished == 1 and now.open == 3)
    lost = metrics.tls_connections_lost_total._value.get()  # type: ignore[attr-defined]  # it has no reader
    pid = held.holding.statistics().pid
    os.kill(pid, signal.SIGKILL)
    for _, worker in clients:
        assert await worker.receive_some() == b""
    assert await held.wait_failed() == ["holder died"]
    assert await half.receive_some() == b""
    client, worker = await held.pair()  # who comes meanwhile waits
    await worker.send_all(b"back again")
    assert await client.receive() == b"back again"
    assert held.holding.statistics().pid != pid
    assert metrics.tls_connections_lost_total._value.get() - lost == 3  # type: ignore[attr-defined]


async def test_a_holder_that_hangs_is_killed(pair: Pair) -> None:
    made = House()
    options = HoldingOptions(ping_s=0.05, silence_s=0.2)
    made.holding = Holding(
        pair.certificate, pair.key, on_secured=made.on_secured, on_failed=made.on_failed, options=options
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.holding.run)
        pid = await made.wait_ready()
        os.kill(pid, signal.SIGSTOP)
        await made.wait_ready(not_pid=pid)
        assert await made.holding.stop(deadline_s=5.0)


async def test_a_signal_to_all_processes_is_the_supervisors(held: House) -> None:
    client, worker = await held.pair()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(held.holding.statistics().pid, number)
    await client.send(b"on we go")
    assert await worker.receive_some() == b"on we go"
    await held.pair()


async def test_one_that_was_waited_for_is_no_successors(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of a holder and what follows from it nothing is quiet: its number may be another's."""
    quiet: list[bool] = []
    lose = Holding._lose

    def look(holding: Holding) -> int:
        quiet.append(holding.quiet)
        lost = lose(holding)
        quiet.append(holding.quiet)
        return lost

    monkeypatch.setattr(Holding, "_lose", look)
    async with house(pair) as held:
        assert held.holding.quiet
        pid = held.holding.statistics().pid
        held.holding.kill()
        await held.wait_ready(not_pid=pid)
        assert quiet == [False, True]
        assert held.holding.quiet


async def test_a_holder_that_cannot_start_keeps_nobody_waiting(pair: Pair, tmp_path: Path) -> None:
    gone = Pair(shutil.copy(pair.certificate, tmp_path), shutil.copy(pair.key, tmp_path))
    async with house(gone) as held:
        os.unlink(gone.key)
        held.holding.kill()
        await until(held.holding.statistics, lambda now: not now.ready)
        stream = await held.connect()
        assert set(await held.wait_failed()) == {"no holder"}
        assert await stream.receive_some() == b""
        shutil.copy(pair.key, gone.key)
        await held.wait_ready()
        await held.pair()


# --- endings


async def test_stop_waits_for_the_last_connection(held: House) -> None:
    client, worker = await held.pair()
    clean: list[bool] = []

    async def stop() -> None:
        clean.append(await held.holding.stop(deadline_s=20.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await trio.testing.wait_all_tasks_blocked()
        await worker.send_all(b"* BYE\r\n")
        await worker.aclose()
        assert await client.receive_exactly(7) == b"* BYE\r\n"
        assert await client.receive() == b""
        await client.stream.aclose()
    assert clean == [True]


async def test_stop_has_a_deadline(held: House) -> None:
    client, _worker = await held.pair()
    assert await held.holding.stop(deadline_s=0.1)
    with pytest.raises(AssertionError, match="without close_notify"):
        await client.receive()


async def test_a_holder_whose_supervisor_is_gone_sees_its_connections_out(pair: Pair) -> None:
    made = House()
    made.holding = Holding(
        pair.certificate,
        pair.key,
        on_secured=made.on_secured,
        on_failed=made.on_failed,
        options=HoldingOptions(holder=HolderOptions(drain_s=60.0)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.holding.run)
        pid = await made.wait_ready()
        client, worker = await _through(made, made.holding)
        nursery.cancel_scope.cancel()
    await client.send(b"on we go")
    assert await worker.receive_some() == b"on we go"
    await worker.aclose()
    await client.stream.aclose()
    assert os.WEXITSTATUS(await trio.to_thread.run_sync(lambda: os.waitpid(pid, 0)[1])) == 0


async def _through(made: House, holding: Holding) -> tuple[Client, trio.SocketStream]:
    """A client of a holding that has no listener."""
    theirs, ours = socket.socketpair()
    before = len(made.secured)
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    holding.come(Newcomer("imap", "unix", 0, upgrades=1), theirs)
    await client.handshake()
    return client, await made.wait_secured(before + 1)


async def test_a_successor_goes_on_where_a_supervisor_left_off(pair: Pair) -> None:
    """As across an exec: the same descriptors and children, another keeper."""
    first, second = House(), House()
    async with trio.open_nursery() as nursery:
        holding = Holding(pair.certificate, pair.key, on_secured=first.on_secured, on_failed=first.on_failed)
        nursery.start_soon(holding.run)
        first.holding = holding
        pid = await first.wait_ready()
        client, worker = await _through(first, holding)
        theirs, ours = socket.socketpair()
        holding.come(Newcomer("pop3", "192.0.2.7", 7), theirs)  # its handshake is under way
        await until(holding.statistics, lambda now: now.unfinished == 1 and now.waiting == 0)
        theirs, waiting = socket.socketpair()
        holding.come(Newcomer("lmtp", "192.0.2.8", 8), theirs)  # this one the holder does not have yet
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(holding.export_state()), type=HoldingState)
        assert len(state.waiting) == 1
        state.channel = os.dup(state.channel)
        state.waiting[0].descriptor = os.dup(state.waiting[0].descriptor)
        holding._stopping = True  # after an exec nothing is sent any more
        nursery.cancel_scope.cancel()
    second.holding = Holding(
        pair.certificate, pair.key, on_secured=second.on_secured, on_failed=second.on_failed
    )
    second.holding.adopt_state(state)
    assert not any(os.get_inheritable(each) for each in state.descriptors)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.holding.run)
        for sock, newcomer in (
            (ours, Newcomer("pop3", "192.0.2.7", 7)),
            (waiting, Newcomer("lmtp", "192.0.2.8", 8)),
        ):
            late = Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
            before = len(second.secured)
            await late.handshake()
            late_worker = await second.wait_secured(before + 1)
            assert second.secured[-1][0] == newcomer
            await late_worker.aclose()
            await late.stream.aclose()
        assert second.holding.statistics().pid == pid
        await client.send(b"nothing noticed")
        assert await worker.receive_some() == b"nothing noticed"
        await worker.aclose()
        await client.stream.aclose()
        os.kill(pid, signal.SIGKILL)  # and it is watched like one's own
        await second.wait_ready(not_pid=pid)
        assert await second.holding.stop(deadline_s=5.0)


# --- STARTTLS: a connection of which others have duplicates


async def test_an_upgraded_connection_ends_for_good_though_there_are_duplicates(held: House) -> None:
    theirs, ours = socket.socketpair()
    with theirs.dup():
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        held.holding.come(Newcomer("imap", "192.0.2.1", 9, upgrades=7), theirs)
        await client.handshake()
        worker = await held.wait_secured(1)
        assert held.secured[0][0].upgrades == 7
        await worker.send_all(b"secret")
        await worker.aclose()
        assert await client.receive_exactly(6) == b"secret"
        assert await client.receive() == b""
        assert await client.stream.receive_some() == b""
        await client.stream.aclose()


def test_the_holder_imports_little() -> None:
    """Its memory is for connections."""
    code = (
        "import sys, wd_trio.ops.tls.holder; "
        "print(*sorted({'trio', 'structlog', 'asyncio', 'prometheus_client', 'h11'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
