"""POP3 sessions taken over from a worker that is gone: the lock on the maildrop and the record in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hand_over import standing_still
from imap_world import ENGINES
from pop3_hand_over import HandOver, open_hand_over
from pop3_world import deliver_some

from wd_trio.errors import Unavailable
from wd_trio.servers.pop3 import moving
from wd_trio.servers.pop3.session import Pop3Session
from wd_trio.service.maildrop import Maildrop
from wd_trio.service.sessions import Sessions

LOST = "-ERR [SYS/TEMP] The session cannot go on, connect again"
IN_USE = "-ERR [IN-USE] Another session has the maildrop"


@pytest.fixture(params=ENGINES)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HandOver]:
    async with open_hand_over(request.param, tmp_path) as opened:
        yield opened


async def locks(world: HandOver) -> int:
    owner = await world.services.users.by_username("alice")
    return await world.services.gateway.run(world.services.limits.claims, f"maildrop:{owner.id}")


async def test_nobody_gets_in_between_two_workers(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead worker's locks end while the session's record is still being asked for."""
    client = await world.logged_in()
    dead, asked, go_on = world.services, trio.Event(), trio.Event()
    whole = Sessions.resume

    async def slow(*arguments: Any, **options: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await whole(*arguments, **options)

    monkeypatch.setattr(Sessions, "resume", slow)
    await world.kill(bury=False)
    await asked.wait()
    await world.services.gateway.run(world.services.limits.release_owner, dead.owner)
    other = world.connect()
    await other.read_line()
    await other.say("USER alice")
    assert await other.say("PASS secret of alice") == IN_USE
    go_on.set()
    assert await client.say("STAT") == "+OK 0 0"
    assert await client.say("QUIT") == "+OK Bye"
    await world.wait_ended(client)
    assert await locks(world) == 0


@pytest.mark.parametrize("after", [False, True])
async def test_a_quit_that_nobody_knows_of_leaves_nothing_behind(
    world: HandOver, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    await deliver_some(world, 1)
    client = await world.logged_in()
    (document,) = (await world.services.sessions.page()).documents
    await client.say("DELE 1")
    with standing_still(monkeypatch, Maildrop, "apply", lambda: True, after=after) as point:
        await client.send(b"QUIT\r\n")
        await point.reached.wait()
        await world.kill(bury=False)
        await world.services.sessions.parked.take_over([document.id])  # as its new worker has done by then
        assert await client.read_line() == ""
        await world.wait_ended(client)
    assert await locks(world) == 0
    await world.services.sessions.write()
    assert not (await world.services.sessions.page()).documents


async def test_a_session_that_nobody_could_go_on_with_is_no_session(
    world: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await world.logged_in()
    (document,) = (await world.services.sessions.page()).documents

    async def fails(*_: Any, **__: Any) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "resume", fails)
        patch.setattr(moving, "RESUME_S", 0.0)
        await world.kill(bury=False)
        await world.services.sessions.parked.take_over([document.id])  # as its new worker has done by then
        assert await client.read_line() == LOST
        await world.wait_ended(client)
    await world.services.sessions.write()
    assert not (await world.services.sessions.page()).documents


async def test_who_cannot_resume_yet_moves_as_it_is(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "RESUME_AGAIN_S", 0.0)
    client = await world.logged_in()
    tried = trio.Event()

    async def fails(*_: Any) -> None:
        tried.set()
        raise Unavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(Pop3Session, "enter_again", fails)
        await world.kill(bury=False)
        await client.send(b"STAT\r\n")
        await tried.wait()
        async with trio.open_nursery() as nursery:
            leaving = world.server.host  # which another may have followed before we look
            nursery.start_soon(world.move)
            while not leaving._draining:
                await trio.lowlevel.checkpoint()
            patch.undo()
    assert await client.read_line() == "+OK 0 0"


async def test_who_passes_a_session_on_takes_it_over_no_more(
    world: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to leave before the engine had answered, the worker in between must not ask for it later."""
    client = await world.logged_in()
    (document,) = (await world.services.sessions.page()).documents
    between = None

    async def down(*_: Any, **__: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise Unavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "resume", down)
        await world.kill(bury=False)
        between = world.services.sessions
        with monkeypatch.context() as deaf:
            deaf.setattr(between.parked, "_take_over", down)
            await between.parked.take_over([document.id])
        await world.server.start_move()
    world.services = await world._next_worker()
    world.server.finish_move(world._handler(world.services))
    assert await client.say("STAT") == "+OK 0 0"
    await between.write()
    (document,) = (await world.services.sessions.page()).documents
    assert document.worker == world.services.owner.rpartition("/")[2]
