"""LIST, NAMESPACE, STATUS, SELECT, EXAMINE, UNSELECT and CLOSE (RFC 3501 §6.3 and §6.4, RFC 2342, 3691, 6154).

\\Recent is not kept: it would cost a write per SELECT, RFC 9051 dropped it, and no client in use needs it. RECENT
is always 0 (docs/protocols.md tells this departure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from wd_trio.errors import NotFound
from wd_trio.mail.model import SEPARATOR, Mailbox
from wd_trio.mail.pattern import matches
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.selected import Selected

if TYPE_CHECKING:
    from wd_trio.servers.imap.session import ImapSession

STATUS_VALUES: Final[dict[str, Callable[[Mailbox], int]]] = {
    "MESSAGES": lambda mailbox: mailbox.messages,
    "RECENT": lambda mailbox: 0,
    "UIDNEXT": lambda mailbox: mailbox.uid_next,
    "UIDVALIDITY": lambda mailbox: mailbox.uid_validity,
    "UNSEEN": lambda mailbox: mailbox.unseen,
}


def _user(session: ImapSession) -> str:
    assert session.login is not None  # the state table lets no such command through before log-in
    return session.login.user_id


async def handle_list(session: ImapSession, tag: str, command: c.List) -> None:
    if command.patterns == ("",):
        session.write(encode.list_line("", ["\\Noselect"], SEPARATOR, utf8=session.engine.utf8))
        session.ok(tag, "LIST completed")
        return
    for name, attributes in _listing(await session.services.mailboxes.list(_user(session))):
        if any(matches(command.reference + pattern, name) for pattern in command.patterns):
            session.write(encode.list_line(name, attributes, SEPARATOR, utf8=session.engine.utf8))
            await session.flush_if_full()
    session.ok(tag, "LIST completed")


def _listing(mailboxes: Sequence[Mailbox]) -> list[tuple[str, list[str]]]:
    """Names with their attributes, and \\Noselect parents where only a child exists."""
    parents: dict[str, None] = {}
    for mailbox in mailboxes:
        levels = mailbox.path.split(SEPARATOR)
        for depth in range(1, len(levels)):
            parents[SEPARATOR.join(levels[:depth])] = None
    listing: list[tuple[str, list[str]]] = []
    paths = {mailbox.path for mailbox in mailboxes}
    for mailbox in mailboxes:
        attributes = ["\\HasChildren" if mailbox.path in parents else "\\HasNoChildren"]
        if mailbox.special_use:
            attributes.append(mailbox.special_use)
        listing.append((mailbox.path, attributes))
    listing.extend((name, ["\\Noselect", "\\HasChildren"]) for name in parents if name not in paths)
    return sorted(listing, key=lambda entry: (entry[0] != "INBOX", entry[0]))


async def handle_namespace(session: ImapSession, tag: str, _command: c.Namespace) -> None:
    session.write(encode.namespace())
    session.ok(tag, "NAMESPACE completed")


async def handle_status(session: ImapSession, tag: str, command: c.Status) -> None:
    unknown = [item for item in command.items if item not in STATUS_VALUES]
    if unknown:
        session.bad(tag, "Unknown STATUS item")
        return
    mailbox = await session.services.mailboxes.find(_user(session), command.mailbox)
    values = [(item, STATUS_VALUES[item](mailbox)) for item in command.items]
    session.write(encode.status(command.mailbox, values, utf8=session.engine.utf8))
    await session.sync(may_expunge=True)
    session.ok(tag, "STATUS completed")


async def handle_select(session: ImapSession, tag: str, command: c.Select) -> None:
    session.unselect()
    try:
        opened, uids = await session.services.mailboxes.open(_user(session), command.mailbox)
    except NotFound:
        if command.mailbox != "INBOX":
            raise
        await session.services.mailboxes.list(
            _user(session)
        )  # a user who never had mail: makes the default ones
        opened, uids = await session.services.mailboxes.open(_user(session), command.mailbox)
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
    if not selected.read_only:
        await session.services.messages.expunge(selected.place)
    session.unselect()
    session.ok(tag, "CLOSE completed")
