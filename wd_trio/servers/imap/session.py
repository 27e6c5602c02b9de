"""The state of one IMAP connection, its one output buffer and its one way to read.

Replies gather in one buffer that is sent before each wait for input and whenever it is full, so that a batch of
pipelined commands costs one send. Nothing outlives this object that another worker needs: the login is in the
store, the view is four integers.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, Final, NoReturn

import structlog
import trio

from wd_trio.errors import NotFound, Outdated, Unavailable
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import Event, NeedData
from wd_trio.proto.imap.machine import ImapEngine
from wd_trio.servers.driver import Connection, ConnectionOver, PeerLost
from wd_trio.servers.imap.options import ImapOptions, ImapServices
from wd_trio.servers.imap.selected import Selected
from wd_trio.service.auth import Login
from wd_trio.service.sessions import Session

log = structlog.get_logger()

OUTPUT_BYTES: Final = 64 << 10

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
    "ESEARCH",
    "WITHIN",
    "BINARY",
    "UTF8=ACCEPT",
    "STATUS=SIZE",
    "QUOTA",
    "QUOTA=RES-STORAGE",
)


class MailboxLost(ConnectionOver):
    """The selected mailbox is gone, or changed beyond what the journal can tell: numbers cannot be kept right."""

    def __init__(self) -> None:
        super().__init__("mailbox lost")


class ImapSession:
    """The state of one connection and its one output buffer; handlers are its friends."""

    def __init__(self, connection: Connection, services: ImapServices, options: ImapOptions) -> None:
        self.connection = connection
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
        self.lost = False  # the selected mailbox
        self._login_until = trio.current_time() + options.login_timeout_s
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
                self.write(encode.ok("Highest", f"HIGHESTMODSEQ {self.selected.view.known}"))

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
        self.write(encode.tagged(tag, "OK", text, code))

    def no(self, tag: str, text: str, code: str = "") -> None:
        self.write(encode.tagged(tag, "NO", text, code))

    def bad(self, tag: str, text: str) -> None:
        self.write(encode.tagged(tag, "BAD", text))

    def capabilities(self) -> tuple[str, ...]:
        """What is offered in the present state."""
        offered = (*CAPABILITIES, f"APPENDLIMIT={self.options.engine.max_message_bytes}")
        if self.login is not None:
            return offered
        if self.options.may_log_in(self.connection.peer):
            return (*offered, "AUTH=PLAIN")
        return (*offered, "LOGINDISABLED")

    # Input

    async def pull(
        self, *, timeout_s: float | None = None, wakeable: bool = False, through_drain: bool = False
    ) -> Event | None:
        """The next event, reading as needed; None when woken. PeerLost at the end of the stream."""
        if timeout_s is None:
            timeout_s = self.options.idle_timeout_s
        while True:
            event = self.engine.next_event()
            if not isinstance(event, NeedData):
                return event
            await self.flush()
            if self.login is None:  # one deadline for all that comes before, however slowly it drips in
                timeout_s = max(0.0, self._login_until - trio.current_time())
            data = await self.connection.receive(
                timeout_s=timeout_s, wakeable=wakeable, through_drain=through_drain
            )
            if data is None:
                return None
            if not data:
                raise PeerLost("closed")
            self.engine.receive(data)

    async def break_off(self, last_words: bytes) -> NoReturn:
        """The stream cannot be followed in the middle of a command: say so and end the connection."""
        self.write(last_words)
        await self.flush()
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
        for line in self.selected.tell(may_expunge=may_expunge, modseq=self.condstore):
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
        enabled = [
            name for name, on in (("CONDSTORE", self.condstore), ("UTF8=ACCEPT", self.engine.utf8)) if on
        ]
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
        if self.record is not None:
            await self.services.sessions.end(self.record)
