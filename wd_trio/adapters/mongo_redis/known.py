"""What this process knows of mailboxes: the flags of all messages, as they were at a modseq.

From it come the uids that SELECT tells, the first unseen one, FETCH FLAGS and what a STORE starts from, without a
walk. Whoever asks has read the mailbox's modseq at the moment that counts: what is known at that modseq is true;
what is known at an earlier one is brought forward by the changes since; else the mailbox is walked once. A message
takes about 10 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from wd_trio.adapters.caches import BoundedCache
from wd_trio.adapters.mongo_redis.layout import (
    BY_UID,
    FLAGS_PROJECTION,
    MESSAGES,
    VANISHED,
    Document,
    flag_row_of,
    unpacked,
)
from wd_trio.adapters.mongo_redis.mongo import BsonMapping
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import SEEN, FlagRow
from wd_trio.mail.numset import EMPTY, UidSet

CACHE_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 512
_ROW_BYTES: Final = 9
_RANGE_BYTES: Final = 120
_KEYWORD_BYTES: Final = 160
_UNSEEN: Final = bytes(not flags & SEEN for flags in range(256))
WALK_BATCH: Final = 20_000
_TOUCHED_RANGES: Final = 32
_JOURNAL_PROJECTION: Final[Document] = {"_id": 0, "modseq": 1, "ranges": 1, "changed": 1}


class Reads(Protocol):
    """Reads that see one moment: a snapshot's (reader.Moment) or a transaction's (work.Unit).

    `union`: whether an aggregate may use $unionWith, which no transaction supports."""

    union: ClassVar[bool]

    def ask(self, command: BsonMapping) -> list[Document]:
        """All documents that a command (find, aggregate) finds."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """All living messages of a mailbox at `modseq`."""

    modseq: int
    rows: FlagRows

    @property
    def first_unseen_uid(self) -> int:
        """0 when all are seen."""
        place = self.rows.flags.translate(_UNSEEN).find(1)
        return self.rows.uids.at(place) if place >= 0 else 0

    @property
    def size_bytes(self) -> int:
        rows = self.rows
        return (
            _ENTRY_BYTES
            + _ROW_BYTES * len(rows)
            + _RANGE_BYTES * rows.uids.range_count
            + _KEYWORD_BYTES * len(rows.keywords)
        )

    def changed(self, modseq: int, rows: Sequence[FlagRow], gone: UidSet = EMPTY) -> Known:
        """As it stands at `modseq`, after `rows` changed or came, in order of uid, and then `gone` went."""
        if isinstance(rows, FlagRows) and rows.uids == self.rows.uids and not gone:
            return Known(modseq, _columns(rows))
        uids, flags = self.rows.uids, bytearray(self.rows.flags)
        modseqs, keywords = array("Q", self.rows.modseqs), dict(self.rows.keywords)
        new: list[int] = []
        for row in rows:
            place = uids.index(row.uid)
            if place >= 0:
                flags[place], modseqs[place] = row.flags, row.modseq
            else:
                new.append(row.uid)
                flags.append(row.flags)
                modseqs.append(row.modseq)
            if row.keywords:
                keywords[row.uid] = row.keywords
            else:
                keywords.pop(row.uid, None)
        uids |= UidSet.of(new)
        for first, last in reversed((gone & uids).ranges()):
            span = slice(uids.index(first), uids.index(last) + 1)
            del flags[span], modseqs[span]
        if gone:
            uids -= gone
            keywords = {uid: text for uid, text in keywords.items() if uid not in gone}
        return Known(modseq, FlagRows(uids, bytes(flags), keywords, modseqs))


def _columns(rows: FlagRows) -> FlagRows:
    """The same rows, their modseqs in the smallest form."""
    return FlagRows(rows.uids, rows.flags, rows.keywords, array("Q", rows.modseqs))


class KnownMailboxes:
    """The mailboxes known to this process, by id. Thread-safe."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._cache: BoundedCache[str, Known] = BoundedCache(limit_bytes)

    def at(self, mailbox_id: str, modseq: int) -> Known | None:
        """What is known of the mailbox at just this modseq."""
        known = self._cache.get(mailbox_id)
        return known if known is not None and known.modseq == modseq else None

    def before(self, mailbox_id: str, document: Document) -> Known | None:
        """What is known of the mailbox and can be brought forward to how it stands now."""
        known = self._cache.get(mailbox_id)
        if known is None or not document["journalFloor"] <= known.modseq <= document["modseq"]:
            return None
        return known

    def keep(self, mailbox_id: str, known: Known) -> None:
        """Keep what was learnt and is committed; a later knowledge is never replaced by an earlier one of the same
        history."""
        before = self._cache.get(mailbox_id)
        if before is None or before.modseq < known.modseq:
            self._cache.put(mailbox_id, known, known.size_bytes)

    def forget(self, mailbox_id: str) -> None:
        self._cache.drop(mailbox_id)

    def learn(self, moment: Reads, document: Document) -> Known:
        """All flags of a mailbox whose `document` was read at this moment; kept."""
        mailbox_id, modseq = document["_id"], document["modseq"]
        known = self.before(mailbox_id, document)
        if known is None:
            known = walked(moment, document)
        elif known.modseq < modseq:
            known = forwarded(known, moment, document)
        else:
            return known
        self.keep(mailbox_id, known)
        return known


def forwarded(known: Known, moment: Reads, document: Document) -> Known:
    """What is known, brought forward to how the mailbox stands at this moment."""
    place = document["user"], document["_id"]
    rows: dict[int, FlagRow] = {}
    gone = touched = EMPTY
    for entry in _changes(moment, place, known.modseq):
        if "uid" in entry:
            rows[entry["uid"]] = flag_row_of(entry)
        elif "ranges" in entry:
            gone |= unpacked(entry["ranges"])
        else:
            touched |= unpacked(entry["changed"])
    if touched:
        which = touched_filter(place, known.modseq, touched)
        for entry in moment.ask(_find(MESSAGES, which, FLAGS_PROJECTION)):
            rows[entry["uid"]] = flag_row_of(entry)
    # What went may have changed, or even come, in between: it is no row any more, so rows first and then `gone`.
    return known.changed(document["modseq"], [rows[uid] for uid in sorted(rows)], gone)


def _changes(moment: Reads, place: tuple[str, str], since: int) -> list[Document]:
    """What `changes_pipeline` gives, or the same by two commands."""
    if moment.union:
        pipeline = changes_pipeline(place, since)
        return moment.ask({"aggregate": MESSAGES, "pipeline": pipeline, "cursor": {"batchSize": WALK_BATCH}})
    of_mailbox: Document = {"user": place[0], "mailbox": place[1]}
    noted = _find(MESSAGES, of_mailbox | {"noted": {"$gt": since}}, FLAGS_PROJECTION)
    journal = _find(VANISHED, of_mailbox | {"modseq": {"$gt": since}}, _JOURNAL_PROJECTION)
    return moment.ask(noted) + moment.ask(journal)


def _find(collection: str, which: Document, fields: Document) -> Document:
    return {"find": collection, "filter": which, "projection": fields, "batchSize": WALK_BATCH}


def changes_pipeline(place: tuple[str, str], since: int, limit: int | None = None) -> list[Document]:
    """Of a mailbox (user and id): messages that the index has as changed after `since`, then what the journal has,
    in their order and each at most `limit`. Messages that `changed` entries speak of are yet to be looked for."""
    of_mailbox: Document = {"user": place[0], "mailbox": place[1]}
    cut: list[Document] = [] if limit is None else [{"$limit": limit}]
    return [
        {"$match": of_mailbox | {"noted": {"$gt": since}}},
        {"$sort": {"noted": 1}},
        *cut,
        {"$project": {**FLAGS_PROJECTION, "noted": 1}},
        {
            "$unionWith": {
                "coll": VANISHED,
                "pipeline": [
                    {"$match": of_mailbox | {"modseq": {"$gt": since}}},
                    {"$sort": {"modseq": 1}},
                    *cut,
                    {"$project": _JOURNAL_PROJECTION},
                ],
            }
        },
    ]


def touched_filter(place: tuple[str, str], since: int, touched: UidSet) -> Document:
    """Messages changed after `since`: those that the index has, and those among `touched`."""
    if touched.range_count > _TOUCHED_RANGES:
        touched = UidSet([(touched.first, touched.last)])
    of_mailbox: Document = {"user": place[0], "mailbox": place[1]}
    ranges = [
        of_mailbox | {"uid": {"$gte": first, "$lte": last}, "modseq": {"$gt": since}}
        for first, last in touched.ranges()
    ]
    return {"$or": [of_mailbox | {"noted": {"$gt": since}}, *ranges]}


def flags_command(which: Document) -> Document:
    """Reads what `flag_row_of` takes of messages, in order of uid; `which` are of one mailbox."""
    return _find(MESSAGES, which, FLAGS_PROJECTION) | {"sort": {"uid": 1}, "hint": dict(BY_UID)}


def walked(moment: Reads, document: Document) -> Known:
    """All flags of a mailbox, by one walk over its messages."""
    found = moment.ask(flags_command({"user": document["user"], "mailbox": document["_id"]}))
    rows = FlagRows(
        UidSet.of(row["uid"] for row in found),
        bytes([row["flags"] for row in found]),
        {row["uid"]: row["keywords"] for row in found if row["keywords"]},
        array("Q", [row["modseq"] for row in found]),
    )
    return Known(document["modseq"], rows)
