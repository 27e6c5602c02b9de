"""COPY, MOVE and their UID forms (RFC 3501 §6.4.7, RFC 6851, COPYUID of RFC 4315)."""

from __future__ import annotations

from wd_trio.errors import NotFound
from wd_trio.mail.model import Copied
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.handlers.store import chosen, take_own_expunge, writable
from wd_trio.servers.imap.session import ImapSession


async def handle_copy(session: ImapSession, tag: str, command: c.Copy) -> None:
    if command.move and not writable(session, tag):
        return
    found = chosen(session, tag, command.messages, uid=command.uid)
    if found is None:
        return
    selected, uids = found
    assert session.login is not None  # the state table: only after log-in
    try:
        copied = await session.services.messages.copy(
            selected.place,
            uids,
            command.mailbox,
            quota_bytes=session.login.quota_bytes,
            move=command.move,
            origin=session.origin,
        )
    except NotFound as error:
        if error.what != "target":
            raise
        session.no(tag, "No such mailbox", "TRYCREATE")
        return
    code = _copyuid(copied)
    if command.move:
        if code:
            session.write(encode.ok("Moved", code))  # before the expunges, RFC 6851 §4.3
        if copied.gone is not None:
            take_own_expunge(selected, copied.gone)
        await session.sync(may_expunge=True)
        session.ok(tag, "MOVE completed", session.removal_code() if copied.sources else "")
        return
    await session.sync(may_expunge=True)
    # What was expunged meanwhile has no copy: COPYUID says so. A NO would have to undo the others (RFC 3501 §6.4.7).
    session.ok(tag, "COPY completed", code)


def _copyuid(copied: Copied) -> str:
    if not copied.sources:
        return ""
    return encode.copyuid(copied.targets.uid_validity, copied.sources, copied.targets.uids)
