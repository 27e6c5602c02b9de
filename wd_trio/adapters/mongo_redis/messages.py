"""Messages: append, fetch, pages of a listing."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from wd_trio import errors
from wd_trio.adapters.mongo_redis import mailboxes
from wd_trio.adapters.mongo_redis.layout import (
    BY_UID,
    MAILBOXES,
    MESSAGES,
    Document,
    among,
    mailbox_of,
    message_document,
    narrow_row_of,
    projection,
    row_of,
    sized,
)
from wd_trio.adapters.mongo_redis.mongo import CALL_S, bounded
from wd_trio.adapters.mongo_redis.reader import SNAPSHOT, Reader
from wd_trio.adapters.mongo_redis.shared import Shared, missing
from wd_trio.adapters.mongo_redis.work import Box, Guess, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import (
    DELETED,
    SEEN,
    Appended,
    BlobData,
    Columns,
    FlagRow,
    MessagePage,
    MessageRow,
    NewMessage,
    join_keywords,
    with_keywords,
)
from wd_trio.mail.names import stored_path
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.outcome import Origin

_WIDE: Final = Columns.ROPE | Columns.HEADER
_WIDE_BATCH: Final = 100  # documents with ropes that come at once, though the page's budget may end before

# -- append


@bounded(CALL_S)
def append(
    shared: Shared,
    user_id: str,
    path: str,
    messages: Sequence[NewMessage],
    *,
    blobs: Sequence[BlobData],
    quota_bytes: int | None,
    create: bool,
    origin: Origin | None,
) -> Appended:
    """Blobs are kept and marked before the transaction, which does not touch them."""
    path = stored_path(path)
    brought = {blob.digest for blob in blobs}
    referred = {digest for message in messages for digest in message.content.blobs}
    if not referred <= brought:
        shared.blobs.require(referred - brought)
    if blobs:
        shared.blobs.put(blobs)
    words = [join_keywords(message.keywords.split()) if message.keywords else "" for message in messages]
    flags = [message.flags for message in messages]
    size = sum(message.content.size for message in messages)

    def run(unit: Unit) -> Appended:
        box = unit.find_box(path)
        if box is None and not create:
            raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
        unit.require_room(size, quota_bytes)
        if box is None:
            box = mailboxes.ensure_path(unit, path)
        uid, modseq = first_uid(box, len(messages)), box.modseq + 1
        rows = [FlagRow(uid + n, modseq, flags[n], words[n]) for n in range(len(messages))]
        unit.insert(
            [
                message_document(box.place, row.uid, modseq, message, keywords=row.keywords, saved=unit.now)
                for row, message in zip(rows, messages, strict=True)
            ]
        )
        unit.account(size, len(messages))
        return come_in(unit, box, rows, size)

    if not messages:
        return shared.writer.do(user_id, Change(run=lambda unit: _nothing(unit, path, create=create)))
    guess = Guess(
        ("path", path), _counted(flags, size) | {"uidNext": len(messages), "modseq": 1}, _account(size, flags)
    )
    weight = sum(len(message.content.rope) + len(message.content.header) for message in messages)
    return shared.writer.do(user_id, Change(run=run, guess=guess, origin=origin, size_bytes=weight))


def _nothing(unit: Unit, path: str, *, create: bool) -> Appended:
    box = unit.find_box(path)
    if box is None:
        if not create:
            raise errors.NotFound(f"user {unit.user_id} has no such mailbox", what="mailbox")
        box = mailboxes.ensure_path(unit, path)
    return come_in(unit, box, (), 0)


def _account(size: int, flags: Sequence[int]) -> dict[str, int]:
    return {"bytes": size, "messages": len(flags)}


def _counted(flags: Sequence[int], size: int) -> dict[str, int]:
    """What messages with these flags add to a mailbox's counters."""
    return {
        "messages": len(flags),
        "unseen": sum(not bits & SEEN for bits in flags),
        "deleted": sum(bool(bits & DELETED) for bits in flags),
        "bytes": size,
    }


def first_uid(box: Box, count: int) -> int:
    """The first of the next `count` uids. OverQuota when the mailbox has given its last."""
    first: int = box.now["uidNext"]
    if first + count - 1 > MAX_UID:
        raise errors.OverQuota("the mailbox has given its last uid", what="uid")
    return first


def come_in(unit: Unit, box: Box, rows: Sequence[FlagRow], size: int) -> Appended:
    """Count messages that were given the next uids, at the next modseq, into their mailbox."""
    previous = box.modseq
    if rows:
        counted = _counted([row.flags for row in rows], size)
        box.add(counted | {"uidNext": len(rows), "modseq": 1})
        box.now["keywords"] = with_keywords(box.now["keywords"], {row.keywords for row in rows})
        unit.learn(box, previous, rows)
    return Appended(
        mailbox_id=box.id,
        user_id=unit.user_id,
        uid_validity=box.now["uidValidity"],
        uids=tuple(row.uid for row in rows),
        previous_modseq=previous,
        modseq=box.modseq,
        rows=tuple(rows),
    )


def go_out(unit: Unit, box: Box, found: Sequence[Document]) -> UidSet:
    """Count messages that left their mailbox out of it, at its next modseq, and note them in the journal."""
    previous = box.modseq
    gone = UidSet.of(document["uid"] for document in found)
    counted = _counted([document["flags"] for document in found], sum(row["size"] for row in found))
    box.add({name: -amount for name, amount in counted.items()} | {"modseq": 1})
    unit.vanish(box, gone)
    unit.learn(box, previous, (), gone)
    return gone


# -- fetch


@bounded(CALL_S)
def fetch(
    shared: Shared, mailbox_id: str, uids: UidSet, columns: Columns, *, limit: int, budget_bytes: int
) -> list[MessageRow]:
    """A page: at most `limit` rows, and beyond the first no row that would bring the bytes of all asked-for columns
    and preloaded blobs above `budget_bytes`. One round trip, and up to two more for blobs that were not
    read of late."""
    user_id = shared.owner(mailbox_id)
    with closing(_found(shared.reader, (user_id, mailbox_id), uids, columns, limit)) as found:
        documents = _within(found, columns, budget_bytes)
    if not documents:
        shared.require(user_id, mailbox_id)
        return []
    if columns & Columns.ROPE and any("blobs" in document for document in documents):
        return _with_blobs(shared, documents, columns, budget_bytes)
    return list(map(row_of if columns else narrow_row_of, documents))


def _found(
    reader: Reader, place: tuple[str, str], uids: UidSet, columns: Columns, limit: int
) -> Generator[list[Document], None, None]:
    """At most `limit` documents, in the batches in which they come."""
    batch = min(limit, _WIDE_BATCH) if columns & _WIDE else limit
    for which in among(*place, uids):
        command = {
            "find": MESSAGES,
            "filter": which,
            "projection": projection(columns),
            "sort": {"uid": 1},
            "hint": dict(BY_UID),
            "limit": limit,
            "batchSize": batch,
        }
        with closing(reader.batches(command)) as batches:
            for documents in batches:
                yield documents
                limit -= len(documents)
        if not limit:
            return


def _bytes(document: Mapping[str, Any], columns: Columns) -> int:
    return sum([len(document[name]) for name in sized(columns) if name in document])


def _within(batches: Iterable[list[Document]], columns: Columns, budget_bytes: int) -> list[Document]:
    """The first documents, at least one, whose columns fit the budget."""
    left, names = budget_bytes, sized(columns)
    chosen: list[Document] = []
    for documents in batches:
        for document in documents:
            for name in names:
                if name in document:
                    left -= len(document[name])
            if left < 0 and chosen:
                return chosen
            chosen.append(document)
    return chosen


def _with_blobs(
    shared: Shared, documents: Sequence[Document], columns: Columns, budget_bytes: int
) -> list[MessageRow]:
    """Rows with whole blobs, as far as both fit the budget."""
    wanted = {digest for document in documents for digest in document.get("blobs", ())}
    loaded = {digest: blob for digest in wanted if (blob := shared.blob_cache.get(digest)) is not None}
    sizes = {digest: len(blob) for digest, blob in loaded.items()} | shared.blobs.sizes(wanted - set(loaded))
    left = budget_bytes
    chosen: list[tuple[MessageRow, list[bytes]]] = []
    for document in documents:
        size = _bytes(document, columns)
        if chosen and size > left:
            break
        left -= size
        fitting: list[bytes] = []
        for digest in document.get("blobs", ()):
            if digest in sizes and sizes[digest] <= left:
                left -= sizes[digest]
                fitting.append(digest)
        chosen.append((row_of(document), fitting))
    absent = {digest for _, fitting in chosen for digest in fitting}.difference(loaded)
    for digest, blob in shared.blobs.load(absent).items() if absent else ():
        shared.blob_cache.put(digest, blob, len(blob))
        loaded[digest] = blob
    for row, fitting in chosen:
        row.blobs = {digest: loaded[digest] for digest in fitting if digest in loaded} or None
    return [row for row, _ in chosen]


# -- listings


def page(
    shared: Shared,
    user_id: str,
    mailbox_id: str,
    columns: Columns,
    *,
    newest_first: bool,
    beyond: int,
    unseen: bool,
    limit: int,
) -> MessagePage:
    """A page of a listing with its mailbox, in one round trip that sees one moment."""
    past = {"$lt": beyond or MAX_UID + 1} if newest_first else {"$gt": beyond}
    which = {"user": user_id, "mailbox": mailbox_id, "uid": past} | ({"unseen": True} if unseen else {})
    rows: list[Document] = [
        {"$match": which},
        {"$sort": {"uid": -1 if newest_first else 1}},
        {"$limit": limit + 1},
        {"$project": projection(columns)},
    ]
    command = {
        "aggregate": MAILBOXES,
        "pipeline": [
            {"$match": {"_id": mailbox_id, "user": user_id}},
            {"$unionWith": {"coll": MESSAGES, "pipeline": rows}},
        ],
        "cursor": {"batchSize": limit + 3},  # one more than there are: the answer says that it is all
    }
    found = shared.reader.ask(command, concern=SNAPSHOT)
    if not found or "path" not in found[0]:
        raise missing(mailbox_id)
    page_rows = [row_of(document) for document in found[1 : limit + 1]]
    return MessagePage(mailbox_of(found[0]), page_rows, len(found) > limit + 1)
