"""Serving a POP3 connection (RFC 1939): pull an event, do it, answer, and write the marks before the answers go out.

- A batch of commands that produces much is flushed on the way, and gives way to others.
- Only QUIT changes mail, and answers when that is durable; it gives the maildrop back before it answers, so that the
  client may come again at once. Every other way out (a lost connection, the idle timer, a drain) changes nothing.
- The idle timer ends a session without a word, as RFC 1939 §3 has it; a drain waits for the command under way, then
  says -ERR [SYS/TEMP]. Where another worker can go on, the session leaves between two commands instead, without a
  word, also within a batch (moving.py is how it goes on); but not within AUTH's exchange or a line too long.
- What a command does stands in handlers.py; a domain error becomes its -ERR here, once.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.commands import PARSERS
from wd_trio.proto.pop3.events import CommandEvent, Fatal, NeedData, Reply
from wd_trio.servers.driver import Connection, ConnectionOver, Draining, IdleTooLong, Kicked, Moving
from wd_trio.servers.pop3.errors import error_reply
from wd_trio.servers.pop3.handlers import HANDLERS
from wd_trio.servers.pop3.moving import NUMBERS, CannotGoOn, resume
from wd_trio.servers.pop3.options import PROTOCOL, Pop3Options, Pop3Services
from wd_trio.servers.pop3.session import OUTPUT_BYTES, Pop3Session

EVENTS_BETWEEN_CHECKPOINTS: Final = 32  # one read may hold thousands of commands: others want their turn

log = structlog.get_logger()

_seconds: Final = {name: telemetry.request_seconds.labels(PROTOCOL, name) for name in PARSERS}


async def serve_pop3(connection: Connection, services: Pop3Services, options: Pop3Options) -> str:
    """Serve one POP3 connection to its end; the reason in a fixed word."""
    session = Pop3Session(connection, services, options)
    try:
        return await _run(session)
    finally:
        await session.close()


async def _run(session: Pop3Session) -> str:
    """Serve until the end; why it ended, in a fixed word."""
    try:
        if not session.resumed:
            await resume(session)
        while True:
            for _ in range(EVENTS_BETWEEN_CHECKPOINTS):
                reason = await _one_event(session)
                if reason:
                    return reason
            await trio.lowlevel.checkpoint()
    except Moving:
        return await session.move()
    except CannotGoOn as over:
        log.warning("session not resumed", connection=session.connection.peer.id, reason=over.reason)
        return await _last_words(session, replies.LOST, over.reason)
    except Draining as over:
        return await _last_words(session, replies.DRAINING, over.reason)
    except Kicked as over:
        return await _last_words(session, replies.KICKED, over.reason)
    except IdleTooLong as over:
        return over.reason


async def _one_event(session: Pop3Session) -> str:
    session.heed_move()
    match session.engine.next_event():
        case NeedData():
            if not await session.receive():
                return "closed"
        case CommandEvent() as event:
            await _command(session, event)
            if session.over:
                return await _part(session, session.over)
            if session.upgrading:
                await session.upgrade()
        case Reply(data):
            session.out.add(data)
        case Fatal(data):
            return await _last_words(session, data, "refused")
    if len(session.out) >= OUTPUT_BYTES:
        await session.flush()
    return ""


async def _command(session: Pop3Session, event: CommandEvent) -> None:
    begun = perf_counter()
    session.begin(NUMBERS[type(event.command)])
    session.out.begin()
    try:
        await HANDLERS[type(event.command)](session, event.command)
    except WdError as error:
        log.info(
            "command refused", command=event.name, connection=session.connection.peer.id, error=str(error)
        )
        if not session.out.restart():
            # Anything but ending the connection would be read as part of the message.
            raise ConnectionOver("engine failed within a reply") from error
        session.out.write(error_reply(error))
    session.out.end()
    _seconds[event.name].observe(perf_counter() - begun)
    session.tally.count(event.name)


async def _last_words(session: Pop3Session, data: bytes, reason: str) -> str:
    session.out.add(data)
    return await _part(session, reason)


async def _part(session: Pop3Session, reason: str) -> str:
    await session.flush()
    await session.connection.finish(reason)
    return reason
