"""What users take up."""

from __future__ import annotations

from typing import Final

from wd_trio.adapters.mongo_redis.layout import ACCOUNTS, MESSAGES, Document
from wd_trio.adapters.mongo_redis.mailboxes import documents_of
from wd_trio.adapters.mongo_redis.shared import Shared
from wd_trio.adapters.mongo_redis.work import Unit
from wd_trio.adapters.mongo_redis.writer import Change
from wd_trio.mail.model import Usage, join_keywords

_COUNTED: Final = ("messages", "unseen", "deleted", "bytes")


def get(shared: Shared, user_id: str) -> Usage:
    found = shared.reader.find_one(ACCOUNTS, {"_id": user_id}) or {}
    return Usage(int(found.get("bytes", 0)), int(found.get("messages", 0)))


def recount(shared: Shared, user_id: str) -> Usage:
    """Make the counters of a user and its mailboxes what the messages say."""

    def run(unit: Unit) -> Usage:
        unit.lock_structure()
        boxes = [unit.box(document["_id"]) for document in documents_of(unit)]
        true = {row["_id"]: row for row in _counts(unit)}
        total = Usage(0, 0)
        for box in boxes:
            row: Document = true.get(box.id) or {**dict.fromkeys(_COUNTED, 0), "keywords": []}
            box.now.update({name: row[name] for name in _COUNTED})
            box.now["keywords"] = join_keywords(
                word for text in sorted(row["keywords"]) for word in text.split()
            )
            total = Usage(total.size_bytes + row["bytes"], total.messages + row["messages"])
        unit.writes += 1
        unit.collection(ACCOUNTS).update_one(
            {"_id": user_id},
            {"$set": {"bytes": total.size_bytes, "messages": total.messages}},
            session=unit.session,
        )
        return total

    return shared.writer.do(user_id, Change(run=run, alone=True))


def _counts(unit: Unit) -> list[Document]:
    def count(field: str) -> Document:
        return {"$sum": {"$cond": [{"$eq": [f"${field}", True]}, 1, 0]}}

    counted = {
        "messages": {"$sum": 1},
        "unseen": count("unseen"),
        "deleted": count("deleted"),
        "bytes": {"$sum": "$size"},
        "keywords": {"$addToSet": "$keywords"},
    }
    pipeline: list[Document] = [
        {"$match": {"user": unit.user_id}},
        {"$group": {"_id": "$mailbox", **counted}},
    ]
    return list(unit.collection(MESSAGES).aggregate(pipeline, session=unit.session))
