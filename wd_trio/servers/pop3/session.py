"""The state of one POP3 connection, its output and its maildrop; serve.py and handlers.py work on it.

Replies gather while whole commands are buffered and go out in one send before the next read. Marks that they tell of
are written to the session's record first, once for the batch (outbox.py).
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.engine import Pop3Engine
from wd_trio.servers.access import may_log_in
from wd_trio.servers.driver import Connection
from wd_trio.servers.pop3.errors import error_reply
from wd_trio.servers.pop3.options import PROTOCOL, Pop3Options, Pop3Services
from wd_trio.servers.pop3.outbox import Outbox
from wd_trio.service.auth import Login
from wd_trio.service.maildrop import Maildrop
from wd_trio.service.sessions import Session

OUTPUT_BYTES: Final = 64 << 10
MARKS: Final = "marks"
"""What writing the marks of a batch costs is on this account, beside the commands."""

log = structlog.get_logger()


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
        self.out = Outbox(replies.greeting(options.hostname))
        self.tally = telemetry.open_tally(PROTOCOL)

    # Output

    def write(self, data: bytes) -> None:
        """Add to the reply under way."""
        self.out.write(data)

    def write_mark(self, data: bytes) -> None:
        """The same for a reply that is true only once the marks are written."""
        self.out.hold()
        self.out.write(data)

    async def flush_if_full(self) -> None:
        """Send what there is when it is much. Raises what writing the marks raises: then nothing was sent."""
        if len(self.out) >= OUTPUT_BYTES:
            await self._write_marks()
            await self.connection.send(self.out.take())

    async def flush(self) -> None:
        """Send everything, between two commands."""
        if self.out:
            try:
                await self._write_marks()
            except WdError as error:
                log.warning("marks not written", connection=self.connection.peer.id, error=str(error))
            self.tally.count(MARKS)
            await self.connection.send(self.out.take())

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
            self.out.take_back(error_reply(error))
            raise
        drop.saved()

    # Input

    async def receive(self) -> bool:
        """Send what is pending, then read more; False at the end of the stream."""
        await self.flush()
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
        self.tally.count(telemetry.ENDING)
