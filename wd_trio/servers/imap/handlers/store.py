"""STORE, UID STORE, EXPUNGE and UID EXPUNGE (RFC 3501 §6.4.3 and §6.4.6, RFC 4315)."""

from __future__ import annotations

from wd_trio.errors import Invalid
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import Changes, Expunged, FlagChange, FlagsStored, Vanished
from wd_trio.mail.numset import EMPTY, SequenceSet, UidSet
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.selected import Selected
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


def writable(session: ImapSession, tag: str) -> bool:
    assert session.selected is not None  # the state table: only in the selected state
    if session.selected.read_only:
        session.no(tag, "The mailbox was opened read-only", "READ-ONLY")
        return False
    return True


async def handle_store(session: ImapSession, tag: str, command: c.Store) -> None:
    if not writable(session, tag):
        return
    found = chosen(session, tag, command.messages, uid=command.uid)
    if found is None:
        return
    selected, uids = found
    change = FlagChange(command.mode, command.flags, command.keywords)
    if command.unchanged_since is not None:
        session.enable_condstore()
    missing, failed = False, EMPTY
    async for stored in session.services.messages.store_flags(
        selected.place,
        uids,
        change,
        unchanged_since=command.unchanged_since,
        origin=session.origin if command.unchanged_since is None else None,
    ):
        missing = missing or bool(stored.missing)
        failed |= stored.failed
        take_own(selected, stored, told=not command.silent)
        await _answer(session, selected, stored, command)
    await session.sync(may_expunge=command.uid)
    incomplete = missing and not command.uid
    if failed:
        numbers = failed if command.uid else selected.view.seqs(failed)
        answer = session.no if incomplete else session.ok
        answer(tag, "Some of the messages had changed", f"MODIFIED {numbers}")
    elif incomplete:
        session.no(tag, "Some of the messages are gone", "EXPUNGEISSUED")
    else:
        session.ok(tag, "STORE completed")


def take_own(selected: Selected, stored: FlagsStored, *, told: bool) -> None:
    """Let the view know of a change that this session made itself."""
    if not selected.view.absorb_own(stored.previous_modseq, stored.modseq, stored.rows, told=told):
        selected.subscription.ask_store = True


async def _answer(session: ImapSession, selected: Selected, stored: FlagsStored, command: c.Store) -> None:
    """The FETCH responses of a STORE. A silent one answers only with the new modseqs, where the client follows
    them (RFC 7162 §3.1.3), and without flags."""
    condstore = session.condstore
    if command.silent and not condstore:
        return
    rows = FlagRows.of(stored.rows)
    if command.silent:
        rows = rows.where([modseq == stored.modseq for modseq in rows.modseqs])
    if condstore:
        selected.shown(rows.modseqs)
    for line in selected.new_keywords(rows.keywords.values()):
        session.write(line)
    seqs = selected.view.seqs(rows.uids)
    # With QRESYNC the client lives by uids: each response brings the message's.
    uid = command.uid or session.qresync
    session.write(encode.fetch_flags(seqs, rows, uid=uid, flags=not command.silent, modseq=condstore))
    await session.flush_if_full()


async def handle_expunge(session: ImapSession, tag: str, command: c.Expunge) -> None:
    if not writable(session, tag):
        return
    assert session.selected is not None  # writable() has looked
    selected = session.selected
    uids = selected.view.uids
    if command.messages is not None:
        uids = selected.view.select(command.messages, uid=True)
    removed = await expunge(session, selected, uids)
    await session.sync(may_expunge=True)
    session.ok(tag, "EXPUNGE completed", session.removal_code() if removed else "")


async def expunge(session: ImapSession, selected: Selected, uids: UidSet) -> bool:
    """Remove what is marked \\Deleted among `uids` and let the view know; nothing is told yet. Whether there was
    any."""
    removed = False
    async for gone in session.services.messages.expunge(selected.place, uids, origin=session.origin):
        take_own_expunge(selected, gone)
        removed = removed or bool(gone.uids)
    return removed


def take_own_expunge(selected: Selected, gone: Expunged) -> None:
    """Let the view know of messages that this session removed itself."""
    if gone.uids:
        changes = Changes(gone.previous_modseq, gone.modseq, 0, (), (Vanished(gone.modseq, gone.uids),))
        if not selected.view.absorb(changes):
            selected.subscription.ask_store = True
