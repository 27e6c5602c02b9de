"""STORE: change flags of many messages at one modseq. Runs inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
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
    after = _changer(change)
    modseq = mailbox.modseq + 1
    rows: list[FlagRow] = []
    changed: list[tuple[int, str, int, int, int]] = []
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
        changed.append((new_flags, new_keywords, modseq, mailbox.number, uid))
        unseen += (flags & SEEN) - (new_flags & SEEN)
        deleted += bool(new_flags & DELETED) - bool(flags & DELETED)
    if changed:
        connection.executemany(
            "UPDATE messages SET flags = ?, keywords = ?, modseq = ? WHERE mailbox = ? AND uid = ?", changed
        )
        words = with_keywords(mailbox.keywords, {keywords for _, keywords, *_ in changed})
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


def _changer(change: FlagChange) -> Callable[[int, str], FlagState]:
    """The function from a message's flags and keywords to those after the change; it remembers its answers,
    since most messages of a mailbox have one of a few combinations."""
    words = change.keywords.split()
    folded = {word.lower() for word in words}

    def replaced(_: int, keywords: str) -> FlagState:
        same = {word.lower() for word in keywords.split()} == folded
        return change.flags, keywords if same else join_keywords(words)

    def added(flags: int, keywords: str) -> FlagState:
        return flags | change.flags, join_keywords([*keywords.split(), *words]) if words else keywords

    def removed(flags: int, keywords: str) -> FlagState:
        left = " ".join(word for word in keywords.split() if word.lower() not in folded)
        return flags & ~change.flags, left if words else keywords

    return cache({"set": replaced, "add": added, "remove": removed}[change.mode])
