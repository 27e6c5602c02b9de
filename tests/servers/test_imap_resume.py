"""Another worker goes on with an IMAP connection: from the slot alone, whatever its first worker was at.

`Killed` (imap_kills) stands for kill -9.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
from imap_client_model import Believer
from imap_kills import Killed, expunge, go_on, opened, whole
from imap_world import ENGINES, open_world, parking, until_parked

from wd_trio.errors import Unavailable
from wd_trio.servers import slots as slot_module
from wd_trio.servers.imap.handlers import HANDLERS
from wd_trio.servers.imap.options import ImapOptions
from wd_trio.servers.imap.standing import NUMBERS, WRITING_KINDS
from wd_trio.servers.slots import Progress, why_lost

NEWS = {
    "expunges": (2, 4, 5),
    "one expunge": (3,),
    "nothing": (),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("command", ["NOOP", "IDLE", "FETCH 1:* FLAGS", "UID FETCH 1:* UID", "CHECK"])
@pytest.mark.parametrize("news", sorted(NEWS))
async def test_no_number_is_wrong_after_a_kill(engine: str, command: str, news: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        client, believer = await opened(world, 6)
        before = list(believer.uids)
        killed = Killed(world)
        with killed.recording():
            await expunge(world, *NEWS[news])
            if news != "nothing":
                await world.deliver("alice")
            if command == "IDLE":
                await client.send(b"k IDLE\r\n")
                while not client_has_idled(await client.read_line()):
                    pass
                await client.send(b"DONE\r\n")
                while not (await client.read_line()).startswith("k "):
                    pass
            else:
                await client.command("k", command)
            await client.command("e", "NOOP")
        living = [uid for uid in (*before, *([7] if news != "nothing" else [])) if uid not in NEWS[news]]
        survived = interrupted = idling = 0
        for survivor in killed.survivors():
            survived += 1
            lines = survivor.said.decode().split("\r\n")
            assert lines.pop() == "", f"a reply was cut, and yet: {survivor.progress}"
            heard = Believer()
            heard.uids, heard.flags = list(before), dict(believer.flags)
            word = (
                "" if command == "IDLE" else "UID" if command.startswith("UID") else command.partition(" ")[0]
            )
            for line in lines:
                heard.hear([line], word)
                if line.startswith("k "):
                    word = "NOOP"
            client = go_on(world, survivor)
            if survivor.progress & Progress.BUSY:
                interrupted += 1
                assert not survivor.said or survivor.said.endswith(b"\r\n")
                assert await client.read_line() == f"{survivor.tag} NO [UNAVAILABLE] Interrupted, try again"
            elif survivor.standing & slot_module.Standing.IDLE:
                idling += 1
                await client.send(b"DONE\r\n")
                while (line := await client.read_line()) != "k OK IDLE completed":
                    heard.hear([line], "")
            assert await whole(client, heard) == living
            await client.aclose()
        assert survived >= 3
        assert interrupted >= 1
        assert bool(idling) == (command == "IDLE")


async def test_no_number_is_wrong_after_a_kill_of_a_parked_idler(tmp_path: Path) -> None:
    """It is told of new mail and kept alive without a task, and gets one for an expunge, and for DONE."""
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client, believer = await opened(world, 3)
        lot = parking(world)
        before = list(believer.uids)
        killed = Killed(world)
        with killed.recording():
            await client.send(b"k IDLE\r\n")
            assert await client.read_line() == "+ idling"
            await until_parked(world, 1)
            await world.deliver("alice")
            assert await client.read_line() == "* 4 EXISTS"
            lot._look(0, lot._parked.due[0])
            assert (await client.read_line()).startswith("* OK ")
            await expunge(world, 2)
            assert await client.read_line() == "* 2 EXPUNGE"
            await until_parked(world, 1)
            await world.deliver("alice")
            assert await client.read_line() == "* 4 EXISTS"
            await client.send(b"DONE\r\n")
            assert (await client.read_line()).startswith("k OK ")
            await client.command("e", "NOOP")
        survived = 0
        for survivor in killed.survivors():
            survived += 1
            lines = survivor.said.decode().split("\r\n")
            assert lines.pop() == "", f"a reply was cut, and yet: {survivor.progress}"
            heard = Believer()
            heard.uids, heard.flags = list(before), dict(believer.flags)
            heard.hear(lines, "")
            client = go_on(world, survivor)
            if survivor.progress & Progress.BUSY:
                assert await client.read_line() == f"{survivor.tag} NO [UNAVAILABLE] Interrupted, try again"
            elif survivor.standing & slot_module.Standing.IDLE:
                await client.send(b"DONE\r\n")
                while (line := await client.read_line()) != "k OK IDLE completed":
                    heard.hear([line], "")
            assert await whole(client, heard) == [1, 3, 4, 5]
            await client.aclose()
        assert survived >= 8


def client_has_idled(line: str) -> bool:
    return line.startswith("+ ")


NOT_KNOWN = "* BYE [UNAVAILABLE] What became of the last command is not known, connect again"
WRITTEN = {
    "STORE 1 +FLAGS (\\Flagged)": [r"\* 1 FETCH \(UID 1 FLAGS \(\\Flagged\)\)", r"k OK Completed"],
    "STORE 1 +FLAGS.SILENT (\\Deleted \\Flagged)": [r"\* 1 FETCH \(.*\)", r"k OK Completed"],
    "UID EXPUNGE 2": [r"\* 2 EXPUNGE", r"k OK Completed"],
    "COPY 1:2 Trash": [r"k OK \[COPYUID \d+ 1:2 1:2\] Completed"],
    "COPY 1 INBOX": [r"\* 3 EXISTS", r"k OK \[COPYUID \d+ 1 3\] Completed"],
    "MOVE 1 Trash": [r"\* 1 EXPUNGE", r"k OK \[COPYUID \d+ 1 1\] Completed"],
    "APPEND INBOX {5+}\r\nA: b\n": [r"\* 3 EXISTS", r"k OK \[APPENDUID \d+ 3\] Completed"],
    "CREATE New": ["k OK Completed"],
    "DELETE Trash": ["k OK Completed"],
    "RENAME Trash Bin": ["k OK Completed"],
    "RENAME INBOX Old": [r"\* 2 EXPUNGE", r"\* 1 EXPUNGE", "k OK Completed"],
    "SUBSCRIBE Bin": ["k OK Completed"],
    # What changed nothing is not noted, nor what CLOSE and a conditional STORE came to.
    "EXPUNGE": [re.escape(NOT_KNOWN)],
    "COPY 1 Nowhere": [re.escape(NOT_KNOWN)],
    "STORE 1 (UNCHANGEDSINCE 99) +FLAGS (\\Flagged)": [re.escape(NOT_KNOWN)],
    "CLOSE": [re.escape(NOT_KNOWN)],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("command", sorted(WRITTEN))
async def test_what_was_written_is_told_and_never_denied(engine: str, command: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        client, _ = await opened(world, 2)
        await client.command("d", "STORE 2 +FLAGS.SILENT (\\Deleted)")
        if command == "EXPUNGE":
            await client.command("d", "STORE 2 -FLAGS.SILENT (\\Deleted)")
        killed = Killed(world)
        with killed.recording():
            await client.command("k", command)
        told = 0
        for survivor in killed.survivors():
            successor = go_on(world, survivor)
            if survivor.progress & Progress.WRITING:
                assert not survivor.said
                for line in WRITTEN[command]:
                    assert re.fullmatch(line, await successor.read_line())
                told += 1
            if survivor.progress & Progress.WRITING and line == re.escape(NOT_KNOWN):
                assert await successor.read_line() == ""
            else:
                assert (await successor.command("n", "NOOP"))[-1] == "n OK NOOP completed"
        assert told == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_was_not_written_is_not_told(engine: str, tmp_path: Path) -> None:
    """Killed before the write; a note of the session's last write must not be taken for this one's."""
    async with open_world(engine, tmp_path) as world:
        client, _ = await opened(world, 2)
        await client.command("a", "COPY 1 Trash")
        killed = Killed(world)
        with killed.recording(), pytest.MonkeyPatch.context() as patch:

            async def lost(*_: object, **__: object) -> None:
                raise Unavailable("killed")

            patch.setattr(world.services.messages, "copy", lost)
            await client.command("k", "COPY 2 Trash")
        (survivor,) = [one for one in killed.survivors() if one.progress & Progress.WRITING]
        assert await go_on(world, survivor).read_line() == NOT_KNOWN


async def test_a_message_that_came_in_parts_is_answered_by_its_tag(tmp_path: Path) -> None:
    """What a pipeline agreed on before is written to the slot in the middle of APPEND."""
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        killed = Killed(world)
        with killed.recording():
            await client.send(b'i ID ("name" "x")\r\nk APPEND INBOX {5+}\r\nA:')
            while not (await client.read_line()).startswith("i OK "):
                pass
            await client.send(b" b\n\r\n")
            while not (await client.read_line()).startswith("k OK "):
                pass
        told = 0
        for survivor in killed.survivors():
            if survivor.progress & Progress.WRITING:
                assert survivor.tag == "k"
                assert survivor.slot.user_agent == "x"
                told += 1
        assert told == 1


async def test_a_select_that_was_interrupted_leaves_nothing_selected(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        killed = Killed(world)
        with killed.recording():
            await client.command("k", "SELECT Trash")
        told = []
        for survivor in killed.survivors():
            successor = go_on(world, survivor)
            if survivor.progress & Progress.BUSY:
                assert (await successor.read_line()).startswith("k NO [UNAVAILABLE]")
                told.append((await successor.command("f", "FETCH 1 FLAGS"))[-1])
        assert len(told) == 1
        assert told[0].startswith("f BAD ")


async def test_before_log_in_nothing_is_lost_but_the_command(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client = world.client(1)
        killed = Killed(world)
        with killed.recording():
            await client.read_line()
            await client.command("w", "LOGIN alice wrong")
            await client.command("k", 'LOGIN alice "secret of alice"')
        attempts = []
        for survivor in killed.survivors():
            successor = go_on(world, survivor)
            if survivor.phase == slot_module.Phase.ARRIVED:
                assert not survivor.said
                assert (await successor.read_line()).startswith("* OK ")
            if survivor.progress & Progress.BUSY:
                assert (await successor.read_line()).startswith(f"{survivor.tag} NO [UNAVAILABLE]")
            attempts.append(survivor.attempts)
            if survivor.phase == slot_module.Phase.OPEN:
                assert (await successor.command("n", "NOOP"))[-1] == "n OK NOOP completed"
            else:
                lines = await successor.command("l", 'LOGIN alice "secret of alice"')
                assert lines[-1].startswith("l OK ")
            await successor.aclose()
        assert set(attempts) == {0, 1}


async def test_behind_starttls_nobody_goes_on_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its OK on, until TLS has begun: what comes next is no IMAP."""
    options = ImapOptions(hostname="mail.test", starttls=True)
    async with open_world("sqlite", tmp_path, options=options) as world:
        client = world.client(1)
        await client.read_line()
        monkeypatch.setattr(world.hosts[1], "adopt", lambda sock, *_, **__: sock.close())
        killed = Killed(world)
        with killed.recording():
            assert await client.command("a", "STARTTLS") == ["a OK Begin TLS now"]
            while not world.left:
                await trio.lowlevel.checkpoint()
        assert {survivor.said for survivor in killed.survivors()} == {b""}


async def test_a_pipeline_that_was_read_is_lost_with_its_reader(tmp_path: Path) -> None:
    """No moment within it survives in which one of its replies waits in the dead process."""
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        killed = Killed(world)
        with killed.recording():
            await client.send(b"p1 NOOP\r\np2 NOOP\r\np3 NOOP\r\n")
            assert [await client.read_line() for _ in range(3)][2] == "p3 OK NOOP completed"
        for survivor in killed.survivors():
            assert survivor.said.count(b"\r\n") in (0, 3)
            assert not survivor.progress & Progress.BUSY


async def test_a_long_tag_is_answered_and_dies_with_its_worker(tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, _ = await opened(world, 1)
        killed, tag = Killed(world), "t" * 64
        with killed.recording():
            assert await client.command(tag, "NOOP") == [f"{tag} OK NOOP completed"]
        fixed = [moment for moment, _ in killed.moments if moment[2] & Progress.FIXED]
        assert fixed
        for survivor in killed.survivors():
            assert not survivor.progress & Progress.FIXED
        await client.send(f"{tag} IDLE\r\n".encode())
        assert await client.read_line() == "+ idling"
        assert why_lost(world.slots.at(0)) == "not movable"
        world.move()
        assert (await client.read_line()).startswith("* BYE ")


@pytest.mark.parametrize("how", ["gone", "another", "too many"])
async def test_numbers_that_cannot_be_kept_end_the_connection(how: str, tmp_path: Path) -> None:
    async with open_world("sqlite", tmp_path, park_after_s=0.0) as world:
        client, _ = await opened(world, 2)
        while not len(world.hosts[0].parking):
            await client.command("n", "NOOP")
        slot = world.slots.at(0)
        if how == "gone":
            slot.mailbox = "f" * 24
        elif how == "another":
            slot.uid_validity += 1
        else:
            slot.exists += 1
        await client.send(b"x NOOP\r\n")
        assert await client.read_line() == "* BYE The selected mailbox is gone, connect again"


def test_every_command_has_a_number_of_its_own() -> None:
    assert set(HANDLERS) <= set(NUMBERS)
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert set(NUMBERS) >= WRITING_KINDS
