"""Recipients that a process remembers: they must never outlive what they were true of by more than a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from accounts import Accounts, open_accounts
from trio.testing import MockClock

from wd_trio import errors
from wd_trio.adapters.sqlite.bus import LocalBus
from wd_trio.ports.bus import Hint
from wd_trio.service.changes import ChangeHub
from wd_trio.service.recipients import LIVES_S, KnownRecipients, Recipient
from wd_trio.service.users import UserChange, Users


class Workers:
    """Two processes over one engine. What the first one publishes the second hears, unless hints are lost."""

    def __init__(self, house: Accounts) -> None:
        self.house = house
        self.lost = False
        self.hubs = [ChangeHub(_Wire(self)), ChangeHub(_Wire(self))]
        self.changing, self.receiving = (
            Users(
                gateway=house.gateway,
                documents=house.documents,
                store=house.store,
                hasher=house.hasher,
                hub=hub,
            )
            for hub in self.hubs
        )

    async def crossings_of(self, address: str) -> int:
        """What the receiving process' look-up of an address costs."""
        before = self.house.crossings("store.read")
        await self.receiving.resolve(address)
        return self.house.crossings("store.read") - before


class _Wire(LocalBus):
    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def publish_nowait(self, hint: Hint) -> None:
        if not self._workers.lost:
            self._workers.hubs[1]._tell(hint)


@asynccontextmanager
async def open_workers(folder: Path) -> AsyncIterator[Workers]:
    async with open_accounts(folder) as house:
        yield Workers(house)


async def test_a_known_recipient_costs_nothing(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as workers:
        user = await workers.changing.create("ann@example.org", None, quota_bytes=7)
        first = await workers.receiving.resolve("Ann@Example.org")
        assert first == Recipient(user.id, "ann@example.org", "ann@example.org", 7)
        assert await workers.crossings_of("ann@example.org") == 0
        assert await workers.receiving.resolve("ann@example.org") == first


async def test_changes_are_heard_of(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as workers:
        users, receiving = workers.changing, workers.receiving
        ann = await users.create("ann", None, address="ann@example.org")
        bob = await users.create("bob", None, address="bob@example.org")
        await receiving.resolve("bob@example.org")
        await receiving.resolve("ann@example.org")

        await users.set_quota(ann.id, 10)
        assert (await receiving.resolve("ann@example.org")).quota_bytes == 10
        await users.update(ann.id, UserChange(quota_bytes=20))
        assert (await receiving.resolve("ann@example.org")).quota_bytes == 20
        assert await workers.crossings_of("bob@example.org") == 0  # he has not changed

        await users.set_disabled(ann.id, True)
        with pytest.raises(errors.Denied):
            await receiving.resolve("ann@example.org")
        await users.set_disabled(ann.id, False)
        assert (await receiving.resolve("ann@example.org")).user_id == ann.id

        await users.add_address(ann.id, "moving@example.org")
        assert (await receiving.resolve("moving@example.org")).user_id == ann.id
        await users.delete_address("moving@example.org")
        with pytest.raises(errors.NotFound):
            await receiving.resolve("moving@example.org")
        await users.add_address(bob.id, "moving@example.org")
        assert (await receiving.resolve("moving@example.org")).user_id == bob.id

        await users.delete(bob.id)
        for address in ("bob@example.org", "moving@example.org"):
            with pytest.raises(errors.NotFound):
                await receiving.resolve(address)


async def test_details_and_strangers_are_never_remembered(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as workers:
        users, receiving = workers.changing, workers.receiving
        ann = await users.create("ann", None, address="ann@example.org")
        assert (await receiving.resolve("ann+x@example.org")).user_id == ann.id
        bob = await users.create("bob", None, address="ann+x@example.org")
        assert (await receiving.resolve("ann+x@example.org")).user_id == bob.id
        with pytest.raises(errors.NotFound):
            await receiving.resolve("new@example.org")
        new = await users.create("new", None, address="new@example.org")
        assert (await receiving.resolve("new@example.org")).user_id == new.id


async def test_lost_hints_heal(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_workers(tmp_path) as workers:
        ann = await workers.changing.create("ann", None, address="ann@example.org")
        await workers.receiving.resolve("ann@example.org")
        workers.lost = True
        await workers.changing.set_disabled(ann.id, True)
        await trio.sleep(LIVES_S)
        with pytest.raises(errors.Denied):
            await workers.receiving.resolve("ann@example.org")


async def test_what_was_looked_up_while_it_changed_is_not_remembered(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as workers:
        await workers.changing.create("ann", None, address="ann@example.org")
        known = KnownRecipients(workers.hubs[1])
        recipient = await workers.receiving.resolve("ann@example.org")
        remember = known.looking_up()
        workers.hubs[0].publish(Hint("user", recipient.user_id))
        remember(recipient, 1)
        assert known.get("ann@example.org") is None
        known.looking_up()(recipient, 1)
        assert known.get("ann@example.org") == recipient
        known.clear()  # as when the bus lost its place
        assert known.get("ann@example.org") is None


async def test_what_is_remembered_is_bounded_and_the_newest_version_stays() -> None:
    known = KnownRecipients(ChangeHub(LocalBus()), limit_bytes=20_000)
    for number in range(1_000):
        known.looking_up()(Recipient(f"user{number}", "", f"a{number}@example.org", None), 1)
        assert known.get("a0@example.org") is not None or number > 2
        assert known.used_bytes <= 20_000
    assert known.get("a1@example.org") is None  # a0 was asked for at every turn
    assert known.get("a0@example.org") is not None
    known.looking_up()(Recipient("user0", "", "a0@example.org", 2), 2)
    known.looking_up()(Recipient("user0", "", "a0@example.org", 1), 1)
    kept = known.get("a0@example.org")
    assert kept is not None
    assert kept.quota_bytes == 2


async def test_without_a_hub_nothing_is_remembered() -> None:
    known = KnownRecipients(None)
    known.looking_up()(Recipient("user", "", "a@example.org", None), 1)
    assert known.get("a@example.org") is None
