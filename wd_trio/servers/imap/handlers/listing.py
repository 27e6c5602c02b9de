"""LIST with its extensions, and LSUB (RFC 3501 §6.3.8 and §6.3.9, RFC 3348, 5258, 5819, 6154).

One crossing brings the mailboxes, one more the subscriptions where they are asked for. A name that exists only
as the parent of others is listed as \\Noselect (\\NonExistent in the extended form).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wd_trio.mail.model import SEPARATOR, Mailbox
from wd_trio.mail.names import canonical
from wd_trio.mail.pattern import matches
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.handlers.mailbox import status_values, unknown_status
from wd_trio.servers.imap.session import ImapSession


@dataclass(slots=True)
class Name:
    """One name of the tree: a mailbox, only a parent of mailboxes, or only a subscribed name."""

    path: str
    mailbox: Mailbox | None = None
    subscribed: bool = False
    has_children: bool = False
    children_subscribed: bool = field(default=False)


def tree(mailboxes: Iterable[Mailbox], subscriptions: Iterable[str]) -> list[Name]:
    """Every name there is to list, INBOX first, then in order."""
    names = {mailbox.path: Name(mailbox.path, mailbox) for mailbox in mailboxes}
    for path in list(names):
        for parent in _parents(path):
            names.setdefault(parent, Name(parent)).has_children = True
    for path in subscriptions:
        names.setdefault(path, Name(path)).subscribed = True
        for parent in _parents(path):
            if parent in names:
                names[parent].children_subscribed = True
    return sorted(names.values(), key=lambda name: (name.path != "INBOX", name.path))


def _parents(path: str) -> Iterator[str]:
    at = path.find(SEPARATOR)
    while at > 0:
        yield path[:at]
        at = path.find(SEPARATOR, at + 1)


async def handle_list(session: ImapSession, tag: str, command: c.List) -> None:
    if unknown_status(command.status_items):
        session.bad(tag, "Unknown STATUS item")
        return
    if command.patterns == ("",) and not command.extended:
        session.write(encode.list_line("", ["\\Noselect"], SEPARATOR, utf8=session.engine.utf8))
        session.ok(tag, "LIST completed")
        return
    patterns = [canonical(command.reference + pattern) for pattern in command.patterns]
    for name in await _names(session, command):
        if not any(matches(pattern, name.path) for pattern in patterns):
            continue
        if _selected(name, command.selection):
            _tell(session, name, command)
            await session.flush_if_full()
    session.ok(tag, "LIST completed")


async def _names(session: ImapSession, command: c.List) -> list[Name]:
    mailboxes = await session.services.mailboxes.list(session.user_id)
    wanted = "SUBSCRIBED" in command.selection or "SUBSCRIBED" in command.returns
    return tree(mailboxes, await session.services.mailboxes.subscriptions(session.user_id) if wanted else ())


def _selected(name: Name, selection: frozenset[str]) -> bool:
    """Whether the selection options let a name through (RFC 5258 §3.1; REMOTE adds nothing here)."""
    if "SPECIAL-USE" in selection and not (name.mailbox and name.mailbox.special_use):
        return False
    if "SUBSCRIBED" in selection:
        return name.subscribed or ("RECURSIVEMATCH" in selection and name.children_subscribed)
    return name.mailbox is not None or name.has_children


def _tell(session: ImapSession, name: Name, command: c.List) -> None:
    utf8 = session.engine.utf8
    childinfo = "RECURSIVEMATCH" in command.selection and name.children_subscribed
    line = encode.list_line(
        name.path,
        _attributes(name, command),
        SEPARATOR,
        utf8=utf8,
        childinfo=["SUBSCRIBED"] if childinfo else [],
    )
    session.write(line)
    if "STATUS" in command.returns and name.mailbox is not None:
        values = status_values(session, name.mailbox, command.status_items)
        session.write(encode.status(name.path, values, utf8=utf8))


def _attributes(name: Name, command: c.List) -> list[str]:
    attributes: list[str] = []
    if name.mailbox is None:
        attributes.append("\\NonExistent" if command.extended else "\\Noselect")
    if name.subscribed:
        attributes.append("\\Subscribed")
    attributes.append("\\HasChildren" if name.has_children else "\\HasNoChildren")
    if name.mailbox is not None and name.mailbox.special_use:
        attributes.append(name.mailbox.special_use)
    return attributes


async def handle_lsub(session: ImapSession, tag: str, command: c.Lsub) -> None:
    """Subscribed names; with a "%" that stops short of one, its parent as \\Noselect (RFC 3501 §6.3.9)."""
    pattern = canonical(command.reference + command.pattern)
    names = await session.services.mailboxes.subscriptions(session.user_id)
    told = {path: "" for path in names if matches(pattern, path)}
    if "%" in pattern:
        for path in names:
            for parent in _parents(path):
                if path not in told and matches(pattern, parent):
                    told.setdefault(parent, "\\Noselect")
    for path in sorted(told):
        attributes = [told[path]] if told[path] else []
        session.write(encode.list_line(path, attributes, SEPARATOR, utf8=session.engine.utf8, word="LSUB"))
        await session.flush_if_full()
    session.ok(tag, "LSUB completed")
