"""FETCH and UID FETCH (RFC 3501 §6.4.5): a plan made once per command, applied row by row.

Nothing is parsed here: envelopes and structures are sent as delivery rendered them, sections are byte ranges from
the part table, bodies stream from the rope. One crossing brings a page; \\Seen is set with one write per page,
before its lines, so that each line already says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from wd_trio.errors import WdError
from wd_trio.mail.headers import select_fields
from wd_trio.mail.model import SEEN, Columns, FlagChange, MessageRow
from wd_trio.mail.numset import UidSet
from wd_trio.mail.parts import PartTable
from wd_trio.mail.rope import Rope
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.driver import ConnectionOver
from wd_trio.servers.imap.handlers.store import chosen, take_own
from wd_trio.servers.imap.selected import Selected

if TYPE_CHECKING:
    from wd_trio.servers.imap.session import ImapSession

Encoder: TypeAlias = Callable[[MessageRow], bytes]

_PLAIN: Final[dict[str, tuple[Columns, Encoder]]] = {
    "UID": (Columns.NONE, lambda row: b"UID %d" % row.uid),
    "FLAGS": (Columns.NONE, lambda row: b"FLAGS " + encode.flags_list(row.flags, row.keywords)),
    "RFC822.SIZE": (Columns.NONE, lambda row: b"RFC822.SIZE %d" % row.size),
    "INTERNALDATE": (Columns.NONE, lambda row: b"INTERNALDATE " + encode.internal_date(row.internal_date)),
    "ENVELOPE": (Columns.ENVELOPE, lambda row: b"ENVELOPE " + (row.envelope or b"")),
    "BODYSTRUCTURE": (Columns.STRUCTURE, lambda row: b"BODYSTRUCTURE " + (row.bodystructure or b"")),
    "BODY": (Columns.STRUCTURE, lambda row: b"BODY " + (row.body or b"")),
}
_UTF8: Final[dict[str, Encoder]] = {
    "ENVELOPE": lambda row: b"ENVELOPE " + (row.envelope_utf8 or row.envelope or b""),
    "BODYSTRUCTURE": lambda row: b"BODYSTRUCTURE " + (row.bodystructure_utf8 or row.bodystructure or b""),
}
_FLAGS: Final = _PLAIN["FLAGS"][1]
HEADER_FIELDS: Final = ("HEADER.FIELDS", "HEADER.FIELDS.NOT")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one FETCH asks of every row: the columns to bring, the encoders of plain items, the body sections."""

    columns: Columns
    encoders: tuple[Encoder, ...]
    bodies: tuple[c.FetchBody, ...]
    tells_flags: bool
    marks_seen: bool


def plan(command: c.Fetch, *, read_only: bool, utf8: bool) -> Plan:
    """Turn the items of a command into a plan."""
    columns = Columns.NONE
    encoders: list[Encoder] = []
    for item in command.items:
        column, encoder = _PLAIN[item]
        columns |= column
        encoders.append(_UTF8.get(item, encoder) if utf8 else encoder)
    for body in command.bodies:
        columns |= _columns_of(body.section)
    return Plan(
        columns,
        tuple(encoders),
        command.bodies,
        "FLAGS" in command.items,
        not read_only and any(not body.peek for body in command.bodies),
    )


def _columns_of(section: c.Section) -> Columns:
    """The least that locates and brings a section's bytes."""
    if not section.part and section.text.startswith("HEADER"):
        return Columns.HEADER
    if not section.part and not section.text:
        return Columns.ROPE
    return Columns.ROPE | Columns.PARTS


async def handle_fetch(session: ImapSession, tag: str, command: c.Fetch) -> None:
    found = chosen(session, tag, command.messages, uid=command.uid)
    if found is None:
        return
    selected, uids = found
    wanted = plan(command, read_only=selected.read_only, utf8=session.engine.utf8)
    told = 0
    async for rows in session.services.messages.pages(selected.place.mailbox_id, uids, wanted.columns):
        marked = await _mark_seen(session, selected, rows) if wanted.marks_seen else frozenset()
        for row in rows:
            await _send_row(session, selected, wanted, row, tell_flags=row.uid in marked)
        told += len(rows)
    await session.sync(may_expunge=command.uid)
    if told < len(uids) and not command.uid:
        session.no(tag, "Some of the messages are gone", "EXPUNGEISSUED")
    else:
        session.ok(tag, "FETCH completed")


async def _mark_seen(session: ImapSession, selected: Selected, rows: list[MessageRow]) -> frozenset[int]:
    """Set \\Seen on the rows that lack it, in one write; the uids now marked."""
    unseen = UidSet.of(row.uid for row in rows if not row.flags & SEEN)
    if not unseen:
        return frozenset()
    marked: set[int] = set()
    async for stored in session.services.messages.store_flags(
        selected.place, unseen, FlagChange("add", SEEN)
    ):
        take_own(selected, stored, told=True)
        after = {flag_row.uid: flag_row for flag_row in stored.rows}
        for row in rows:
            if row.uid in after:
                row.flags, row.keywords = after[row.uid].flags, after[row.uid].keywords
        marked.update(after)
    return frozenset(marked)


async def _send_row(
    session: ImapSession, selected: Selected, wanted: Plan, row: MessageRow, *, tell_flags: bool
) -> None:
    items = [encoder(row) for encoder in wanted.encoders]
    if tell_flags and not wanted.tells_flags:
        items.append(_FLAGS(row))
    seq = selected.view.seq(row.uid)
    if not wanted.bodies:
        session.write(encode.fetch_line(seq, b" ".join(items)))
        await session.flush_if_full()
        return
    session.write(b"* %d FETCH (%s" % (seq, b" ".join(items)))
    separator = b" " if items else b""
    rope = Rope.decode(row.rope) if row.rope is not None else None
    table = PartTable.decode(row.parts) if row.parts is not None else None
    try:
        for body in wanted.bodies:
            session.write(separator + encode.body_name(body) + b" ")
            await _send_section(session, row, rope, table, body)
            separator = b" "
    except WdError as error:
        # The line has begun: anything but ending the connection would make the client misread what follows.
        raise ConnectionOver("engine failed within a reply") from error
    session.write(b")\r\n")
    await session.flush_if_full()


async def _send_section(
    session: ImapSession, row: MessageRow, rope: Rope | None, table: PartTable | None, body: c.FetchBody
) -> None:
    """One section's value: NIL where there is no such part, else a literal in pieces."""
    section = body.section
    if section.text in HEADER_FIELDS or rope is None:
        header = await _header(session, row, rope, table, section)
        if header is None:
            session.write(b"NIL")
            return
        if section.text in HEADER_FIELDS:
            header = select_fields(header, section.fields, exclude=section.text.endswith("NOT"))
        start, stop = _cut(0, len(header), body.partial)
        session.write(encode.literal(header[start:stop]))
        return
    span = _span(row, table, section)
    if span is None:
        session.write(b"NIL")
        return
    start, stop = _cut(*span, body.partial)
    session.write(encode.literal_head(stop - start))
    async for piece in session.services.messages.stream(row, rope, start, stop):
        session.write(piece)
        await session.flush_if_full()


def _span(row: MessageRow, table: PartTable | None, section: c.Section) -> tuple[int, int] | None:
    if table is None:
        return 0, row.size
    return table.range(section.part, section.text)


def _cut(start: int, stop: int, partial: tuple[int, int] | None) -> tuple[int, int]:
    """Apply <origin.count> to a range; beyond the end it is empty (RFC 3501 §6.4.5)."""
    if partial is None:
        return start, stop
    origin, count = partial
    begin = min(start + origin, stop)
    return begin, min(begin + count, stop)


async def _header(
    session: ImapSession, row: MessageRow, rope: Rope | None, table: PartTable | None, section: c.Section
) -> bytes | None:
    """The header block that a section speaks of: the message's own, or an embedded message's from the rope."""
    if not section.part:
        return row.header or b""
    if rope is None or table is None:
        return None
    span = table.range(section.part, "HEADER")
    if span is None:
        return None
    return b"".join([piece async for piece in session.services.messages.stream(row, rope, *span)])
