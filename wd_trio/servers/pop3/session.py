"""The state of one POP3 connection, its output and its maildrop; serve.py, handlers.py and moving.py work on it.

Replies gather while whole commands are buffered and go out in one send before the next read. Marks that they tell of
are written to the session's record first, once for the batch (outbox.py).

The slot (servers/slots.py) says where the session stands whenever it waits for input (`settle`), and which command it
is at while nothing else of it is open (`begin`): a command that came alone. Of a batch, replies wait that nobody else
knows of, so it counts as input being read.
"""

from __future__ import annotations

import math
import time
from typing import Final

import structlog
import trio

from wd_trio import telemetry
from wd_trio.errors import WdError
from wd_trio.mail.view import Told
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.engine import Pop3Engine
from wd_trio.proto.pop3.states import State
from wd_trio.servers.access import may_log_in
from wd_trio.servers.driver import MOVED, Connection, Moving
from wd_trio.servers.pop3.errors import error_reply
from wd_trio.servers.pop3.options import PROTOCOL, Pop3Options, Pop3Services
from wd_trio.servers.pop3.outbox import Outbox
from wd_trio.servers.slots import TAG_BYTES, Phase, Progress, Standing
from wd_trio.service.auth import Login
from wd_trio.service.maildrop import Maildrop
from wd_trio.service.sessions import Session

OUTPUT_BYTES: Final = 64 << 10
MARKS: Final = "marks"
"""What writing the marks of a batch costs is on this account, beside the commands."""
MOVES: Final = "move"
"""The same for what leaving for another worker costs."""
SERIAL: Final = "serial"
"""Where a record has the serial of the command whose marks were last written."""

log = structlog.get_logger()


class Pop3Session:
    """The state of one connection and its output; handlers are its friends."""

    def __init__(self, connection: Connection, services: Pop3Services, options: Pop3Options) -> None:
        self.connection = connection
        self.services = services
        self.options = options
        self.passwords = may_log_in(connection.peer, options.trusted_networks)
        self.engine = Pop3Engine(options.engine, passwords=self.passwords, stls=self.offers_tls)
        self.failed_logins = 0
        self.over = ""
        """Why the session ends after the reply under way, in a fixed word."""
        self.upgrading = False
        """Whether TLS begins after the reply under way."""
        self._drop: Maildrop | None = None
        self._record: Session | None = None
        slot = connection.slot
        self._locked = slot.user if slot.phase == Phase.OPEN else ""
        """Whose maildrop is locked for this connection, and to be given back."""
        arrived = slot.phase == Phase.ARRIVED
        if not slot.until_s:
            slot.until_s = math.ceil(time.monotonic() + options.login_timeout_s)
        self._login_until = trio.current_time() + slot.until_s - time.monotonic()
        self.resumed = arrived
        """Whether this object stands where the slot says; nothing may be settled before."""
        self.out = Outbox(replies.greeting(options.hostname) if arrived else b"")
        self.tally = telemetry.open_tally(PROTOCOL)

    @property
    def offers_tls(self) -> bool:
        """Whether STLS may be said: there is a certificate, and no TLS yet."""
        return self.options.starttls and self.connection.can_upgrade

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
        slot = self.connection.slot
        slot.progress |= Progress.WRITING
        record.note(state=drop.state | {SERIAL: slot.serial})
        try:
            await self.services.sessions.update(record)
        except WdError as error:
            drop.take_back()
            record.note(state=drop.state | {SERIAL: None})
            self.out.take_back(error_reply(error))
            raise
        drop.saved()

    # Where it stands

    @property
    def movable(self) -> bool:
        """Whether slot and record say all that another worker needs, once everything was said."""
        return self.engine.movable and len(self.engine.name.encode()) <= TAG_BYTES

    def begin(self, command: int) -> None:
        """A command is in progress; so many in the numbers of moving.py."""
        slot = self.connection.slot
        alone = not self.engine.buffered_bytes and not self.out
        if alone:
            self._describe()
        slot.serial = (slot.serial + 1) & 0xFFFF_FFFF
        slot.command = command
        slot.progress = Progress.BUSY if alone else Progress.BUSY | Progress.READING

    def writing(self) -> None:
        """The command in progress is about to change mail."""
        self.connection.slot.progress |= Progress.WRITING

    def settle(self, *, upgrading: bool = False) -> None:
        """Everything read was dealt with, but for a line that has not ended or was brought along, and everything was
        said. `upgrading`: nobody may go on with it in clear."""
        self._describe()
        left = Progress.READING if self.engine.buffered_bytes or self.connection.unread else 0
        movable = self.movable and not upgrading
        self.connection.slot.progress = left if movable else left | Progress.FIXED

    def _describe(self) -> None:
        slot, drop, record = self.connection.slot, self._drop, self._record
        if drop is None or record is None:
            named = self.engine.state is State.NAMED and self.movable
            slot.phase = Phase.GREETED
            slot.attempts = min(self.failed_logins, 255)
            slot.tag = self.engine.name if named else ""
            slot.standing = slot.standing & ~Standing.HELLO | (Standing.HELLO if named else 0)
            return
        slot.exists = drop.stat[0]
        if slot.phase != Phase.OPEN:
            told = drop.told
            slot.session, slot.user, slot.mailbox = record.id, record.user_id, drop.mailbox_id
            slot.uid_validity, slot.uid_next = told.uid_validity, told.uid_next
            slot.expunges_told, slot.flags_told = told.expunges_told, told.flags_told
            slot.created_ms = record.document.created
            slot.tag = ""
            slot.standing &= ~Standing.HELLO
            slot.phase = Phase.OPEN

    def heed_move(self) -> None:
        """Raises Moving when the session is to leave for another worker, and can."""
        if self.connection.moving and self.movable:
            raise Moving

    async def move(self) -> str:
        """Leave for another worker, which goes on from slot and record; why, in a fixed word."""
        if self.resumed:
            await self.flush()
            self.settle()
            await self._note_for_good()
        unread = self.engine.take_unread() + self.connection.unread
        record, self._record = self._record, None
        self._locked = ""
        if record is not None:
            self.services.sessions.let_go(record)
        else:  # where there is one, it is the next worker's to take over, and no more this one's
            self.services.sessions.parked.let_go(self.connection.slot.session)
        self.connection.leave(MOVED, unread)
        return MOVED

    async def _note_for_good(self) -> None:
        """Write what only a move that was planned takes along."""
        drop, record = self._drop, self._record
        if drop is None or record is None:
            return
        try:
            record.note(state=await drop.parting_state())
            await self.services.sessions.update(record)
        except WdError as error:  # what the client was told of is in the record already
            log.warning("left without last notes", connection=self.connection.peer.id, error=str(error))
        self.tally.count(MOVES)

    async def upgrade(self) -> None:
        """Begin TLS, as the client has been told: here, or the connection leaves for where it ends
        (ConnectionOver)."""
        self.upgrading = False
        await self.flush()
        self.engine.secured()
        self.settle(upgrading=True)
        await self.connection.upgrade()
        self.passwords = True

    # Input

    async def receive(self) -> bool:
        """Send what is pending, then read more; False at the end of the stream."""
        await self.flush()
        self.settle()
        options = self.options
        timeout_s = options.idle_timeout_s
        if self._drop is None:  # one deadline for all that comes before, however slowly it drips in
            timeout_s = max(0.0, self._login_until - trio.current_time())
        reads_on = self.connection.moving  # what it may not be moved within is worth finishing
        self.heed_move()
        try:
            data = await self.connection.receive(timeout_s=timeout_s, through_drain=reads_on)
        except Moving:
            if self.movable:
                raise
            return await self.receive()
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
        self._locked = login.user_id
        self._record.note(selected=self._drop.mailbox_id, state=self._drop.state)

    async def take_over(self) -> Session | None:
        """Have the lock and the session that another worker had; None where the session's record is gone. The lock
        first: what that worker held ends once its connections have arrived. Conflict when somebody else has it."""
        slot, connection = self.connection.slot, self.connection
        await self.services.maildrops.hold_on(slot.user, connection.peer.id)
        self._record = await self.services.sessions.resume(slot.session, kick=connection.kick)
        return self._record

    async def enter_again(self, record: Session) -> None:
        """Go on, in the TRANSACTION state, with a session that was taken over. Errors of `Maildrops.reopen`."""
        slot = self.connection.slot
        told = Told(slot.uid_validity, slot.uid_next, slot.expunges_told, slot.flags_told)
        self._drop = await self.services.maildrops.reopen(record.user_id, told, record.document.state)
        self.engine.resume(State.TRANSACTION)

    def forsake(self) -> None:
        """Nobody goes on with the session that the slot names, of which this object may have nothing yet."""
        if self._record is None:
            self.services.sessions.forsake(self.connection.slot.session)

    async def leave(self) -> None:
        """Give back what the connection holds, also on the way out of a cancelled one. Idempotent."""
        self._drop = None
        user_id, self._locked = self._locked, ""
        record, self._record = self._record, None
        if user_id:
            await self.services.maildrops.close(user_id, self.connection.peer.id)
        if record is not None:
            await self.services.sessions.end(record)

    async def close(self) -> None:
        """The end of the connection, whatever has led to it."""
        await self.leave()
        self.tally.count(telemetry.ENDING)
