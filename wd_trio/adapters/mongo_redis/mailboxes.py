"""Mailboxes: making, finding, listing, opening, subscribing.

Functions that take a `Unit` run in its transaction. Those that change which mailboxes a user has, or how they are
called, take the user's account first, one after the other.

UIDVALIDITY is the time in seconds, but always above every one given before by this store, so that a mailbox deleted
and made again never repeats one (RFC 3501 §2.3.1.1). The counter behind it moves outside of transactions: mailboxes
of all users take from it, and a value that was taken in vain does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pymongo import ReturnDocument

from wd_trio import errors
from wd_trio.adapters.mongo_redis.layout import (
    BY_UNSEEN,
    COUNTERS,
    MAILBOXES,
    MESSAGES,
    SUBSCRIPTIONS,
    Document,
    mailbox_document,
    mailbox_of,
)
from wd_trio.adapters.mongo_redis.mongo import CALL_S, MongoDatabase, bounded
from wd_trio.adapters.mongo_redis.reader import SNAPSHOT
from wd_trio.adapters.mongo_redis.shared import Shared, missing
from wd_trio.adapters.mongo_redis.work import Box, Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import DEFAULT_MAILBOXES, Mailbox, MailboxSpec, Opened
from wd_trio.mail.names import INBOX, stored_path
from wd_trio.mail.numset import EMPTY, UidSet

_UID_VALIDITY: Final = "uidValidity"
_UNSEEN_ENTRY_BYTES: Final = 300
_ALL_AT_ONCE: Final = 10_000  # mailboxes that one answer brings

# -- reading


def list_of(shared: Shared, user_id: str) -> list[Mailbox]:
    # At one moment, however many they are: a RENAME beside it hides none of them and shows none twice.
    command = {"find": MAILBOXES, "filter": {"user": user_id}, "batchSize": _ALL_AT_ONCE}
    found = list(map(mailbox_of, shared.reader.ask(command, concern=SNAPSHOT)))
    for mailbox in found:
        shared.own(mailbox.id, user_id)
    return sorted(found, key=lambda mailbox: in_order(mailbox.path))


def in_order(path: str) -> tuple[bool, str]:
    """Sorts INBOX first."""
    return path != INBOX, path


@bounded(CALL_S)
def get(shared: Shared, mailbox_id: str) -> Mailbox:
    user_id = shared.owner(mailbox_id)
    document = shared.reader.find_one(MAILBOXES, {"_id": mailbox_id, "user": user_id})
    if document is None:
        raise missing(mailbox_id)
    return mailbox_of(document)


def highest_modseqs(shared: Shared, mailbox_ids: Sequence[str]) -> dict[str, int]:
    command = {
        "find": MAILBOXES,
        "filter": {"_id": {"$in": list(mailbox_ids)}},
        "projection": {"modseq": 1},
        "batchSize": _ALL_AT_ONCE,
    }
    return {document["_id"]: int(document["modseq"]) for document in shared.reader.ask(command)}


def find(shared: Shared, user_id: str, path: str) -> Mailbox:
    document = shared.reader.find_one(MAILBOXES, {"user": user_id, "path": stored_path(path)})
    if document is None:
        raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
    shared.own(document["_id"], user_id)
    return mailbox_of(document)


def subscriptions(shared: Shared, user_id: str) -> list[str]:
    """The names in the order of `list_of`."""
    found = shared.reader.ask(
        {
            "find": SUBSCRIPTIONS,
            "filter": {"user": user_id},
            "projection": {"path": 1},
            "batchSize": _ALL_AT_ONCE,
        }
    )
    return sorted((document["path"] for document in found), key=in_order)


@bounded(CALL_S)
def open_(shared: Shared, user_id: str, path: str, known_modseq: int) -> Opened:
    """What SELECT tells. One round trip where the uids and the first unseen one are known; the uids of a mailbox
    from which nothing was ever removed always are."""
    with shared.reader.one_moment() as moment:
        document = moment.find_one(MAILBOXES, {"user": user_id, "path": stored_path(path)})
        if document is None:
            raise errors.NotFound(f"user {user_id} has no such mailbox", what="mailbox")
        mailbox = mailbox_of(document)
        shared.own(mailbox.id, user_id)
        dense = mailbox.messages == mailbox.uid_next - 1
        known = shared.known.at(mailbox.id, mailbox.highest_modseq)
        if known is None and mailbox.messages:
            told = known_modseq == mailbox.highest_modseq
            unseen = not mailbox.unseen or _first_unseen_known(shared, mailbox) is not None
            if not (dense or told) or not (unseen or shared.known.before(mailbox.id, document) is None):
                known = shared.known.learn(moment, document)
        first_unseen = known.first_unseen_uid if known is not None else _first_unseen_known(shared, mailbox)
        if first_unseen is None:
            found = moment.ask(
                {
                    "find": MESSAGES,
                    "filter": {"user": user_id, "mailbox": mailbox.id, "unseen": True},
                    "projection": {"_id": 0, "uid": 1},
                    "sort": {"uid": 1},
                    "hint": dict(BY_UNSEEN),
                    "limit": 1,
                    "singleBatch": True,
                }
            )
            first_unseen = int(found[0]["uid"]) if found else 0
            shared.first_unseen.put(mailbox.id, (mailbox.highest_modseq, first_unseen), _UNSEEN_ENTRY_BYTES)
    uids: UidSet | None = None
    if known_modseq != mailbox.highest_modseq:
        uids = known.rows.uids if known is not None else UidSet([(1, mailbox.messages)])
    return Opened(mailbox, uids or (None if uids is None else EMPTY), first_unseen, document["keywords"])


def _first_unseen_known(shared: Shared, mailbox: Mailbox) -> int | None:
    if not mailbox.unseen:
        return 0
    modseq, uid = shared.first_unseen.get(mailbox.id) or (0, 0)
    return uid if modseq == mailbox.highest_modseq else None


# -- making


@bounded(CALL_S)
def ensure(shared: Shared, user_id: str, specs: Sequence[MailboxSpec]) -> list[Mailbox]:
    """Make those of `specs` that are missing, and INBOX if the user has none; all of the user's mailboxes."""
    here = list_of(shared, user_id)
    wanted = {stored_path(spec.path) for spec in specs} | {INBOX}
    if wanted <= {mailbox.path for mailbox in here}:
        return here

    def run(unit: Unit) -> None:
        unit.lock_structure()
        make(unit, specs, documents_of(unit))

    shared.writer.do(user_id, Change(run=run, alone=True))
    return list_of(shared, user_id)


def ensure_path(unit: Unit, path: str) -> Box:
    """Make the mailbox a delivery goes to, which is missing, together with the default ones."""
    unit.lock_structure()
    make(unit, (*DEFAULT_MAILBOXES, MailboxSpec(path)), documents_of(unit))
    return unit.box_at(path)


def create(unit: Unit, spec: MailboxSpec) -> Mailbox:
    """Make one mailbox, and INBOX if the user has none. Conflict when there is one of that path or special use."""
    path = stored_path(spec.path)
    here = documents_of(unit)
    if any(document["path"] == path for document in here):
        raise errors.Conflict(f"user {unit.user_id} has such a mailbox", what="mailbox")
    if spec.special_use and any(document["specialUse"] == spec.special_use for document in here):
        raise errors.Conflict(f"user {unit.user_id} has a mailbox for {spec.special_use}", what="special use")
    make(unit, (spec,), here)
    return mailbox_of(unit.box_at(path).now)


def documents_of(unit: Unit) -> list[Document]:
    """All of the user's mailboxes, after `lock_structure`."""
    return list(unit.collection(MAILBOXES).find({"user": unit.user_id}, session=unit.session))


def make(unit: Unit, specs: Iterable[MailboxSpec], here: Sequence[Document]) -> None:
    """Make those of `specs`, and INBOX, that are not `here`."""
    paths = {document["path"] for document in here}
    missing: dict[str, MailboxSpec] = {}
    for spec in (*specs, MailboxSpec(INBOX)):
        path = stored_path(spec.path)
        if path not in paths:
            missing.setdefault(path, spec)
    if not missing:
        return
    names = subscribed_among(unit, missing)
    made = [
        mailbox_document(
            unit.user_id,
            path,
            uid_validity=uid_validity,
            special_use=spec.special_use,
            subscribed=spec.subscribed or path in names,
        )
        for uid_validity, (path, spec) in zip(
            _uid_validities(unit.database, len(missing), unit.now), missing.items(), strict=True
        )
    ]
    unit.writes += 1
    unit.collection(MAILBOXES).insert_many(made, session=unit.session)
    new = [path for path, spec in missing.items() if spec.subscribed and path not in names]
    if new:
        unit.collection(SUBSCRIPTIONS).insert_many(
            [{"user": unit.user_id, "path": path} for path in new], session=unit.session
        )
    for document in made:
        unit.enter(Box(document, dict(document)))


def _uid_validities(database: MongoDatabase, count: int, now: int) -> range:
    """So many UIDVALIDITYs above all given before."""
    counter = database[COUNTERS].find_one_and_update(
        {"_id": _UID_VALIDITY},
        [{"$set": {"value": {"$max": [{"$add": [{"$ifNull": ["$value", 0]}, count]}, now + count - 1]}}}],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    assert counter is not None  # it is asked for as it is after the upsert
    last: int = counter["value"]
    return range(last - count + 1, last + 1)


# -- subscribing


def subscribed_among(unit: Unit, paths: Iterable[str]) -> set[str]:
    found = unit.collection(SUBSCRIPTIONS).find(
        {"user": unit.user_id, "path": {"$in": list(paths)}}, {"path": 1}, session=unit.session
    )
    return {document["path"] for document in found}


def subscribe(unit: Unit, path: str, *, subscribed: bool) -> None:
    unit.lock_structure()
    name = {"user": unit.user_id, "path": stored_path(path)}
    unit.writes += 1
    if not subscribed:
        unit.collection(SUBSCRIPTIONS).delete_one(name, session=unit.session)
    elif not subscribed_among(unit, [name["path"]]):
        unit.collection(SUBSCRIPTIONS).insert_one(dict(name), session=unit.session)
    unit.collection(MAILBOXES).update_one(name, {"$set": {"subscribed": subscribed}}, session=unit.session)
