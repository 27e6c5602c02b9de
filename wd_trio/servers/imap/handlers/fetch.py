"""FETCH and UID FETCH (RFC 3501 §6.4.5): a plan made once per command, applied row by row.

Nothing is parsed here: envelopes and structures are sent as delivery rendered them, sections are byte ranges from
the part table, bodies stream from the rope. One crossing brings a page; \\Seen is set with one write per page,
before its lines, so that each line already says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from wd_trio.errors import Invalid, WdError
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.headers import select_fields
from wd_trio.mail.model import SEEN, Columns, FlagChange, FlagRow, MessageRow
from wd_trio.mail.numset import UidSet
from wd_trio.mail.parts import PartTable
from wd_trio.mail.rope import Rope
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.driver import ConnectionOver
from wd_trio.servers.imap.handlers.binary import decode_parts
from wd_trio.servers.imap.handlers.resync import tell_gone
from wd_trio.servers.imap.handlers.store import chosen, take_own
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.session import OUTPUT_BYTES, ImapSession
from wd_trio.service.spool import Spool
from wd_trio.service.steps import Steps

Encoder: TypeAlias = Callable[[MessageRow], bytes]

_PLAIN: Final[dict[str, tuple[Columns, Encoder]]] = {
    "UID": (Columns.NONE, lambda row: b"UID %d" % row.uid),
    "FLAGS": (Columns.NONE, lambda row: b"FLAGS " + encode.flags_list(row.flags, row.keywords)),
    "RFC822.SIZE": (Columns.NONE, lambda row: b"RFC822.SIZE %d" % row.size),
    "INTERNALDATE": (Columns.NONE, lambda row: b"INTERNALDATE " + encode.internal_date(row.internal_date)),
    "ENVELOPE": (Columns.ENVELOPE, lambda row: b"ENVELOPE " + (row.envelope or b"")),
    "BODYSTRUCTURE": (Columns.STRUCTURE, lambda row: b"BODYSTRUCTURE " + (row.bodystructure or b"")),
    "BODY": (Columns.BODY, lambda row: b"BODY " + (row.body or b"")),
    "MODSEQ": (Columns.NONE, lambda row: encode.modseq(row.modseq)),
}
_UTF8: Final[dict[str, Encoder]] = {
    "ENVELOPE": lambda row: b"ENVELOPE " + (row.envelope_utf8 or row.envelope or b""),
    "BODYSTRUCTURE": lambda row: b"BODYSTRUCTURE " + (row.bodystructure_utf8 or row.bodystructure or b""),
}
_FLAGS: Final = _PLAIN["FLAGS"][1]
_OF_FLAGS: Final = frozenset({"UID", "FLAGS", "MODSEQ"})
HEADER_FIELDS: Final = ("HEADER.FIELDS", "HEADER.FIELDS.NOT")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one FETCH asks of every row: the columns to bring, the encoders of plain items, the body sections."""

    columns: Columns
    encoders: tuple[Encoder, ...]
    bodies: tuple[c.FetchBody, ...]
    binary_sizes: tuple[str, ...]
    decoded: frozenset[str]  # the parts whose transfer encoding is undone
    tells_uid: bool
    tells_flags: bool
    tells_modseq: bool
    only_flags: bool  # with uid and modseq, perhaps
    marks_seen: bool

    @property
    def sections(self) -> bool:
        """Whether lines carry more than plain items."""
        return bool(self.bodies or self.binary_sizes)


def plan(command: c.Fetch, *, read_only: bool, utf8: bool, condstore: bool) -> Plan:
    """Turn the items of a command into a plan; flags go with their modseq where the client follows these."""
    columns = Columns.NONE
    encoders: list[Encoder] = []
    asked = command.items
    if condstore and "FLAGS" in asked and "MODSEQ" not in asked:
        asked = (*asked, "MODSEQ")
    for item in asked:
        column, encoder = _PLAIN[item]
        columns |= column
        encoders.append(_UTF8.get(item, encoder) if utf8 else encoder)
    for body in command.bodies:
        columns |= _columns_of(body.section)
    decoded = {body.section.part for body in command.bodies if body.binary} | set(command.binary_sizes)
    if decoded:
        columns |= Columns.ROPE | Columns.PARTS
    return Plan(
        columns,
        tuple(encoders),
        command.bodies,
        command.binary_sizes,
        frozenset(decoded),
        "UID" in asked,
        "FLAGS" in asked,
        "MODSEQ" in asked,
        "FLAGS" in asked and not command.bodies and not decoded and _OF_FLAGS.issuperset(asked),
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
    if command.vanished and not session.qresync:
        session.bad(tag, "Enable QRESYNC first")
        return
    if "MODSEQ" in command.items or command.changed_since is not None:
        session.enable_condstore()
    wanted = plan(
        command, read_only=selected.read_only, utf8=session.engine.utf8, condstore=session.condstore
    )
    pages = session.services.messages.flags(selected.place.mailbox_id, uids)
    if command.changed_since is not None:
        pages = await _changed(session, selected, command, uids)
        if not wanted.only_flags:
            uids = UidSet(chain.from_iterable([rows.uids.ranges() async for rows in pages]))
    if wanted.only_flags:
        told = await _tell_flags(session, selected, wanted, pages)
        complete = told == len(uids) or command.changed_since is not None
        await _finish(session, tag, command, complete=complete)
        return
    told, undecodable = 0, False
    async for rows in session.services.messages.pages(selected.place.mailbox_id, uids, wanted.columns):
        told += len(rows)
        since = command.changed_since or 0
        chosen_rows = [row for row in rows if row.modseq > since] if since else rows
        marked = await _mark_seen(session, selected, chosen_rows) if wanted.marks_seen else frozenset()
        if wanted.tells_modseq or marked:
            selected.shown(row.modseq for row in chosen_rows)
        if not wanted.sections:
            session.write(_plain_lines(selected, wanted, chosen_rows))
            await session.flush_if_full()
            continue
        for row in chosen_rows:
            try:
                await _send_row(session, selected, wanted, row, tell_flags=row.uid in marked)
            except Invalid:
                undecodable = True
                if row.uid in marked:
                    flags = FlagRow(row.uid, row.modseq, row.flags, row.keywords)
                    seq = selected.view.seq(row.uid)
                    session.write(selected.flags_line(seq, flags, uid=command.uid, modseq=session.condstore))
    complete = told == len(uids) or command.changed_since is not None
    await _finish(session, tag, command, complete=complete, undecodable=undecodable)


async def _finish(
    session: ImapSession, tag: str, command: c.Fetch, *, complete: bool, undecodable: bool = False
) -> None:
    await session.sync(may_expunge=command.uid)
    if undecodable:
        session.no(tag, "Some parts have an unknown transfer encoding", "UNKNOWN-CTE")
    elif not complete and not command.uid:
        session.no(tag, "Some of the messages are gone", "EXPUNGEISSUED")
    else:
        session.ok(tag, "FETCH completed")


async def _tell_flags(session: ImapSession, selected: Selected, wanted: Plan, pages: Steps[FlagRows]) -> int:
    """The lines of a FETCH of nothing but flags; how many."""
    told = 0
    async for rows in pages:
        told += len(rows)
        if wanted.tells_modseq:
            selected.shown(rows.modseqs)
        seqs = selected.view.seqs(rows.uids)
        session.write(
            encode.fetch_flags(seqs, rows, uid=wanted.tells_uid, flags=True, modseq=wanted.tells_modseq)
        )
        await session.flush_if_full()
    return told


async def _changed(
    session: ImapSession, selected: Selected, command: c.Fetch, uids: UidSet
) -> Steps[FlagRows]:
    """The flags of those of `uids` that changed after CHANGEDSINCE's modseq. With VANISHED, what is gone since is
    told first, of all that the client named: it may have kept what this session has never seen."""
    assert command.changed_since is not None  # the caller's condition
    view = selected.view
    since = await session.services.messages.since(selected.place.mailbox_id, uids, command.changed_since)
    if command.vanished:
        named = command.messages.resolve(view.uid_next - 1).between(1, view.uid_next - 1)
        await tell_gone(session, view, named if since.gone is None else named & since.gone)
    return since.changed


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
                now = after[row.uid]
                row.flags, row.keywords, row.modseq = now.flags, now.keywords, now.modseq
        marked.update(after)
    return frozenset(marked)


def _plain_lines(selected: Selected, wanted: Plan, rows: list[MessageRow]) -> bytes:
    """The lines of a page where nothing but plain items is asked for, in one piece."""
    encoders = wanted.encoders
    lines: list[bytes] = []
    seq = previous = -1
    for row in rows:
        # Neighbours by uid are neighbours by number: the view is asked once for each run of them.
        seq = seq + 1 if row.uid == previous + 1 else selected.view.seq(row.uid)
        previous = row.uid
        lines.append(encode.fetch_line(seq, b" ".join([encoder(row) for encoder in encoders])))
    return b"".join(lines)


async def _send_row(
    session: ImapSession, selected: Selected, wanted: Plan, row: MessageRow, *, tell_flags: bool
) -> None:
    """One message's line with its sections. Invalid, before anything is written, when a part cannot be decoded."""
    items = [encoder(row) for encoder in wanted.encoders]
    if tell_flags and not wanted.tells_flags:
        items.append(_FLAGS(row))
        if session.condstore and not wanted.tells_modseq:
            items.append(encode.modseq(row.modseq))
    seq = selected.view.seq(row.uid)
    rope = Rope.decode(row.rope) if row.rope is not None else None
    table = PartTable.decode(row.parts) if row.parts is not None else None
    with ExitStack() as spools:
        decoded: dict[str, Spool] = {}
        if wanted.decoded and rope is not None and table is not None:
            decoded = await decode_parts(session, row, rope, table, wanted.decoded, spools=spools)
        for part in wanted.binary_sizes:
            items.append(encode.binary_size(part, decoded[part].size if part in decoded else 0))
        session.write(b"* %d FETCH (%b" % (seq, b" ".join(items)))
        separator = b" " if items else b""
        try:
            for body in wanted.bodies:
                session.write(separator + encode.body_name(body) + b" ")
                if body.binary:
                    await _send_decoded(session, decoded.get(body.section.part), body)
                else:
                    await _send_section(session, row, rope, table, body)
                separator = b" "
        except WdError as error:
            # The line has begun: anything but ending the connection would make the client misread what follows.
            raise ConnectionOver("engine failed within a reply") from error
    session.write(b")\r\n")
    await session.flush_if_full()


async def _send_decoded(session: ImapSession, spool: Spool | None, body: c.FetchBody) -> None:
    """A part without its transfer encoding; a literal8 where NULs are in it (RFC 3516 §4.2)."""
    if spool is None:
        session.write(b"NIL")
        return
    data = await spool.buffer()
    start, stop = _cut(0, spool.size, body.partial)
    has_nul = data.find(b"\0", start, stop) >= 0
    session.write((encode.literal8_head if has_nul else encode.literal_head)(stop - start))
    for at in range(start, stop, OUTPUT_BYTES):
        session.write(data[at : min(at + OUTPUT_BYTES, stop)])
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
