"""Whole mailboxes and whole messages on the move: DELETE, RENAME, COPY, MOVE; and the removal of what a user had.

A copy is a copy of the document, email id and thread id included (RFC 8474). A move changes the document's mailbox
and uid where it lies. A mailbox that is removed goes at once, in a transaction; its messages, however many, go
afterwards, batch by batch, and a grave says so until they have. Whoever comes by, the janitor at the latest, finishes
what was begun.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import structlog
from pymongo import UpdateOne

from wd_trio import errors
from wd_trio.adapters.mongo_redis import mailboxes
from wd_trio.adapters.mongo_redis.layout import (
    BY_UID,
    GRAVES,
    MAILBOXES,
    MESSAGES,
    SUBSCRIPTIONS,
    VANISHED,
    Document,
    canonical_path,
)
from wd_trio.adapters.mongo_redis.messages import come_in, first_uid, go_out
from wd_trio.adapters.mongo_redis.shared import Shared, missing
from wd_trio.adapters.mongo_redis.work import Box, Guess, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import SEPARATOR, Appended, Copied, Expunged, FlagRow, MailboxSpec
from wd_trio.mail.names import INBOX
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet

_log = structlog.get_logger("wd_trio.mongodb")
_EVERY_UID: Final = UidSet([(1, MAX_UID)])
_MOVED: Final = {"_id": 0, "uid": 1, "flags": 1, "keywords": 1, "size": 1}
_COPIED_AT_ONCE: Final = 200  # documents, of about 3 KB and at most some 100 KB each
_BURIED_AT_ONCE: Final = 1000
_BURYING_S: Final = 1.0  # what a call spends on it; the janitor goes on
GRAVES_AT_ONCE: Final = 20

# -- DELETE


def delete(shared: Shared, user_id: str, path: str) -> str:
    """Remove a mailbox, its messages and its journal; its id. Denied for INBOX."""
    path = canonical_path(path)

    def run(unit: Unit) -> Document:
        unit.lock_structure()
        box = unit.box_at(path)
        if path == INBOX:
            raise errors.Denied("INBOX stays", what="mailbox")
        _dig(unit, [box.id])
        unit.account(-box.now["bytes"], -box.now["messages"])
        unit.collection(MAILBOXES).delete_one({"_id": box.id, "user": user_id}, session=unit.session)
        unit.leave(box)
        return {"_id": box.id, "user": user_id}

    grave = shared.writer.do(user_id, Change(run=run, alone=True))
    shared.disown(grave["_id"])
    _bury_now(shared, [grave])
    mailbox_id: str = grave["_id"]
    return mailbox_id


def delete_all(shared: Shared, user_id: str) -> int:
    """Remove a user's mailboxes with all that is in them, and the subscriptions; how many messages there were."""

    def run(unit: Unit) -> int:
        unit.lock_structure()
        here = mailboxes.documents_of(unit)
        unit.writes += 1
        if here:
            _dig(unit, [document["_id"] for document in here])
        for name in (MAILBOXES, SUBSCRIPTIONS):
            unit.collection(name).delete_many({"user": user_id}, session=unit.session)
        unit.forget_account()
        return sum(document["messages"] for document in here)

    count = shared.writer.do(user_id, Change(run=run, alone=True))
    with shared.mongo.reading() as database:
        graves = list(database[GRAVES].find({"user": user_id}))
    for grave in graves:
        shared.disown(grave["_id"])
    _bury_now(shared, graves)
    return count


def _dig(unit: Unit, mailbox_ids: Iterable[str]) -> None:
    unit.collection(GRAVES).insert_many(
        [{"_id": mailbox_id, "user": unit.user_id} for mailbox_id in mailbox_ids], session=unit.session
    )


def _bury_now(shared: Shared, graves: Iterable[Document]) -> None:
    """Remove what lies in graves, as far as time and the engine let us: they stay until all is removed."""
    ends = time.monotonic() + _BURYING_S
    try:
        for grave in graves:
            _bury(shared, grave, ends)
    except errors.Unavailable as error:
        _log.warning("messages_left_for_the_janitor", error=str(error))


def bury(shared: Shared) -> None:
    """Go on with removals that were begun and cut short."""
    ends = time.monotonic() + _BURYING_S
    with shared.mongo.reading() as database:
        graves = list(database[GRAVES].find().limit(GRAVES_AT_ONCE))
    for grave in graves:
        _bury(shared, grave, ends)


def _bury(shared: Shared, grave: Document, ends: float) -> None:
    of_mailbox = {"user": grave["user"], "mailbox": grave["_id"]}
    while time.monotonic() < ends:
        with shared.mongo.reading() as database:
            found = list(
                database[MESSAGES]
                .find(of_mailbox, {"uid": 1, "blobs": 1}, hint=list(BY_UID))
                .sort("uid", 1)
                .limit(_BURIED_AT_ONCE)
            )
            if not found:
                database[VANISHED].delete_many(of_mailbox)
                database[GRAVES].delete_one({"_id": grave["_id"]})
                return
            shared.blobs.mark(digest for document in found for digest in document.get("blobs", ()))
            # By number, not by name: of a mailbox that is gone, none comes between.
            database[MESSAGES].delete_many(
                of_mailbox | {"uid": {"$lte": found[-1]["uid"]}}, hint=list(BY_UID)
            )


# -- RENAME


def rename(shared: Shared, user_id: str, source: str, target: str) -> list[str]:
    """Give a mailbox and its children new paths; the ids of all of them in order of path. For INBOX, its own id
    and that of the mailbox that was made for its messages. Invalid for a target within the source."""
    source, target = canonical_path(source), canonical_path(target)

    def run(unit: Unit) -> list[str]:
        unit.lock_structure()
        if source == INBOX:
            inbox = unit.box_at(INBOX)
            made = mailboxes.create(unit, MailboxSpec(target, subscribed=False))
            _move(unit, inbox, unit.box_at(target), _EVERY_UID)
            return [inbox.id, made.id]
        return _rename(unit, source, target)

    return shared.writer.do(user_id, Change(run=run, alone=True))


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


def copy(
    shared: Shared, mailbox_id: str, uids: UidSet, path: str, *, quota_bytes: int | None, move: bool
) -> Copied:
    """Copy, or move, the living messages among `uids` in order. Onto the source itself, a move takes two modseqs:
    the new messages the first, the expunge of the old ones the second."""
    path = canonical_path(path)
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
    return shared.writer.do(user_id, Change(run=run, guess=guess))


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
    _move_documents(unit, source, target, found, rows)
    came: Appended = come_in(unit, target, rows, sum(document["size"] for document in found))
    previous = source.modseq
    gone = go_out(unit, source, found)
    return Copied(tuple(document["uid"] for document in found), came, Expunged(previous, source.modseq, gone))


def _move_documents(
    unit: Unit, source: Box, target: Box, found: Sequence[Document], rows: Sequence[FlagRow]
) -> None:
    user_id, mailbox_id = source.place
    unit.writes += 1
    unit.collection(MESSAGES).bulk_write(
        [
            UpdateOne(
                {"user": user_id, "mailbox": mailbox_id, "uid": document["uid"]},
                {
                    "$set": {
                        "mailbox": target.id,
                        "uid": row.uid,
                        "modseq": row.modseq,
                        "noted": row.modseq,
                        "saved": unit.now,
                    }
                },
            )
            for document, row in zip(found, rows, strict=True)
        ],
        session=unit.session,
    )
