"""How mail lies in MongoDB: collections, fields, and the way between documents and the house's values.

- mailboxes: one document each, counters included. `subscribed` repeats what `subscriptions` says of its path, so
  that whoever reads a mailbox has it; both change in one transaction.
- subscriptions: users' names of mailboxes, which outlive the mailboxes (RFC 3501 §6.3.6).
- accounts: what each user takes up; who makes, removes or renames mailboxes changes this document first.
- messages: one document with all that is known of a message, so that a FETCH is one walk over one collection.
  Copies are copies. `unseen` and `deleted` repeat two flags, there only where true: partial indexes are made of
  them. `blobs` (digests) is there only where the rope refers to any.
- messages.header: a string where nothing in it is encoded (matching.has_plain_header), so that MongoDB itself can
  look for a text in it; else bytes.
- messages.from: what the From fields of such a header hold, in lower case, so that an index can be looked through
  instead of headers; UNKNOWN_FROM where that would be long, and for other headers.
- messages.noted: the modseq at which an index finds the message as changed, no later than its own. A change of many
  messages leaves it, since moving a thousand entries of an index in a transaction costs several times what the change
  itself does; it leaves an entry in the journal instead.
- vanished: the journal. At one modseq of a mailbox, `ranges` holds the uids that were expunged, or `changed` uids
  among which are all that a change of many messages touched: first, last, first, last … as 4-byte integers.
- graves: mailboxes that are gone and whose messages are still being removed.
- outcomes: what the last write of each session came to, for an hour; `at` is MongoDB's own time.
- counters: the last UIDVALIDITY given.

Queries name the user, the first part of every shard key. The indexes that queries hint at are constants here;
indexes.py makes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from wd_trio.mail.matching import has_plain_header
from wd_trio.mail.model import DELETED, SEEN, Columns, FlagRow, Mailbox, MessageRow, NewMessage
from wd_trio.mail.numset import UidSet
from wd_trio.mail.searchtext import plain_values
from wd_trio.ports.ids import new_id

Document: TypeAlias = dict[str, Any]
Keys: TypeAlias = tuple[tuple[str, int], ...]

MAILBOXES: Final = "mailboxes"
MESSAGES: Final = "messages"
VANISHED: Final = "vanished"
SUBSCRIPTIONS: Final = "subscriptions"
ACCOUNTS: Final = "accounts"
GRAVES: Final = "graves"
OUTCOMES: Final = "outcomes"
COUNTERS: Final = "counters"

# Unique. Of mailboxes and subscriptions alike.
BY_PATH: Final[Keys] = (("user", 1), ("path", 1))
# Unique. Of messages.
BY_UID: Final[Keys] = (("user", 1), ("mailbox", 1), ("uid", 1))
# Of messages.
BY_NOTED: Final[Keys] = (("user", 1), ("mailbox", 1), ("noted", 1))
# Of messages. SEARCH FROM looks through its last part.
BY_FROM: Final[Keys] = (*BY_UID, ("from", 1))
# Of messages, partial: only where `unseen` (`deleted`) is true.
BY_UNSEEN: Final[Keys] = (("user", 1), ("mailbox", 1), ("unseen", 1), ("uid", 1))
BY_DELETED: Final[Keys] = (("user", 1), ("mailbox", 1), ("deleted", 1), ("uid", 1))
# Of messages, sparse.
BY_BLOB: Final[Keys] = (("blobs", 1),)
# Of vanished.
BY_EXPUNGE: Final[Keys] = (("user", 1), ("mailbox", 1), ("modseq", 1))
BY_AGE: Final[Keys] = (("at", 1),)

_OR_RANGES: Final = 32  # so many ranges MongoDB plans quickly
_LISTED_UIDS: Final = 20_000  # of more ranges, so many uids are listed one by one in a query

UNKNOWN_FROM: Final = "\0"
_MAX_FROM: Final = 300

# -- mailboxes


def mailbox_document(
    user_id: str, path: str, *, uid_validity: int, special_use: str, subscribed: bool
) -> Document:
    """A new mailbox, which stands at modseq 1 (RFC 7162 §3.1.2.1: never 0)."""
    return {
        "_id": new_id(),
        "user": user_id,
        "path": path,
        "uidValidity": uid_validity,
        "uidNext": 1,
        "modseq": 1,
        "specialUse": special_use,
        "subscribed": subscribed,
        "messages": 0,
        "unseen": 0,
        "deleted": 0,
        "bytes": 0,
        "journalFloor": 0,
        "keywords": "",
    }


def mailbox_of(document: Mapping[str, Any]) -> Mailbox:
    """The mailbox of a whole document, read by any codec."""
    return Mailbox(
        id=document["_id"],
        user_id=document["user"],
        path=document["path"],
        uid_validity=int(document["uidValidity"]),
        uid_next=int(document["uidNext"]),
        highest_modseq=int(document["modseq"]),
        special_use=document["specialUse"],
        subscribed=document["subscribed"],
        messages=int(document["messages"]),
        unseen=int(document["unseen"]),
        deleted=int(document["deleted"]),
        size_bytes=int(document["bytes"]),
    )


# -- messages


def message_document(
    place: tuple[str, str], uid: int, modseq: int, message: NewMessage, *, keywords: str, saved: int
) -> Document:
    """A new message in the mailbox `place` (user, mailbox id); `keywords` in canonical form."""
    content = message.content
    email_id = new_id()
    document = {
        "user": place[0],
        "mailbox": place[1],
        "uid": uid,
        "modseq": modseq,
        "noted": modseq,
        "flags": message.flags,
        "keywords": keywords,
        "date": message.internal_date,
        "saved": saved,
        "size": content.size,
        "emailId": email_id,
        "threadId": email_id,
        "envelope": content.envelope,
        "structure": content.bodystructure,
        "body": content.body,
        "header": content.header,
        "from": UNKNOWN_FROM,
        "parts": content.parts,
        "preview": content.preview,
        "rope": content.rope,
    }
    if has_plain_header(content.header):
        document["header"] = content.header.decode("ascii")
        senders = plain_values(content.header, b"from").decode("ascii")
        if len(senders) <= _MAX_FROM:
            document["from"] = senders
    if content.envelope_utf8 is not None:
        document["envelope8"] = content.envelope_utf8
    if content.bodystructure_utf8 is not None:
        document["structure8"] = content.bodystructure_utf8
    if content.blobs:
        document["blobs"] = list(dict.fromkeys(content.blobs))
    return mark(document)


def mark(document: Document) -> Document:
    """Make `unseen` and `deleted` of a message what its flags say."""
    for field, present, _ in marks(document["flags"]):
        if present:
            document[field] = True
        else:
            document.pop(field, None)
    return document


def flags_update(flags: int, keywords: str, at: Mapping[str, int]) -> Document:
    """The update that gives a message new flags, and the fields `at` beside them."""
    kept: Document = {"flags": flags, "keywords": keywords, **at}
    dropped: Document = {}
    for field, present, _ in marks(flags):
        (kept if present else dropped)[field] = True
    return {"$set": kept, "$unset": dropped} if dropped else {"$set": kept}


def marks(flags: int) -> tuple[tuple[str, bool, int], ...]:
    """The fields that repeat flags, whether a message has them, and the flag each repeats."""
    return ("unseen", not flags & SEEN, SEEN), ("deleted", bool(flags & DELETED), DELETED)


# MessageRow's fields behind the narrow ones, in its order up to `blobs`.
_FIELDS: Final = (
    ("envelope", Columns.ENVELOPE),
    ("envelope8", Columns.ENVELOPE),
    ("structure", Columns.STRUCTURE),
    ("structure8", Columns.STRUCTURE),
    ("body", Columns.BODY),
    ("header", Columns.HEADER),
    ("parts", Columns.PARTS),
    ("rope", Columns.ROPE),
    ("emailId", Columns.IDS),
    ("threadId", Columns.IDS),
    ("saved", Columns.IDS),
    ("preview", Columns.PREVIEW),
)
_NAMES: Final = tuple(name for name, _ in _FIELDS)
_NARROW: Final = ("uid", "modseq", "flags", "keywords", "date", "size")
_UNSIZED: Final = Columns.IDS
FLAGS_PROJECTION: Final[Document] = {"_id": 0, "uid": 1, "modseq": 1, "flags": 1, "keywords": 1}


@cache
def projection(columns: Columns) -> Document:
    """What a find brings for rows with these columns. `blobs` come with the rope."""
    wanted = [*_NARROW, *(name for name, bit in _FIELDS if bit & columns)]
    if columns & Columns.ROPE:
        wanted.append("blobs")
    return {"_id": 0} | dict.fromkeys(wanted, 1)


@cache
def sized(columns: Columns) -> tuple[str, ...]:
    """The fields whose bytes count against a page's budget."""
    return tuple(name for name, bit in _FIELDS if bit & columns & ~_UNSIZED)


def row_of(document: Mapping[str, Any]) -> MessageRow:
    """The row of a document as it was projected, by any codec; preloaded blobs are the caller's to add."""
    row = MessageRow(
        int(document["uid"]),
        int(document["modseq"]),
        int(document["flags"]),
        document["keywords"],
        int(document["date"]),
        int(document["size"]),
        *map(document.get, _NAMES),
    )
    if isinstance(row.header, str):
        row.header = row.header.encode("ascii")
    if row.saved_date is not None:
        row.saved_date = int(row.saved_date)
    return row


def header_of(document: Mapping[str, Any]) -> bytes:
    """The header block of a document that has it."""
    header: bytes | str = document["header"]
    return header.encode("ascii") if isinstance(header, str) else header


def narrow_row_of(document: Mapping[str, Any]) -> MessageRow:
    """As `row_of`, of a document projected without columns."""
    return MessageRow(
        int(document["uid"]),
        int(document["modseq"]),
        int(document["flags"]),
        document["keywords"],
        int(document["date"]),
        int(document["size"]),
    )


def flag_row_of(document: Mapping[str, Any]) -> FlagRow:
    """The flags of a document, read by any codec."""
    return FlagRow(
        int(document["uid"]), int(document["modseq"]), int(document["flags"]), document["keywords"]
    )


# -- sets of uids


def among(user_id: str, mailbox_id: str, uids: UidSet) -> Iterator[Document]:
    """The filters of the living messages among `uids`, whose results in order of uid follow each other: one filter
    for few ranges, or few uids. To be hinted at BY_UID."""
    base = {"user": user_id, "mailbox": mailbox_id}
    if uids.range_count == 1:
        yield base | {"uid": {"$gte": uids.first, "$lte": uids.last}}
    elif 1 < uids.range_count <= _OR_RANGES and len(uids) > uids.range_count * _OR_RANGES:
        yield base | {"$or": [{"uid": {"$gte": first, "$lte": last}} for first, last in uids.ranges()]}
    else:
        listed: list[int] = []
        for first, last in uids.ranges():
            if len(listed) + last - first >= _LISTED_UIDS and listed:
                yield base | {"uid": {"$in": listed}}
                listed = []
            if last - first >= _LISTED_UIDS:
                yield base | {"uid": {"$gte": first, "$lte": last}}
            else:
                listed.extend(range(first, last + 1))
        if listed:
            yield base | {"uid": {"$in": listed}}


def packed(uids: UidSet) -> bytes:
    """Ranges as `vanished` keeps them."""
    ends = [end for pair in uids.ranges() for end in pair]
    return struct.pack(f">{len(ends)}I", *ends)


def unpacked(ranges: bytes) -> UidSet:
    return UidSet(struct.iter_unpack(">II", ranges))
