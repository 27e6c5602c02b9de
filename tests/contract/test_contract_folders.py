"""The contract of mailboxes on the move: CREATE, DELETE, RENAME, subscriptions, COPY, MOVE."""

from __future__ import annotations

import pytest
from contract_make import Clock, make_blob, make_message, sweep

from wd_trio import errors
from wd_trio.mail.model import (
    DELETED,
    FLAGGED,
    SEEN,
    Changes,
    Columns,
    FlagChange,
    Mailbox,
    MailboxSpec,
    MessageRow,
    Usage,
    Vanished,
)
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore

ALL = UidSet([(1, MAX_UID)])


def rows(store: MailStore, mailbox: Mailbox, columns: Columns = Columns.NONE) -> list[MessageRow]:
    return store.fetch(mailbox.id, ALL, columns)


def paths(store: MailStore, user: str) -> list[str]:
    return [box.path for box in store.list_mailboxes(user)]


def counters_are_right(store: MailStore, user: str) -> None:
    boxes, usage = store.list_mailboxes(user), store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user) == boxes


# -- CREATE


def test_create_makes_one_mailbox(store: MailStore, user: str, inbox: Mailbox) -> None:
    made = store.create_mailbox(user, MailboxSpec("Work/Ä", "\\Archive", subscribed=False))
    assert made == store.find_mailbox(user, "Work/Ä") == store.get_mailbox(made.id)
    assert (made.special_use, made.subscribed, made.messages, made.uid_next) == ("\\Archive", False, 0, 1)
    assert made.uid_validity > inbox.uid_validity
    assert "Work" not in paths(store, user)


def test_create_refuses_what_is_there(store: MailStore, user: str, inbox: Mailbox) -> None:
    before = store.list_mailboxes(user)
    for spec, what in (
        (MailboxSpec("Trash"), "mailbox"),
        (MailboxSpec("inbox"), "mailbox"),
        (MailboxSpec("Bin", "\\Trash"), "special use"),
    ):
        with pytest.raises(errors.Conflict) as caught:
            store.create_mailbox(user, spec)
        assert caught.value.what == what
    assert store.list_mailboxes(user) == before


def test_the_first_mailbox_brings_inbox(store: MailStore, user: str) -> None:
    store.create_mailbox(user, MailboxSpec("First"))
    assert paths(store, user) == ["INBOX", "First"]


# -- DELETE


def test_delete_removes_a_mailbox_with_its_messages_and_not_its_children(
    store: MailStore, user: str, inbox: Mailbox
) -> None:
    gone = store.create_mailbox(user, MailboxSpec("a"))
    store.create_mailbox(user, MailboxSpec("a/b"))
    store.append(user, "a", [make_message(size=10, flags=DELETED), make_message(size=20)])
    store.append(user, "a/b", [make_message(size=5)])
    store.expunge(gone.id)
    assert store.delete_mailbox(user, "a") == gone.id
    assert {"a", "a/b"} & set(paths(store, user)) == {"a/b"}
    assert store.usage(user) == Usage(5, 1)
    for call in (
        lambda: store.get_mailbox(gone.id),
        lambda: store.changes_since(gone.id, 1),
        lambda: store.fetch(gone.id, ALL, Columns.NONE),
        lambda: store.delete_mailbox(user, "a"),
    ):
        with pytest.raises(errors.NotFound):
            call()
    counters_are_right(store, user)


def test_a_mailbox_made_again_is_another_one(store: MailStore, user: str, inbox: Mailbox) -> None:
    first = store.create_mailbox(user, MailboxSpec("a"))
    store.append(user, "a", [make_message()])
    store.delete_mailbox(user, "a")
    again = store.create_mailbox(user, MailboxSpec("a"))
    assert again.id != first.id
    assert again.uid_validity > first.uid_validity
    assert rows(store, again) == []
    assert store.changes_since(again.id, again.highest_modseq).vanished == ()


def test_inbox_is_never_deleted(store: MailStore, user: str, inbox: Mailbox) -> None:
    with pytest.raises(errors.Denied):
        store.delete_mailbox(user, "inbox")
    assert store.get_mailbox(inbox.id) == inbox


def test_blobs_of_a_deleted_mailbox_can_be_collected_but_not_those_of_copies(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    mine, shared = make_blob(b"mine" * 99), make_blob(b"shared" * 99)
    store.create_mailbox(user, MailboxSpec("a"))
    store.append(user, "a", [make_message(blobs=(mine.digest,))], blobs=[mine])
    store.append(user, "a", [make_message(blobs=(shared.digest,))], blobs=[shared])
    store.copy(store.find_mailbox(user, "a").id, UidSet([(2, 2)]), "INBOX")
    store.delete_mailbox(user, "a")
    sweep(store)
    clock.move(100)
    assert store.collect_blobs(unused_for_s=50, limit=10) == 1
    assert store.has_blobs([mine.digest, shared.digest]) == {shared.digest}
    [row] = rows(store, inbox, Columns.ROPE)
    assert row.blobs == {shared.digest: b"shared" * 99}


# -- RENAME


def test_rename_takes_the_children_along(store: MailStore, user: str, inbox: Mailbox) -> None:
    for path in ("a", "a/b", "a/b/c", "ab", "a b"):
        store.create_mailbox(user, MailboxSpec(path))
    store.append(user, "a/b", [make_message("kept", flags=SEEN)])
    before = {box.path: box for box in store.list_mailboxes(user)}
    ids = store.rename_mailbox(user, "a", "x/y")
    after = {box.path: box for box in store.list_mailboxes(user)}
    assert {"x/y", "x/y/b", "x/y/b/c", "ab", "a b"} <= set(after)
    assert ids == [before[path].id for path in ("a", "a/b", "a/b/c")]
    for old, new in (("a", "x/y"), ("a/b", "x/y/b"), ("ab", "ab")):
        for field in ("id", "uid_validity", "uid_next", "highest_modseq", "messages"):
            assert getattr(before[old], field) == getattr(after[new], field)
    assert [row.flags for row in rows(store, after["x/y/b"])] == [SEEN]


def test_rename_may_go_up_through_the_familys_own_paths(store: MailStore, user: str, inbox: Mailbox) -> None:
    ids = [store.create_mailbox(user, MailboxSpec(path)).id for path in ("a/b", "a/b/b", "a/b/b/b", "a/b/c")]
    assert store.rename_mailbox(user, "a/b", "a") == ids
    assert [store.get_mailbox(box).path for box in ids] == ["a", "a/b", "a/b/b", "a/c"]


def test_rename_refuses_taken_paths_and_changes_nothing(store: MailStore, user: str, inbox: Mailbox) -> None:
    for path in ("a", "a/b", "c/b"):
        store.create_mailbox(user, MailboxSpec(path))
    before = store.list_mailboxes(user)
    for source, target in (("a", "Trash"), ("a", "c"), ("a", "a"), ("a", "inbox"), ("INBOX", "a")):
        with pytest.raises(errors.Conflict):
            store.rename_mailbox(user, source, target)
    with pytest.raises(errors.Invalid):
        store.rename_mailbox(user, "a", "a/b/d")
    for source in ("c", "nowhere"):
        with pytest.raises(errors.NotFound):
            store.rename_mailbox(user, source, "new")
    assert store.list_mailboxes(user) == before


def test_renaming_inbox_moves_its_messages_and_keeps_it(store: MailStore, user: str, inbox: Mailbox) -> None:
    child = store.create_mailbox(user, MailboxSpec("INBOX/child"))
    store.append(
        user,
        "INBOX",
        [make_message("one", flags=SEEN), make_message("two", keywords="k"), make_message(flags=DELETED)],
    )
    store.expunge(inbox.id)
    before = store.get_mailbox(inbox.id)
    ids = store.rename_mailbox(user, "Inbox", "old")
    moved, now = store.find_mailbox(user, "old"), store.find_mailbox(user, "INBOX")
    assert ids == [inbox.id, moved.id]
    assert (now.id, now.messages, now.unseen, now.size_bytes) == (inbox.id, 0, 0, 0)
    assert now.uid_next == before.uid_next
    assert store.changes_since(inbox.id, before.highest_modseq).vanished == (
        Vanished(now.highest_modseq, UidSet([(1, 2)])),
    )
    assert [
        (row.uid, row.flags, row.keywords, row.preview) for row in rows(store, moved, Columns.PREVIEW)
    ] == [
        (1, SEEN, "", "preview of one"),
        (2, 0, "k", "preview of two"),
    ]
    assert store.get_mailbox(child.id).path == "INBOX/child"
    assert store.usage(user) == Usage(200, 2)
    counters_are_right(store, user)


def test_an_empty_inbox_can_be_renamed(store: MailStore, user: str, inbox: Mailbox) -> None:
    store.rename_mailbox(user, "INBOX", "old")
    assert store.find_mailbox(user, "old").messages == 0
    assert store.get_mailbox(inbox.id) == inbox


# -- subscriptions


def test_subscriptions_are_names_that_outlive_mailboxes(store: MailStore, user: str, inbox: Mailbox) -> None:
    defaults = ["INBOX", "Drafts", "Junk", "Sent Mail", "Trash"]
    assert store.subscriptions(user) == defaults
    store.subscribe(user, "no/such", subscribed=True)
    store.subscribe(user, "no/such", subscribed=True)
    store.subscribe(user, "inbox", subscribed=False)
    store.subscribe(user, "never", subscribed=False)
    assert store.subscriptions(user) == [*defaults[1:], "no/such"]
    assert store.find_mailbox(user, "INBOX").subscribed is False
    assert store.create_mailbox(user, MailboxSpec("no/such", subscribed=False)).subscribed is True
    store.delete_mailbox(user, "no/such")
    store.rename_mailbox(user, "Trash", "Bin")
    assert store.subscriptions(user) == [*defaults[1:], "no/such"]
    assert {box.path: box.subscribed for box in store.list_mailboxes(user)}["Bin"] is False
    store.subscribe(user, "Inbox", subscribed=True)
    assert store.subscriptions(user)[0] == "INBOX"
    assert store.open_mailbox(user, "INBOX").mailbox.subscribed is True


def test_subscriptions_are_a_users_own_and_go_with_it(store: MailStore, user: str, inbox: Mailbox) -> None:
    other = new_id()
    store.subscribe(other, "x", subscribed=True)
    store.delete_user_mail(user)
    assert store.subscriptions(user) == []
    assert store.subscriptions(other) == ["x"]


# -- COPY and MOVE


def make_some(store: MailStore, user: str) -> None:
    store.append(
        user,
        "INBOX",
        [
            make_message("one", flags=SEEN | DELETED, keywords="b $A", size=10, internal_date=111),
            make_message("two", size=20, internal_date=222),
            make_message("three", flags=FLAGGED, size=30, internal_date=333),
        ],
    )


def test_copy_brings_flags_dates_and_contents(
    store: MailStore, user: str, inbox: Mailbox, clock: Clock
) -> None:
    make_some(store, user)
    store.append(user, "Trash", [make_message(size=1)])
    target, source = store.find_mailbox(user, "Trash"), store.get_mailbox(inbox.id)
    clock.move(77)
    copied = store.copy(inbox.id, UidSet([(3, 9), (1, 1)]), "Trash")
    assert copied.sources == (1, 3)
    assert copied.gone is None
    new = copied.targets
    assert (new.mailbox_id, new.user_id, new.uid_validity) == (target.id, user, target.uid_validity)
    assert (new.uids, new.previous_modseq, new.modseq) == (
        (2, 3),
        target.highest_modseq,
        target.highest_modseq + 1,
    )
    assert [(row.uid, row.flags, row.keywords) for row in new.rows] == [
        (2, SEEN | DELETED, "$A b"),
        (3, FLAGGED, ""),
    ]
    everything = Columns.ENVELOPE | Columns.HEADER | Columns.ROPE | Columns.IDS | Columns.PREVIEW
    old = {row.preview: row for row in rows(store, inbox, everything)}
    for row in rows(store, target, everything)[1:]:
        twin = old[row.preview]
        for field in ("flags", "keywords", "internal_date", "size", "envelope", "header", "rope"):
            assert getattr(row, field) == getattr(twin, field)
        assert (row.email_id, row.thread_id) == (twin.email_id, twin.thread_id)
        assert row.saved_date == int(clock.now)
        assert twin.saved_date == int(clock.now) - 77
    assert store.get_mailbox(inbox.id) == source
    assert store.usage(user) == Usage(101, 6)
    assert store.open_mailbox(user, "Trash").keywords == "$A b"
    counters_are_right(store, user)


def test_a_copy_lives_on_when_the_original_goes(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    store.copy(inbox.id, UidSet([(1, 1)]), "Trash")
    store.expunge(inbox.id)
    [row] = rows(store, store.find_mailbox(user, "Trash"), Columns.ROPE)
    assert row.rope == b"rope of one"
    counters_are_right(store, user)


def test_copy_onto_the_same_mailbox(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    before = store.get_mailbox(inbox.id)
    copied = store.copy(inbox.id, ALL, "inbox")
    assert (copied.sources, copied.targets.uids) == ((1, 2, 3), (4, 5, 6))
    assert [row.uid for row in rows(store, inbox)] == [1, 2, 3, 4, 5, 6]
    assert store.get_mailbox(inbox.id).highest_modseq == before.highest_modseq + 1
    counters_are_right(store, user)


def test_copy_of_nothing_changes_nothing(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    before = store.list_mailboxes(user)
    for move in (False, True):
        copied = store.copy(inbox.id, UidSet([(7, 9)]), "Trash", move=move)
        assert (copied.sources, copied.targets.uids) == ((), ())
        assert copied.targets.modseq == copied.targets.previous_modseq
        if copied.gone is not None:
            assert (copied.gone.uids, copied.gone.modseq) == (UidSet(), copied.gone.previous_modseq)
        assert (copied.gone is not None) is move
    assert store.list_mailboxes(user) == before


def test_copy_needs_a_target_and_room(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    store.ensure_mailboxes(other := new_id(), [MailboxSpec("Theirs")])
    before = store.list_mailboxes(user)
    with pytest.raises(errors.NotFound) as caught:
        store.copy(inbox.id, ALL, "Theirs", quota_bytes=1)
    assert caught.value.what == "target"
    with pytest.raises(errors.NotFound) as caught:
        store.copy(new_id(), ALL, "Trash")
    assert caught.value.what == "mailbox"
    with pytest.raises(errors.OverQuota):
        store.copy(inbox.id, ALL, "Trash", quota_bytes=119)
    assert store.list_mailboxes(user) == before
    assert store.find_mailbox(other, "Theirs").messages == 0
    store.copy(inbox.id, ALL, "Trash", quota_bytes=120)
    store.copy(inbox.id, ALL, "Junk", quota_bytes=1, move=True)
    assert store.usage(user) == Usage(120, 6)


def test_move_is_a_copy_and_an_expunge_at_once(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    before = store.get_mailbox(inbox.id)
    moved = store.copy(inbox.id, UidSet([(1, 2)]), "Trash", move=True)
    assert (moved.sources, moved.targets.uids) == ((1, 2), (1, 2))
    assert moved.gone is not None
    assert (moved.gone.previous_modseq, moved.gone.modseq, moved.gone.uids) == (
        before.highest_modseq,
        before.highest_modseq + 1,
        UidSet([(1, 2)]),
    )
    assert [row.uid for row in rows(store, inbox)] == [3]
    moved_rows = rows(store, store.find_mailbox(user, "Trash"), Columns.PREVIEW)
    assert [(row.preview, row.flags, row.internal_date) for row in moved_rows] == [
        ("preview of one", SEEN | DELETED, 111),
        ("preview of two", 0, 222),
    ]
    changes = store.changes_since(inbox.id, before.highest_modseq)
    assert changes == Changes(
        before.highest_modseq,
        before.highest_modseq + 1,
        4,
        (),
        (Vanished(before.highest_modseq + 1, UidSet([(1, 2)])),),
    )
    assert store.usage(user) == Usage(60, 3)
    counters_are_right(store, user)


def test_move_onto_the_same_mailbox_gives_new_uids(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    before = store.get_mailbox(inbox.id).highest_modseq
    moved = store.copy(inbox.id, UidSet([(2, 3)]), "INBOX", move=True)
    assert (moved.sources, moved.targets.uids) == ((2, 3), (4, 5))
    assert moved.gone is not None
    # Two changes of one mailbox: what tells of them can be told one after the other.
    assert (moved.targets.previous_modseq, moved.targets.modseq) == (before, before + 1)
    assert (moved.gone.previous_modseq, moved.gone.modseq) == (before + 1, before + 2)
    changes = store.changes_since(inbox.id, before)
    assert [row.uid for row in changes.rows] == [4, 5]
    assert changes.vanished == (Vanished(before + 2, UidSet([(2, 3)])),)
    assert [(row.uid, row.internal_date) for row in rows(store, inbox)] == [(1, 111), (4, 222), (5, 333)]
    counters_are_right(store, user)


def test_a_store_after_a_move_finds_nothing(store: MailStore, user: str, inbox: Mailbox) -> None:
    make_some(store, user)
    store.copy(inbox.id, ALL, "Trash", move=True)
    assert store.store_flags(inbox.id, UidSet([(1, 3)]), FlagChange("add", SEEN)).missing == UidSet([(1, 3)])
    assert store.expunge(inbox.id).uids == UidSet()
