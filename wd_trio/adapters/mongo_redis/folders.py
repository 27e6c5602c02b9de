"""Whole mailboxes and whole messages on the move: DELETE, RENAME, COPY, MOVE; and the removal of what a user had.

A copy is a copy of the document, email id and thread id included (RFC 8474). A move changes the document's mailbox
and uid where it lies. A mailbox that is removed goes at once, in a transaction; graves.py sweeps up after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from pymongo import UpdateMany, UpdateOne

from wd_trio import errors
from wd_trio.adapters.mongo_redis import graves, mailboxes
from wd_trio.adapters.mongo_redis.layout import (
    BY_UID,
    MAILBOXES,
    MESSAGES,
    SUBSCRIPTIONS,
    Document,
)
from wd_trio.adapters.mongo_redis.messages import come_in, first_uid, go_out
from wd_trio.adapters.mongo_redis.mongo import CALL_S, bounded
from wd_trio.adapters.mongo_redis.shared import Shared, missing
from wd_trio.adapters.mongo_redis.work import Box, Guess, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import SEPARATOR, Appended, Copied, Expunged, FlagRow, MailboxSpec
from wd_trio.mail.names import INBOX, stored_path
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet
from wd_trio.mail.outcome import Origin

_EVERY_UID: Final = UidSet([(1, MAX_UID)])
_MOVED: Final = {"_id": 0, "uid": 1, "flags": 1, "keywords": 1, "size": 1}
_COPIED_AT_ONCE: Final = 200  # documents, of about 3 KB and at most some 100 KB each

# -- DELETE


def delete(shared: Shared, user_id: str, path: str, origin: Origin | None) -> str:
    """Take a mailbox away, with what is in it; its id. Denied for INBOX."""
    path = stored_path(path)

    def run(unit: Unit) -> str:
        unit.lock_structure()
        box = unit.box_at(path)
        if path == INBOX:
            raise errors.Denied("INBOX stays", what="mailbox")
        graves.dig(unit, [box.id])
        unit.account(-box.now["bytes"], -box.now["messages"])
        unit.collection(MAILBOXES).delete_one({"_id": box.id, "user": user_id}, session=unit.session)
        unit.leave(box)
        return box.id

    mailbox_id = shared.writer.do(user_id, Change(run=run, origin=origin, alone=True))
    shared.disown(mailbox_id)
    return mailbox_id


def delete_all(shared: Shared, user_id: str) -> int:
    """Take away a user's mailboxes with all that is in them, and the subscriptions; how many messages there were."""

    def run(unit: Unit) -> list[Document]:
        unit.lock_structure()
        here = mailboxes.documents_of(unit)
        if here:
            graves.dig(unit, [document["_id"] for document in here])
        for name in (MAILBOXES, SUBSCRIPTIONS):
            unit.collection(name).delete_many({"user": user_id}, session=unit.session)
        unit.forget_account()
        return here

    gone = shared.writer.do(user_id, Change(run=run, alone=True))
    for document in gone:
        shared.disown(document["_id"])
    return sum(document["messages"] for document in gone)


# -- RENAME


def rename(shared: Shared, user_id: str, source: str, target: str, origin: Origin | None) -> list[str]:
    """Give a mailbox and its children new paths; the ids of all of them in order of path. For INBOX, its own id
    and that of the mailbox that was made for its messages. Invalid for a target within the source."""
    source, target = stored_path(source), stored_path(target)

    def run(unit: Unit) -> list[str]:
        unit.lock_structure()
        if source == INBOX:
            inbox = unit.box_at(INBOX)
            made = mailboxes.create(unit, MailboxSpec(target, subscribed=False))
            _move(unit, inbox, unit.box_at(target), _EVERY_UID)
            return [inbox.id, made.id]
        return _rename(unit, source, target)

    return shared.writer.do(user_id, Change(run=run, origin=origin, alone=True))


def _rename(unit: Unit, source: str, target: str) -> list[str]:
    here = mailboxes.documents_of(unit)
    # Shorter paths first: where a child takes a path of the family's own, its holder has left it before.
    family = sorted(
        (document["path"], document["_id"])
        for document in here
        if document["path"] == source or document["path"].startswith(source + SEPARATOR)
    )
    if not family or family[0][0] != source:
        raise errors.NotFound(f"user {unit.user_id} has no such mailbox", what="mailbox")
    if target.startswith(source + SEPARATOR):
        raise errors.Invalid("a mailbox cannot move into itself", what="mailbox")
    family.sort(key=lambda member: (len(member[0]), member[0]))
    moved = [(target + path[len(source) :], mailbox_id) for path, mailbox_id in family]
    others = {document["path"] for document in here} - {path for path, _ in family}
    if source == target or not others.isdisjoint(path for path, _ in moved):
        raise errors.Conflict("a mailbox of that path exists", what="mailbox")
    names = mailboxes.subscribed_among(unit, [path for path, _ in moved])
    unit.writes += 1
    unit.collection(MAILBOXES).bulk_write(
        [
            UpdateOne(
                {"_id": mailbox_id, "user": unit.user_id},
                {"$set": {"path": path, "subscribed": path in names}},
            )
            for path, mailbox_id in moved
        ],
        session=unit.session,
    )
    return [mailbox_id for _, mailbox_id in sorted(moved)]


# -- COPY and MOVE


@bounded(CALL_S)
def copy(
    shared: Shared,
    mailbox_id: str,
    uids: UidSet,
    path: str,
    *,
    quota_bytes: int | None,
    move: bool,
    origin: Origin | None,
) -> Copied:
    """Copy, or move, the living messages among `uids` in order. Onto the source itself, a move takes two modseqs:
    the new messages the first, the expunge of the old ones the second."""
    path = stored_path(path)
    user_id = shared.owner(mailbox_id)

    def run(unit: Unit) -> Copied:
        if move:
            source = unit.box(mailbox_id)
            return _move(unit, source, _target(unit, path), uids)
        target = _target(unit, path)
        copied = _copy(unit, (user_id, mailbox_id), target, uids, quota_bytes)
        if not copied.sources:
            _require(unit, mailbox_id)
        return copied

    guess = Guess(("_id", mailbox_id) if move else ("path", path), {"modseq": 1})
    return shared.writer.do(user_id, Change(run=run, guess=guess, origin=origin))


def _target(unit: Unit, path: str) -> Box:
    box = unit.find_box(path)
    if box is None:
        raise errors.NotFound(f"user {unit.user_id} has no such mailbox", what="target")
    return box


def _require(unit: Unit, mailbox_id: str) -> None:
    which = {"_id": mailbox_id, "user": unit.user_id}
    if unit.collection(MAILBOXES).find_one(which, {"_id": 1}, session=unit.session) is None:
        raise missing(mailbox_id)


def _copy(unit: Unit, source: tuple[str, str], target: Box, uids: UidSet, quota_bytes: int | None) -> Copied:
    rows: list[FlagRow] = []
    sources: list[int] = []
    size = 0
    uid, modseq = target.now["uidNext"], target.modseq + 1
    living = uids.between(1, uid - 1) if target.place == source else uids  # not what is copied onto itself
    for documents in _batched(unit.find(source, living, None)):
        added = sum(document["size"] for document in documents)
        unit.require_room(added, quota_bytes)
        for document in documents:
            del document["_id"]
            sources.append(document["uid"])
            document |= {
                "mailbox": target.id,
                "uid": uid,
                "modseq": modseq,
                "noted": modseq,
                "saved": unit.now,
            }
            rows.append(FlagRow(uid, modseq, document["flags"], document["keywords"]))
            uid += 1
        first_uid(target, len(rows))
        unit.account(added, len(documents))
        unit.insert(documents)
        unit.settle()
        size += added
    return Copied(tuple(sources), come_in(unit, target, rows, size))


def _batched(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _COPIED_AT_ONCE)):
        yield batch


def _move(unit: Unit, source: Box, target: Box, uids: UidSet) -> Copied:
    found = list(unit.find(source.place, uids, _MOVED))
    if not found:
        return Copied((), come_in(unit, target, (), 0), Expunged(source.modseq, source.modseq, EMPTY))
    uid, modseq = first_uid(target, len(found)), target.modseq + 1
    rows = [
        FlagRow(uid + place, modseq, document["flags"], document["keywords"])
        for place, document in enumerate(found)
    ]
    _move_documents(unit, source, target, UidSet.of(document["uid"] for document in found), uid)
    came: Appended = come_in(unit, target, rows, sum(document["size"] for document in found))
    previous = source.modseq
    gone = go_out(unit, source, found)
    return Copied(tuple(document["uid"] for document in found), came, Expunged(previous, source.modseq, gone))


def _move_documents(unit: Unit, source: Box, target: Box, going: UidSet, first_uid: int) -> None:
    """Give the messages `going` the uids from `first_uid` on, at the target's next modseq: one statement for each
    range, whose messages keep their distances."""
    user_id, mailbox_id = source.place
    at = target.modseq + 1
    base: Document = {"mailbox": target.id, "modseq": at, "noted": at, "saved": unit.now}
    unit.writes += 1
    unit.collection(MESSAGES).bulk_write(
        [
            UpdateMany(
                {"user": user_id, "mailbox": mailbox_id, "uid": {"$gte": first, "$lte": last}},
                [{"$set": base | {"uid": {"$add": ["$uid", first_uid + going.index(first) - first]}}}],
                hint=list(BY_UID),
            )
            for first, last in going.ranges()
        ],
        session=unit.session,
    )
