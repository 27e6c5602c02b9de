"""POP3 sessions over the real services: how they begin and end: log-in, locks, timers, drains, kicks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from pop3_world import MARKED, OPTIONS, TROUBLE, Pop3World, deliver_some, failing, open_pop3_world
from trio.testing import MockClock, wait_all_tasks_blocked

from wd_trio.service import maildrop as maildrops
from wd_trio.service.sessions import Sessions


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Pop3World]:
    async with open_pop3_world(tmp_path) as opened:
        yield opened


# --- log-in


async def test_one_session_at_a_time(world: Pop3World) -> None:
    first = await world.logged_in()
    second = world.connect()
    in_use = "-ERR [IN-USE] Another session has the maildrop"
    await second.read_line()
    for _ in range(2):
        assert await second.say("USER alice") == "+OK Now the password"
        assert await second.say("PASS secret of alice") == in_use
    await world.logged_in("bob")
    owner = await world.services.users.by_username("alice")
    assert len(await world.services.sessions.of_user(owner.id)) == 1, "no place is held by who was refused"
    assert await first.say("QUIT") == "+OK Bye"
    third = await world.logged_in()
    assert (await third.say("STAT")) == "+OK 0 0"


async def test_the_lock_ends_with_its_worker(world: Pop3World) -> None:
    await deliver_some(world, 2)
    dead = await world.logged_in()
    assert await dead.say("DELE 1") == MARKED
    await world.services.bury(world.services.owner)  # what is done for a worker that was killed
    client = await world.logged_in()
    assert (await client.say("STAT")).startswith("+OK 2 ")


async def test_a_place_that_is_not_to_be_had(world: Pop3World, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(world.services.sessions._options, connections_per_user=0)
    monkeypatch.setattr(world.services.sessions, "_options", options)
    client = world.connect()
    await client.send(b"USER alice\r\nPASS secret of alice\r\nSTAT\r\n")
    heard = [await client.read_line() for _ in range(4)]
    assert heard[2:] == ["-ERR [SYS/TEMP] Too much for now, try again later", "-ERR Log in first"]
    monkeypatch.undo()
    assert await client.say("USER alice") == "+OK Now the password"
    assert await client.say("PASS secret of alice") == "+OK Logged in"


async def test_an_engine_that_is_down_at_log_in(world: Pop3World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.connect()
    await client.read_line()
    for target, name in (
        (world.services.auth, "login"),
        (world.services.sessions, "begin"),
        (world.services.mailboxes, "open"),
    ):
        failing(monkeypatch, target, name)
        assert await client.say("USER alice") == "+OK Now the password"
        assert await client.say("PASS secret of alice") == TROUBLE
    await world.logged_in()


async def test_passwords_need_tls_or_a_trusted_network(world: Pop3World) -> None:
    client = world.connect("192.0.2.1")
    await client.read_line()
    assert await client.say("CAPA") == "+OK Capabilities follow"
    offered = (await client.body()).split(b"\r\n")
    assert b"USER" not in offered
    assert b"SASL PLAIN" not in offered
    for command in ("USER alice", "AUTH PLAIN", "AUTH PLAIN AGFsaWNlAHNlY3JldCBvZiBhbGljZQ=="):
        assert await client.say(command) == "-ERR [AUTH] TLS is required before passwords are sent"


# --- timers, drains, kicks


@pytest.fixture
async def slow_world(tmp_path: Path, mock_clock: MockClock) -> AsyncIterator[Pop3World]:
    """A world whose time stands still until a test moves it."""
    async with open_pop3_world(tmp_path, options=replace(OPTIONS, login_timeout_s=100.0)) as opened:
        yield opened


async def test_ten_silent_minutes_end_the_session_without_a_word(
    slow_world: Pop3World, mock_clock: MockClock
) -> None:
    await deliver_some(slow_world, 1)
    client = await slow_world.logged_in()
    assert await client.say("DELE 1") == MARKED
    mock_clock.jump(599)
    assert await client.say("NOOP") == "+OK Nothing done"
    await wait_all_tasks_blocked()
    mock_clock.jump(599)
    await wait_all_tasks_blocked()
    assert len(slow_world.host) == 1
    mock_clock.jump(2)
    assert await client.read_line() == ""
    assert client.buffered() == b""
    await slow_world.wait_ended(client)
    assert set(await slow_world.flags()) == {1}


async def test_who_does_not_log_in_is_closed_sooner(slow_world: Pop3World, mock_clock: MockClock) -> None:
    client = slow_world.connect()
    assert (await client.read_line()).startswith("+OK")
    await wait_all_tasks_blocked()
    mock_clock.jump(101)
    assert await client.read_line() == ""


async def test_a_drain_ends_sessions_after_their_command(world: Pop3World) -> None:
    await deliver_some(world, 2)
    one, two = await world.logged_in(), world.connect()
    await two.read_line()
    assert await one.say("DELE 1") == MARKED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.host.drain(deadline_s=8))
        for client in (one, two, world.connect()):
            lines = [await client.read_line()]
            while lines[-1]:
                lines.append(await client.read_line())
            assert lines[-2] == "-ERR [SYS/TEMP] The server is going down, connect again"
            await client.aclose()
    assert set(await world.flags()) == {1, 2}


async def test_a_quit_under_way_is_finished_in_a_drain(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 2)
    client = await world.logged_in()
    apply = maildrops.Maildrop.apply
    begun, go_on = trio.Event(), trio.Event()

    async def slowly(drop: maildrops.Maildrop) -> None:
        begun.set()
        await go_on.wait()
        await apply(drop)

    monkeypatch.setattr(maildrops.Maildrop, "apply", slowly)
    await client.send(b"DELE 1\r\nQUIT\r\n")
    async with trio.open_nursery() as nursery:
        await begun.wait()
        nursery.start_soon(lambda: world.host.drain(deadline_s=8))
        await wait_all_tasks_blocked()
        go_on.set()
        assert [await client.read_line() for _ in range(3)] == [MARKED, "+OK Bye", ""]
        await client.aclose()
    assert set(await world.flags()) == {2}


async def test_a_killed_session_is_told(world: Pop3World) -> None:
    client = await world.logged_in()
    owner = await world.services.users.by_username("alice")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.services.sessions.run)
        assert len(await world.services.sessions.kill(owner.id)) == 1
        assert await client.read_line() == "-ERR The session was ended"
        assert await client.read_line() == ""
        await client.aclose()
        await world.wait_ended(client)
        nursery.cancel_scope.cancel()
    await world.logged_in()


async def test_a_cancelled_connection_gives_everything_back(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = trio.Event()

    async def hangs(*_: object, **__: object) -> None:
        stuck.set()
        await trio.sleep_forever()

    monkeypatch.setattr(Sessions, "update", hangs)
    await deliver_some(world, 1)
    client = await world.logged_in()
    await client.send(b"DELE 1\r\n")
    await stuck.wait()
    assert await world.host.drain(deadline_s=0) == 1
    await world.wait_ended(client)
    owner = await world.services.users.by_username("alice")
    assert await world.services.sessions.of_user(owner.id) == []
    assert world.services.limits.claims(f"maildrop:{owner.id}") == 0
    assert set(await world.flags()) == {1}
