"""Going on with a POP3 connection that another worker served, from its slot and the session's record.

- Before log-in the slot says all: whether USER was said, and which name.
- After it the lock on the maildrop and the session are taken over, in this order, and the maildrop is opened again,
  with the same numbers and marks. What was rebuilt is checked against how many messages the client knows of; what
  cannot be had as it was ends the connection.
- A command that was in progress, of which nothing was said, is answered: -ERR [SYS/TEMP], and it has not happened.
  DELE and RSET may have been written to the record: it says so by the command's serial, and then they have happened.
  Whether QUIT removed messages nobody knows: the connection is closed without a word.
"""

from __future__ import annotations

from typing import Final

import trio

from wd_trio import telemetry
from wd_trio.errors import Unavailable, WdError
from wd_trio.proto.pop3 import commands as c
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.states import State
from wd_trio.servers.driver import ConnectionOver, Moving
from wd_trio.servers.pop3.session import SERIAL, Pop3Session
from wd_trio.servers.slots import Phase, Progress, Slot, Standing
from wd_trio.service.sessions import Session

RESUME_S: Final = 30.0
RESUME_AGAIN_S: Final = 1.0

NUMBERS: Final[dict[type, int]] = {
    c.LogIn: 1,
    c.Capa: 2,
    c.Stat: 3,
    c.List: 4,
    c.Uidl: 5,
    c.Retr: 6,
    c.Top: 7,
    c.Dele: 8,
    c.Rset: 9,
    c.Noop: 10,
    c.Quit: 11,
    c.Stls: 12,
}
"""Commands as slots name them. Two versions of the program may share a slot: no number is ever given anew."""


class CannotGoOn(ConnectionOver):
    """The session cannot be had as it was; the client may be told."""


async def resume(session: Pop3Session) -> None:
    """Bring a new session object to where the slot of its connection says it stands. CannotGoOn, ConnectionOver, and
    what else ends or moves the connection meanwhile: the slot is then as it was."""
    slot = session.connection.slot
    reply = replies.INTERRUPTED
    if slot.phase == Phase.OPEN:
        try:
            _require_known(slot)
            record = await _reopen(session)
        except Moving:
            raise
        except BaseException:
            session.forsake()
            raise
        session.tally.count(telemetry.RESUMING)
        reply = _outcome(session, slot, record)
    else:
        session.failed_logins = slot.attempts
        name = slot.tag if slot.has(Standing.HELLO) else ""
        session.engine.resume(State.NAMED if name else State.AUTHORIZATION, name)
    if slot.progress & Progress.BUSY:
        session.out.add(reply)
    session.resumed = True


def _require_known(slot: Slot) -> None:
    if slot.progress & Progress.WRITING and slot.command == NUMBERS[c.Quit]:
        raise ConnectionOver("outcome unknown")


async def _reopen(session: Pop3Session) -> Session:
    """The session's record, once its maildrop is open again; for some time, whatever ails the engine."""
    record: Session | None = None
    until = trio.current_time() + RESUME_S
    while True:
        session.connection.heed()
        try:
            record = record or await session.take_over()
            if record is None:
                raise CannotGoOn("session gone")
            await session.enter_again(record)
        except Unavailable as error:
            if trio.current_time() >= until:
                raise CannotGoOn("engine unavailable") from error
            await trio.sleep(RESUME_AGAIN_S)
        except WdError as error:
            raise CannotGoOn("maildrop changed") from error
        else:
            return record


def _outcome(session: Pop3Session, slot: Slot, record: Session) -> bytes:
    """The reply to the command in progress, if there was one. The maildrop is as that reply says, or CannotGoOn."""
    drop = session.drop
    exists, reply = slot.exists, replies.INTERRUPTED
    if slot.progress & Progress.WRITING and record.document.state.get(SERIAL) == slot.serial:
        dele = slot.command == NUMBERS[c.Dele]
        exists, reply = (exists - 1, replies.MARKED) if dele else (len(drop), replies.RESET)
    if drop.stat[0] != exists:
        raise CannotGoOn("maildrop changed")
    return reply
