"""IDLE (RFC 2177): tell changes as they come, until DONE.

A silent idler is sent a line now and then, so that middleboxes keep its connection and a dead peer is noticed.
"""

from __future__ import annotations

import trio

from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import Fatal, IdleDone, Reply
from wd_trio.servers.driver import IdleTooLong
from wd_trio.servers.imap.session import ImapSession, MailboxLost


async def handle_idle(session: ImapSession, tag: str, _command: c.Idle) -> None:
    session.write(session.engine.begin_idle())
    session.idle_tag = tag
    session.heard_at = trio.current_time()
    session.touch()
    await go_on_idling(session)


async def go_on_idling(session: ImapSession) -> None:
    """Serve an IDLE that has begun, by whomever, to its end."""
    try:
        await _idle(session, session.idle_tag)
    finally:
        session.idle_tag = ""


async def _idle(session: ImapSession, tag: str) -> None:
    while True:
        await session.sync(may_expunge=True)
        if session.lost:
            raise MailboxLost
        left_s = session.time_left_s
        if left_s <= 0:
            raise IdleTooLong
        try:
            event = await session.pull(timeout_s=min(session.options.keepalive_s, left_s), wakeable=True)
        except IdleTooLong:
            session.write(encode.ok("Still here"))
            continue
        match event:
            case None:
                session.touch()
            case IdleDone():
                session.begin(tag, c.Idle)
                await session.sync(may_expunge=True)
                session.ok(tag, "IDLE completed")
                return
            case Reply(data=data):
                session.write(data)
                return
            case Fatal(data=data):
                await session.break_off(data)
            case _:
                raise AssertionError(f"event in IDLE: {type(event).__name__}")
