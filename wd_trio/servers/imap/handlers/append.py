"""APPEND (RFC 3501 §6.3.11, RFC 4315 APPENDUID): the message streams into a spool; OK follows the commit."""

from __future__ import annotations

import time

from wd_trio.errors import NotFound, WdError
from wd_trio.proto.imap.events import AppendEvent, Fatal, MessageData, Reply
from wd_trio.servers.imap.session import ImapSession
from wd_trio.service.spool import Spool


async def handle_append(session: ImapSession, tag: str, event: AppendEvent) -> None:
    command = event.command
    assert session.login is not None  # the state table lets no APPEND through before log-in
    user_id = session.login.user_id
    try:
        await session.services.mailboxes.find(user_id, command.mailbox)
    except NotFound:
        session.write(session.engine.refuse_message())
        session.no(tag, "No such mailbox", "TRYCREATE")
        return
    except BaseException:
        session.write(session.engine.refuse_message())
        raise
    if go_ahead := session.engine.accept_message():
        session.write(go_ahead)
    with session.services.messages.spool(most_bytes=command.size) as spool:
        try:
            if not await _receive(session, spool):
                return
        except WdError:
            session.write(session.engine.refuse_message())  # the rest of the literal is not a command
            raise
        appended = await session.services.messages.append(
            user_id,
            command.mailbox,
            spool,
            flags=command.flags,
            keywords=command.keywords,
            internal_date=int(time.time()) if command.internal_date is None else command.internal_date,
            quota_bytes=session.login.quota_bytes,
            origin=session.origin,
        )
    await session.sync(may_expunge=True)
    session.ok(tag, "APPEND completed", f"APPENDUID {appended.uid_validity} {appended.uids[0]}")


async def _receive(session: ImapSession, spool: Spool) -> bool:
    """Read the message to its end; False when the command turned out bad (and was answered).

    A drain lets a message that is half received arrive: its own deadline bounds the wait.
    """
    while True:
        piece = await session.pull(within=True, through_drain=True)
        match piece:
            case MessageData(data=data, last=last):
                if data:
                    await spool.write(data)
                if last:
                    session.settle_within()
                    return True
            case Reply(data=data):
                session.write(data)
                return False
            case Fatal(data=data):
                await session.break_off(data)
            case _:
                raise AssertionError(f"event in a message literal: {type(piece).__name__}")
