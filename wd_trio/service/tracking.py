"""The tracking record of each user: the newest sessions, the last log-in, how many connections there are now.

    {"sessions": [{"id", "protocol", "created", "lastSeen", "active"}], "lastLogin", "connectionCount"}

Sessions themselves are volatile; this is what lasts of them, and so it costs a durable write. Nothing is written at
a log-in: users whose sessions began or ended are remembered, and every few seconds their records are made afresh
from the live documents, in one write for many. Making a record is always the same: read it, then read who is live,
then compare-and-set, again where somebody else was faster. So the last one to write has seen the truth, whatever
the order, and a record that a killed worker left behind is repaired in just this way.

A record that tells of connections has "connected": "yes" besides, which is indexed. `lastSeen` of a session that
goes on moves in steps of some minutes, lest activity become writes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from wd_trio.errors import Conflict, NotFound, WdError
from wd_trio.ports.documents import Document, Documents, Insert, Json, Operation, Update
from wd_trio.ports.gateway import Gateway, reads, writes
from wd_trio.ports.sessions import SessionDocument, SessionStore
from wd_trio.service.users import TRACKING, USERS

log = structlog.get_logger()

FLUSH_S: Final = 5.0
LAST_FLUSH_S: Final = 0.5
SESSIONS_KEPT: Final = 50
SEEN_STEP_MS: Final = 600_000
USERS_A_WRITE: Final = 25  # their live documents are read together
CAS_ATTEMPTS: Final = 5
PAGE: Final = 200


class Tracking:
    """Keeps tracking records up to date. `began` and `ended` only remember; `run` writes."""

    def __init__(self, *, gateway: Gateway, documents: Documents, sessions: SessionStore) -> None:
        self._gateway = gateway
        self._documents = documents
        self._sessions = sessions
        self._news: dict[str, list[SessionDocument]] = {}
        """By user what has ended since the last write; a user whose sessions only began has an empty list."""

    def began(self, document: SessionDocument) -> None:
        self._news.setdefault(document.user, [])

    def ended(self, documents: Iterable[SessionDocument]) -> None:
        for document in documents:
            self._news.setdefault(document.user, []).append(document)

    async def run(self) -> None:
        """Write what is remembered every few seconds, and once more at the end, which is bounded."""
        try:
            while True:
                await trio.sleep(FLUSH_S)
                await self.flush()
        finally:
            with trio.move_on_after(LAST_FLUSH_S, shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Write what is remembered. An engine in trouble is logged; it stays remembered then."""
        news, self._news = self._news, {}
        try:
            for users in _slices(news, USERS_A_WRITE):
                await self.refresh(users, news)
                for user in users:
                    del news[user]
        except WdError as error:
            log.warning("tracking not written", error=str(error), users=len(news))
        finally:
            for user, ended in news.items():
                self._news.setdefault(user, []).extend(ended)

    async def refresh(
        self, users: Sequence[str], ended: Mapping[str, Sequence[SessionDocument]] | None = None
    ) -> None:
        """Make the records of some users (about USERS_A_WRITE) true: of the live documents, and of those that
        `ended`. Conflict when others keep changing them; Unavailable."""
        left = list(users)
        for _ in range(CAS_ATTEMPTS):
            records = await self._gateway.run(_read, self._documents, left)
            live: dict[str, list[SessionDocument]] = {user: [] for user in left}
            for document in await self._gateway.run(self._sessions.of_users, left):
                live[document.user].append(document)
            operations: list[Operation] = []
            for user, record in records.items():
                before = record.data if record else {}
                after = updated(before, live[user], (ended or {}).get(user, ()))
                if record is None:
                    operations.append(Insert(TRACKING, user, after))
                elif after != before:
                    operations.append(Update(TRACKING, user, record.version, after))
            if not operations:
                return
            left = await self._gateway.run(_write, self._documents, operations)
            if not left:
                return
        raise Conflict(f"the records of {len(left)} users keep changing", what="tracking")

    async def repair(self) -> int:
        """Make all records true that tell of connections, and those of all users who have some; how many."""
        users: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._gateway.run(self._sessions.page, after=cursor, limit=PAGE)
            users.update(document.user for document in page.documents)
            cursor = page.next
            if cursor is None:
                break
        while True:
            found = await self._gateway.run(
                self._documents.page, TRACKING, "connected", after=cursor, limit=PAGE
            )
            users.update(document.id for document in found.documents)
            cursor = found.next
            if cursor is None:
                break
        for some in _slices(users, USERS_A_WRITE):
            await self.refresh(some)
        return len(users)

    async def get(self, user_id: str) -> Json:
        """A user's record; for one who never logged in an empty one."""
        record = await self._gateway.run(self._documents.get, TRACKING, user_id)
        return record.data if record else {"sessions": [], "lastLogin": 0, "connectionCount": 0}


def updated(
    before: Json, live: Sequence[SessionDocument], ended: Sequence[SessionDocument]
) -> dict[str, Any]:
    """The record after `before`, when exactly `live` sessions are there and `ended` is how others ended."""
    entries: dict[str, dict[str, Any]] = {
        entry["id"]: {**entry, "active": False} for entry in before.get("sessions", ())
    }
    for document in ended:
        entries[document.id] = _entry(document, active=False)
    for document in live:
        entry = _entry(document, active=True)
        known = entries.get(document.id)
        if known and entry["lastSeen"] - known["lastSeen"] < SEEN_STEP_MS:
            entry["lastSeen"] = known["lastSeen"]
        entries[document.id] = entry
    newest = sorted(entries.values(), key=lambda entry: (entry["created"], entry["id"]), reverse=True)
    log_ins = [before.get("lastLogin", 0), *(document.created for document in (*live, *ended))]
    after = {
        "sessions": newest[:SESSIONS_KEPT],
        "lastLogin": max(log_ins),
        "connectionCount": len(live),
    }
    return {**after, "connected": "yes"} if live else after


def _entry(document: SessionDocument, *, active: bool) -> dict[str, Any]:
    return {
        "id": document.id,
        "protocol": document.protocol,
        "created": document.created,
        "lastSeen": document.last_activity,
        "active": active,
    }


@reads("store")
def _read(documents: Documents, users: Sequence[str]) -> dict[str, Document | None]:
    """The records of those users that there are, None for one who has none yet."""
    return {user: documents.get(TRACKING, user) for user in users if documents.get(USERS, user) is not None}


@writes("store")
def _write(documents: Documents, operations: Sequence[Operation]) -> list[str]:
    """Apply each one that still can be; the users of the others."""
    crossed: list[str] = []
    for operation in operations:
        try:
            documents.apply([operation])
        except (Conflict, NotFound):
            crossed.append(operation.id)
    return crossed


def _slices(items: Iterable[str], size: int) -> Iterable[list[str]]:
    left = iter(list(items))
    while some := list(itertools.islice(left, size)):
        yield some
