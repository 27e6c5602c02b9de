"""What the MongoDB mail store promises beyond the contract: round trips, what it knows of mailboxes, goes of a queue,
removals that were cut short."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_house import fresh_mongo
from mongo_store_support import a_message, round_trips

from wd_trio import errors
from wd_trio.adapters.mongo_redis import folders
from wd_trio.adapters.mongo_redis.blobs import MongoBlobs
from wd_trio.adapters.mongo_redis.known import KnownMailboxes
from wd_trio.adapters.mongo_redis.layout import GRAVES, MESSAGES, VANISHED
from wd_trio.adapters.mongo_redis.mongo import Mongo, bounded
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.adapters.mongo_redis.work import Unit
from wd_trio.adapters.mongo_redis.writer import Change, Writer
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import (
    ANSWERED,
    DEFAULT_MAILBOXES,
    DELETED,
    FLAGGED,
    SEEN,
    BlobData,
    Columns,
    FlagChange,
    FlagRow,
    Mailbox,
    MailboxSpec,
)
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


@pytest.fixture
def mongo() -> Mongo:
    return fresh_mongo(time.time)


@pytest.fixture
def store(mongo: Mongo) -> MongoStore:
    return MongoStore(mongo)


@pytest.fixture
def user() -> str:
    return new_id()


@pytest.fixture
def inbox(store: MongoStore, user: str) -> Mailbox:
    return store.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0]


def cost(call: Callable[[], object]) -> int:
    """Its round trips to MongoDB."""
    with round_trips() as made:
        call()
    return made["mongodb"]


# -- round trips


def test_a_delivery_takes_four(store: MongoStore, user: str, inbox: Mailbox) -> None:
    """And two more for the address and its user: six in all."""
    messages = [a_message()]
    for _ in range(2):
        assert cost(lambda: store.append(user, "INBOX", messages, quota_bytes=1 << 30, create=True)) == 4
        assert cost(lambda: store.append(user, "Trash", messages * 50)) == 4


def test_a_select_of_a_known_mailbox_takes_one(store: MongoStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [a_message(flags=SEEN)] * 40)
    assert cost(lambda: store.open_mailbox(user, "INBOX")) == 1  # nothing was ever removed, all is seen
    store.append(user, "INBOX", [a_message(flags=DELETED)])
    store.append(user, "INBOX", [a_message(), a_message()])
    store.expunge(inbox.id)
    assert cost(lambda: store.open_mailbox(user, "INBOX")) == 2
    assert cost(lambda: store.open_mailbox(user, "INBOX")) == 1
    store.append(user, "INBOX", [a_message()])
    store.store_flags(inbox.id, UidSet([(3, 5)]), FlagChange("add", FLAGGED))
    assert cost(lambda: store.open_mailbox(user, "INBOX")) == 1  # this process made the changes itself
    MongoStore(store._mongo).append(user, "INBOX", [a_message()])
    assert cost(lambda: store.open_mailbox(user, "INBOX")) == 2
    opened = store.open_mailbox(user, "INBOX")
    assert (opened.uids, opened.first_unseen_uid) == (UidSet([(1, 40), (42, 45)]), 42)


def test_any_list_of_mailboxes_takes_one(store: MongoStore, user: str) -> None:
    """Several answers would be of several moments: a RENAME between two of them could hide a mailbox."""
    names = [f"{n:03}" for n in range(150)]
    store.ensure_mailboxes(user, [MailboxSpec(name) for name in names])
    with round_trips() as made:
        listed = store.list_mailboxes(user)
    assert [mailbox.path for mailbox in listed] == ["INBOX", *names]
    assert made["mongodb"] == 1
    assert cost(lambda: store.subscriptions(user)) == 1


def test_a_page_takes_one(store: MongoStore, user: str, inbox: Mailbox) -> None:
    modseq = store.append(user, "INBOX", [a_message() for _ in range(300)]).modseq
    wide = Columns.ENVELOPE | Columns.STRUCTURE | Columns.IDS
    assert cost(lambda: store.fetch(inbox.id, UidSet([(1, 256)]), wide)) == 1
    assert cost(lambda: store.fetch(inbox.id, UidSet.of(range(1, 300, 2)), wide)) == 1
    assert cost(lambda: store.fetch(inbox.id, UidSet([(7, 7)]), Columns.ROPE)) == 1
    data = b"attachment"
    blob = BlobData(hashlib.sha256(data).digest(), len(data), ((False, data),))
    store.append(user, "INBOX", [a_message(blobs=(blob.digest,))] * 2, blobs=[blob])
    for trips in (3, 1):  # where the blob is, its bytes; then it was read of late
        assert cost(lambda: store.fetch(inbox.id, UidSet([(301, 302)]), Columns.ROPE)) == trips
    assert cost(lambda: store.page(user, inbox.id, wide)) == 1
    assert cost(lambda: store.changes_since(inbox.id, modseq - 1)) == 1
    store.flags(inbox.id, ALL)
    assert cost(lambda: store.flags(inbox.id, ALL)) == 1


def test_a_store_takes_a_handful_however_many_messages(store: MongoStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [a_message() for _ in range(500)])
    store.flags(inbox.id, ALL)
    for change, trips in ((FlagChange("add", FLAGGED), 4), (FlagChange("add", SEEN), 5)):
        assert cost(lambda c=change: store.store_flags(inbox.id, ALL, c)) == trips
        assert cost(lambda c=change: store.store_flags(inbox.id, ALL, c)) == 2  # nothing changes: an abort
    assert cost(lambda: store.store_flags(inbox.id, UidSet([(9, 9)]), FlagChange("add", ANSWERED))) == 3


# -- changes, told by the index and by the journal


def telling(store: MailStore, mailbox_id: str, since: int, limit: int) -> tuple[object, ...]:
    """All pages of changes, put together as a view does."""
    rows: dict[int, FlagRow] = {}
    gone: list[tuple[int, str]] = []
    while True:
        page = store.changes_since(mailbox_id, since, limit=limit)
        assert all(since < row.modseq <= page.modseq for row in page.rows)
        assert [entry.modseq for entry in page.vanished] == sorted(entry.modseq for entry in page.vanished)
        rows |= {row.uid: row for row in page.rows}
        for entry in page.vanished:
            gone.append((entry.modseq, str(entry.uids)))
            for uid in entry.uids:
                rows.pop(uid, None)
        assert page.modseq > since or not page.more
        since = page.modseq
        if not page.more:
            return sorted(rows.items()), gone, page.modseq, page.uid_next


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[SqliteStore]:
    database = SqliteDatabase(tmp_path / "mail.db")
    yield SqliteStore(database)
    database.close()


def change_at_random(rng: random.Random, stores: list[tuple[MailStore, str]], user: str) -> None:
    """The same change to a mailbox of each store."""
    first = rng.randrange(1, 250)
    uids = UidSet([(first, first + rng.choice((0, 3, 100, 200)))])
    if rng.random() < 0.3:
        uids = UidSet.of(n for n in uids if n % 3)
    mode, bits = rng.choice(("add", "remove", "set")), rng.choice((SEEN, FLAGGED, DELETED, FLAGGED | SEEN, 0))
    change = FlagChange(mode, bits, rng.choice(("", "", "a", "b C")))
    count, kind = rng.randrange(1, 12), rng.random()
    for store, mailbox_id in stores:
        if kind < 0.6:
            store.store_flags(mailbox_id, uids, change)
        elif kind < 0.75:
            store.append(user, "INBOX", [a_message(flags=bits)] * count)
        elif kind < 0.9:
            store.expunge(mailbox_id, uids)
        else:
            store.copy(mailbox_id, uids.slice(0, 5), "INBOX", move=True)


@pytest.mark.parametrize("seed", range(4))
def test_changes_are_those_of_the_embedded_store(
    store: MongoStore, twin: SqliteStore, user: str, inbox: Mailbox, seed: int
) -> None:
    """Single changes, which the index tells of, and changes of many, which the journal tells of, in one history;
    made by two stores, of which each goes on from what it knew."""
    rng = random.Random(seed)
    follower = MongoStore(store._mongo)
    stores: list[tuple[MailStore, str]] = [
        (store, inbox.id),
        (twin, twin.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0].id),
    ]
    for each, _ in stores:
        each.append(user, "INBOX", [a_message() for _ in range(200)])
    for _ in range(30):
        writer = rng.choice((store, follower))
        change_at_random(rng, [(writer, inbox.id), stores[1]], user)
        if rng.random() < 0.3:
            assert list(follower.flags(inbox.id, ALL)) == list(twin.flags(stores[1][1], ALL))
    highest = store.get_mailbox(inbox.id).highest_modseq
    for since in (1, 2, highest // 2, highest - 3, highest):
        for limit in (1, 20, 150, 1000):
            told, other = (telling(each, mailbox_id, since, limit) for each, mailbox_id in stores)
            assert told == other
    opened, other_opened = (each.open_mailbox(user, "INBOX") for each, _ in stores)
    assert (opened.uids, opened.first_unseen_uid, opened.keywords) == (
        other_opened.uids,
        other_opened.first_unseen_uid,
        other_opened.keywords,
    )
    assert follower.open_mailbox(user, "INBOX") == opened
    before, usage = store.list_mailboxes(user), store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user) == before


def test_the_journals_notes_of_changes_are_trimmed_too(
    store: MongoStore, mongo: Mongo, user: str, inbox: Mailbox
) -> None:
    start = store.append(user, "INBOX", [a_message()] * 100).modseq
    store.store_flags(inbox.id, ALL, FlagChange("add", SEEN))
    assert mongo.database[VANISHED].count_documents({}) == 1
    assert store.trim_journal(older_than_s=-10) == 1
    assert mongo.database[VANISHED].count_documents({}) == 0
    with pytest.raises(errors.Outdated):
        store.changes_since(inbox.id, start)
    assert store.changes_since(inbox.id, start + 1).rows == ()


# -- goes of a queue


def appending(store: MongoStore, user: str, path: str, *, spoil: bool = False) -> Change[int]:
    """A change that counts a message in, in the middle of which it fails if told to."""

    def run(unit: Unit) -> int:
        box = unit.box_at(path)
        box.add({"messages": 1})
        unit.writes += 1
        if spoil:
            raise errors.OverQuota("in the middle")
        found: int = box.now["messages"]
        return found

    return Change(run=run)


def test_a_call_that_fails_before_it_writes_fails_alone(
    store: MongoStore, mongo: Mongo, user: str, inbox: Mailbox
) -> None:
    writer = Writer(mongo, KnownMailboxes())
    good, bad = appending(store, user, "INBOX"), appending(store, user, "Nowhere")
    commits = mongo.statistics.commits
    outcomes = writer._run(user, [good, bad, good])
    assert [outcome.value for outcome in outcomes] == [1, None, 2]
    assert isinstance(outcomes[1].error, errors.NotFound)
    assert mongo.statistics.commits == commits + 1
    assert store.get_mailbox(inbox.id).messages == 2


def test_a_call_that_fails_half_done_takes_nobody_with_it(
    store: MongoStore, mongo: Mongo, user: str, inbox: Mailbox
) -> None:
    writer = Writer(mongo, KnownMailboxes())
    good = appending(store, user, "INBOX")
    outcomes = writer._run(user, [good, appending(store, user, "INBOX", spoil=True), good])
    assert [outcome.value for outcome in outcomes] == [1, None, 2]
    assert isinstance(outcomes[1].error, errors.OverQuota)
    now = store.get_mailbox(inbox.id)
    assert (now.messages, now.highest_modseq) == (2, inbox.highest_modseq)


def test_a_go_without_changes_commits_nothing(
    store: MongoStore, mongo: Mongo, user: str, inbox: Mailbox
) -> None:
    commits = mongo.statistics.commits
    with pytest.raises(errors.OverQuota):
        store.append(user, "INBOX", [a_message()], quota_bytes=99)
    assert store.expunge(inbox.id).uids == UidSet()
    assert store.store_flags(inbox.id, ALL, FlagChange("add", SEEN)).modseq == inbox.highest_modseq
    assert mongo.statistics.commits == commits
    assert store.get_mailbox(inbox.id) == inbox


def test_one_deadline_binds_all_steps_of_a_call(
    store: MongoStore, user: str, inbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []

    def noted(step: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object) -> object:
            with bounded(1000) as moment:
                ends.append(moment)
            return step(*args)

        return run

    monkeypatch.setattr(MongoBlobs, "put", noted(MongoBlobs.put))
    monkeypatch.setattr(Writer, "do", noted(Writer.do))
    blob = BlobData(hashlib.sha256(b"x").digest(), 1, ((False, b"x"),))
    store.append(user, "INBOX", [a_message(blobs=(blob.digest,))], blobs=[blob])
    assert len(ends) == 2
    assert ends[0] == ends[1] < time.monotonic() + 5


# -- removals


def test_a_sweep_that_was_cut_short_is_finished(
    store: MongoStore, mongo: Mongo, user: str, inbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"attachment"
    blob = BlobData(hashlib.sha256(data).digest(), len(data), ((False, data),))
    store.put_blobs([blob])
    store.append(user, "Trash", [a_message(blobs=(blob.digest,))] * 30)
    trash = store.find_mailbox(user, "Trash")
    store.store_flags(trash.id, UidSet([(1, 3)]), FlagChange("add", DELETED))
    store.expunge(trash.id)
    store.delete_mailbox(user, "Trash")

    def hangs(*_: object) -> None:
        raise errors.Unavailable("hangs", what="mongodb")

    with monkeypatch.context() as patched:
        patched.setattr(MongoBlobs, "mark", hangs)
        with pytest.raises(errors.Unavailable):
            store.sweep_deleted(limit=10)
    assert mongo.database[MESSAGES].count_documents({"mailbox": trash.id}) == 27
    steps = [store.sweep_deleted(limit=10) for _ in range(4)]
    assert steps == [10, 10, 9, 0]  # 27 messages, an entry of the journal, the grave
    for name in (MESSAGES, VANISHED):
        assert mongo.database[name].count_documents({"mailbox": trash.id}) == 0
    assert mongo.database[GRAVES].count_documents({}) == 0
    assert store.collect_blobs(unused_for_s=-1, limit=10) == 1


def test_a_large_copy_comes_in_parts(
    store: MongoStore, user: str, inbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_COPIED_AT_ONCE", 7)
    store.append(user, "INBOX", [a_message(flags=n % 32) for n in range(30)])
    copied = store.copy(inbox.id, ALL, "INBOX")
    assert copied.targets.uids == tuple(range(31, 61))
    assert [row.flags for row in store.fetch(inbox.id, ALL, Columns.NONE)] == [n % 32 for n in range(30)] * 2
    with pytest.raises(errors.OverQuota):
        store.copy(inbox.id, ALL, "Trash", quota_bytes=8000)
    assert store.find_mailbox(user, "Trash").messages == 0
    assert store.usage(user).messages == 60


def test_uids_in_very_many_ranges(store: MongoStore, user: str, inbox: Mailbox) -> None:
    store.append(user, "INBOX", [a_message() for _ in range(400)])
    odd = UidSet.of(range(1, 401, 2))
    wide = odd | UidSet([(500, MAX_UID)])
    for uids in (odd, wide):
        assert [row.uid for row in store.fetch(inbox.id, uids, Columns.NONE, limit=400)] == list(odd)
    assert store.store_flags(inbox.id, odd, FlagChange("add", DELETED)).modseq > inbox.highest_modseq
    assert store.expunge(inbox.id, UidSet([(1, 201)])).uids == odd.between(1, 201)
    assert store.open_mailbox(user, "INBOX").mailbox.deleted == 99
