"""Serving an IMAP connection: pull an event, do it, answer in one write, and only then wait for more.

A connection comes new, or from where its slot says it stands (resume.py); it ends, or goes on elsewhere: with another
worker when this one is replaced, in the lot (servers/parking.py) when its client is quiet.

Handlers (handlers/) are found by the type of the command; a domain error becomes a tagged NO here, once. But not one
behind which a write may have been done: a NO that is not true would make clients do it twice, so the connection ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import Uncertain, WdError
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import AppendEvent, CommandEvent, Fatal, Reply
from wd_trio.proto.imap.machine import State
from wd_trio.servers.driver import (
    MOVED,
    PARKED,
    Connection,
    ConnectionOver,
    Draining,
    IdleTooLong,
    Kicked,
    Moving,
    Quiet,
)
from wd_trio.servers.imap import errors as wire
from wd_trio.servers.imap.handlers import HANDLERS, append
from wd_trio.servers.imap.handlers.idle import go_on_idling
from wd_trio.servers.imap.options import PROTOCOL, ImapOptions, ImapServices
from wd_trio.servers.imap.resume import EngineAway, OutcomeUnknown, resume
from wd_trio.servers.imap.session import ImapSession, Lot, MailboxLost
from wd_trio.servers.slots import Phase, Progress

log = structlog.get_logger()

EVENTS_BETWEEN_CHECKPOINTS: Final = 32  # one read may hold thousands of commands: others want their turn

LAST_WORDS: Final[dict[type[ConnectionOver], tuple[str, str]]] = {
    Draining: ("UNAVAILABLE", "Server is going down, connect again"),
    Kicked: ("", "Session ended by the administrator"),
    IdleTooLong: ("", "Disconnected for inactivity"),
    MailboxLost: ("", "The selected mailbox is gone, connect again"),
    EngineAway: ("UNAVAILABLE", "The store does not answer, connect again"),
    OutcomeUnknown: ("UNAVAILABLE", "What became of the last command is not known, connect again"),
}
"""The code and text of the BYE for each of the ends that are no fault of the connection."""

CommandHandler: TypeAlias = Callable[[ImapSession, str, Any], Awaitable[None]]


async def serve_imap(
    connection: Connection, services: ImapServices, options: ImapOptions, lot: Lot | None = None
) -> str:
    """Serve one IMAP connection to its end, or until it goes on elsewhere; the reason in a fixed word. Without a
    `lot` it never parks."""
    tally = telemetry.open_tally(PROTOCOL)
    session = ImapSession(connection, services, options, lot)
    try:
        return await _run(session)
    finally:
        await session.close()
        tally.count(telemetry.ENDING)


async def _run(session: ImapSession) -> str:
    """Serve until the end; why it ended, in a fixed word."""
    resumed = session.connection.slot.phase == Phase.ARRIVED
    try:
        if resumed:
            greeting = f"{session.options.hostname} ready"
            session.write(encode.ok(greeting, "CAPABILITY " + " ".join(session.capabilities())))
        else:
            await resume(session)
            resumed = True
            _count(telemetry.RESUMING)
        if session.idle_tag:
            await go_on_idling(session)
        if session.lost:
            raise MailboxLost
        while True:
            for _ in range(EVENTS_BETWEEN_CHECKPOINTS):
                reason = await _one_event(session)
                if reason:
                    return await _part(session, reason)
            await trio.lowlevel.checkpoint()
    except Moving:
        session.leave(MOVED, resumed=resumed)
        return MOVED
    except Quiet:
        session.leave(PARKED)
        return PARKED
    except tuple(LAST_WORDS) as over:
        session.write(last_words(over))
        return await _part(session, over.reason)


async def _one_event(session: ImapSession) -> str:
    event = await session.pull()
    match event:
        case CommandEvent():
            await _command(session, event)
        case AppendEvent():
            session.begin(event.tag, type(event.command))
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
    session.begin(event.tag, type(event.command))
    await _guarded(session, event.tag, event.name, HANDLERS[type(event.command)], event.command)


async def _guarded(
    session: ImapSession, tag: str, name: str, handler: CommandHandler, argument: object
) -> None:
    begun = perf_counter()
    try:
        await handler(session, tag, argument)
    except WdError as error:
        if isinstance(error, Uncertain) and session.connection.slot.progress & Progress.WRITING:
            raise OutcomeUnknown from error
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
    session.heard_at = trio.current_time()
    await session.flush_if_full()
    observe(name, perf_counter() - begun)


def last_words(over: ConnectionOver) -> bytes:
    """The BYE for one of LAST_WORDS."""
    code, text = LAST_WORDS[type(over)]
    return encode.bye(text, code)


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
    _count(name)


def _count(name: str) -> None:
    tally = telemetry.tally.get()
    if tally is not None:
        tally.count(name)
