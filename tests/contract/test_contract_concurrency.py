"""The contract under threads: order of uids, atomic counters, one moment per read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from contract_make import make_message

from wd_trio.mail.model import DELETED, SEEN, Columns, FlagChange, Mailbox
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.limits import Limits
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def test_no_uid_is_seen_before_a_smaller_one(store: MailStore, user: str, inbox: Mailbox) -> None:
    done = Event()

    def append(count: int) -> list[int]:
        return [store.append(user, "INBOX", [make_message()]).uids[0] for _ in range(count)]

    def watch() -> int:
        looks = 0
        while not done.is_set():
            opened = store.open_mailbox(user, "INBOX")
            assert opened.uids is not None
            assert len(opened.uids) == opened.mailbox.messages == opened.mailbox.uid_next - 1
            assert opened.uids.last == opened.mailbox.messages
            changes = store.changes_since(inbox.id, opened.mailbox.highest_modseq)
            assert [row.uid for row in changes.rows] == list(range(opened.mailbox.uid_next, changes.uid_next))
            looks += 1
        return looks

    with ThreadPoolExecutor(6) as pool:
        watcher = pool.submit(watch)
        try:
            uids = [uid for part in pool.map(append, [25] * 4) for uid in part]
        finally:
            done.set()
        assert watcher.result() > 0
    assert sorted(uids) == list(range(1, 101))


def test_counters_stay_right_under_racing_changes(store: MailStore, user: str, inbox: Mailbox) -> None:
    def change(worker: int) -> None:
        for n in range(12):
            store.append(user, "INBOX", [make_message(flags=DELETED if n % 3 == 0 else 0)])
            store.store_flags(
                inbox.id, UidSet([(worker, worker + 20)]), FlagChange("add", SEEN, f"w{worker}")
            )
            if n % 4 == 3:
                store.expunge(inbox.id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(1, 5)))
    before, usage = store.list_mailboxes(user), store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user) == before
    assert store.get_mailbox(inbox.id).uid_next == 4 * 12 + 1
    modseqs = [row.modseq for row in store.fetch(inbox.id, ALL, Columns.NONE)]
    assert max(modseqs) <= store.get_mailbox(inbox.id).highest_modseq


def test_of_racing_conditional_stores_one_wins_each_message(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    known = store.append(user, "INBOX", [make_message() for _ in range(12)]).modseq

    def claim(worker: int) -> list[int]:
        won: list[int] = []
        for uid in range(1, 13):
            taken = FlagChange("add", 0, f"claimed-by-{worker}")
            stored = store.store_flags(inbox.id, UidSet([(uid, uid)]), taken, unchanged_since=known)
            assert [row.uid for row in stored.rows] + list(stored.failed) == [uid]
            won += [row.uid for row in stored.rows]
        return won

    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(claim, range(4)))
    assert sorted(uid for won in claims for uid in won) == list(range(1, 13))
    owners = {row.uid: row.keywords for row in store.fetch(inbox.id, ALL, Columns.NONE)}
    assert owners == {uid: f"claimed-by-{worker}" for worker, won in enumerate(claims) for uid in won}


def test_racing_first_deliveries_make_the_mailboxes_once(store: MailStore) -> None:
    user = new_id()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.append(user, "INBOX", [make_message()], create=True), range(8)))
    assert [box.path for box in store.list_mailboxes(user)] == [
        "INBOX",
        "Drafts",
        "Junk",
        "Sent Mail",
        "Trash",
    ]
    assert store.find_mailbox(user, "INBOX").messages == 8


def test_racing_claims_never_pass_the_limit(limits: Limits) -> None:
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda n: limits.claim("k", f"h{n}", owner="s/1", most=5), range(20)))
    assert sum(given) == limits.claims("k") == 5
