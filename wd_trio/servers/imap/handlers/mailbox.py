"""SELECT, EXAMINE, UNSELECT, CLOSE, STATUS and what changes mailboxes (RFC 3501 §6.3, RFC 2342, 3691, 6154, 7162).

\\Recent is not kept: it would cost a write per SELECT, RFC 9051 dropped it, and no client in use needs it. RECENT
is always 0 (docs/protocols.md tells this departure).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wd_trio.errors import Conflict, Invalid, NotFound, WdError
from wd_trio.mail.model import Mailbox
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.handlers.resync import tell_missed
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.session import ImapSession
from wd_trio.service.mailboxes import SPECIAL_USES

STATUS_VALUES: Final[dict[str, Callable[[Mailbox], int]]] = {
    "MESSAGES": lambda mailbox: mailbox.messages,
    "RECENT": lambda mailbox: 0,
    "UIDNEXT": lambda mailbox: mailbox.uid_next,
    "UIDVALIDITY": lambda mailbox: mailbox.uid_validity,
    "UNSEEN": lambda mailbox: mailbox.unseen,
    "DELETED": lambda mailbox: mailbox.deleted,
    "SIZE": lambda mailbox: mailbox.size_bytes,
    "HIGHESTMODSEQ": lambda mailbox: mailbox.highest_modseq,
}
APPENDLIMIT: Final = "APPENDLIMIT"


def status_values(session: ImapSession, mailbox: Mailbox, items: tuple[str, ...]) -> list[tuple[str, int]]:
    """The values of STATUS items (RFC 3501 §6.3.10, RFC 7162, 7889, 8438); `items` are known ones."""
    if "HIGHESTMODSEQ" in items:
        session.enable_condstore()
    limit = session.options.engine.max_message_bytes
    return [(item, limit if item == APPENDLIMIT else STATUS_VALUES[item](mailbox)) for item in items]


def unknown_status(items: tuple[str, ...]) -> bool:
    return any(item not in STATUS_VALUES and item != APPENDLIMIT for item in items)


async def handle_namespace(session: ImapSession, tag: str, _command: c.Namespace) -> None:
    session.write(encode.namespace())
    session.ok(tag, "NAMESPACE completed")


async def handle_status(session: ImapSession, tag: str, command: c.Status) -> None:
    if unknown_status(command.items):
        session.bad(tag, "Unknown STATUS item")
        return
    mailbox = await session.services.mailboxes.find(session.user_id, command.mailbox)
    values = status_values(session, mailbox, command.items)
    session.write(encode.status(command.mailbox, values, utf8=session.engine.utf8))
    await session.sync(may_expunge=True)
    session.ok(tag, "STATUS completed")


async def handle_select(session: ImapSession, tag: str, command: c.Select) -> None:
    if command.resync is not None and not session.qresync:
        session.bad(tag, "Enable QRESYNC first")
        return
    if session.selected is not None:
        session.unselect()
        session.write(encode.ok("Closed", "CLOSED"))  # what follows is of the next mailbox, RFC 7162 §3.2.11
    if command.condstore:
        session.enable_condstore()
    try:
        opened, uids = await session.services.mailboxes.open(session.user_id, command.mailbox)
    except NotFound:
        if command.mailbox != "INBOX":
            raise
        await session.services.mailboxes.list(
            session.user_id
        )  # a user who never had mail: makes the default ones
        opened, uids = await session.services.mailboxes.open(session.user_id, command.mailbox)
    selected = Selected(
        opened, uids, read_only=command.read_only, hub=session.services.hub, on_change=session.connection.wake
    )
    session.selected = selected
    session.engine.selected()
    names = [*encode.SYSTEM_FLAG_NAMES, *selected.keywords]
    session.write(encode.flags(names))
    permanent = "" if command.read_only else " ".join([*names, "\\*"])
    session.write(encode.ok("Flags that last", f"PERMANENTFLAGS ({permanent})"))
    session.write(encode.exists(len(uids)))
    session.write(encode.recent(0))
    if opened.first_unseen_uid:
        session.write(encode.ok("First unseen", f"UNSEEN {selected.view.seq(opened.first_unseen_uid)}"))
    session.write(encode.ok("Uids are valid", f"UIDVALIDITY {opened.mailbox.uid_validity}"))
    session.write(encode.ok("Next uid", f"UIDNEXT {opened.mailbox.uid_next}"))
    session.write(encode.ok("Highest", f"HIGHESTMODSEQ {opened.mailbox.highest_modseq}"))
    if command.resync is not None:
        try:
            await tell_missed(session, selected, command.resync)
        except WdError:
            session.unselect()  # as behind any SELECT that failed
            raise
    if command.read_only:
        session.ok(tag, "EXAMINE completed", "READ-ONLY")
    else:
        session.ok(tag, "SELECT completed", "READ-WRITE")


async def handle_unselect(session: ImapSession, tag: str, _command: c.Unselect) -> None:
    session.unselect()
    session.ok(tag, "UNSELECT completed")


async def handle_close(session: ImapSession, tag: str, _command: c.Close) -> None:
    selected = session.selected
    assert selected is not None  # the state table: only in the selected state
    code = "" if selected.read_only else await _remove_untold(session, selected)
    session.unselect()
    session.ok(tag, "CLOSE completed", code)


async def _remove_untold(session: ImapSession, selected: Selected) -> str:
    """CLOSE's removal of what is marked \\Deleted, and the code for it (RFC 7162 §3.2.8): the client knows what it
    had removed, unless others' changes that it was not told of lie before."""
    known, removed = selected.view.settled, False
    async for gone in session.services.messages.expunge(selected.place, selected.view.uids):
        removed = removed or bool(gone.uids)
        if gone.previous_modseq == known:
            known = gone.modseq
    return f"HIGHESTMODSEQ {known}" if removed and session.qresync else ""


async def handle_check(session: ImapSession, tag: str, _command: c.Check) -> None:
    await session.sync(may_expunge=True)  # everything acknowledged is on disk already
    session.ok(tag, "CHECK completed")


async def handle_create(session: ImapSession, tag: str, command: c.Create) -> None:
    if len(command.special_use) > 1:
        raise Invalid("one special use at most", what="special use")
    use = _spelled(command.special_use[0]) if command.special_use else ""
    try:
        await session.services.mailboxes.create(
            session.user_id, command.mailbox, special_use=use, origin=session.origin
        )
    except (Invalid, Conflict) as error:
        if error.what != "special use":
            raise
        session.no(tag, "That special use cannot be given", "USEATTR")
        return
    session.ok(tag, "CREATE completed")


def _spelled(use: str) -> str:
    """A special use as RFC 6154 spells it; as it came where it is none of them."""
    return next((known for known in SPECIAL_USES if known.lower() == use.lower()), use)


async def handle_delete(session: ImapSession, tag: str, command: c.Delete) -> None:
    await session.services.mailboxes.delete(session.user_id, command.mailbox, origin=session.origin)
    session.ok(tag, "DELETE completed")


async def handle_rename(session: ImapSession, tag: str, command: c.Rename) -> None:
    await session.services.mailboxes.rename(
        session.user_id, command.source, command.target, origin=session.origin
    )
    await session.sync(may_expunge=True)
    session.ok(tag, "RENAME completed")


async def handle_subscribe(session: ImapSession, tag: str, command: c.Subscribe) -> None:
    await session.services.mailboxes.subscribe(
        session.user_id, command.mailbox, subscribed=command.subscribed, origin=session.origin
    )
    session.ok(tag, "SUBSCRIBE completed" if command.subscribed else "UNSUBSCRIBE completed")


async def handle_get_quota(session: ImapSession, tag: str, command: c.GetQuota) -> None:
    if command.root:
        session.no(tag, "No such quota root", "NONEXISTENT")
        return
    await _tell_quota(session)
    session.ok(tag, "GETQUOTA completed")


async def handle_get_quota_root(session: ImapSession, tag: str, command: c.GetQuotaRoot) -> None:
    await session.services.mailboxes.find(session.user_id, command.mailbox)
    session.write(encode.quotaroot(command.mailbox, [""], utf8=session.engine.utf8))
    await _tell_quota(session)
    session.ok(tag, "GETQUOTAROOT completed")


async def handle_set_quota(session: ImapSession, tag: str, _command: c.SetQuota) -> None:
    session.no(tag, "Quotas are set by the administrator", "NOPERM")


async def _tell_quota(session: ImapSession) -> None:
    """One root, named "": the user's room in units of 1024 octets (RFC 9208 §5.1); no resource when unlimited."""
    assert session.login is not None  # the state table lets no such command through before log-in
    limit = session.login.quota_bytes
    usage = await session.services.mailboxes.usage(session.user_id)
    resources = [] if limit is None else [("STORAGE", -(-usage.size_bytes // 1024), limit // 1024)]
    session.write(encode.quota("", resources))
