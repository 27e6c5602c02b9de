"""Flags of many messages: reading them, and STORE.

Both start from what is known of the mailbox (known.py) where that costs less than a walk over documents; both work
column by column (mail/flagrows.py). A change of flags alone is one statement for all messages that it changes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Final

from wd_trio.adapters.mongo_redis.known import Known, flags_command
from wd_trio.adapters.mongo_redis.layout import (
    FLAGS_PROJECTION,
    Document,
    among,
    flag_row_of,
    flags_update,
    marks,
)
from wd_trio.adapters.mongo_redis.mongo import CALL_S, bounded
from wd_trio.adapters.mongo_redis.shared import Shared
from wd_trio.adapters.mongo_redis.work import Box, Guess, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.flagchange import after, chosen, having
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import DELETED, SEEN, SYSTEM_FLAGS, FlagChange, FlagsStored, with_keywords
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.outcome import Origin

_EVERY_FLAG: Final = sum(SYSTEM_FLAGS.values())
_FEW: Final = 64  # messages that are looked at one by one rather than learn a mailbox
_MANY: Final = 64  # changed messages of which the journal tells rather than the index
_SHARE: Final = 4  # learning a mailbox pays where at least one message in so many is wanted


@bounded(CALL_S)
def read(shared: Shared, mailbox_id: str, uids: UidSet) -> FlagRows:
    """The flags of the living messages among `uids`, at one moment; one round trip where the mailbox is known as it
    stands."""
    user_id = shared.owner(mailbox_id)
    with shared.reader.one_moment() as moment:
        document = shared.document(moment, user_id, mailbox_id)
        if not document["messages"]:
            return FlagRows(EMPTY, b"", {}, [])
        if shared.known.before(mailbox_id, document) is not None or _pays(uids, document):
            return _picked(shared.known.learn(moment, document).rows, uids)
        return _rows(
            row for which in among(user_id, mailbox_id, uids) for row in moment.ask(flags_command(which))
        )


def _pays(uids: UidSet, document: Document) -> bool:
    """Whether to learn a mailbox in order to read these."""
    return len(uids) > _FEW and len(uids) * _SHARE >= document["messages"]


def _rows(documents: Iterable[Document]) -> FlagRows:
    return FlagRows.of([flag_row_of(document) for document in documents])


def _picked(rows: FlagRows, uids: UidSet) -> FlagRows:
    """The rows among `uids`."""
    common = rows.uids & uids
    if len(common) == len(rows):
        return rows
    spans = [slice(rows.uids.index(first), rows.uids.index(last) + 1) for first, last in common.ranges()]
    modseqs = array("Q")
    for span in spans:
        modseqs.extend(rows.modseqs[span])
    return FlagRows(
        common,
        b"".join(rows.flags[span] for span in spans),
        {uid: text for uid, text in rows.keywords.items() if uid in common},
        modseqs,
    )


@bounded(CALL_S)
def store(
    shared: Shared,
    mailbox_id: str,
    uids: UidSet,
    change: FlagChange,
    *,
    unchanged_since: int | None,
    origin: Origin | None,
) -> FlagsStored:
    """Apply `change` to the living messages among `uids`. Held-back messages are in `failed` alone, not in `rows`."""

    def run(unit: Unit) -> FlagsStored:
        return _store(unit, mailbox_id, uids, change, unchanged_since)

    guess = Guess(("_id", mailbox_id), {"modseq": 1})
    return shared.writer.do(shared.owner(mailbox_id), Change(run=run, guess=guess, origin=origin))


def _store(
    unit: Unit, mailbox_id: str, uids: UidSet, change: FlagChange, unchanged_since: int | None
) -> FlagsStored:
    box = unit.box(mailbox_id)
    known = unit.known(box, walk=_pays(uids, box.now))
    found = (
        _rows(unit.find(box.place, uids, FLAGS_PROJECTION)) if known is None else _picked(known.rows, uids)
    )
    found, failed, missing = chosen(found, uids, unchanged_since)
    previous = box.modseq
    rows, differ = after(found, change, previous + 1)
    if not any(differ):
        return FlagsStored(previous, previous, found, failed, missing)
    changed = rows.where(differ)
    box.add(
        {
            "modseq": 1,
            "unseen": having(found.flags, SEEN) - having(rows.flags, SEEN),
            "deleted": having(rows.flags, DELETED) - having(found.flags, DELETED),
        }
    )
    box.now["keywords"] = with_keywords(box.now["keywords"], set(changed.keywords.values()))
    at = {"modseq": previous + 1}
    if len(changed) < _MANY:
        at["noted"] = previous + 1
    else:
        unit.note(box, changed.uids)
    if rows.keywords == found.keywords:
        unit.update(box, _covering(changed.uids, known), _flags_only(change, at))
    else:
        _write(unit, box, changed, known, at)
    unit.learn(box, previous, changed)
    return FlagsStored(previous, previous + 1, rows, failed, missing)


def _covering(uids: UidSet, known: Known | None) -> UidSet:
    """The same living messages in as few ranges as what is known of the mailbox allows."""
    if known is not None and known.rows.uids.between(uids.first, uids.last) == uids:
        return UidSet([(uids.first, uids.last)])
    return uids


def _flags_only(change: FlagChange, at: Mapping[str, int]) -> Document:
    """The update for messages whose keywords stay."""
    bits, touched = change.flags, _EVERY_FLAG if change.mode == "set" else change.flags
    become = 0 if change.mode == "remove" else bits
    kept: Document = dict(at)
    dropped: Document = {}
    for field, present, bit in marks(become):
        if touched & bit:
            (kept if present else dropped)[field] = True
    update: Document = {"$set": kept}
    if dropped:
        update["$unset"] = dropped
    if change.mode == "set":
        kept["flags"] = bits
    else:
        update["$bit"] = {"flags": {"or": bits} if change.mode == "add" else {"and": _EVERY_FLAG & ~bits}}
    return update


def _write(unit: Unit, box: Box, rows: FlagRows, known: Known | None, at: Mapping[str, int]) -> None:
    """Write flags and keywords; messages that end up alike together."""
    alike: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        alike.setdefault((row.flags, row.keywords), []).append(row.uid)
    for (flags, keywords), uids in alike.items():
        covering = _covering(UidSet.of(uids), known)
        unit.update(box, covering, flags_update(flags, keywords, at))
