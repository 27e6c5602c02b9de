"""The tables, as forward migrations, each applied once in a transaction of its own.

`schema_versions` says which were. A database written by a newer program is refused, never touched. A released
migration is never edited: changes are new entries at the end.

Layout of mail
- messages: one narrow row per message, clustered by (mailbox, uid), so that FETCH FLAGS of a thousand messages
  reads a dozen pages. What never changes is in `contents` (small, rendered) and `texts` (header and rope, large,
  apart so that ENVELOPE pages stay dense); copies of a message share them.
- messages.unseen and .deleted repeat two bits of `flags`: the partial indexes hang on them, so that a change of other
  flags leaves the indexes alone.
- contents.plain_header: nothing in the header is encoded, so SQLite itself can look for a text in it. 0 where that is
  not so or was never looked at.
- changed: which uids were touched at each of a mailbox's last modseqs, as ranges that may hold others too. It finds
  what changed since a modseq; an index of messages by modseq would, too, at an entry for each message changed.
- vanished: the journal of expunges, as uid ranges by modseq. mailboxes.journal_floor: the highest modseq trimmed
  from it.
- graves: mailboxes that were deleted and whose messages are still being removed. Numbers of mailboxes are never given
  twice, so that these messages stay nobody's.
- outcomes: what the last write of a session came to, for whoever answers a command whose worker was killed.
- subscriptions: names, which outlive the mailboxes they name (RFC 3501 §6.3.6).
- blobs: `chunk` is blob << 20 | number of the chunk, so that a blob's chunks lie side by side in one tree without
  a second one. `referenced` follows blob_refs: it makes what may be collected findable by a partial index.

Integers `mailbox`, `content`, `blob` are internal; outside, ids are 24 hex digits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from wd_trio import errors

Migration: TypeAlias = tuple[str, ...]
Schema: TypeAlias = Sequence[Migration]

CHUNK_SHIFT: Final = 20

_MAILBOXES: Final = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('uid_validity', 0)",
    """CREATE TABLE accounts (
        user_id TEXT PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        messages INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE mailboxes (
        mailbox INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        user_id TEXT NOT NULL,
        path TEXT NOT NULL,
        uid_validity INTEGER NOT NULL,
        uid_next INTEGER NOT NULL DEFAULT 1,
        modseq INTEGER NOT NULL DEFAULT 1,
        special_use TEXT NOT NULL DEFAULT '',
        subscribed INTEGER NOT NULL DEFAULT 1,
        messages INTEGER NOT NULL DEFAULT 0,
        unseen INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0,
        journal_floor INTEGER NOT NULL DEFAULT 0,
        keywords TEXT NOT NULL DEFAULT '',
        UNIQUE (user_id, path)
    )""",
)
_MESSAGES: Final = (
    """CREATE TABLE messages (
        mailbox INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        modseq INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        keywords TEXT NOT NULL,
        internal_date INTEGER NOT NULL,
        saved_date INTEGER NOT NULL,
        size INTEGER NOT NULL,
        content INTEGER NOT NULL,
        PRIMARY KEY (mailbox, uid)
    ) WITHOUT ROWID""",
    "CREATE INDEX messages_changed ON messages (mailbox, modseq)",
    "CREATE INDEX messages_unseen ON messages (mailbox, uid) WHERE (flags & 1) = 0",
    "CREATE INDEX messages_deleted ON messages (mailbox, uid) WHERE (flags & 8) <> 0",
    "CREATE INDEX messages_content ON messages (content)",
    """CREATE TABLE contents (
        content INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        thread_id TEXT NOT NULL,
        preview TEXT NOT NULL,
        envelope BLOB NOT NULL,
        envelope_utf8 BLOB,
        bodystructure BLOB NOT NULL,
        bodystructure_utf8 BLOB,
        body BLOB NOT NULL,
        parts BLOB NOT NULL
    )""",
    "CREATE TABLE texts (content INTEGER PRIMARY KEY, header BLOB NOT NULL, rope BLOB NOT NULL)",
    """CREATE TABLE vanished (
        mailbox INTEGER NOT NULL,
        modseq INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        vanished_at INTEGER NOT NULL,
        PRIMARY KEY (mailbox, modseq, first)
    ) WITHOUT ROWID""",
    "CREATE INDEX vanished_age ON vanished (vanished_at)",
)
_BLOBS: Final = (
    """CREATE TABLE blobs (
        blob INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        complete INTEGER NOT NULL,
        referenced INTEGER NOT NULL DEFAULT 0,
        last_used INTEGER NOT NULL
    )""",
    "CREATE INDEX blobs_idle ON blobs (last_used) WHERE referenced = 0",
    "CREATE TABLE blob_chunks (chunk INTEGER PRIMARY KEY, compressed INTEGER NOT NULL, data BLOB NOT NULL)",
    """CREATE TABLE blob_refs (
        content INTEGER NOT NULL,
        blob INTEGER NOT NULL,
        PRIMARY KEY (content, blob)
    ) WITHOUT ROWID""",
    "CREATE INDEX blob_refs_blob ON blob_refs (blob)",
)
_DOCUMENTS: Final = (
    """CREATE TABLE documents (
        document INTEGER PRIMARY KEY,
        collection TEXT NOT NULL,
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        data TEXT NOT NULL,
        UNIQUE (collection, id)
    )""",
    """CREATE TABLE document_index (
        collection TEXT NOT NULL,
        field TEXT NOT NULL,
        value TEXT NOT NULL,
        id TEXT NOT NULL,
        uniquely INTEGER NOT NULL,
        PRIMARY KEY (collection, field, value, id)
    ) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX document_unique ON document_index (collection, field, value) WHERE uniquely = 1",
    "CREATE INDEX document_entries ON document_index (collection, id)",
)

_SUBSCRIPTIONS: Final = (
    """CREATE TABLE subscriptions (
        user_id TEXT NOT NULL,
        path TEXT NOT NULL,
        PRIMARY KEY (user_id, path)
    ) WITHOUT ROWID""",
    "INSERT INTO subscriptions SELECT user_id, path FROM mailboxes WHERE subscribed <> 0",
    # Made anew without `subscribed`: SQLite before 3.35 cannot drop a column.
    "ALTER TABLE mailboxes RENAME TO mailboxes_1",
    """CREATE TABLE mailboxes (
        mailbox INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        user_id TEXT NOT NULL,
        path TEXT NOT NULL,
        uid_validity INTEGER NOT NULL,
        uid_next INTEGER NOT NULL DEFAULT 1,
        modseq INTEGER NOT NULL DEFAULT 1,
        special_use TEXT NOT NULL DEFAULT '',
        messages INTEGER NOT NULL DEFAULT 0,
        unseen INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0,
        journal_floor INTEGER NOT NULL DEFAULT 0,
        keywords TEXT NOT NULL DEFAULT '',
        UNIQUE (user_id, path)
    )""",
    "INSERT INTO mailboxes SELECT mailbox, id, user_id, path, uid_validity, uid_next, modseq, special_use,"
    " messages, unseen, deleted, size_bytes, journal_floor, keywords FROM mailboxes_1",
    "DROP TABLE mailboxes_1",
)

_CHANGED: Final = (
    "DROP INDEX messages_changed",
    "DROP INDEX messages_unseen",
    "DROP INDEX messages_deleted",
    "ALTER TABLE messages ADD COLUMN unseen INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0",
    "UPDATE messages SET unseen = (flags & 1) = 0, deleted = (flags & 8) <> 0 WHERE (flags & 9) <> 1",
    "CREATE INDEX messages_unseen ON messages (mailbox, uid) WHERE unseen = 1",
    "CREATE INDEX messages_deleted ON messages (mailbox, uid) WHERE deleted = 1",
    """CREATE TABLE changed (
        mailbox INTEGER NOT NULL,
        modseq INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (mailbox, modseq, first)
    ) WITHOUT ROWID""",
    "ALTER TABLE contents ADD COLUMN plain_header INTEGER NOT NULL DEFAULT 0",
    # What came before, nobody knows where: an entry at the mailbox's modseq stands for all of it.
    "INSERT INTO changed SELECT mailbox, modseq, 1, uid_next FROM mailboxes",
)

_GRAVES: Final = (
    "CREATE TABLE graves (mailbox INTEGER PRIMARY KEY)",
    "ALTER TABLE mailboxes RENAME TO mailboxes_3",
    """CREATE TABLE mailboxes (
        mailbox INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        user_id TEXT NOT NULL,
        path TEXT NOT NULL,
        uid_validity INTEGER NOT NULL,
        uid_next INTEGER NOT NULL DEFAULT 1,
        modseq INTEGER NOT NULL DEFAULT 1,
        special_use TEXT NOT NULL DEFAULT '',
        messages INTEGER NOT NULL DEFAULT 0,
        unseen INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0,
        journal_floor INTEGER NOT NULL DEFAULT 0,
        keywords TEXT NOT NULL DEFAULT '',
        UNIQUE (user_id, path)
    )""",
    "INSERT INTO mailboxes SELECT mailbox, id, user_id, path, uid_validity, uid_next, modseq, special_use,"
    " messages, unseen, deleted, size_bytes, journal_floor, keywords FROM mailboxes_3",
    "DROP TABLE mailboxes_3",
)

_OUTCOMES: Final = (
    """CREATE TABLE outcomes (
        session TEXT PRIMARY KEY,
        serial INTEGER NOT NULL,
        uid_validity INTEGER NOT NULL,
        sources TEXT NOT NULL,
        targets TEXT NOT NULL,
        noted_at INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX outcomes_age ON outcomes (noted_at)",
)

STORE_SCHEMA: Final[Schema] = (
    _MAILBOXES + _MESSAGES + _BLOBS + _DOCUMENTS,
    _SUBSCRIPTIONS,
    _CHANGED,
    _GRAVES,
    _OUTCOMES,
)

STATE_SCHEMA: Final[Schema] = (
    (
        """CREATE TABLE claims (
            key TEXT NOT NULL,
            holder TEXT NOT NULL,
            owner TEXT NOT NULL,
            PRIMARY KEY (key, holder)
        ) WITHOUT ROWID""",
        "CREATE INDEX claims_owner ON claims (owner)",
        "CREATE TABLE strikes (key TEXT PRIMARY KEY, count INTEGER NOT NULL, ends REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX strikes_ends ON strikes (ends)",
    ),
    (
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            user TEXT NOT NULL,
            protocol TEXT NOT NULL,
            server TEXT NOT NULL,
            worker TEXT NOT NULL,
            ttl INTEGER NOT NULL,
            expires REAL NOT NULL,
            doomed INTEGER NOT NULL,
            document TEXT NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX sessions_user ON sessions (user, protocol)",
        "CREATE INDEX sessions_owner ON sessions (server, worker, expires)",
        "CREATE INDEX sessions_doomed ON sessions (server, worker) WHERE doomed = 1",
        "CREATE TABLE leases (server TEXT PRIMARY KEY, ends REAL NOT NULL) WITHOUT ROWID",
    ),
)


def version_of(connection: sqlite3.Connection) -> int:
    """How many migrations the database has seen; 0 for a new one."""
    table = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_versions'"
    if not connection.execute(table).fetchone()[0]:
        return 0
    version: int = connection.execute("SELECT coalesce(max(version), 0) FROM schema_versions").fetchone()[0]
    return version


def require_known(version: int, schema: Schema) -> None:
    """errors.Invalid for a version that this program does not know."""
    if version > len(schema):
        raise errors.Invalid(
            f"the database has schema {version}, this program knows schemas up to {len(schema)}: "
            "run the newer program, or restore a backup made by this one",
            what="store.url",
        )


def require_usable(version: int, schema: Schema, try_alone: Callable[[], bool]) -> None:
    """errors.Invalid for a version that this program does not know, or for an older one while another program, which
    would not know ours, has the database open. `try_alone` keeps others out, and says whether there were none."""
    require_known(version, schema)
    if 0 < version < len(schema) and not try_alone():
        raise errors.Invalid(
            f"the database has schema {version}, this program needs {len(schema)}, and another program has it open: "
            "stop the server, then start the new one",
            what="store.url",
        )


def migrate(connection: sqlite3.Connection, schema: Schema, now: int) -> None:
    """Bring the database to the newest version, one transaction per migration; one that fails changes nothing.
    Only under the writer's lock."""
    version = version_of(connection)
    require_known(version, schema)
    for number, statements in enumerate(schema[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL)"
            )
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO schema_versions VALUES (?, ?)", (number, now))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
