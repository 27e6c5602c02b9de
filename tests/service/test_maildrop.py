"""The maildrop: snapshot, marks and their text, against a simple model and over the real engine."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pop3_world import Pop3World, open_pop3_world

from wd_trio.errors import Conflict, Outdated, Unavailable
from wd_trio.mail.content import prepare
from wd_trio.mail.model import DELETED, Columns, Expunged, Mailbox, NewMessage
from wd_trio.mail.numset import UidSet
from wd_trio.ports.gateway import lane_of
from wd_trio.service.maildrop import Maildrop, Maildrops
from wd_trio.service.messages import Messages

MAILBOX = Mailbox("m" * 24, "u" * 24, "INBOX", 1700000000, 1001, 55, "", True, 0, 0, 0, 0)


def drop_of(uids: list[int]) -> Maildrop:
    messages: Messages = None  # type: ignore[assignment]  # nothing here asks for messages
    return Maildrop(MAILBOX, UidSet.of(uids), array("Q", (uid * 10 for uid in uids)), messages)


def test_an_empty_maildrop() -> None:
    drop = drop_of([])
    assert (len(drop), drop.stat, list(drop.unmarked())) == (0, (0, 0), [])
    assert not drop.is_number(0)
    assert not drop.is_number(1)
    assert drop.state == {"view": [1700000000, 1001, 55, 55], "marks": ""}


def test_numbers_sizes_and_unique_ids() -> None:
    drop = drop_of([3, 4, 900])
    assert [drop.unique_id(number) for number in (1, 2, 3)] == [
        "1700000000.3",
        "1700000000.4",
        "1700000000.900",
    ]
    assert [drop.size(number) for number in (1, 2, 3)] == [30, 40, 9000]
    assert drop.stat == (3, 9070)
    assert [drop.is_number(number) for number in (-1, 0, 1, 3, 4, 1 << 70)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_marks_are_told_as_uid_ranges_over_the_gaps() -> None:
    drop = drop_of([3, 4, 900, 905, 1000])
    for number in (4, 2, 3):
        drop.mark(number)
    assert drop.state["marks"] == "4:905"
    drop.mark(1)
    assert drop.state["marks"] == "3:905"
    drop.clear_marks()
    drop.mark(5)
    drop.mark(1)
    assert drop.state["marks"] == "3:3,1000:1000"
    assert drop.stat == (3, 18090)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["mark"] * 6 + ["clear", "save", "take back"]), st.integers(0, 19)), max_size=60
)


@given(st.sets(st.integers(1, 1000), max_size=20), ACTIONS)
def test_marks_follow_a_simple_model(uids: set[int], actions: list[tuple[str, int]]) -> None:
    ordered = sorted(uids)
    drop = drop_of(ordered)
    marked: set[int] = set()
    saved: set[int] = set()
    for action, which in actions:
        number = which + 1
        if action == "mark" and drop.is_number(number) and not drop.is_marked(number):
            drop.mark(number)
            marked.add(number)
        elif action == "clear":
            drop.clear_marks()
            marked = set()
        elif action == "save":
            told = str(drop.state["marks"])
            ranges = [tuple(map(int, text.split(":"))) for text in told.split(",") if text]
            assert {uid for uid in uids if any(a <= uid <= b for a, b in ranges)} == {
                ordered[number - 1] for number in marked
            }
            drop.saved()
            assert not drop.unsaved
            saved = set(marked)
        elif action == "take back":
            drop.take_back()
            assert not drop.unsaved
            marked = set(saved)
        living = [number for number in range(1, len(uids) + 1) if number not in marked]
        assert list(drop.unmarked()) == living
        assert drop.stat == (len(living), sum(ordered[number - 1] * 10 for number in living))
        assert drop.unsaved or marked == saved


# --- over the engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Pop3World]:
    async with open_pop3_world(tmp_path) as opened:
        yield opened


async def user_id(world: Pop3World) -> str:
    return (await world.services.users.by_username("alice")).id


async def fill(world: Pop3World, count: int) -> None:
    content = prepare(b"Subject: many\r\n\r\nsame\r\n").content()
    store, run = world.services.store, world.services.gateway.run
    await run(store.append, await user_id(world), "INBOX", [NewMessage(content, 1)] * count)


async def test_messages_that_go_while_the_snapshot_is_taken_are_not_in_it(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, 600)
    place = await world.inbox()
    whole = world.services.mailboxes.open

    async def opens_then_loses(user: str, path: str) -> object:
        opened = await whole(user, path)
        await world.expunge("alice", 2, 300)
        return opened

    async def inbox(_user: str) -> tuple[Mailbox, UidSet]:
        return place

    monkeypatch.setattr(world.services.mailboxes, "open", opens_then_loses)
    monkeypatch.setattr(world, "inbox", inbox)
    drop = await world.services.maildrops.open(await user_id(world), "c1")
    assert len(drop) == 598
    numbers = (1, 2, 298, 299)
    assert [drop.unique_id(number).split(".")[1] for number in numbers] == ["1", "3", "299", "301"]
    monkeypatch.undo()
    again = await world.services.maildrops.reopen(await user_id(world), drop.told, drop.state)
    assert [again.unique_id(number) for number in range(1, 599)] == [
        drop.unique_id(number) for number in range(1, 599)
    ]


async def test_a_maildrop_is_one_holders(world: Pop3World) -> None:
    maildrops, user = world.services.maildrops, await user_id(world)
    await maildrops.open(user, "c1")
    with pytest.raises(Conflict):
        await maildrops.open(user, "c2")
    await maildrops.close(user, "c2")
    with pytest.raises(Conflict):
        await maildrops.open(user, "c2")
    await maildrops.close(user, "c1")
    await maildrops.open(user, "c2")
    await maildrops.close(user, "c2")
    await maildrops.close(user, "c2")


async def test_a_maildrop_goes_on_as_it_was(world: Pop3World) -> None:
    await fill(world, 6)
    maildrops, user = world.services.maildrops, await user_id(world)
    drop = await maildrops.open(user, "c1")
    for number in (2, 3, 5):
        drop.mark(number)
    await world.expunge("alice", 3, 4)
    state = await drop.parting_state()
    assert state["sizes"] == {"3": 23, "4": 23}
    await fill(world, 1)
    again = await maildrops.reopen(user, drop.told, state)
    assert (again.stat, again.told, again.state) == (drop.stat, drop.told, drop.state)
    assert [again.is_marked(number) for number in range(1, 7)] == [False, True, True, False, True, False]
    assert not again.unsaved
    await again.apply()
    assert list(await world.flags()) == [1, 6, 7]
    await maildrops.close(user, "c1")


async def test_a_maildrop_that_cannot_go_on(world: Pop3World) -> None:
    await fill(world, 3)
    maildrops, user = world.services.maildrops, await user_id(world)
    drop = await maildrops.open(user, "c1")
    with pytest.raises(Conflict):
        await maildrops.hold_on(user, "c2")
    with pytest.raises(Outdated):
        await maildrops.reopen(user, replace(drop.told, uid_validity=1), drop.state)
    state = await drop.parting_state()
    await world.expunge("alice", 2)
    with pytest.raises(Outdated):
        await maildrops.reopen(user, drop.told, state)
    await maildrops.close(user, "c1")
    await maildrops.open(user, "c2")


async def test_connections_of_two_servers_may_have_one_number(world: Pop3World) -> None:
    services, user = world.services, await user_id(world)
    other = Maildrops(
        gateway=services.gateway,
        limits=services.limits,
        mailboxes=services.mailboxes,
        messages=services.messages,
        owner="elsewhere/1",
    )
    await services.maildrops.open(user, "c1")
    with pytest.raises(Conflict):
        await other.open(user, "c1")


async def test_a_snapshot_that_fails_leaves_no_lock(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildrops, user = world.services.maildrops, await user_id(world)

    def broken(*_: object, **__: object) -> None:
        raise Unavailable("down")

    monkeypatch.setattr(world.services.store, "open_mailbox", broken)
    with pytest.raises(Unavailable):
        await maildrops.open(user, "c1")
    monkeypatch.undo()
    await maildrops.open(user, "c2")


async def test_thousands_of_messages_in_bounded_steps(world: Pop3World) -> None:
    await fill(world, 5000)
    drop = await world.services.maildrops.open(await user_id(world), "c1")
    assert drop.stat == (5000, 5000 * 23)
    for number in range(1, 5001, 2):
        drop.mark(number)
    assert drop.stat == (2500, 2500 * 23)
    assert len(str(drop.state["marks"]).split(",")) == 2500
    writes = written(world)
    await drop.apply()
    assert written(world) - writes == 3, "one for every 1,000"
    mailbox, uids = await world.inbox()
    assert (mailbox.messages, list(uids)) == (2500, list(range(2, 5001, 2)))
    assert drop.stat == (5000, 5000 * 23), "no mark is left"
    row = await drop.fetch(1, Columns.HEADER)
    assert row is None
    row = await drop.fetch(2, Columns.HEADER)
    assert row is not None
    assert row.uid == 2


async def test_a_removal_that_fails_half_way_leaves_no_flag(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, 2500)
    await world.mark_deleted("alice", 7, 2400)
    drop = await world.services.maildrops.open(await user_id(world), "c1")
    for number in range(1, 2301):
        drop.mark(number)
    store = world.services.store
    whole, calls = store.expunge, 0

    def fails_at_the_second(*arguments: Any, **options: Any) -> Expunged:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("down")
        return whole(*arguments, **options)

    fails_at_the_second.__wd_lane__ = lane_of(whole)  # type: ignore[attr-defined]  # the mark of what it stands for
    monkeypatch.setattr(store, "expunge", fails_at_the_second)
    with pytest.raises(Unavailable):
        await drop.apply()
    assert calls == 2
    flags = await world.flags()
    assert list(flags) == list(range(1001, 2501)), "the first 1,000 are gone, the others stay"
    assert {uid for uid in flags if flags[uid]} == {2400}, "and no flag was set on the way"


async def test_a_message_that_another_session_marked_stays(world: Pop3World) -> None:
    await fill(world, 3)
    drop = await world.services.maildrops.open(await user_id(world), "c1")
    drop.mark(1)
    await world.mark_deleted("alice", 2)
    await drop.apply()
    assert await world.flags() == {2: DELETED, 3: 0}


def written(world: Pop3World) -> int:
    return next(
        sum(lane.results.values())
        for lane in world.services.gateway.statistics().lanes
        if lane.name == "store.write"
    )
