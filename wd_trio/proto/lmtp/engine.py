"""The LMTP engine (RFC 2033): bytes in are stored, events are pulled one at a time, nothing here does I/O.

- The engine cuts, parses, checks the state by table (states.py) and answers by itself whatever is wrong with
  one; the server answers the rest. `accepted()` says that a command succeeded; it alone moves the state.
- Message data comes in pieces of what one read brought. What the size cap drops is the server's affair, so
  that the stream is followed to its dot whatever the size.
- Refusals for syntax, order and unknown commands are counted; too many end the connection, a message taken
  whole starts the count anew. Refused recipients are not counted (a mailing list may hold many), but every
  recipient asked for, refused or not, counts against the limit of its transaction: a look-up is work.
- Two kinds of input cannot be followed safely and end the connection at once: BDAT (its octets would be read
  as commands) and HTTP requests (a browser led here by a web page).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wd_trio.proto.lmtp import replies
from wd_trio.proto.lmtp.commands import Command, Data, Mail, Rcpt, Refused, StartTls, parse
from wd_trio.proto.lmtp.events import NEED_DATA, CommandEvent, Event, Fatal, MessageData, Reply
from wd_trio.proto.lmtp.framing import Line, StreamBuffer
from wd_trio.proto.lmtp.states import REFUSALS, TRANSITIONS, State

_SMTP_HELLOS: Final = frozenset({b"EHLO", b"HELO"})
_NOT_OFFERED: Final = frozenset({b"AUTH", b"EXPN", b"ETRN", b"TURN", b"SEND", b"SOML", b"SAML"})
_HTTP: Final = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    max_message_bytes: int = 64 << 20
    max_recipients: int = 1000
    max_line_bytes: int = 2048
    """A whole command line with its end. RFC 5321 §4.5.3.1.4 wants 512 and more for extensions."""
    max_errors: int = 20


class LmtpEngine:
    """One connection's protocol state."""

    def __init__(self, options: EngineOptions | None = None, *, starttls: bool = False) -> None:
        """`starttls`: whether TLS may begin on this connection."""
        self._options = options or EngineOptions()
        self.starttls = starttls
        self._buffer = StreamBuffer(self._options.max_line_bytes)
        self._pending: Command | None = None
        self._asked = 0
        self._errors = 0
        self._smtputf8 = False
        self.state = State.CONNECTED

    @property
    def buffered_bytes(self) -> int:
        """Input that no event has taken yet."""
        return len(self._buffer)

    @property
    def movable(self) -> bool:
        """Whether another engine could go on from `state` and the input that no event has taken: between two
        transactions, and not within a line that is skipped."""
        return self.state in (State.CONNECTED, State.READY) and not self._buffer.skipping

    def resume(self, *, greeted: bool) -> None:
        """Go on, with nothing fed yet, where another engine stood between transactions; `greeted`: after LHLO."""
        self.state = State.READY if greeted else State.CONNECTED

    def take_unread(self) -> bytes:
        """The input that no event has taken, which is then another engine's."""
        return self._buffer.take_all()

    def receive(self, data: bytes) -> None:
        """Store input. Pull events until NEED_DATA before the next call: that is what bounds the memory."""
        self._buffer.receive(data)

    def accepted(self) -> None:
        """The command of the last CommandEvent succeeded: move to the state its table row names."""
        command = self._pending
        if command is None:
            raise RuntimeError("no command is waiting for its outcome")
        self._pending = None
        self.state = TRANSITIONS[type(command)][self.state]
        if isinstance(command, Mail):
            self._asked = 0
            self._smtputf8 = command.smtputf8
        elif isinstance(command, Data):
            self._buffer.begin_message()

    def next_event(self) -> Event:
        """The next thing to do. Never raises, whatever the bytes."""
        self._pending = None
        if self.state is State.CLOSED:
            self._buffer.clear()
            return NEED_DATA
        if self.state is State.DATA:
            return self._next_piece()
        line = self._buffer.take_line()
        return NEED_DATA if line is None else self._next_command(line)

    def _next_piece(self) -> Event:
        taken = self._buffer.take_message()
        if taken is None:
            return NEED_DATA
        data, last = taken
        if last:
            self.state = State.READY
            self._errors = 0
        return MessageData(data, last)

    def _next_command(self, line: Line) -> Event:
        if line.too_long:
            return self._refuse(replies.LINE_TOO_LONG)
        if not line.crlf:
            return self._refuse(replies.BAD_LINE_END)
        try:
            name, command = parse(line.data)
        except Refused as refused:
            return self._not_a_command(line, refused)
        if isinstance(command, StartTls) and not self.starttls:
            return self._refuse(replies.NOT_IMPLEMENTED)
        if self.state not in TRANSITIONS[type(command)]:
            return self._refuse(replies.reply(503, "5.5.1", REFUSALS[type(command), self.state]))
        if isinstance(command, Mail) and command.size > self._options.max_message_bytes:
            return Reply(replies.TOO_BIG)
        if isinstance(command, Rcpt):
            if not self._smtputf8 and not command.address.isascii():
                return Reply(replies.NEEDS_SMTPUTF8)
            if self._asked >= self._options.max_recipients:
                return Reply(replies.TOO_MANY_RECIPIENTS)
            self._asked += 1
        self._pending = command
        return CommandEvent(name, command)

    def _not_a_command(self, line: Line, refused: Refused) -> Event:
        word = line.data.split(b" ", 1)[0].upper()
        if word == b"BDAT":
            return self._end(replies.NOT_IMPLEMENTED)
        if word in _HTTP:
            return self._end(replies.NOT_LMTP)
        if word in _SMTP_HELLOS:
            return self._refuse(replies.SMTP_HELLO)
        if word in _NOT_OFFERED:
            return self._refuse(replies.NOT_IMPLEMENTED)
        return self._refuse(replies.reply(refused.code, refused.enhanced, refused.text))

    def _refuse(self, data: bytes) -> Event:
        self._errors += 1
        return self._end(replies.TOO_MANY_ERRORS) if self._errors > self._options.max_errors else Reply(data)

    def _end(self, data: bytes) -> Event:
        self.state = State.CLOSED
        self._buffer.clear()
        return Fatal(data)
