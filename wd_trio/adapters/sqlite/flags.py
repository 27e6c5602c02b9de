"""STORE: change flags of many messages at one modseq. Runs inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from functools import lru_cache, partial
from typing import TypeAlias

from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.messages import with_keywords
from wd_trio.adapters.sqlite.rows import pick
from wd_trio.mail.model import DELETED, SEEN, FlagChange, FlagRow, FlagsStored, join_keywords
from wd_trio.mail.numset import EMPTY, UidSet

FlagState: TypeAlias = tuple[int, str]


def store(
    connection: sqlite3.Connection,
    mailbox: MailboxState,
    uids: UidSet,
    change: FlagChange,
    unchanged_since: int | None,
) -> FlagsStored:
    """Apply `change` to the living messages among `uids`. Held-back messages are in `failed` alone, not in `rows`."""
    picked = pick(mailbox.number, uids)
    found = connection.execute(
        f"SELECT m.uid, m.modseq, m.flags, m.keywords FROM {picked.source} WHERE {picked.condition}",
        picked.parameters,
    ).fetchall()
    after = partial(_after, change.mode, change.flags, change.keywords)
    modseq = mailbox.modseq + 1
    rows: list[FlagRow] = []
    changed: dict[FlagState, list[int]] = {}
    failed: list[int] = []
    unseen = deleted = 0
    for uid, row_modseq, flags, keywords in found:
        if unchanged_since is not None and row_modseq > unchanged_since:
            failed.append(uid)
            continue
        new_flags, new_keywords = after(flags, keywords)
        if new_flags == flags and new_keywords == keywords:
            rows.append(FlagRow(uid, row_modseq, flags, keywords))
            continue
        rows.append(FlagRow(uid, modseq, new_flags, new_keywords))
        changed.setdefault((new_flags, new_keywords), []).append(uid)
        unseen += (flags & SEEN) - (new_flags & SEEN)
        deleted += bool(new_flags & DELETED) - bool(flags & DELETED)
    if changed:
        # Neighbours that end up alike are written together: one statement for a range, not for a message.
        connection.executemany(
            "UPDATE messages SET flags = ?, keywords = ?, modseq = ? WHERE mailbox = ? AND uid BETWEEN ? AND ?",
            (
                (*state, modseq, mailbox.number, first, last)
                for state, uids_alike in changed.items()
                for first, last in UidSet.of(uids_alike).ranges()
            ),
        )
        words = with_keywords(mailbox.keywords, {keywords for _, keywords in changed})
        connection.execute(
            "UPDATE mailboxes SET modseq = ?, unseen = unseen + ?, deleted = deleted + ?, keywords = ?"
            " WHERE mailbox = ?",
            (modseq, unseen, deleted, words, mailbox.number),
        )
    return FlagsStored(
        previous_modseq=mailbox.modseq,
        modseq=modseq if changed else mailbox.modseq,
        rows=tuple(rows),
        failed=UidSet.of(failed) if failed else EMPTY,
        missing=uids if not found else uids - UidSet.of(uid for uid, *_ in found),
    )


@lru_cache(maxsize=4096)
def _after(mode: str, change: int, change_keywords: str, flags: int, keywords: str) -> FlagState:
    """A message's flags and keywords after a change. Remembered, since messages have one of a few combinations."""
    words = change_keywords.split()
    if mode == "add":
        return flags | change, join_keywords([*keywords.split(), *words]) if words else keywords
    folded = {word.lower() for word in words}
    if mode == "remove":
        left = " ".join(word for word in keywords.split() if word.lower() not in folded)
        return flags & ~change, left if words else keywords
    same = {word.lower() for word in keywords.split()} == folded
    return change, keywords if same else join_keywords(words)
