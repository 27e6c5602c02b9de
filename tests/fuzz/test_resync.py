"""A client that keeps its cache by QRESYNC alone ends with what the server has, whatever happens in between.

Others change the mailbox, with and without a hint to the client's session (another process's hint comes later, or is
lost); connections break after any line of an answer, or park and move between any two; the journal is trimmed. After
each catching up the cache is held against the store.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from imap_resync_client import ResyncClient
from imap_world import ENGINES, World, open_world

from wd_trio.mail.model import DELETED, FLAGGED, SEEN, FlagChange, Mailbox, flag_names
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.bus import Hint

STEPS = 70
ALL = UidSet([(1, MAX_UID)])


class Mischief:
    """What others do to the mailbox."""

    def __init__(self, world: World, rng: random.Random, inbox: Mailbox) -> None:
        self.world, self.rng, self.inbox = world, rng, inbox
        self.run = world.services.gateway.run
        self.store = world.services.store

    async def truth(self) -> dict[int, frozenset[str]]:
        rows = await self.run(self.store.flags, self.inbox.id, ALL)
        return {row.uid: frozenset(flag_names(row.flags, row.keywords)) for row in rows}

    async def some(self) -> UidSet:
        living = sorted(await self.truth())
        return UidSet.of(sorted(self.rng.sample(living, min(len(living), self.rng.randint(1, 3)))))

    async def strike(self) -> None:
        what = self.rng.choice(["deliver", "deliver", "flag", "flag", "flag", "expunge", "move"])
        if what == "deliver":
            await self.world.deliver("alice", *self.rng.choice([("seen",), ()]))
            return
        uids = await self.some()
        if not uids:
            return
        if what == "flag":
            mode = self.rng.choice(["add", "remove", "set"])
            change = FlagChange(
                mode, self.rng.choice([SEEN, FLAGGED, DELETED]), self.rng.choice(["", "Later"])
            )
            await self.run(self.store.store_flags, self.inbox.id, uids, change)
        elif what == "expunge":
            await self.run(self.store.expunge, self.inbox.id, uids, marked_only=False)
        else:
            await self.run(self.store.copy, self.inbox.id, uids, "INBOX", move=True)
        if self.rng.random() < 0.5:
            self.world.services.hub.publish(Hint("mailbox", self.inbox.user_id, self.inbox.id))

    async def forget(self) -> None:
        await self.run(self.store.trim_journal, older_than_s=-3600, limit=100)


async def act(client: ResyncClient, rng: random.Random) -> None:
    """One command, perhaps broken off."""
    known = [uid for uid in client.uids if uid is not None]
    commands = ["NOOP", "NOOP", "IDLE", "UID SEARCH FLAGGED", "EXPUNGE", "CHECK"]
    commands.append(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {client.modseq} VANISHED)")
    if known:
        uids = ",".join(map(str, sorted(rng.sample(known, min(len(known), 2)))))
        commands += [f"FETCH 1:{len(client.uids)} (UID FLAGS)", f"UID FETCH {uids} (FLAGS)"]
        commands += [f"UID STORE {uids} {rng.choice('+-')}FLAGS (\\Flagged)", f"UID MOVE {uids} Trash"]
        commands.append(f"UID STORE {uids} (UNCHANGEDSINCE {client.modseq}) +FLAGS (\\Deleted)")
    await client.command(rng.choice(commands), break_after=rng.choice([-1, -1, -1, -1, 0, 1, 2]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_a_cache_kept_by_resync_alone(engine: str, seed: int, tmp_path: Path, *, moving: bool) -> None:
    rng = random.Random(seed)
    async with open_world(engine, tmp_path, park_after_s=0.0 if moving else math.inf) as world:
        for _ in range(5):
            await world.deliver("alice")
        owner = await world.services.users.by_username("alice")
        inbox = await world.services.mailboxes.find(owner.id, "INBOX")
        others, client = Mischief(world, rng, inbox), ResyncClient(world, rng)
        compared = 0
        for _ in range(STEPS):
            step = rng.random()
            if moving and rng.random() < 0.5:
                world.move()
            if step < 0.45:
                await others.strike()
            elif step < 0.5:
                await others.forget()
            elif step < 0.6 and client.connected:
                await client.lose()
            elif not client.connected or step < 0.65:
                if client.connected:
                    await client.select()
                if not client.connected:  # it was not, or the journal had been trimmed under its session
                    await client.connect()
                assert client.cache == await others.truth(), f"after {client.modseq}"
                compared += 1
            else:
                await act(client, rng)
        if client.connected:
            await client.lose()
        await client.connect()
        assert client.cache == await others.truth()
        assert compared > 3
