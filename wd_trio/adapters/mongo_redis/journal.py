"""Expunges, and what happened since.

Every expunge leaves its uids, as ranges, in the journal at its modseq. Trimming the journal raises the mailbox's
floor to the highest modseq trimmed, and only then removes the entries: who knows less than that can no longer be told
all, and gets Outdated.
"""

from __future__ import annotations

from typing import Final

from pymongo import DeleteMany, UpdateOne

from wd_trio import errors
from wd_trio.adapters.mongo_redis.known import changes_pipeline, touched_filter
from wd_trio.adapters.mongo_redis.layout import (
    BY_DELETED,
    BY_UID,
    FLAGS_PROJECTION,
    MAILBOXES,
    MESSAGES,
    VANISHED,
    Document,
    among,
    flag_row_of,
    unpacked,
)
from wd_trio.adapters.mongo_redis.messages import go_out
from wd_trio.adapters.mongo_redis.mongo import CALL_S, bounded
from wd_trio.adapters.mongo_redis.reader import Moment
from wd_trio.adapters.mongo_redis.shared import Shared, missing
from wd_trio.adapters.mongo_redis.work import Box, Guess, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import Changes, Expunged, Vanished
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.outcome import Origin

_CHANGES_BATCH: Final = 10_000
_GOING: Final = {"_id": 0, "uid": 1, "flags": 1, "size": 1, "blobs": 1}


@bounded(CALL_S)
def expunge(
    shared: Shared, mailbox_id: str, uids: UidSet | None, *, marked_only: bool, origin: Origin | None
) -> Expunged:
    """Remove what is marked \\Deleted, or all there is, among `uids` where given."""

    def run(unit: Unit) -> Expunged:
        box = unit.box(mailbox_id)
        previous = box.modseq
        found = _going(unit, box, uids, marked_only=marked_only)
        if not found:
            return Expunged(previous, previous, EMPTY)
        # Marked as used now: who reads one of these messages still has the collector's grace to finish.
        shared.blobs.mark(digest for document in found for digest in document.get("blobs", ()))
        unit.remove(box, UidSet.of(document["uid"] for document in found))
        unit.account(-sum(document["size"] for document in found), -len(found))
        return Expunged(previous, previous + 1, go_out(unit, box, found))

    guess = Guess(("_id", mailbox_id), {"modseq": 1})
    return shared.writer.do(shared.owner(mailbox_id), Change(run=run, guess=guess, origin=origin))


def _going(unit: Unit, box: Box, uids: UidSet | None, *, marked_only: bool) -> list[Document]:
    if not box.now["deleted" if marked_only else "messages"]:
        return []
    marked, index = ({"deleted": True}, BY_DELETED) if marked_only else ({}, BY_UID)
    user_id, mailbox_id = box.place
    base = {"user": user_id, "mailbox": mailbox_id}
    return [
        document
        for which in ([base] if uids is None else among(user_id, mailbox_id, uids))
        for document in unit.find_by(which | marked, _GOING, index)
    ]


@bounded(CALL_S)
def changes_since(shared: Shared, mailbox_id: str, since: int, limit: int) -> Changes:
    """What happened after `since`, cut between two modseqs where there is more than `limit`. One round trip; one
    more where many messages were changed at once, or more than make a page.

    In a page that was cut, `uid_next` is 1: messages that came in its span and changed after it are on a later
    page, so no new message may be told before the last page has been absorbed.
    """
    place = shared.owner(mailbox_id), mailbox_id
    limit = max(limit, 1)
    with shared.reader.one_moment() as moment:
        mailbox, rows, journal = _first_look(moment, place, since, limit + 1)
        _require_reach(mailbox, since)
        touched = EMPTY
        for entry in journal:
            touched |= unpacked(entry.get("changed", b""))
        if touched:
            rows = _look(moment, touched_filter(place, since, touched), limit + 1)
        # What was noted at a modseq may have been changed again, by a change that the journal has not told of yet:
        # the cut must not pass over messages noted behind the last one here.
        order = [int(row["modseq" if touched else "noted"]) for row in rows]
        order += [int(entry["modseq"]) for entry in journal]
        upto = _cut(order, int(mailbox["modseq"]), limit)
        if len(order) > limit and upto == min(order):
            which = touched_filter(place, since, touched)
            rows = _look(moment, {"$and": [which, {"modseq": {"$lte": upto}}]}, 0)
    more = upto < mailbox["modseq"]
    changed = sorted((flag_row_of(row) for row in rows if row["modseq"] <= upto), key=lambda row: row.uid)
    vanished = [
        Vanished(int(entry["modseq"]), unpacked(entry["ranges"]))
        for entry in journal
        if entry["modseq"] <= upto and "ranges" in entry
    ]
    return Changes(since, upto, 1 if more else int(mailbox["uidNext"]), tuple(changed), tuple(vanished), more)


def _first_look(
    moment: Moment, place: tuple[str, str], since: int, limit: int
) -> tuple[Document, list[Document], list[Document]]:
    """The mailbox, messages in the order in which the index has them as changed, and the journal in its order, each
    at most `limit`. NotFound."""
    user_id, mailbox_id = place
    found = moment.ask(
        {
            "aggregate": MAILBOXES,
            "pipeline": [
                {"$match": {"_id": mailbox_id, "user": user_id}},
                {"$unionWith": {"coll": MESSAGES, "pipeline": changes_pipeline(place, since, limit)}},
            ],
            "cursor": {"batchSize": 2 * limit + 2},  # one more than there are: the answer says that it is all
        }
    )
    if not found or "path" not in found[0]:
        raise missing(mailbox_id)
    messages = [entry for entry in found[1:] if "uid" in entry]
    return found[0], messages, found[1 + len(messages) :]


def _look(moment: Moment, which: Document, limit: int) -> list[Document]:
    """Messages in order of modseq, at most `limit`, all for 0."""
    command = {
        "find": MESSAGES,
        "filter": which,
        "projection": FLAGS_PROJECTION,
        "sort": {"modseq": 1},
        "limit": limit,
        "batchSize": limit + 1 if limit else _CHANGES_BATCH,
    }
    return moment.ask(command)


def _require_reach(mailbox: Document, since: int) -> None:
    if since < mailbox["journalFloor"]:
        raise errors.Outdated(f"the journal begins after modseq {mailbox['journalFloor']}", what="mailbox")
    if since > mailbox["modseq"]:
        raise errors.Outdated(f"modseq {since} is of another history", what="mailbox")


def _cut(modseqs: list[int], highest: int, limit: int) -> int:
    """The modseq through which a page reaches: whole transactions, at least one, `limit` entries if possible."""
    if len(modseqs) <= limit:
        return highest
    beyond = sorted(modseqs)[limit]
    return max((modseq for modseq in modseqs if modseq < beyond), default=beyond)


def trim(shared: Shared, before: int, limit: int) -> int:
    """Forget expunges of a time before `before`, in at most `limit` mailboxes; how many mailboxes were trimmed."""
    with shared.mongo.reading() as database:
        old = list(
            database[VANISHED].aggregate(
                [
                    {"$match": {"at": {"$lt": before}}},
                    {"$group": {"_id": "$mailbox", "user": {"$first": "$user"}, "upto": {"$max": "$modseq"}}},
                    {"$limit": limit},
                ]
            )
        )
        if not old:
            return 0
        database[MAILBOXES].bulk_write(
            [
                UpdateOne({"_id": row["_id"], "user": row["user"]}, {"$max": {"journalFloor": row["upto"]}})
                for row in old
            ],
            ordered=False,
        )
        database[VANISHED].bulk_write(
            [
                DeleteMany({"user": row["user"], "mailbox": row["_id"], "modseq": {"$lte": row["upto"]}})
                for row in old
            ],
            ordered=False,
        )
    return len(old)
