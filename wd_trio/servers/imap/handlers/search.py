"""SEARCH and UID SEARCH, plain and extended (RFC 3501 §6.4.4, RFC 4731, RFC 5032, RFC 7162 §3.1.5).

Sequence sets in the key are resolved by the view before the store sees it. The store walks the mailbox page by
page; a client that has not been told of a message never finds it.
"""

from __future__ import annotations

import time

from wd_trio.errors import Invalid
from wd_trio.mail.model import Columns
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.search import And, ModSeq, Not, Numbers, Or, SearchKey, Uids
from wd_trio.mail.view import View
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.session import ImapSession


def resolved(key: SearchKey, view: View) -> SearchKey:
    """The key with uids in the place of the client's numbers. Invalid for a number that does not exist.

    The parser has bounded how deep keys nest.
    """
    match key:
        case Numbers(numbers=numbers, uid=uid):
            return Uids(view.select(numbers, uid=uid))
        case Not(key=inner):
            return Not(resolved(inner, view))
        case And(keys=keys):
            return And(tuple(resolved(inner, view) for inner in keys))
        case Or(keys=keys):
            return Or(tuple(resolved(inner, view) for inner in keys))
    return key


def asks_modseq(key: SearchKey) -> bool:
    match key:
        case ModSeq():
            return True
        case Not(key=inner):
            return asks_modseq(inner)
        case And(keys=keys) | Or(keys=keys):
            return any(asks_modseq(inner) for inner in keys)
    return False


async def handle_search(session: ImapSession, tag: str, command: c.Search) -> None:
    selected = session.selected
    assert selected is not None  # the state table: only in the selected state
    try:
        key = resolved(command.key, selected.view)
    except Invalid:
        session.bad(tag, "No such message number")
        return
    with_modseq = asks_modseq(command.key)
    if with_modseq:
        session.enable_condstore()
    found, modseq = EMPTY, 0
    now = int(time.time())
    async for page in session.services.messages.search(selected.place, selected.view.uids, key, now=now):
        found |= page.uids
        modseq = max(modseq, page.modseq)
    if with_modseq and found and command.returns and not command.returns & {"ALL", "COUNT"}:
        modseq = await _modseq_of_ends(session, selected, command.returns, found)
    numbers = found if command.uid else selected.view.seqs(found)
    if command.returns is None:
        session.write(encode.search(numbers, modseq=modseq if with_modseq and found else None))
    else:
        session.write(_extended(tag, command, numbers, modseq if with_modseq else 0))
    await session.sync(may_expunge=command.uid)
    session.ok(tag, "SEARCH completed")


async def _modseq_of_ends(
    session: ImapSession, selected: Selected, wanted: frozenset[str], found: UidSet
) -> int:
    """Where only MIN or MAX are asked for, MODSEQ is theirs: the greater of both (RFC 4731 §3.2)."""
    ends = {found.first for _ in wanted & {"MIN"}} | {found.last for _ in wanted & {"MAX"}}
    modseq = 0
    uids = UidSet.of(sorted(ends))
    async for rows in session.services.messages.pages(selected.place.mailbox_id, uids, Columns.NONE):
        modseq = max(modseq, *(row.modseq for row in rows), 0)
    return modseq


def _extended(tag: str, command: c.Search, numbers: UidSet, modseq: int) -> bytes:
    """The ESEARCH response: only what was asked for and is there (RFC 4731 §3.1)."""
    wanted = command.returns or frozenset({"ALL"})
    items: list[tuple[str, int | UidSet | None]] = []
    if "MIN" in wanted and numbers:
        items.append(("MIN", numbers.first))
    if "MAX" in wanted and numbers:
        items.append(("MAX", numbers.last))
    if "COUNT" in wanted:
        items.append(("COUNT", len(numbers)))
    if "ALL" in wanted and numbers:
        items.append(("ALL", numbers))
    if modseq and numbers:
        items.append(("MODSEQ", modseq))
    return encode.esearch(tag, items, uid=command.uid)
