"""What this process knows of mailboxes: the flags of all messages, as they were at a modseq.

From it come the uids that SELECT tells, the first unseen one, FETCH FLAGS and what a STORE starts from, without a
walk. Whoever asks has read the mailbox's modseq at the moment that counts: what is known at that modseq is true;
what is known at an earlier one is brought forward by the changes since; else the mailbox is walked once. A message
takes about 10 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo.client_session import ClientSession

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
from wd_trio.adapters.mongo_redis.mongo import DRIVERS, MongoDatabase
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import SEEN, FlagRow
from wd_trio.mail.numset import EMPTY, UidSet

CACHE_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 512
_ROW_BYTES: Final = 9
_RANGE_BYTES: Final = 120
_KEYWORD_BYTES: Final = 160
_UNSEEN: Final = bytes(not flags & SEEN for flags in range(256))
_WALK_BATCH: Final = 20_000
_TOUCHED_RANGES: Final = 32
_JOURNAL_PROJECTION: Final[Document] = {"_id": 0, "modseq": 1, "ranges": 1, "changed": 1}


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

    def learn(self, database: MongoDatabase, session: ClientSession, document: Document) -> Known:
        """All flags of a mailbox whose `document` was read in this session, which sees one moment; kept."""
        mailbox_id, modseq = document["_id"], document["modseq"]
        known = self.before(mailbox_id, document)
        if known is None:
            known = walked(database, session, document)
        elif known.modseq < modseq:
            known = forwarded(known, database, session, document)
        else:
            return known
        self.keep(mailbox_id, known)
        return known


def forwarded(known: Known, database: MongoDatabase, session: ClientSession, document: Document) -> Known:
    """What is known, brought forward to how the mailbox stands in this session."""
    place = document["user"], document["_id"]
    rows: dict[int, FlagRow] = {}
    gone = touched = EMPTY
    for entry in _changes(database, session, place, known.modseq):
        if "uid" in entry:
            rows[entry["uid"]] = flag_row_of(entry)
        elif "ranges" in entry:
            gone |= unpacked(entry["ranges"])
        else:
            touched |= unpacked(entry["changed"])
    if touched:
        which = touched_filter(place, known.modseq, touched)
        for entry in database[MESSAGES].find(
            which, FLAGS_PROJECTION, session=session, batch_size=_WALK_BATCH
        ):
            rows[entry["uid"]] = flag_row_of(entry)
    # What went may have changed, or even come, in between: it is no row any more, so rows first and then `gone`.
    return known.changed(document["modseq"], [rows[uid] for uid in sorted(rows)], gone)


def _changes(
    database: MongoDatabase, session: ClientSession, place: tuple[str, str], since: int
) -> Iterator[Document]:
    """What `changes_pipeline` gives, in a transaction too: there, $unionWith is not supported."""
    if not session.in_transaction:
        pipeline = changes_pipeline(place, since)
        yield from database[MESSAGES].aggregate(pipeline, session=session, batchSize=_WALK_BATCH)
        return
    of_mailbox: Document = {"user": place[0], "mailbox": place[1]}
    for name, key, fields in (
        (MESSAGES, "noted", FLAGS_PROJECTION),
        (VANISHED, "modseq", _JOURNAL_PROJECTION),
    ):
        later = of_mailbox | {key: {"$gt": since}}
        yield from database[name].find(later, fields, session=session, batch_size=_WALK_BATCH)


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


def walked(database: MongoDatabase, session: ClientSession, document: Document) -> Known:
    """All flags of a mailbox, by one walk over its messages."""
    cursor = database.get_collection(MESSAGES, codec_options=DRIVERS).find(
        {"user": document["user"], "mailbox": document["_id"]},
        FLAGS_PROJECTION,
        sort=[("uid", 1)],
        hint=list(BY_UID),
        batch_size=_WALK_BATCH,
        session=session,
    )
    found: list[dict[str, Any]] = cursor.to_list()
    rows = FlagRows(
        UidSet.of(row["uid"] for row in found),
        bytes([row["flags"] for row in found]),
        {row["uid"]: row["keywords"] for row in found if row["keywords"]},
        array("Q", [row["modseq"] for row in found]),
    )
    return Known(document["modseq"], rows)
