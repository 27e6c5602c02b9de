"""QRESYNC beyond what transcripts show: a trimmed journal, samples of numbers, an engine that fails in between."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from imap_world import ENGINES, Client, World, open_world

from wd_trio.errors import Unavailable
from wd_trio.mail.model import SEEN, FlagChange
from wd_trio.mail.numset import UidSet
from wd_trio.service.messages import Since


async def returning(world: World) -> tuple[Client, int, int]:
    """A client whose mailbox had ten messages, and the UIDVALIDITY and HIGHESTMODSEQ that it knows; while it was away
    uids 2, 5 and 6 went, and uid 9 changed."""
    for _ in range(10):
        await world.deliver("alice")
    client = world.client(1)
    await client.log_in("alice")
    await client.command("a1", "ENABLE QRESYNC")
    selected = " ".join(await client.command("a2", "SELECT INBOX"))
    await client.command("a3", "UNSELECT")
    [validity] = re.findall(r"UIDVALIDITY (\d+)", selected)
    [modseq] = re.findall(r"HIGHESTMODSEQ (\d+)", selected)
    run, store = world.services.gateway.run, world.services.store
    inbox = await world.services.mailboxes.find((await world.services.users.by_username("alice")).id, "INBOX")
    await run(store.expunge, inbox.id, UidSet.of([2, 5, 6]), marked_only=False)
    await run(store.store_flags, inbox.id, UidSet.of([9]), FlagChange("add", SEEN))
    return client, int(validity), int(modseq)


async def missed(client: Client, parameters: str) -> list[str]:
    """What SELECT with these QRESYNC parameters tells beyond what each SELECT does."""
    lines = await client.command("b", f"SELECT INBOX (QRESYNC ({parameters}))")
    assert lines[-1].startswith("b OK"), lines
    return [line for line in lines if "VANISHED" in line or "FETCH" in line]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_trimmed_journal_omits_nothing(engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        client, validity, modseq = await returning(world)
        await world.services.gateway.run(world.services.store.trim_journal, older_than_s=-60, limit=10)
        changed = f"* 6 FETCH (UID 9 FLAGS (\\Seen) MODSEQ ({modseq + 2}))"
        since = f"{validity} {modseq}"
        everything = ["* VANISHED (EARLIER) 2,5:6", changed]
        assert await missed(client, since) == everything
        assert await missed(client, f"{since} 1:10") == everything
        # Of what the client does not know it hears nothing.
        assert await missed(client, f"{since} 1:2,6,8") == ["* VANISHED (EARLIER) 2,6"]
        # Uids 1 and 3 to 10 by numbers 1 and 2 to 9: it had heard of uid 2, and only the first three still match.
        assert await missed(client, f"{since} (1:9 1,3:10)") == ["* VANISHED (EARLIER) 5:6", changed]
        # Numbers that match behind all that is gone: nothing is left to say, but of flags.
        assert await missed(client, f"{since} (1:7 1,3:4,7:10)") == [changed]
        lines = await client.command("c", f"UID FETCH 3:* (FLAGS) (CHANGEDSINCE {modseq} VANISHED)")
        assert lines == ["* VANISHED (EARLIER) 5:6", changed, "c OK FETCH completed"]


async def test_a_failure_within_leaves_nothing_selected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world("sqlite", tmp_path) as world:
        client, validity, modseq = await returning(world)

        async def fail(*_: object) -> Since:
            raise Unavailable("no reader", what="store")

        monkeypatch.setattr(world.services.messages, "since", fail)
        lines = await client.command("b", f"SELECT INBOX (QRESYNC ({validity} {modseq}))")
        assert lines[-1].startswith("b NO [UNAVAILABLE]"), lines
        assert (await client.command("c", "FETCH 1 FLAGS"))[-1].startswith("c BAD")
        monkeypatch.undo()
        assert len(await missed(client, f"{validity} {modseq}")) == 2


async def test_what_lies_between_hides_nothing_from_a_client_that_comes_back(tmp_path: Path) -> None:
    """The session has heard of no expunge when it tells a later change: the client must not take its modseq."""
    async with open_world("sqlite", tmp_path) as world:
        client, validity, modseq = await returning(world)
        assert len(await missed(client, f"{validity} {modseq}")) == 2
        here = modseq + 2
        run, store = world.services.gateway.run, world.services.store
        inbox = await world.services.mailboxes.find(
            (await world.services.users.by_username("alice")).id, "INBOX"
        )
        await run(store.expunge, inbox.id, UidSet.of([10]), marked_only=False)  # without a hint
        await run(store.store_flags, inbox.id, UidSet.of([1]), FlagChange("add", SEEN))
        assert await client.command("c", "UID FETCH 1 (FLAGS)") == [
            f"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ ({here + 2}))",
            f"* OK [HIGHESTMODSEQ {here}] Highest",
            "c OK FETCH completed",
        ]
        assert await missed(client, f"{validity} {here}") == [
            "* VANISHED (EARLIER) 10",
            f"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ ({here + 2}))",
        ]


async def test_what_comes_between_opening_and_resync_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message expunged in this moment has a number; the flags that changed after it are told at once."""
    async with open_world("sqlite", tmp_path) as world:
        client, validity, modseq = await returning(world)
        here = modseq + 2
        run, store, real = world.services.gateway.run, world.services.store, world.services.messages.since

        async def late(mailbox_id: str, uids: UidSet, since: int) -> Since:
            await run(store.expunge, mailbox_id, UidSet.of([10]), marked_only=False)
            await run(store.store_flags, mailbox_id, UidSet.of([1]), FlagChange("add", SEEN))
            return await real(mailbox_id, uids, since)

        monkeypatch.setattr(world.services.messages, "since", late)
        lines = await client.command("b", f"SELECT INBOX (QRESYNC ({validity} {modseq}))")
        assert f"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ ({here + 2}))" in lines
        assert lines[-2].startswith(f"* OK [HIGHESTMODSEQ {here}]"), lines
