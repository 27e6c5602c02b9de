"""Many writers, in threads and in processes, on one mailbox and on one user."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import mongo_store_support
import pytest
from cluster_house import fresh_mongo
from mongo_store_support import a_message

from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.errors import Uncertain
from wd_trio.mail.model import DEFAULT_MAILBOXES, DELETED, FLAGGED, SEEN, FlagChange, Usage
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id

ALL = UidSet([(1, MAX_UID)])
PROGRAM = Path(mongo_store_support.__file__)


@pytest.fixture
def mongo() -> Mongo:
    return fresh_mongo(time.time)


def watch(store: MongoStore, user: str, done: Event) -> int:
    """Look at INBOX over and over: what is there is always all below the next uid."""
    looks = 0
    while not done.is_set():
        seen = store.open_mailbox(user, "INBOX")
        assert seen.uids is not None
        assert len(seen.uids) == seen.mailbox.messages == seen.mailbox.uid_next - 1
        flags = store.flags(seen.mailbox.id, ALL)
        assert flags.uids == UidSet([(1, len(flags))])
        assert len(flags) >= len(seen.uids)
        changes = store.changes_since(seen.mailbox.id, seen.mailbox.highest_modseq)
        assert [row.uid for row in changes.rows] == list(range(seen.mailbox.uid_next, changes.uid_next))
        looks += 1
    return looks


def test_what_may_have_been_committed_is_told_as_that(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    store, user = MongoStore(mongo), new_id()
    store.ensure_mailboxes(user, DEFAULT_MAILBOXES)

    def uncertain(_: object) -> None:
        raise Uncertain("no answer to the commit", what="mongodb")

    monkeypatch.setattr(mongo, "transaction", uncertain)
    with pytest.raises(Uncertain):
        store.append(user, "INBOX", [a_message()])


def test_sixteen_appenders_in_four_processes_beside_a_watcher(mongo: Mongo, mongo_url: str) -> None:
    store, user, done = MongoStore(mongo), new_id(), Event()
    store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    command = [sys.executable, str(PROGRAM), mongo_url, user, "4", "15"]
    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch, store, user, done)
        try:
            started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
            reports = [json.loads(process.communicate()[0]) for process in started]
        finally:
            done.set()
        assert watcher.result() > 0
    assert sorted(uid for report in reports for uid in report["uids"]) == list(range(1, 241))
    commits = sum(report["commits"] for report in reports)
    assert sum(report["aborts"] for report in reports) < commits <= 240
    assert store.find_mailbox(user, "INBOX").messages == 240
    assert store.usage(user).messages == 240


def test_first_deliveries_in_several_processes_make_the_mailboxes_once(mongo: Mongo, mongo_url: str) -> None:
    store, user = MongoStore(mongo), new_id()
    command = [sys.executable, str(PROGRAM), mongo_url, user, "2", "2"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    reports = [json.loads(process.communicate()[0]) for process in started]
    assert sorted(uid for report in reports for uid in report["uids"]) == list(range(1, 13))
    assert [box.path for box in store.list_mailboxes(user)] == [
        "INBOX",
        "Drafts",
        "Junk",
        "Sent Mail",
        "Trash",
    ]
    assert store.usage(user) == Usage(1200, 12)


def test_two_stores_see_each_others_changes(mongo: Mongo) -> None:
    """What one process knows of a mailbox follows what another one does to it."""
    one, two, user = MongoStore(mongo), MongoStore(mongo), new_id()
    inbox = one.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0]
    one.append(user, "INBOX", [a_message(flags=n % 2) for n in range(200)])
    for store in (one, two):
        assert len(store.flags(inbox.id, ALL)) == 200  # known to both from here on
    two.store_flags(inbox.id, UidSet([(5, 9)]), FlagChange("add", SEEN | DELETED, "word"))
    two.expunge(inbox.id, UidSet([(6, 7)]))
    two.append(user, "INBOX", [a_message(keywords="new")])
    two.copy(inbox.id, UidSet([(1, 3)]), "INBOX", move=True)
    mine, others = one.flags(inbox.id, ALL), two.flags(inbox.id, ALL)
    assert mine == others
    assert mine == MongoStore(mongo).flags(inbox.id, ALL)
    seen = one.open_mailbox(user, "INBOX")
    assert seen.uids == UidSet([(4, 5), (8, 204)])
    assert seen.first_unseen_uid == next(row.uid for row in mine if not row.flags & SEEN)
    one.store_flags(inbox.id, ALL, FlagChange("set", SEEN))
    assert two.open_mailbox(user, "INBOX").first_unseen_uid == 0


@pytest.mark.parametrize("count", [3, 200])
def test_a_change_starts_from_what_another_store_did(mongo: Mongo, count: int) -> None:
    """What a store knows of a mailbox is brought forward within its own transaction."""
    one, two, user = MongoStore(mongo), MongoStore(mongo), new_id()
    inbox = one.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0]
    one.append(user, "INBOX", [a_message() for _ in range(200)])
    assert len(one.flags(inbox.id, ALL)) == 200
    two.store_flags(inbox.id, UidSet([(1, count)]), FlagChange("add", FLAGGED | DELETED))
    two.expunge(inbox.id, UidSet([(2, 2)]))
    two.append(user, "INBOX", [a_message()])
    stored = one.store_flags(inbox.id, ALL, FlagChange("remove", DELETED))
    assert [row.uid for row in stored.rows] == [1, *range(3, 202)]
    assert [row.uid for row in stored.rows if row.flags & FLAGGED] == [1, *range(3, count + 1)]
    assert list(one.flags(inbox.id, ALL)) == list(MongoStore(mongo).flags(inbox.id, ALL))


def test_writers_of_one_users_mailboxes_do_not_disturb_each_other(mongo: Mongo) -> None:
    store, user = MongoStore(mongo), new_id()
    boxes = store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    aborts = mongo.statistics.aborts

    def change(worker: int) -> None:
        path = boxes[worker % len(boxes)].path
        for _ in range(5):
            store.append(user, path, [a_message(flags=DELETED)], quota_bytes=1 << 20)
            store.copy(boxes[0].id, UidSet([(1, 1)]), path)
            store.expunge(boxes[worker % len(boxes)].id, UidSet([(worker, worker)]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    assert mongo.statistics.aborts == aborts
    before, usage = store.list_mailboxes(user), store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user) == before
