"""BINARY and BINARY.SIZE (RFC 3516): parts without their transfer encoding.

A literal's size comes before its bytes, so a part is decoded into a spool first; a part whose encoding is not
known fails the message before any of its line is written (NO [UNKNOWN-CTE]).
"""

from __future__ import annotations

from contextlib import ExitStack

from wd_trio.mail.model import MessageRow
from wd_trio.mail.parts import PartTable
from wd_trio.mail.rope import Rope
from wd_trio.servers.imap.session import ImapSession
from wd_trio.service.spool import Spool


async def decode_parts(
    session: ImapSession,
    row: MessageRow,
    rope: Rope,
    table: PartTable,
    parts: frozenset[str],
    *,
    spools: ExitStack,
) -> dict[str, Spool]:
    """Each of `parts` that exists, decoded, in a spool that `spools` closes. Invalid for an unknown encoding."""
    decoded: dict[str, Spool] = {}
    for part in parts:
        leaf = table.leaf(part)
        if leaf is not None:
            span, encoding = (leaf.start, leaf.stop), leaf.encoding
        else:
            whole = table.range(part, "")
            if whole is None:
                continue
            span, encoding = whole, ""  # a multipart, or the message: its bytes are what it is
        spool = spools.enter_context(session.services.messages.spool(most_bytes=row.size))
        await session.services.messages.decode(row, rope, span, encoding, spool)
        decoded[part] = spool
    return decoded
