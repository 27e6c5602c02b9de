"""An IMAP connection moves to another worker: what goes along, what is waited for, and what ends it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from imap_kills import Killed, expunge, opened, place, whole
from imap_world import ENGINES, open_world

from wd_trio.errors import Unavailable
from wd_trio.mail.model import DELETED, FlagChange
from wd_trio.mail.numset import UidSet
from wd_trio.servers.imap import resume
from wd_trio.servers.imap.options import ImapOptions
from wd_trio.servers.slots import UNREAD_BYTES


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_expunge_that_had_to_wait_still_waits(engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        client, believer = await opened(world, 4)
        await expunge(world, 2)
        await world.deliver("alice")
        for number in range(3):
            lines = await client.command(f"f{number}", "FETCH 1:* FLAGS")
            believer.hear(lines[:-1], "FETCH")
            assert not any(line.endswith(" EXPUNGE") for line in lines)
            world.move()
        assert await whole(client, believer) == [1, 3, 4, 5]
        assert world.left == [0, 0, 0]


async def test_input_that_was_read_moves_along(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 3)
        await client.send(b"a NOOP\r\nb FETCH 1 (UI")
        assert await client.read_line() == "a OK NOOP completed"
        world.move()
        await client.send(b"D)\r\n")
        assert await client.read_line() == "* 1 FETCH (UID 1)"
        assert await client.read_line() == "b OK FETCH completed"
        assert world.left == [0]


async def test_more_input_than_may_go_along_is_waited_for(tmp_path: Path) -> None:
    engine = replace(ImapOptions().engine, max_command_bytes=4 * UNREAD_BYTES)
    options = ImapOptions(trusted_networks=(ip_network("127.0.0.0/8"),), engine=engine)
    async with open_world("sqlite", tmp_path, options=options) as world:
        client, _ = await opened(world, 1)
        text = b"x" * (2 * UNREAD_BYTES)
        await client.send(b"a SEARCH SUBJECT {%d+}\r\n" % len(text) + text)
        await trio.testing.wait_all_tasks_blocked()
        world.move()
        await trio.testing.wait_all_tasks_blocked()
        assert not world.left
        await client.send(b"\r\nb NO")
        assert [await client.read_line() for _ in range(2)] == ["* SEARCH", "a OK SEARCH completed"]
        await client.send(b"OP\r\n")
        assert await client.read_line() == "b OK NOOP completed"
        assert world.left == [0]


async def test_input_that_was_brought_along_is_nobody_elses(tmp_path: Path) -> None:
    """Until it was read, and again until it was dealt with, its loss would be noticed."""
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        await client.send(b"a NOOP\r\nb NOO")
        assert await client.read_line() == "a OK NOOP completed"
        killed = Killed(world)
        with killed.recording():
            world.move()
            while world.left != [0]:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
        assert killed.moments
        assert not list(killed.survivors())
        await client.send(b"P\r\n")
        assert await client.read_line() == "b OK NOOP completed"


async def test_a_serial_is_given_once_whatever_the_tag(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        before = world.slots.at(0).serial
        for tag in ("t" * 64, "short"):
            assert (await client.command(tag, "STORE 1 +FLAGS (\\Flagged)"))[-1].startswith(f"{tag} OK ")
            await trio.testing.wait_all_tasks_blocked()
            world.move()
        assert (await client.command("n", "NOOP"))[-1] == "n OK NOOP completed"
        assert world.slots.at(0).serial == before + 3


async def test_a_message_half_sent_is_finished_before_the_move(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        await client.send(b"a APPEND INBOX {10}\r\n")
        assert (await client.read_line()).startswith("+ ")
        world.move()
        await client.send(b"0123456789\r\n")
        lines = [await client.read_line() for _ in range(2)]
        assert lines[0] == "* 2 EXISTS"
        assert lines[1].startswith("a OK [APPENDUID ")
        assert (await client.command("n", "NOOP"))[-1] == "n OK NOOP completed"
        assert world.left == [0]


async def test_a_literal_that_was_asked_for_is_waited_for(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.read_line()
        await client.send(b"a LOGIN {5}\r\n")
        assert (await client.read_line()).startswith("+ ")
        world.move()
        await client.send(b'alice "secret of alice"\r\n')
        assert (await client.read_line()).startswith("a OK ")
        assert (await client.command("n", "NOOP"))[-1] == "n OK NOOP completed"
        assert world.left == [0]


async def test_an_engine_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "AGAIN_S", 0.01)
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        real, failures = world.services.mailboxes.reopen, iter(range(3))

        async def away(user_id: str, mailbox_id: str) -> Any:
            if next(failures, None) is not None:
                raise Unavailable("away")
            return await real(user_id, mailbox_id)

        monkeypatch.setattr(world.services.mailboxes, "reopen", away)
        world.move()
        assert (await client.command("n", "NOOP"))[-1] == "n OK NOOP completed"
        assert next(failures, None) is None


async def test_an_engine_that_stays_away_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "PATIENCE_S", 0.0)
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)

        async def away(user_id: str, mailbox_id: str) -> Any:
            raise Unavailable("away")

        monkeypatch.setattr(world.services.mailboxes, "reopen", away)
        world.move()
        assert (await client.read_line()).startswith("* BYE [UNAVAILABLE] The store does not answer")
        assert await client.read_line() == ""


async def test_what_was_agreed_goes_along(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        await client.read_line()
        await client.command("i", 'ID ("name" "%s")' % ("ü" * 60))
        await client.command("l", 'LOGIN alice "secret of alice"')
        await client.command("e", "ENABLE QRESYNC UTF8=ACCEPT")
        await world.deliver("alice")
        await client.command("s", "EXAMINE INBOX")
        world.move()
        assert (await client.command("x", "STORE 1 +FLAGS (\\Seen)"))[-1].startswith("x NO [READ-ONLY]")
        change = FlagChange("add", DELETED, "")
        where = await place(world)
        async for _ in world.services.messages.store_flags(where, UidSet([(1, 1)]), change):
            pass
        lines = await client.command("n", "NOOP")
        assert any("MODSEQ" in line for line in lines), lines
        await expunge(world, 1)
        world.move()
        lines = await client.command("n", "NOOP")
        assert "* VANISHED 1" in lines
        session = await world.services.sessions.get(world.slots.at(0).session)
        assert session is not None
        assert session.user_agent.startswith("ü" * 40)
        assert (await client.command("c", 'CREATE "Entwürfe"'))[-1] == "c OK CREATE completed"


async def test_a_keyword_that_came_meanwhile_is_told_as_one(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 2)
        inbox, later = (await place(world)).mailbox_id, FlagChange("add", 0, "Later")
        await world.services.gateway.run(world.services.store.store_flags, inbox, UidSet.of([1]), later)
        world.move()
        told = await client.command("n", "NOOP")
        assert told[0].startswith("* FLAGS (")
        assert told[0].endswith(" Later)")
        assert told[1:] == ["* 1 FETCH (UID 1 FLAGS (Later))", "n OK NOOP completed"]
        assert len(await client.command("s", "STORE 2 FLAGS (Later)")) == 2, "it knows by now"
