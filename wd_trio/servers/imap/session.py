"""The state of one IMAP connection, its one output buffer and its one way to read.

Replies gather in one buffer that is sent before each wait for input and whenever it is full, so that a batch of
pipelined commands costs one send. Nothing outlives this object that another worker needs: the login is in the
store, the view is four integers.
"""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any, Final, NoReturn, Protocol

import structlog
import trio

from wd_trio.errors import NotFound, Outdated, Unavailable
from wd_trio.mail.outcome import Origin
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import Event, NeedData
from wd_trio.proto.imap.machine import ImapEngine
from wd_trio.servers.driver import PARKED, Connection, ConnectionOver, Draining, Moving, PeerLost
from wd_trio.servers.imap.options import ImapOptions, ImapServices
from wd_trio.servers.imap.selected import Selected
from wd_trio.servers.imap.standing import Keeper
from wd_trio.servers.slots import TAG_BYTES, UNREAD_BYTES, Progress
from wd_trio.service.auth import Login
from wd_trio.service.sessions import Session

log = structlog.get_logger()

OUTPUT_BYTES: Final = 64 << 10
_READING: Final = int(Progress.READING)
_SAYING: Final = int(Progress.SAYING)

CAPABILITIES: Final = (
    "IMAP4rev1",
    "LITERAL+",  # which includes LITERAL-; RFC 7888 §5 forbids to offer both
    "SASL-IR",
    "ID",
    "IDLE",
    "NAMESPACE",
    "ENABLE",
    "UNSELECT",
    "UIDPLUS",
    "MOVE",
    "CHILDREN",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "CONDSTORE",
    "QRESYNC",
    "ESEARCH",
    "WITHIN",
    "BINARY",
    "UTF8=ACCEPT",
    "STATUS=SIZE",
    "QUOTA",
    "QUOTA=RES-STORAGE",
)


def offered(options: ImapOptions) -> tuple[str, ...]:
    """The capabilities of a client that has logged in."""
    return (*CAPABILITIES, f"APPENDLIMIT={options.engine.max_message_bytes}")


class MailboxLost(ConnectionOver):
    """The selected mailbox is gone, or changed beyond what the journal can tell: numbers cannot be kept right."""

    def __init__(self) -> None:
        super().__init__("mailbox lost")


class Lot(Protocol):
    """Where connections that are quiet may park."""

    def quiet_s(self, *, idling: bool) -> float:
        """How long a connection that says nothing is to keep its task."""
        ...


class ImapSession:
    """The state of one connection and its one output buffer; handlers are its friends."""

    def __init__(
        self, connection: Connection, services: ImapServices, options: ImapOptions, lot: Lot | None = None
    ) -> None:
        self.connection = connection
        self.keeper = Keeper(connection.slot)
        self.lot = lot
        self.services = services
        self.options = options
        self.engine = ImapEngine(options.engine)
        self.login: Login | None = None
        self.selected: Selected | None = None
        self.record: Session | None = None
        """The session's document; there from log-in to the end."""
        self.user_agent = ""
        self.failed_logins = 0
        self.idle_tag = ""
        self.condstore = False
        self.qresync = False  # condstore, too, where this is set
        self.lost = False  # the selected mailbox
        self.heard_at = trio.current_time()
        """When the client was last answered, or sent a part of a message."""
        self.waited = False  # for input, in another task
        self.login_until = self.heard_at + options.login_timeout_s
        self.bad_commands = 0
        self._out: list[bytes] = []
        self._out_bytes = 0

    @property
    def user_id(self) -> str:
        """Of the user who logged in; the state table lets no command ask before."""
        assert self.login is not None
        return self.login.user_id

    def enable_condstore(self) -> None:
        """The client follows modseqs from now on; it is told the mailbox's, once (RFC 7162 §3.1)."""
        if not self.condstore:
            self.condstore = True
            if self.selected is not None:
                self.write(encode.ok("Highest", f"HIGHESTMODSEQ {self.selected.view.settled}"))

    def enable_qresync(self) -> None:
        """From now on what is gone is told by uid (RFC 7162 §3.2.3)."""
        self.enable_condstore()
        self.qresync = True

    # Output

    def write(self, data: bytes) -> None:
        """Add bytes to what goes out next."""
        self._out.append(data)
        self._out_bytes += len(data)

    async def flush(self) -> None:
        """Send everything written so far; PeerLost when the client does not take it."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            await self.connection.send(data)

    async def flush_if_full(self) -> None:
        if self._out_bytes >= OUTPUT_BYTES:
            await self.flush()

    def ok(self, tag: str, text: str, code: str = "") -> None:
        self._tagged(tag, "OK", text, code)

    def no(self, tag: str, text: str, code: str = "") -> None:
        self._tagged(tag, "NO", text, code)

    def bad(self, tag: str, text: str) -> None:
        self._tagged(tag, "BAD", text, "")

    def _tagged(self, tag: str, status: str, text: str, code: str) -> None:
        if self.condstore and self.selected is not None:
            modseq = self.selected.stand(by_uid=self.qresync)
            if modseq:
                self.write(encode.ok("Highest", f"HIGHESTMODSEQ {modseq}"))
        self.write(encode.tagged(tag, status, text, code))

    def removal_code(self) -> str:
        """The code of a tagged OK behind which messages are gone (RFC 7162 §3.2.7): up to where the client knows
        all. Empty without QRESYNC."""
        if not self.qresync or self.selected is None:
            return ""
        return f"HIGHESTMODSEQ {self.selected.stand(by_uid=True) or self.selected.view.settled}"

    def capabilities(self) -> tuple[str, ...]:
        """What is offered in the present state."""
        after_login = offered(self.options)
        if self.login is not None:
            return after_login
        log_in = "AUTH=PLAIN" if self.options.may_log_in(self.connection.peer) else "LOGINDISABLED"
        return (*after_login, *(("STARTTLS",) if self.offers_tls else ()), log_in)

    @property
    def offers_tls(self) -> bool:
        """Whether STARTTLS may be said: there is a certificate, and no TLS yet."""
        return self.options.starttls and self.connection.can_upgrade

    # Input

    @property
    def time_left_s(self) -> float:
        """How long the client may still say nothing: since it did, or since the beginning where it has to log in,
        however slowly that drips in."""
        until = self.login_until if self.login is None else self.heard_at + self.options.idle_timeout_s
        return max(0.0, until - trio.current_time())

    @property
    def _patience_s(self) -> float:
        """`time_left_s`, where the last answer is not just given."""
        return self.time_left_s if self.login is None or self.waited else self.options.idle_timeout_s

    @property
    def until_s(self) -> int:
        """When that time is over, as slots tell it. What came from a slot goes back as it came, however often: two
        clocks that are read one after the other do not make a second of it."""
        return math.ceil(round(self.options.clock() + self.time_left_s, 1))

    async def pull(
        self,
        *,
        timeout_s: float | None = None,
        wakeable: bool = False,
        within: bool = False,
        through_drain: bool = False,
    ) -> Event | None:
        """The next event, reading as needed; None when woken. `within`: a command that is in progress awaits it, so
        this is not where the connection could go on elsewhere. PeerLost at the end of the stream; Moving and Quiet
        when another task is to go on, for which all is settled then."""
        engine = self.engine
        while True:
            event = engine.next_event()
            if not isinstance(event, NeedData):
                return event
            await self.flush()
            quiet_s = math.inf
            if not within:
                resting = engine.resting
                # What another worker had read and brought along is input that nobody has dealt with, too.
                self.keeper.settle(self, _READING if self.connection.unread or not resting else 0)
                lot = self.lot
                if resting and lot is not None and self.can_park:
                    quiet_s = lot.quiet_s(idling=engine.idling)
            try:
                data = await self.connection.receive(
                    timeout_s=self._patience_s if timeout_s is None else timeout_s,
                    wakeable=wakeable,
                    through_drain=through_drain,
                    quiet_s=quiet_s,
                )
            except Moving:
                if len(self.idle_tag) > TAG_BYTES:  # which its slot cannot tell
                    raise Draining from None
                unread = None if within else engine.take_unread()
                if unread is not None:
                    if len(unread) <= UNREAD_BYTES:
                        self.connection.unread = unread + self.connection.unread
                        raise
                    engine.receive(unread)
                through_drain = True
                continue
            if data is None:
                return None
            if not data:
                raise PeerLost("closed")
            self.waited = False
            if within:
                self.heard_at = trio.current_time()
            engine.receive(data)

    @property
    def can_park(self) -> bool:
        """Whether a slot and a descriptor would do, were there nothing to do for a while."""
        return self.record is not None and self.connection.can_leave and len(self.idle_tag) <= TAG_BYTES

    @property
    def origin(self) -> Origin | None:
        """The command in progress, for the store to note what its write came to; None before log-in."""
        return Origin(self.record.id, self.keeper.serial) if self.record is not None else None

    def begin(self, tag: str, kind: type) -> None:
        """A command of that type is about to be handled."""
        self.keeper.begin(tag, kind, alone=not self._out and self.engine.resting)

    def settle_within(self) -> None:
        """The last octets of a command came in an exchange with the client: what was said until then is said."""
        progress = self.connection.slot.progress & ~_SAYING
        if not self._out:
            self.keeper.settle(self, progress & ~_READING if self.engine.resting else progress)

    def leave(self, why: str, *, resumed: bool = True) -> None:
        """Let the connection go on elsewhere, and let go of what this object holds for it. Where it was not yet
        `resumed`, the slot stays as it came."""
        slot, unread = self.connection.slot, self.connection.unread
        if resumed:
            slot.until_s = self.until_s
            if unread:
                slot.progress = _READING
        if self.selected is not None:
            self.selected.close()
        if self.record is not None:
            sessions = self.services.sessions
            sessions.park(self.record) if why == PARKED else sessions.let_go(self.record)
            self.record.describe = None
        self.selected = self.record = None
        self.keeper.forget()  # without these circles the collector has nothing to do
        self.connection.leave(why, unread)

    async def break_off(self, last_words: bytes) -> NoReturn:
        """The stream cannot be followed in the middle of a command: say so and end the connection."""
        self.write(last_words)
        await self.flush()
        await self.connection.finish("protocol")
        raise ConnectionOver("protocol")

    # The selected mailbox

    async def sync(self, *, may_expunge: bool) -> None:
        """Tell the client what happened in its mailbox. No engine is asked unless something did.

        Never fails a command: a mailbox that is gone or cannot be told right any more is `lost`, which ends the
        connection once the command has been answered.
        """
        if self.selected is None or self.lost:
            return
        try:
            await self.selected.refresh(self.services.messages)
        except (NotFound, Outdated) as error:
            log.info("mailbox lost", connection=self.connection.peer.id, error=str(error))
            self.lost = True
            return
        except Unavailable as error:
            # The command has done its work: its answer must not say otherwise. The news keep.
            log.warning("news not read", connection=self.connection.peer.id, error=str(error))
        for line in self.selected.tell(may_expunge=may_expunge, modseq=self.condstore, by_uid=self.qresync):
            self.write(line)
            await self.flush_if_full()

    def unselect(self) -> None:
        if self.selected is not None:
            self.selected.close()
            self.selected = None
            self.lost = False
            self.engine.unselected()

    def describe(self) -> tuple[str, dict[str, Any]]:
        """Where the connection stands, for the session's document: what is selected, and what a resume needs."""
        switches = ("CONDSTORE", self.condstore), ("QRESYNC", self.qresync), ("UTF8=ACCEPT", self.engine.utf8)
        enabled = [name for name, on in switches if on]
        state: dict[str, Any] = {"enabled": enabled, "idle": self.idle_tag or None}
        if self.selected is None:
            return "", state
        state["readOnly"] = self.selected.read_only
        state["view"] = list(astuple(self.selected.view.told))
        return self.selected.place.mailbox_id, state

    def touch(self) -> None:
        """Note for the session's document that the client was active or was told something."""
        if self.record is not None:
            self.record.touch()

    async def close(self) -> None:
        """Give back what the connection holds; also on the way out of a cancelled one."""
        if self.selected is not None:
            self.selected.close()
        self.keeper.forget()
        if self.record is not None:
            await self.services.sessions.end(self.record)
            self.record.describe = None
