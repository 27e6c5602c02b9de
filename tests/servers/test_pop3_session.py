"""POP3 sessions over the real services: budgets, marks in the store, streaming, QUIT, trouble."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pop3_world import MARKED, TROUBLE, Pop3Client, Pop3World, deliver_some, failing, open_pop3_world

from wd_trio.errors import Unavailable
from wd_trio.mail.model import SEEN
from wd_trio.service import maildrop as maildrops


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Pop3World]:
    async with open_pop3_world(tmp_path) as opened:
        yield opened


def crossings(world: Pop3World) -> dict[str, int]:
    """Calls that came back so far, by lane."""
    return {lane.name: sum(lane.results.values()) for lane in world.services.gateway.statistics().lanes}


async def spent(world: Pop3World, client: Pop3Client, commands: str, last: str) -> dict[str, int]:
    """The crossings that commands cost, sent in one piece and answered up to the line `last`."""
    before = crossings(world)
    await client.send(commands.replace("\n", "\r\n").encode())
    while (line := await client.read_line()) != last:
        assert not client.closed, line
    return {lane: count - before[lane] for lane, count in crossings(world).items() if count != before[lane]}


async def marks(world: Pop3World, user: str = "alice") -> str:
    """The marks in the one session document of a user."""
    owner = await world.services.users.by_username(user)
    (document,) = await world.services.sessions.of_user(owner.id)
    assert document.protocol == "pop3"
    return str(document.state.get("marks", ""))


# --- budgets and marks


async def test_budgets(world: Pop3World) -> None:
    await deliver_some(world, 5)
    client = await world.logged_in()
    assert (
        await spent(world, client, "STAT\nLIST\nUIDL\nNOOP\nCAPA\nRSET\nNOOP\n", "+OK No message is marked")
        == {}
    )
    assert await client.read_line() == "+OK Nothing done"
    assert await spent(world, client, "RETR 1\n", ".") == {"store.read": 1}
    assert await spent(world, client, "TOP 1 0\n", ".") == {"store.read": 1}
    batch = "DELE 1\nSTAT\nDELE 2\nDELE 4\nDELE 9\nNOOP\n"
    assert await spent(world, client, batch, "+OK Nothing done") == {"state.write": 1}
    assert await spent(world, client, "DELE 3\nRSET\nDELE 2\nNOOP\n", "+OK Nothing done") == {
        "state.write": 1
    }
    assert await spent(world, client, "DELE 3\nNOOP\n", "+OK Nothing done") == {"state.write": 1}
    # the expunge and \Seen; the lock and the document
    assert await spent(world, client, "DELE 4\nQUIT\n", "+OK Bye") == {"store.write": 2, "state.write": 2}
    client = await world.logged_in()
    assert await spent(world, client, "RETR 1\n", ".") == {"store.read": 1}
    cost = await spent(world, client, "DELE 1\nQUIT\n", "+OK Bye")
    assert cost == {"store.write": 1, "state.write": 2}, "what is removed need not be seen"


async def test_a_batch_is_answered_in_one_piece(world: Pop3World) -> None:
    await deliver_some(world, 3)
    client = world.connect()
    await client.send(
        b"USER alice\r\nPASS secret of alice\r\nLIST\r\n" + b"DELE 1\r\nSTAT\r\nRSET\r\nNOOP\r\n"
    )
    assert (await client.read_line()).startswith("+OK mail.test")
    assert await client.read_line() == "+OK Now the password"
    assert await client.read_line() == "+OK Logged in"
    assert client.buffered().count(b"\r\n") == 9, "the greeting may come alone, the rest does not"
    assert await client.read_line() == "+OK 3 messages (66 octets)"
    await client.body()
    assert [await client.read_line() for _ in range(4)][-1] == "+OK Nothing done"


async def test_marks_are_in_the_store_before_the_reply(world: Pop3World) -> None:
    await deliver_some(world, 9)
    await world.expunge("alice", 2, 5)
    client = await world.logged_in()
    assert await client.say("DELE 1") == MARKED
    assert await marks(world) == "1:1"
    await client.send(b"DELE 2\r\nDELE 3\r\n")  # uids 3 and 4: uid 2 is nobody's
    assert [await client.read_line(), await client.read_line()] == [MARKED] * 2
    assert await marks(world) == "1:4"
    assert await client.say("DELE 6") == MARKED
    assert await marks(world) == "1:4,8:8"
    owner = await world.services.users.by_username("alice")
    (document,) = await world.services.sessions.of_user(owner.id)
    mailbox, _ = await world.inbox()
    modseq = mailbox.highest_modseq
    assert document.state["view"] == [mailbox.uid_validity, mailbox.uid_next, modseq, modseq]
    assert re.fullmatch(r"[0-9a-f]{24}", document.selected), "the mailbox's id, as in IMAP"
    assert await client.say("RSET") == "+OK No message is marked"
    assert await marks(world) == ""


async def test_replies_of_marks_that_could_not_be_written_are_taken_back(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 4)
    client = await world.logged_in()
    assert await client.say("DELE 1") == MARKED
    failing(monkeypatch, world.services.sessions, "update")
    await client.send(b"NOOP\r\nLIST 2\r\nDELE 2\r\nSTAT\r\nLIST\r\nDELE 3\r\nDELE 9\r\n")
    heard = [await client.read_line() for _ in range(7)]
    assert heard == ["+OK Nothing done", "+OK 2 22", *[TROUBLE] * 5]
    assert (await client.say("STAT")).startswith("+OK 3 "), "the mark that was written still holds"
    assert await client.say("DELE 2") == MARKED
    assert await marks(world) == "1:2"
    failing(monkeypatch, world.services.sessions, "update")
    assert await client.say("RSET") == TROUBLE
    assert (await client.say("STAT")).startswith("+OK 2 ")
    assert await client.say("QUIT") == "+OK Bye"
    assert set(await world.flags()) == {3, 4}


async def test_a_long_reply_is_taken_back_too_while_none_of_it_is_sent(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"0123456789abcdef\r\n" * 20_000
    await world.deliver("alice", raw=b"Subject: long\r\n\r\n" + body)
    await deliver_some(world, 1)
    client = await world.logged_in()
    failing(monkeypatch, world.services.sessions, "update")
    await client.send(b"DELE 2\r\nRETR 1\r\nSTAT\r\nRETR 1\r\n")
    assert [await client.read_line(), await client.read_line()] == [TROUBLE] * 2
    assert (await client.read_line()).startswith("+OK 2 ")
    assert await client.read_line() == f"+OK {len(body) + 17} octets"
    assert await client.body() == b"Subject: long\r\n\r\n" + body
    assert (await client.say("STAT")).startswith("+OK 2 ")


async def test_much_output_flushes_and_keeps_order(world: Pop3World) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    await client.send(b"DELE 1\r\n" + b"LIST\r\nRSET\r\nDELE 2\r\n" * 3000 + b"STAT\r\n")
    assert await client.read_line() == MARKED
    for _ in range(3000):
        assert (await client.read_line()).startswith("+OK 2 messages")
        await client.body()
        assert await client.read_line() == "+OK No message is marked"
        assert await client.read_line() == MARKED
    assert (await client.read_line()).startswith("+OK 2 ")
    assert await marks(world) == "2:2"


# --- messages


def dotted(lines: int) -> bytes:
    """A body of lines that begin with dots wherever a piece might be cut, seeded."""
    dice = random.Random(17)
    return b"".join(b"." * dice.randint(0, 3) + b"x" * dice.randint(0, 9) + b"\r\n" for _ in range(lines))


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: dots\r\n\r\n" + dotted(300_000),
        b"Subject: only dots\r\n\r\n" + b".\r\n" * 400_000,
        b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(bytes(range(256)) * 9000).replace(b"\n", b"\r\n"),
    ],
    ids=["dotted", "dots", "base64"],
)
async def test_large_messages_come_back_byte_for_byte(world: Pop3World, raw: bytes) -> None:
    await world.deliver("alice", raw=raw)
    client = await world.logged_in()
    assert await client.say("RETR 1") == f"+OK {len(raw)} octets"
    assert await client.body() == raw
    assert await client.say("TOP 1 100000000000000000000") == "+OK Top of the message follows"
    assert await client.body() == raw
    header = raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    lines = raw[len(header) :].splitlines(keepends=True)
    for count in (0, 1, 50_000):
        await client.send(b"TOP 1 %d\r\n" % count)
        assert await client.read_line() == "+OK Top of the message follows"
        assert await client.body() == header + b"".join(lines[:count])
    assert (await client.say("STAT")) == f"+OK 1 {len(raw)}"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b"a: b\n\nx\n.\ny\n", b"a: b\n\nx\n..\ny\n\r\n.\r\n"),
        (b"a: b\r\n\r\nx", b"a: b\r\n\r\nx\r\n.\r\n"),
        (b"a: b\r\n", b"a: b\r\n.\r\n"),
        (b"a: b", b"a: b\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"\r\n.", b"\r\n..\r\n.\r\n"),
        (b"a: b\r\n\r\n\x00\xff\r.\r\r\n", b"a: b\r\n\r\n\x00\xff\r.\r\r\n.\r\n"),
    ],
)
async def test_stored_bytes_that_are_no_mail(world: Pop3World, raw: bytes, sent: bytes) -> None:
    await world.deliver("alice", raw=raw)
    client = await world.logged_in()
    assert await client.say("STAT") == f"+OK 1 {len(raw)}"
    assert await client.say("RETR 1") == f"+OK {len(raw)} octets"
    assert await client.read_exactly(len(sent)) == sent
    assert await client.say("TOP 1 1000") == "+OK Top of the message follows"
    assert await client.read_exactly(len(sent)) == sent
    assert await client.say("NOOP") == "+OK Nothing done"


async def test_an_engine_that_fails_within_a_message_ends_the_connection(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = b"Subject: long\r\n\r\n" + b"".join(b"%064d\r\n" % line for line in range(60_000))
    await world.deliver("alice", raw=raw)
    client = await world.logged_in()
    read_blob = world.services.store.read_blob

    def broken(digest: bytes, start: int, stop: int) -> bytes:
        if start > 1 << 20:
            raise Unavailable("down")
        return read_blob(digest, start, stop)

    monkeypatch.setattr(world.services.store, "read_blob", broken)
    await client.send(b"RETR 1\r\n")
    assert await client.read_line() == f"+OK {len(raw)} octets"
    with pytest.raises(AssertionError, match="the server closed"):
        await client.body()
    await world.wait_ended(client)


async def test_an_engine_that_fails_before_a_message_is_an_error(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 1)
    client = await world.logged_in()

    def broken(*_: object, **__: object) -> None:
        raise Unavailable("down")

    monkeypatch.setattr(world.services.store, "fetch", broken)
    for command in ("RETR 1", "TOP 1 0", "TOP 1 1"):
        assert await client.say(command) == TROUBLE
    monkeypatch.undo()
    assert await client.say("RETR 1") == "+OK 22 octets"


async def test_unique_ids_are_stable_short_and_printable(world: Pop3World) -> None:
    await deliver_some(world, 3)
    seen: dict[str, str] = {}
    for lost in (True, False, False):
        client = await world.logged_in()
        assert await client.say("UIDL") == "+OK Unique ids follow"
        for line in (await client.body()).decode().splitlines():
            number, _, unique = line.partition(" ")
            assert re.fullmatch(r"[!-~]{1,70}", unique)
            assert seen.setdefault(number, unique) == unique
            assert await client.say(f"UIDL {number}") == f"+OK {number} {unique}"
        if not lost:
            assert await client.say("QUIT") == "+OK Bye"
        await client.aclose()
        await world.wait_ended(client)
    assert len(set(seen.values())) == 3


# --- the end


async def test_quit_removes_exactly_the_marked_ones_and_sets_seen_on_the_retrieved(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maildrops, "UPDATE_ROWS", 2)
    await deliver_some(world, 12)
    client = await world.logged_in()
    for number in (2, 3, 5):
        assert (await client.say(f"RETR {number}")).startswith("+OK")
        await client.body()
    assert (await client.say("TOP 6 10")).startswith("+OK")
    await client.body()
    assert set((await world.flags()).values()) == {0}, "nothing is written before QUIT"
    for number in (1, 3, 4, 8, 9, 10, 12):
        assert await client.say(f"DELE {number}") == MARKED
    await world.expunge("alice", 9)
    new = await world.deliver("alice")
    assert await client.say("QUIT") == "+OK Bye"
    assert await world.flags() == {2: SEEN, 5: SEEN, 6: 0, 7: 0, 11: 0, new: 0}


async def test_what_another_session_marked_is_not_removed(world: Pop3World) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    mailbox, uids = await world.inbox()
    await world.mark_deleted("alice", 1)
    assert await client.say("DELE 2") == MARKED
    assert await client.say("QUIT") == "+OK Bye"
    assert set(await world.flags()) == {1, 3}
    assert (len(uids), mailbox.path) == (3, "INBOX")


async def test_a_lost_connection_changes_nothing(world: Pop3World) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    assert (await client.say("RETR 2")).startswith("+OK")
    await client.body()
    assert await client.say("DELE 1") == MARKED
    await client.send(b"QUI")
    await client.aclose()
    await world.wait_ended(client)
    assert await world.flags() == {1: 0, 2: 0, 3: 0}
    again = await world.logged_in()
    assert (await again.say("STAT")).startswith("+OK 3 ")


async def test_quit_that_cannot_remove_says_so_and_gives_the_maildrop_back(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 3)
    client = await world.logged_in()
    assert await client.say("DELE 2") == MARKED

    def broken(*_: object, **__: object) -> None:
        raise Unavailable("down")

    monkeypatch.setattr(world.services.store, "expunge", broken)
    await client.send(b"DELE 3\r\nQUIT\r\n")
    assert [await client.read_line() for _ in range(3)] == [
        MARKED,
        "-ERR [SYS/TEMP] Some messages were not removed, try again later",
        "",
    ]
    monkeypatch.undo()
    again = await world.logged_in()
    assert (await again.say("STAT")).startswith("+OK 3 ")


async def test_seen_that_cannot_be_set_does_not_spoil_quit(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver_some(world, 2)
    client = await world.logged_in()
    assert (await client.say("RETR 1")).startswith("+OK")
    await client.body()
    assert await client.say("DELE 2") == MARKED
    store_flags = world.services.store.store_flags

    def broken(mailbox_id: str, uids: Any, change: Any, **options: Any) -> Any:
        if change.flags == SEEN:
            raise Unavailable("down")
        return store_flags(mailbox_id, uids, change, **options)

    broken.__wd_lane__ = "store.write"  # type: ignore[attr-defined]  # the lane mark of the method it stands for
    monkeypatch.setattr(world.services.store, "store_flags", broken)
    assert await client.say("QUIT") == "+OK Bye"
    assert await world.flags() == {1: 0}
