"""The updates of a user: what feeds tell, and that they can be taken up anywhere."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from delivery_house import open_house
from trio.testing import MockClock
from updates_post import Client, Post, batch_of, events_of, post_of

from wd_trio.errors import Limited, Unavailable
from wd_trio.mail.model import FLAGGED, SEEN, FlagChange, MailboxSpec
from wd_trio.mail.numset import UidSet
from wd_trio.ports.bus import Hint
from wd_trio.service.updates import (
    IDLE_S,
    KEEP_ALIVE_S,
    Feed,
    decode_position,
    encode_position,
)


@pytest.fixture
async def post(tmp_path: Path) -> Any:
    async with open_house(tmp_path) as house:
        yield post_of(house, await house.user("alice@example.org"))


async def test_the_first_batch_says_where_the_stream_begins(post: Post) -> None:
    await post.add()
    with post.updates().feed(post.user) as feed:
        first = await batch_of(feed)
        assert list(first) == []
        known = decode_position(first.position)
        assert known is not None
        assert {mailbox: place.modseq for mailbox, place in known.items()} == {
            mailbox.id: mailbox.highest_modseq for mailbox in post.house.store.list_mailboxes(post.user)
        }


async def test_what_happens_to_messages_is_told(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        uid = await post.add(flags=FLAGGED)
        mailbox = (await post.place()).mailbox_id
        exists, counters = await events_of(feed)
        assert exists.pop("modseq") > 1
        assert exists == {"command": "EXISTS", "mailbox": mailbox, "uid": uid, "flags": ["\\Flagged"]}
        assert counters == {"command": "COUNTERS", "mailbox": mailbox, "total": 1, "unseen": 1}
        await post.flag(UidSet.of([uid]), FlagChange("set", SEEN, "work"))
        fetch, counters = await events_of(feed)
        assert (fetch["command"], fetch["uid"], fetch["flags"]) == ("FETCH", uid, ["\\Seen", "work"])
        assert (counters["total"], counters["unseen"]) == (1, 0)
        await post.expunge(UidSet.of([uid]))
        expunge, counters = await events_of(feed)
        assert (expunge["command"], expunge["uid"]) == ("EXPUNGE", uid)
        assert (counters["total"], counters["unseen"]) == (0, 0)


async def test_what_happens_to_mailboxes_is_told(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        made = await post.mailboxes.create(post.user, "Lists")
        create, counters = await events_of(feed)
        assert create == {"command": "CREATE", "mailbox": made.id, "path": "Lists"}
        assert counters["command"] == "COUNTERS"
        await post.mailboxes.rename(post.user, "Lists", "Old/Lists")
        assert await events_of(feed) == [{"command": "RENAME", "mailbox": made.id, "path": "Old/Lists"}]
        await post.mailboxes.delete(post.user, "Old/Lists")
        assert await events_of(feed) == [{"command": "DELETE", "mailbox": made.id}]


async def test_only_the_users_own_things_are_told(post: Post) -> None:
    other = post_of(post.house, await post.house.user("bob@example.org"))
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        await other.add()
        uid = await post.add()
        events = await events_of(feed)
    assert {event["mailbox"] for event in events} == {(await post.place()).mailbox_id}
    assert events[0]["uid"] == uid


async def test_a_burst_is_one_look(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        for _ in range(40):  # more hints than a subscription holds
            await post.add()
        before = _reads(post)
        events = await events_of(feed)
        assert _reads(post) == before + 1
    assert [event["uid"] for event in events[:-1]] == list(range(1, 41))


async def test_a_position_is_taken_up_by_another_server(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        position = (await batch_of(feed)).position
    uid = await post.add()
    await post.mailboxes.create(post.user, "New")
    with post.updates().feed(post.user, position) as feed:
        first = await batch_of(feed)
    told = [event for event, _ in first]
    assert [event["command"] for event in told] == ["CREATE", "EXISTS", "COUNTERS", "COUNTERS"]
    assert told[1]["uid"] == uid
    with post.updates().feed(post.user, first.position) as feed:
        assert await events_of(feed) == []


async def test_a_message_that_came_and_was_read_while_away_exists(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        position = (await batch_of(feed)).position
    uid = await post.add()
    await post.flag(UidSet.of([uid]), FlagChange("add", SEEN))
    with post.updates().feed(post.user, position) as feed:
        exists, counters = await events_of(feed)
    assert (exists["command"], exists["flags"]) == ("EXISTS", ["\\Seen"])
    assert counters["unseen"] == 0


async def test_pages_that_are_cut_tell_new_from_changed(post: Post) -> None:
    """The first message changes after the second came, so it is on a later page, and new all the same."""
    with post.updates().feed(post.user) as feed:
        position = (await batch_of(feed)).position
    for _ in range(2):
        await post.add()
    await post.flag(UidSet.of([1]), FlagChange("add", SEEN))
    with post.updates(rows_a_look=1).feed(post.user, position) as feed:
        pages = [await events_of(feed), await events_of(feed)]
    assert [[event["command"] for event in page] for page in pages] == [["EXISTS", "COUNTERS"]] * 2
    assert [page[0]["uid"] for page in pages] == [2, 1]


async def test_what_the_journal_does_not_reach_is_read_anew(post: Post) -> None:
    for _ in range(3):
        await post.add()
    with post.updates().feed(post.user) as feed:
        position = (await batch_of(feed)).position
    await post.expunge(UidSet.of([2]))
    post.house.store.trim_journal(older_than_s=-10, limit=10)
    mailbox = (await post.place()).mailbox_id
    with post.updates().feed(post.user, position) as feed:
        first = await batch_of(feed)
        resync, counters = (event for event, _ in first)
        assert resync == {"command": "RESYNC", "mailbox": mailbox}
        assert (counters["command"], counters["total"]) == ("COUNTERS", 2)
        await post.add()
        assert [event["command"] for event in await events_of(feed)] == ["EXISTS", "COUNTERS"]


@pytest.mark.parametrize("position", ["0", "nonsense", "!", "eJw", "A" * 9000, "x" * 7])
async def test_a_position_that_is_none_begins_anew(post: Post, position: str) -> None:
    with post.updates().feed(post.user, position) as feed:
        first = await batch_of(feed)
        assert [event for event, _ in first] == [{"command": "RESYNC"}]
        assert decode_position(first.position)


async def test_a_position_is_bounded(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        position = decode_position((await batch_of(feed)).position)
    assert position
    some = next(iter(position.values()))
    rng = random.Random(7)
    few = {rng.randbytes(12).hex(): some for _ in range(200)}
    assert decode_position(encode_position(few)) == few
    many = encode_position({rng.randbytes(12).hex(): some for _ in range(2000)})
    assert len(many) < 10
    with post.updates().feed(post.user, many) as feed:
        assert await events_of(feed) == [{"command": "RESYNC"}]


async def test_too_many_mailboxes_at_once_are_read_anew(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        specs = [MailboxSpec(f"Box {number}") for number in range(101)]
        post.house.store.ensure_mailboxes(post.user, specs)
        post.house.hub.resync()
        batch = await batch_of(feed)
        assert [event for event, _ in batch] == [{"command": "RESYNC"}]
        await post.add("Box 7")
        assert [event["command"] for event in await events_of(feed)] == ["EXISTS", "COUNTERS"]
    with post.updates().feed(post.user, batch.position) as feed:
        assert [event["command"] for event in await events_of(feed)] == ["EXISTS", "COUNTERS"]


async def test_a_mailbox_that_was_told_of_half_way_is_told_to_be_gone(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        await post.add()
        made = await post.mailboxes.create(post.user, "New")
        create, position = next(iter(await batch_of(feed)))  # and the connection is lost
    assert create["mailbox"] == made.id
    await post.mailboxes.delete(post.user, "New")
    with post.updates().feed(post.user, position) as feed:
        commands = [event["command"] for event in await events_of(feed)]
    assert commands == ["DELETE", "EXISTS", "COUNTERS"]


async def test_too_many_at_once_are_read_anew(post: Post) -> None:
    with post.updates(events_told=3).feed(post.user) as feed:
        await batch_of(feed)
        for _ in range(4):
            await post.add()
        commands = [event["command"] for event in await events_of(feed)]
        assert commands == ["RESYNC", "COUNTERS"]
        await post.add()
        assert [event["command"] for event in await events_of(feed)] == ["EXISTS", "COUNTERS"]


async def test_a_silent_stream_gives_signs_of_life_and_ends(post: Post, mock_clock: MockClock) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        mock_clock.autojump_threshold = 0.01  # from here on only time passes
        signs = 0
        while (batch := await feed.next()) is not None:
            assert (list(batch), batch.position) == ([], "")
            signs += 1
        assert signs == IDLE_S // KEEP_ALIVE_S - 1


async def test_a_hint_that_was_lost_heals(post: Post) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        post.house.store.delete_mailbox(post.user, "Trash")  # nobody is told
        post.house.hub.resync()
        (event,) = await events_of(feed)
        assert event["command"] == "DELETE"


@pytest.mark.parametrize("kind", ["user", "kill"])
async def test_a_log_out_ends_the_streams_of_its_user(post: Post, kind: str) -> None:
    updates = post.updates()
    with updates.feed(post.user) as feed, updates.feed("0" * 24) as other:
        await batch_of(feed)
        await batch_of(other)
        post.house.hub.publish(Hint(kind, post.user))
        assert await feed.next() is None
        assert not other._ended


async def test_a_server_that_leaves_ends_all(post: Post) -> None:
    updates = post.updates()
    with updates.feed(post.user) as feed:
        await batch_of(feed)
        updates.end_all()
        assert await feed.next() is None
        with pytest.raises(Unavailable):
            updates.feed(post.user)


async def test_the_streams_of_a_user_are_bounded(post: Post) -> None:
    updates = post.updates(feeds_of_a_user=1)
    held = updates.feed(post.user)  # its place is taken before it is entered
    with pytest.raises(Limited):
        updates.feed(post.user)
    with held, updates.feed("0" * 24), pytest.raises(Limited):
        updates.feed(post.user)
    with updates.feed(post.user):
        pass
    assert not post.house.hub._by_user
    assert not updates._feeds


async def test_an_engine_that_fails_loses_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    with post.updates().feed(post.user) as feed:
        await batch_of(feed)
        await post.add()
        with monkeypatch.context() as broken:

            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("down")

            broken.setattr(post.house.gateway, "run", fail)
            with pytest.raises(Unavailable):
                await feed.next()
        assert [event["command"] for event in await events_of(feed)] == ["EXISTS", "COUNTERS"]


def _reads(post: Post) -> int:
    return next(
        sum(lane.results.values())
        for lane in post.house.gateway.statistics().lanes
        if lane.name == "store.read"
    )


# -- exactness


class History:
    """Random things that happen to a user's mail."""

    def __init__(self, post: Post, rng: random.Random) -> None:
        self._post = post
        self._rng = rng
        self._names = 0

    async def step(self) -> None:
        doings: list[Callable[[], Awaitable[None]]] = [
            self._add,
            self._add,
            self._flag,
            self._expunge,
            self._move,
            self._make,
            self._rename,
            self._remove,
        ]
        await self._rng.choice(doings)()

    def _path(self) -> str:
        """Mostly INBOX, so that much happens to the same messages."""
        return "INBOX" if self._rng.random() < 0.6 else self._rng.choice(sorted(self._post.paths().values()))

    def _some(self, path: str) -> UidSet:
        found = self._post.house.store.open_mailbox(self._post.user, path).uids
        assert found is not None
        return UidSet.of(uid for uid in found if self._rng.random() < 0.4)

    async def _add(self) -> None:
        await self._post.add(self._path(), flags=self._rng.choice([0, SEEN]))

    async def _flag(self) -> None:
        path = self._path()
        change = FlagChange(self._rng.choice(["add", "remove"]), self._rng.choice([SEEN, FLAGGED]))
        await self._post.flag(self._some(path), change, path)

    async def _expunge(self) -> None:
        path = self._path()
        await self._post.expunge(self._some(path), path)

    async def _move(self) -> None:
        path = self._path()
        place = await self._post.place(path)
        await self._post.messages.copy(place, self._some(path), self._path(), quota_bytes=None, move=True)

    async def _make(self) -> None:
        self._names += 1
        await self._post.mailboxes.create(self._post.user, f"Box {self._names}")

    async def _rename(self) -> None:
        self._names += 1
        path = self._path()
        if path != "INBOX":
            await self._post.mailboxes.rename(self._post.user, path, f"Renamed {self._names}")

    async def _remove(self) -> None:
        path = self._path()
        if path.startswith(("Box", "Renamed")):
            await self._post.mailboxes.delete(self._post.user, path)


async def _follow(client: Client, feed: Feed, rng: random.Random, *, drop: bool) -> None:
    """Take batches while there are some; with `drop`, lose the connection somewhere within one."""
    while feed._subscription or feed._more:
        batch = await batch_of(feed)
        told = list(batch)
        heard = rng.randrange(len(told) + 1) if drop else len(told)
        for event, position in told[:heard]:
            client.take(event)
            client.position = position or client.position
        if heard < len(told):
            return
        assert client.position == batch.position or not told
        if drop and rng.random() < 0.3:
            return


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_that_is_cut_off_anywhere_knows_everything_in_the_end(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_house(tmp_path) as house:
        post = post_of(house, await house.user("alice@example.org"))
        servers = [post.updates(rows_a_look=rng.choice([1, 1, 2, 1000])) for _ in range(2)]
        history = History(post, rng)
        for _ in range(rng.randrange(10)):
            await history.step()
        client = Client(post.state(), post.paths(), post.counters())
        with servers[0].feed(post.user) as feed:
            client.position = (await batch_of(feed)).position
        for _ in range(6):
            with rng.choice(servers).feed(post.user, client.position) as feed:
                for _ in range(rng.randrange(12)):
                    await history.step()
                    if rng.random() < 0.15:
                        await _follow(client, feed, rng, drop=False)
                await _follow(client, feed, rng, drop=True)
        with servers[1].feed(post.user, client.position) as feed:
            await _follow(client, feed, rng, drop=False)
        assert client.state == post.state()
        assert client.paths == post.paths()
        assert client.counters == post.counters()
        assert not client.asked_anew
