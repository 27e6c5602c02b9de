"""One POP3 connection (RFC 1939): pull an event, do it, answer, and write the marks before the answers go out.

- Replies gather while whole commands are buffered and go out in one send before the next read. Marks that they
  tell of are written to the session's record first, once for the batch (outbox.py). A batch that produces much is
  flushed on the way, and gives way to others.
- Only QUIT changes mail, and answers when that is durable; it gives the maildrop back before it answers, so that the
  client may come again at once. Every other way out (a lost connection, the idle timer, a drain) changes nothing.
- The idle timer ends a session without a word, as RFC 1939 §3 has it; a drain waits for the command under way, then
  says -ERR [SYS/TEMP].
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
from wd_trio.proto.pop3.engine import Pop3Engine
from wd_trio.proto.pop3.events import CommandEvent, Fatal, NeedData, Reply
from wd_trio.servers.access import may_log_in
from wd_trio.servers.driver import Connection, ConnectionOver, Draining, IdleTooLong, Kicked
from wd_trio.servers.pop3.errors import error_reply
from wd_trio.servers.pop3.handlers import HANDLERS
from wd_trio.servers.pop3.options import PROTOCOL, Pop3Options, Pop3Services
from wd_trio.servers.pop3.outbox import Outbox
from wd_trio.service.auth import Login
from wd_trio.service.maildrop import Maildrop
from wd_trio.service.sessions import Session

OUTPUT_BYTES: Final = 64 << 10
MARKS: Final = "marks"
"""What writing the marks of a batch costs is on this account, beside the commands."""
EVENTS_BETWEEN_CHECKPOINTS: Final = 32  # one read may hold thousands of commands: others want their turn

log = structlog.get_logger()

_seconds: Final = {name: telemetry.request_seconds.labels(PROTOCOL, name) for name in PARSERS}


class Pop3Session:
    """The state of one connection and its output; handlers are its friends."""

    def __init__(self, connection: Connection, services: Pop3Services, options: Pop3Options) -> None:
        self.connection = connection
        self.services = services
        self.options = options
        self.passwords = may_log_in(connection.peer, options.trusted_networks)
        self.engine = Pop3Engine(options.engine, passwords=self.passwords)
        self.failed_logins = 0
        self.over = ""
        """Why the session ends after the reply under way, in a fixed word."""
        self._drop: Maildrop | None = None
        self._login_until = trio.current_time() + options.login_timeout_s
        self._record: Session | None = None
        self._out = Outbox(replies.greeting(options.hostname))
        self._tally = telemetry.open_tally(PROTOCOL)

    # Output

    def write(self, data: bytes) -> None:
        """Add to the reply under way."""
        self._out.write(data)

    def write_mark(self, data: bytes) -> None:
        """The same for a reply that is true only once the marks are written."""
        self._out.hold()
        self._out.write(data)

    async def flush_if_full(self) -> None:
        """Send what there is when it is much. Raises what writing the marks raises: then nothing was sent."""
        if len(self._out) >= OUTPUT_BYTES:
            await self._write_marks()
            await self.connection.send(self._out.take())

    async def _flush(self) -> None:
        """Send everything, between two commands."""
        if self._out:
            try:
                await self._write_marks()
            except WdError as error:
                log.warning("marks not written", connection=self.connection.peer.id, error=str(error))
            self._tally.count(MARKS)
            await self.connection.send(self._out.take())

    async def _write_marks(self) -> None:
        """Bring marks made or cleared into the record; where that fails, take them and their replies back."""
        drop, record = self._drop, self._record
        if drop is None or record is None or not drop.unsaved:
            return
        record.note(state=drop.state)
        try:
            await self.services.sessions.update(record)
        except WdError as error:
            drop.take_back()
            record.note(state=drop.state)
            self._out.take_back(error_reply(error))
            raise
        drop.saved()

    # The life of the connection

    async def run(self) -> str:
        """Serve until the end; why it ended, in a fixed word."""
        try:
            while True:
                for _ in range(EVENTS_BETWEEN_CHECKPOINTS):
                    reason = await self._one_event()
                    if reason:
                        return reason
                await trio.lowlevel.checkpoint()
        except Draining as over:
            return await self._last_words(replies.DRAINING, over.reason)
        except Kicked as over:
            return await self._last_words(replies.KICKED, over.reason)
        except IdleTooLong as over:
            return over.reason

    async def _one_event(self) -> str:
        match self.engine.next_event():
            case NeedData():
                if not await self._receive():
                    return "closed"
            case CommandEvent() as event:
                await self._command(event)
                if self.over:
                    return await self._part(self.over)
            case Reply(data):
                self._out.add(data)
            case Fatal(data):
                return await self._last_words(data, "refused")
        if len(self._out) >= OUTPUT_BYTES:
            await self._flush()
        return ""

    async def _receive(self) -> bool:
        """Send what is pending, then read more; False at the end of the stream."""
        await self._flush()
        options = self.options
        timeout_s = options.idle_timeout_s
        if self._drop is None:  # one deadline for all that comes before, however slowly it drips in
            timeout_s = max(0.0, self._login_until - trio.current_time())
        data = await self.connection.receive(timeout_s=timeout_s)
        if not data:
            return False
        if self._record is not None:
            self._record.note()
        self.engine.receive(data)
        return True

    async def _command(self, event: CommandEvent) -> None:
        begun = perf_counter()
        self._out.begin()
        try:
            await HANDLERS[type(event.command)](self, event.command)
        except WdError as error:
            log.info(
                "command refused", command=event.name, connection=self.connection.peer.id, error=str(error)
            )
            if not self._out.restart():
                # Anything but ending the connection would be read as part of the message.
                raise ConnectionOver("engine failed within a reply") from error
            self._out.write(error_reply(error))
        self._out.end()
        _seconds[event.name].observe(perf_counter() - begun)
        self._tally.count(event.name)

    async def _last_words(self, data: bytes, reason: str) -> str:
        self._out.add(data)
        return await self._part(reason)

    async def _part(self, reason: str) -> str:
        await self._flush()
        await self.connection.finish(reason)
        return reason

    # The maildrop

    @property
    def drop(self) -> Maildrop:
        """The maildrop of a session in the TRANSACTION state."""
        assert self._drop is not None  # the state table lets no command that needs it through before
        return self._drop

    async def enter(self, login: Login) -> None:
        """Begin the session and take the maildrop. Limited, Conflict when it is taken, Unavailable."""
        connection = self.connection
        self._record = await self.services.sessions.begin(
            login, protocol=PROTOCOL, peer=connection.peer, kick=connection.kick
        )
        try:
            self._drop = await self.services.maildrops.open(login.user_id, connection.peer.id)
        except BaseException:
            await self.leave()
            raise
        self._record.note(selected=self._drop.mailbox_id, state=self._drop.state)

    async def leave(self) -> None:
        """Give back what the connection holds, also on the way out of a cancelled one. Idempotent."""
        drop, self._drop = self._drop, None
        record, self._record = self._record, None
        if record is not None:
            if drop is not None:
                await self.services.maildrops.close(record.user_id, self.connection.peer.id)
            await self.services.sessions.end(record)

    async def close(self) -> None:
        """The end of the connection, whatever has led to it."""
        await self.leave()
        self._tally.count(telemetry.ENDING)


async def serve_pop3(connection: Connection, services: Pop3Services, options: Pop3Options) -> str:
    """Serve one POP3 connection to its end; the reason in a fixed word."""
    session = Pop3Session(connection, services, options)
    try:
        return await session.run()
    finally:
        await session.close()
