"""Serving an IMAP connection: pull an event, do it, answer in one write, and only then wait for more.

Handlers (handlers/) are found by the type of the command; a domain error becomes a tagged NO here, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import AppendEvent, CommandEvent, Fatal, Reply
from wd_trio.proto.imap.machine import State
from wd_trio.servers.driver import Connection, Draining, IdleTooLong, Kicked
from wd_trio.servers.imap import errors as wire
from wd_trio.servers.imap.handlers import HANDLERS, append
from wd_trio.servers.imap.options import PROTOCOL, ImapOptions, ImapServices
from wd_trio.servers.imap.session import ImapSession, MailboxLost

log = structlog.get_logger()

EVENTS_BETWEEN_CHECKPOINTS: Final = 32  # one read may hold thousands of commands: others want their turn

CommandHandler: TypeAlias = Callable[[ImapSession, str, Any], Awaitable[None]]


async def serve_imap(connection: Connection, services: ImapServices, options: ImapOptions) -> str:
    """Serve one IMAP connection to its end; the reason in a fixed word."""
    tally = telemetry.open_tally(PROTOCOL)
    session = ImapSession(connection, services, options)
    try:
        return await _run(session)
    finally:
        await session.close()
        tally.count(telemetry.ENDING)


async def _run(session: ImapSession) -> str:
    """Serve until the end; why it ended, in a fixed word."""
    greeting = f"{session.options.hostname} ready"
    session.write(encode.ok(greeting, "CAPABILITY " + " ".join(session.capabilities())))
    try:
        while True:
            for _ in range(EVENTS_BETWEEN_CHECKPOINTS):
                reason = await _one_event(session)
                if reason:
                    return await _part(session, reason)
            await trio.lowlevel.checkpoint()
    except Draining as over:
        return await _bye(session, over.reason, "UNAVAILABLE", "Server is going down, connect again")
    except Kicked as over:
        return await _bye(session, over.reason, "", "Session ended by the administrator")
    except IdleTooLong as over:
        return await _bye(session, over.reason, "", "Disconnected for inactivity")
    except MailboxLost as over:
        return await _bye(session, over.reason, "", "The selected mailbox is gone, connect again")


async def _one_event(session: ImapSession) -> str:
    event = await session.pull()
    match event:
        case CommandEvent():
            await _command(session, event)
        case AppendEvent():
            await _guarded(session, event.tag, "APPEND", append.handle_append, event)
        case Reply(data=data, bad=bad):
            session.write(data)
            session.bad_commands += bad
            if session.bad_commands > session.options.bad_commands:
                session.write(encode.bye("Too many bad commands"))
                return "bad commands"
        case Fatal(data=data):
            session.write(data)
            return "protocol"
        case _:
            raise AssertionError(f"event outside its command: {type(event).__name__}")
    if session.engine.state is State.LOGOUT:
        return "logout"
    if session.lost:
        raise MailboxLost
    return ""


async def _command(session: ImapSession, event: CommandEvent) -> None:
    session.bad_commands = 0
    await _guarded(session, event.tag, event.name, HANDLERS[type(event.command)], event.command)


async def _guarded(
    session: ImapSession, tag: str, name: str, handler: CommandHandler, argument: object
) -> None:
    begun = perf_counter()
    try:
        await handler(session, tag, argument)
    except WdError as error:
        code, text = wire.answer(error)
        log.info(
            "command refused",
            command=name,
            code=code,
            connection=session.connection.peer.id,
            error=str(error),
        )
        session.no(tag, text, code)
    session.touch()
    await session.flush_if_full()
    observe(name, perf_counter() - begun)


async def _bye(session: ImapSession, reason: str, code: str, text: str) -> str:
    session.write(encode.bye(text, code))
    return await _part(session, reason)


async def _part(session: ImapSession, reason: str) -> str:
    await session.flush()
    await session.connection.finish(reason)
    return reason


_durations: dict[str, Any] = {}


def observe(name: str, seconds: float) -> None:
    """Record how long a command of this task's session took and what it cost; names come from the command table,
    so the labels are bounded."""
    child = _durations.get(name)
    if child is None:
        child = _durations[name] = telemetry.request_seconds.labels(PROTOCOL, name)
    child.observe(seconds)
    tally = telemetry.tally.get()
    if tally is not None:
        tally.count(name)
