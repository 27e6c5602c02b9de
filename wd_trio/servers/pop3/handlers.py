"""What each POP3 command does: one plain coroutine per command, found by the command's type.

A handler writes its whole reply, or raises errors.WdError where the table of replies says the right thing. It is
called only in the states that proto/pop3/states.py allows. Long replies are written in pieces; messages stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio

from wd_trio.errors import Denied, WdError
from wd_trio.mail.model import Columns
from wd_trio.proto.pop3 import commands as c
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.states import State
from wd_trio.servers.pop3.options import PROTOCOL
from wd_trio.servers.pop3.session import Pop3Session

LINES_BETWEEN_CHECKPOINTS: Final = 1000

log = structlog.get_logger()


async def _log_in(session: Pop3Session, command: c.LogIn) -> None:
    try:
        login = await session.services.auth.login(
            username=command.username,
            password=command.password,
            peer_ip=session.connection.peer.ip,
            protocol=PROTOCOL,
        )
    except Denied:
        session.failed_logins += 1
        if session.failed_logins >= session.options.failed_logins:
            session.over = "failed log-ins"
        raise
    await session.enter(login)
    session.engine.accepted()
    session.write(replies.LOGGED_IN)


async def _capa(session: Pop3Session, _command: c.Capa) -> None:
    stls = session.offers_tls and session.engine.state is not State.TRANSACTION
    session.write(replies.capabilities(passwords=session.passwords, stls=stls))


async def _stls(session: Pop3Session, _command: c.Stls) -> None:
    """RFC 2595 §4. What stands behind the command in clear ends the connection: it must not be taken for what comes
    under TLS."""
    connection = session.connection
    if session.engine.buffered_bytes or connection.unread:
        session.write(replies.NOT_IN_CLEAR)
        session.over = "protocol"
        return
    session.write(replies.BEGIN_TLS)
    session.engine.accepted()
    session.upgrading = True


async def _stat(session: Pop3Session, _command: c.Stat) -> None:
    session.write(b"+OK %d %d\r\n" % session.drop.stat)


async def _list(session: Pop3Session, command: c.List) -> None:
    sizes = session.drop.size
    if command.number is None:
        count, octets = session.drop.stat
        await _table(session, replies.ok(f"{count} messages ({octets} octets)"), sizes)
    elif _is_there(session, command.number):
        session.write(replies.ok(f"{command.number} {sizes(command.number)}"))


async def _uidl(session: Pop3Session, command: c.Uidl) -> None:
    unique_ids = session.drop.unique_id
    if command.number is None:
        await _table(session, replies.ok("Unique ids follow"), unique_ids)
    elif _is_there(session, command.number):
        session.write(replies.ok(f"{command.number} {unique_ids(command.number)}"))


async def _table(session: Pop3Session, head: bytes, value: Callable[[int], object]) -> None:
    """One line for each message that is not marked."""
    lines = [head]
    for number in session.drop.unmarked():
        lines.append(b"%d %s\r\n" % (number, str(value(number)).encode("ascii")))
        if len(lines) >= LINES_BETWEEN_CHECKPOINTS:
            session.write(b"".join(lines))
            lines.clear()
            await session.flush_if_full()
            await trio.lowlevel.checkpoint()
    session.write(b"".join(lines) + replies.END)


def _is_there(session: Pop3Session, number: int) -> bool:
    """Whether a command may mean this message; else the reply is written."""
    if not session.drop.is_number(number):
        session.write(replies.NO_MESSAGE)
        return False
    if session.drop.is_marked(number):
        session.write(replies.MARKED_ALREADY)
        return False
    return True


async def _retr(session: Pop3Session, command: c.Retr) -> None:
    if not _is_there(session, command.number):
        return
    row = await session.drop.fetch(command.number, Columns.ROPE)
    if row is None:
        session.write(replies.GONE)
        return
    session.write(replies.ok(f"{row.size} octets"))
    stuffer = replies.DotStuffer()
    async for piece in session.drop.stream(row, 0, row.size):
        session.write(stuffer.feed(piece))
        await session.flush_if_full()
    session.write(stuffer.end())
    session.drop.retrieved(row)


async def _top(session: Pop3Session, command: c.Top) -> None:
    if not _is_there(session, command.number):
        return
    columns = Columns.HEADER | Columns.ROPE if command.lines else Columns.HEADER
    row = await session.drop.fetch(command.number, columns)
    if row is None:
        session.write(replies.GONE)
        return
    session.write(replies.TOP_FOLLOWS)
    stuffer = replies.DotStuffer()
    header = row.header or b""
    session.write(stuffer.feed(header))
    left = command.lines
    if left:
        async for piece in session.drop.stream(row, len(header), row.size):
            await session.flush_if_full()
            lines, left = replies.cut_lines(piece, left)
            session.write(stuffer.feed(lines))
            if not left:
                break
    session.write(stuffer.end())


async def _dele(session: Pop3Session, command: c.Dele) -> None:
    if _is_there(session, command.number):
        session.drop.mark(command.number)
        session.write_mark(replies.MARKED)


async def _rset(session: Pop3Session, _command: c.Rset) -> None:
    session.drop.clear_marks()
    session.write_mark(replies.RESET)


async def _noop(session: Pop3Session, _command: c.Noop) -> None:
    session.write(replies.NOTHING_DONE)


async def _quit(session: Pop3Session, _command: c.Quit) -> None:
    reply = replies.BYE
    if session.engine.state is State.TRANSACTION:
        session.writing()
        try:
            await session.drop.apply()
        except WdError as error:
            log.warning(
                "marked messages not removed", connection=session.connection.peer.id, error=str(error)
            )
            reply = replies.NOT_REMOVED
        await session.leave()
    session.engine.accepted()
    session.write(reply)
    session.over = "quit"


HANDLERS: Final[dict[type, Callable[[Any, Any], Awaitable[None]]]] = {
    c.LogIn: _log_in,
    c.Capa: _capa,
    c.Stls: _stls,
    c.Stat: _stat,
    c.List: _list,
    c.Uidl: _uidl,
    c.Retr: _retr,
    c.Top: _top,
    c.Dele: _dele,
    c.Rset: _rset,
    c.Noop: _noop,
    c.Quit: _quit,
}
