"""STORE, UID STORE, EXPUNGE and UID EXPUNGE (RFC 3501 §6.4.3 and §6.4.6, RFC 4315)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_trio.errors import Invalid
from wd_trio.mail.model import Changes, FlagChange, FlagsStored, Vanished
from wd_trio.mail.numset import SequenceSet, UidSet
from wd_trio.proto.imap import commands as c
from wd_trio.servers.imap.selected import Selected

if TYPE_CHECKING:
    from wd_trio.servers.imap.session import ImapSession


def chosen(
    session: ImapSession, tag: str, numbers: SequenceSet, *, uid: bool
) -> tuple[Selected, UidSet] | None:
    """The selected mailbox and the uids that a command means; None after answering BAD for a bad number."""
    selected = session.selected
    assert selected is not None  # the state table: only in the selected state
    try:
        return selected, selected.view.select(numbers, uid=uid)
    except Invalid:
        session.bad(tag, "No such message number")
        return None


def _writable(session: ImapSession, tag: str) -> bool:
    assert session.selected is not None  # the state table: only in the selected state
    if session.selected.read_only:
        session.no(tag, "The mailbox was opened read-only", "READ-ONLY")
        return False
    return True


async def handle_store(session: ImapSession, tag: str, command: c.Store) -> None:
    if not _writable(session, tag):
        return
    found = chosen(session, tag, command.messages, uid=command.uid)
    if found is None:
        return
    selected, uids = found
    change = FlagChange(command.mode, command.flags, command.keywords)
    missing = False
    async for stored in session.services.messages.store_flags(selected.place, uids, change):
        missing = missing or bool(stored.missing)
        take_own(selected, stored, told=not command.silent)
        if not command.silent:
            await _answer(session, selected, stored, uid=command.uid)
    await session.sync(may_expunge=command.uid)
    if missing and not command.uid:
        session.no(tag, "Some of the messages are gone", "EXPUNGEISSUED")
    else:
        session.ok(tag, "STORE completed")


def take_own(selected: Selected, stored: FlagsStored, *, told: bool) -> None:
    """Let the view know of a change that this session made itself."""
    if not selected.view.absorb_own(stored.previous_modseq, stored.modseq, stored.rows, told=told):
        selected.subscription.ask_store = True


async def _answer(session: ImapSession, selected: Selected, stored: FlagsStored, *, uid: bool) -> None:
    for line in selected.new_keywords(stored.rows):
        session.write(line)
    for row in stored.rows:
        session.write(selected.flags_line(selected.view.seq(row.uid), row, uid=uid))
        await session.flush_if_full()


async def handle_expunge(session: ImapSession, tag: str, command: c.Expunge) -> None:
    if not _writable(session, tag):
        return
    assert session.selected is not None  # _writable has looked
    selected = session.selected
    uids = None
    if command.messages is not None:
        uids = selected.view.select(command.messages, uid=True)
    gone = await session.services.messages.expunge(selected.place, uids)
    if gone.uids:
        changes = Changes(gone.previous_modseq, gone.modseq, 0, (), (Vanished(gone.modseq, gone.uids),))
        if not selected.view.absorb(changes):
            selected.subscription.ask_store = True
    await session.sync(may_expunge=True)
    session.ok(tag, "EXPUNGE completed")
