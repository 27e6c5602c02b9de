"""POP3 sessions that outlive their workers: after a move nothing is noticed, after a kill nothing is wrong."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hand_over import standing_still
from imap_world import ENGINES
from pop3_hand_over import HandOver, open_hand_over
from pop3_world import MARKED, Pop3Client, deliver_some

from wd_trio.errors import Unavailable
from wd_trio.mail.model import SEEN
from wd_trio.servers.driver import Connection, ConnectionOver
from wd_trio.servers.pop3 import moving
from wd_trio.servers.pop3.session import Pop3Session
from wd_trio.servers.slots import TAG_BYTES, Phase, Progress, why_lost
from wd_trio.service.maildrop import Maildrop

INTERRUPTED = "-ERR [SYS/TEMP] Trouble on our side, try that again"
LOST = "-ERR [SYS/TEMP] The session cannot go on, connect again"
GREETING = "+OK mail.test ready"


@pytest.fixture(params=ENGINES)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HandOver]:
    async with open_hand_over(request.param, tmp_path) as opened:
        yield opened


async def table(client: Pop3Client, command: str) -> list[str]:
    """A listing, its head included."""
    return [await client.say(command), *(await client.body()).decode().splitlines()]


async def gone_quietly(client: Pop3Client) -> bool:
    return await client.read_line() == "" and client.closed


# --- moves


async def test_before_log_in(world: HandOver) -> None:
    client = world.connect()
    assert await client.read_line() == GREETING
    deadline = world.server.slot().until_s
    await world.move()
    assert await client.say("USER alice") == "+OK Now the password"
    await world.move()
    assert await client.say("PASS wrong") == "-ERR [AUTH] Wrong user name or password"
    await world.move()
    assert world.server.slot().attempts == 1
    assert world.server.slot().until_s == deadline, "however often it moves"
    assert await client.say("PASS secret of alice") == "-ERR USER comes first"
    await client.send(b"USER alice\r\nPA")
    assert await client.read_line() == "+OK Now the password"
    await world.move()
    assert await client.say("SS secret of alice") == "+OK Logged in"
    await world.move()
    assert await client.say("STAT") == "+OK 0 0"


async def test_nothing_is_lost_on_the_way(world: HandOver) -> None:
    await deliver_some(world, 6)
    client = await world.logged_in()
    assert (await client.say("RETR 1")).startswith("+OK")
    await client.body()
    assert await client.say("DELE 2") == MARKED
    assert await client.say("DELE 3") == MARKED
    before = [await client.say("STAT"), await table(client, "LIST"), await table(client, "UIDL")]
    await world.expunge("alice", 4)
    await deliver_some(world, 1)
    for _ in range(2):
        await world.move()
        assert [await client.say("STAT"), await table(client, "LIST"), await table(client, "UIDL")] == before
    await world.expunge("alice", 5)
    assert await client.say("RETR 4") == "-ERR The message is gone"
    assert await client.say("DELE 3") == "-ERR The message is marked to be deleted"
    assert (await client.say("RETR 6")).startswith("+OK")
    await client.body()
    await world.move()
    assert [await client.say("STAT"), await table(client, "LIST"), await table(client, "UIDL")] == before
    assert await client.say("QUIT") == "+OK Bye"
    await world.server.wait_empty()
    assert await world.flags() == {1: SEEN, 6: SEEN, 7: 0}
    assert await world.services.gateway.run(world.services.limits.claims, await maildrop_key(world)) == 0


async def maildrop_key(world: HandOver) -> str:
    return f"maildrop:{(await world.services.users.by_username('alice')).id}"


async def test_behind_stls_nobody_goes_on_in_clear(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def upgrade(connection: Connection) -> None:
        seen.append(why_lost(connection.slot))
        raise ConnectionOver("seen")

    monkeypatch.setattr(Connection, "upgrade", upgrade)
    world._options = replace(world._options, starttls=True)
    await world.move()
    client = world.connect()
    await client.read_line()
    assert await client.say("USER alice") == "+OK Now the password"
    assert (await client.say("STLS")).startswith("+OK")
    await world.wait_ended(client)
    assert seen == ["not movable"]


@pytest.mark.parametrize("logged_in", [False, True])
async def test_half_a_line_goes_along_with_who_moves_again_at_once(
    world: HandOver, *, logged_in: bool
) -> None:
    """A worker that is told to go before it has looked at what was brought along passes it on."""
    client = await world.logged_in() if logged_in else world.connect()
    if not logged_in:
        await client.read_line()
    await client.send(b"CAPA\r\nCA")
    assert (await client.read_line()).startswith("+OK")
    await client.body()
    await world.server.wait_resumed()
    for _ in range(3):
        await world.server.start_move()
        world.server.finish_move(world._handler(world.services))
    await client.send(b"PA\r\n")
    assert (await client.read_line()).startswith("+OK")


async def test_within_a_batch(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    reached, go_on = trio.Event(), trio.Event()
    whole = Maildrop.fetch

    async def slow(*arguments: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await whole(*arguments)

    monkeypatch.setattr(Maildrop, "fetch", slow)
    await client.send(b"DELE 1\r\nRETR 2\r\nDELE 3\r\nSTAT\r\nST")
    await reached.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.move)
        while not world.server.host._draining:
            await trio.lowlevel.checkpoint()
        go_on.set()
    assert await client.read_line() == MARKED
    assert (await client.read_line()).startswith("+OK")
    await client.body()
    assert [await client.read_line(), await client.read_line()] == [MARKED, "+OK 1 22"]
    assert await client.say("AT") == "+OK 1 22"


async def test_an_exchange_is_finished_first(world: HandOver) -> None:
    client = world.connect()
    await client.read_line()
    assert await client.say("AUTH PLAIN") == "+ "
    assert world.server.slot().progress == Progress.FIXED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.move)
        while not world.server.host._draining:
            await trio.lowlevel.checkpoint()
        assert await client.say("AGFsaWNlAHNlY3JldCBvZiBhbGljZQ==") == "+OK Logged in"
    assert await client.say("STAT") == "+OK 0 0"


async def test_a_long_name_is_waited_for(world: HandOver) -> None:
    client = world.connect()
    await client.read_line()
    await client.say("USER " + "a" * (TAG_BYTES + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.move)
        while not world.server.host._draining:
            await trio.lowlevel.checkpoint()
        assert await client.say("USER alice") == "+OK Now the password"
    assert await client.say("PASS secret of alice") == "+OK Logged in"


async def test_a_move_that_cannot_note_what_is_gone(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    await deliver_some(world, 2)
    client = await world.logged_in()
    await client.say("DELE 1")

    async def down(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise Unavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(Maildrop, "parting_state", down)
        await world.move()
    assert await client.say("STAT") == "+OK 1 22"


# --- kills


async def test_who_waits_for_a_command_notices_nothing(world: HandOver) -> None:
    greeted, named, logged_in = world.connect(), world.connect(), await world.logged_in("bob")
    for client in (greeted, named):
        assert await client.read_line() == GREETING
    assert await named.say("USER alice") == "+OK Now the password"
    await world.kill()
    assert await logged_in.say("NOOP") == "+OK Nothing done"
    assert await named.say("PASS secret of alice") == "+OK Logged in"
    assert await greeted.say("USER alice") == "+OK Now the password"
    assert not world.server.lost
    await world.kill()
    assert await greeted.say("PASS secret of alice") == "-ERR [IN-USE] Another session has the maildrop"
    assert await named.say("QUIT") == "+OK Bye"


async def test_nothing_was_said_yet(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_still(monkeypatch, Connection, "send", lambda: True) as point:
        client = world.connect()
        await point.reached.wait()
    assert world.server.slot().phase == Phase.ARRIVED
    await world.kill()
    assert await client.read_line() == GREETING


async def test_marks_outlive_their_worker(world: HandOver) -> None:
    await deliver_some(world, 4)
    client = await world.logged_in()
    for number in (1, 3):
        assert await client.say(f"DELE {number}") == MARKED
    stat, uids = await client.say("STAT"), await table(client, "UIDL")
    await world.kill()
    assert [await client.say("STAT"), await table(client, "UIDL")] == [stat, uids]
    assert await client.say("RSET") == "+OK No message is marked"
    assert await client.say("DELE 4") == MARKED
    await world.kill()
    assert (await client.say("STAT")).startswith("+OK 3 ")
    assert await client.say("QUIT") == "+OK Bye"
    assert list(await world.flags()) == [1, 2, 3]


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 0"])
async def test_a_command_of_which_nothing_was_said(
    world: HandOver, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    await deliver_some(world, 1)
    client = await world.logged_in()
    with standing_still(monkeypatch, Maildrop, "fetch", lambda: True, after=True) as point:
        await client.send(command.encode() + b"\r\n")
        await point.reached.wait()
        assert world.server.slot().progress == Progress.BUSY
        await world.kill()
    assert await client.read_line() == INTERRUPTED
    assert (await client.say("RETR 1")).startswith("+OK")
    assert await client.body() == b"Subject: 1\r\n\r\nbody 1\r\n"
    assert world.server.slot().progress == 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("command", ["DELE 2", "RSET"])
async def test_marks_are_what_the_reply_says(
    world: HandOver, monkeypatch: pytest.MonkeyPatch, command: str, *, after: bool
) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    assert await client.say("DELE 1") == MARKED
    before = await client.say("STAT")
    sessions = world.services.sessions
    with standing_still(monkeypatch, sessions, "update", lambda: True, after=after) as point:
        await client.send(command.encode() + b"\r\n")
        await point.reached.wait()
    assert world.server.slot().progress == Progress.BUSY | Progress.WRITING
    await world.kill()
    reply = await client.read_line()
    if after:
        assert reply == (MARKED if command == "DELE 2" else "+OK No message is marked")
        assert await client.say("STAT") == ("+OK 1 22" if command == "DELE 2" else "+OK 3 66")
    else:
        assert reply == INTERRUPTED
        assert await client.say("STAT") == before
    await world.kill()
    assert await client.say("QUIT") == "+OK Bye"
    left = {("DELE 2", True): [3], ("RSET", True): [1, 2, 3]}.get((command, after), [2, 3])
    assert list(await world.flags()) == left


@pytest.mark.parametrize("after", [False, True])
async def test_nobody_guesses_what_quit_did(
    world: HandOver, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    await deliver_some(world, 2)
    client = await world.logged_in()
    assert await client.say("DELE 1") == MARKED
    with standing_still(monkeypatch, Maildrop, "apply", lambda: True, after=after) as point:
        await client.send(b"QUIT\r\n")
        await point.reached.wait()
        await world.kill()
    assert await gone_quietly(client)
    await world.server.wait_empty()
    assert list(await world.flags()) == ([2] if after else [1, 2])
    again = await world.logged_in()
    assert (await again.say("STAT")).startswith("+OK 1 " if after else "+OK 2 ")


async def test_a_log_in_is_made_again(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    maildrops = world.services.maildrops
    client = world.connect()
    await client.read_line()
    await client.say("USER alice")
    with standing_still(monkeypatch, maildrops, "open", lambda: True, after=True) as point:
        await client.send(b"PASS secret of alice\r\n")
        await point.reached.wait()
        await world.kill()
    assert await client.read_line() == INTERRUPTED
    assert await client.say("PASS secret of alice") == "-ERR USER comes first"
    assert await client.say("USER alice") == "+OK Now the password"
    assert await client.say("PASS secret of alice") == "+OK Logged in"
    owner = await world.services.users.by_username("alice")
    assert len(await world.services.sessions.of_user(owner.id)) == 1


async def test_a_reply_half_said_ends_the_connection(
    world: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deliver("alice", raw=b"Subject: big\r\n\r\n" + b"x" * 8_000_000)
    client = await world.logged_in()
    await client.send(b"RETR 1\r\n")
    assert (await client.read_line()).startswith("+OK")
    await world.kill()
    assert world.server.lost == {0: "reply cut"}


async def test_a_batch_half_done_ends_the_connection(
    world: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 2)
    client = await world.logged_in()
    with standing_still(monkeypatch, Maildrop, "fetch", lambda: True) as point:
        await client.send(b"NOOP\r\nRETR 1\r\n")
        await point.reached.wait()
        await world.kill()
    assert world.server.lost == {0: "input lost"}
    assert await gone_quietly(client)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"AUTH PLAIN\r\n", "not movable"),
        (b"USER " + b"a" * (TAG_BYTES + 1) + b"\r\n", "not movable"),
        (b"NOOP\r\nNO", "input lost"),
    ],
)
async def test_what_no_slot_holds(world: HandOver, said: bytes, why: str) -> None:
    client = world.connect()
    await client.read_line()
    await client.send(said)
    await client.read_line()
    await world.server.wait_resumed()
    await world.kill()
    assert world.server.lost == {0: why}


async def test_a_line_too_long_is_not_moved(world: HandOver) -> None:
    client = world.connect()
    await client.read_line()
    await client.send(b"x" * 10_000)
    while not world.server.slot().progress & Progress.FIXED:
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.move)
        while not world.server.host._draining:
            await trio.lowlevel.checkpoint()
        assert await client.say("USER alice") == "-ERR Line too long"
    assert (await client.say("CAPA")).startswith("+OK")


# --- what cannot be had as it was


async def test_what_vanished_unseen_ends_the_session(world: HandOver) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    await world.expunge("alice", 2)
    await world.kill()
    assert await client.read_line() == LOST
    assert await gone_quietly(client)
    await world.server.wait_empty()
    again = await world.logged_in()
    assert (await again.say("STAT")).startswith("+OK 2 ")


async def test_what_a_move_noted_is_known_after_a_kill(world: HandOver) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    before = await table(client, "LIST")
    await world.expunge("alice", 2)
    await world.move()
    await deliver_some(world, 1)
    await world.kill()
    assert await table(client, "LIST") == before


async def test_a_session_that_was_ended_meanwhile(world: HandOver) -> None:
    client = await world.logged_in()
    services = world.services
    owner = await services.users.by_username("alice")
    (document,) = await services.sessions.of_user(owner.id)
    await services.gateway.run(services.sessions._store.end, [document.id])
    await world.kill()
    assert await client.read_line() == LOST
    assert await gone_quietly(client)


async def test_marks_that_were_written_and_denied(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write took too long, and was done for all that: the client was told that it was not."""
    await deliver_some(world, 2)
    client = await world.logged_in()
    sessions = world.services.sessions
    whole = sessions.update

    async def times_out(*arguments: Any) -> None:
        await whole(*arguments)
        raise Unavailable("too late")

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "update", times_out)
        assert (await client.say("DELE 1")).startswith("-ERR [SYS/TEMP]")
    await world.kill()
    assert await client.read_line() == LOST


async def test_an_engine_that_is_away_is_waited_for(world: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "RESUME_AGAIN_S", 0.0)
    await deliver_some(world, 1)
    client = await world.logged_in()
    whole = Pop3Session.enter_again
    left = [3]

    async def fails(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise Unavailable("down")
        await whole(*arguments)

    monkeypatch.setattr(Pop3Session, "enter_again", fails)
    await world.kill()
    assert await client.say("STAT") == "+OK 1 22"
    assert left == [0]
    monkeypatch.setattr(moving, "RESUME_S", 0.0)
    left[0] = 1000
    await world.kill()
    assert await client.read_line() == LOST


# --- at random


async def test_random_moves_and_kills_change_nothing(world: HandOver) -> None:
    """A client that checks all it is told, while its session goes from worker to worker."""
    choose = random.Random(3)
    count = 8
    await deliver_some(world, count)
    client = await world.logged_in()
    marked: set[int] = set()
    for _ in range(60):
        number = choose.randint(1, count)
        match choose.choice(["move", "kill", "dele", "dele", "rset", "list", "retr", "stat"]):
            case "move":
                await world.move()
            case "kill":
                await world.kill()
            case "dele":
                assert (await client.say(f"DELE {number}") == MARKED) == (number not in marked)
                marked.add(number)
            case "rset":
                assert await client.say("RSET") == "+OK No message is marked"
                marked.clear()
            case "list":
                shown = [n for n in range(1, count + 1) if n not in marked]
                assert (await table(client, "UIDL"))[1:] == [
                    f"{n} {(await world.inbox())[0].uid_validity}.{n}" for n in shown
                ]
            case "retr" if number not in marked:
                assert (await client.say(f"RETR {number}")).startswith("+OK")
                assert await client.body() == b"Subject: %d\r\n\r\nbody %d\r\n" % (number, number)
            case _:
                assert await client.say("STAT") == f"+OK {count - len(marked)} {22 * (count - len(marked))}"
    assert not world.server.lost
    assert await client.say("QUIT") == "+OK Bye"
    assert set(await world.flags()) == set(range(1, count + 1)) - marked
