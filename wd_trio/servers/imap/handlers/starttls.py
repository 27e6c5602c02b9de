"""STARTTLS (RFC 3501 §6.2.1, RFC 9051 §6.2.1).

Whatever stands behind the command in clear was put there by somebody else, or by a client that does not wait: it must
not be taken for what comes under TLS, so it ends the connection. Where TLS ends in another process the connection
leaves for it here, greeted and not logged in; whoever gets its plaintext end goes on from there, and says nothing
first.
"""

from __future__ import annotations

from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.servers.imap.session import ImapSession
from wd_trio.servers.slots import Progress


async def handle_starttls(session: ImapSession, tag: str, _command: c.StartTls) -> None:
    connection = session.connection
    if connection.peer.secure:
        session.bad(tag, "TLS is there already")
        return
    if not session.offers_tls:
        session.no(tag, "TLS is not offered")
        return
    if session.engine.has_input or connection.unread:
        await session.break_off(encode.tagged(tag, "BAD", "Nothing may follow STARTTLS in clear"))
    session.ok(tag, "Begin TLS now")
    await session.flush()
    session.keeper.settle(session, Progress.FIXED)  # nobody may go on with it in clear
    await connection.upgrade()
