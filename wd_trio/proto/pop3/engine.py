"""The POP3 engine (RFC 1939, 2449, 5034): bytes in are stored, events are pulled one at a time, nothing does I/O.

- The engine cuts, parses, checks the state by table (states.py) and answers by itself whatever is wrong with a
  command; the server answers the rest. `accepted()` says that a command succeeded; it alone moves the state on.
- The whole log-in dialogue is the engine's: USER is remembered until PASS, AUTH's exchange is followed to its
  end, and the server gets one `LogIn`. Where passwords may not be sent none is asked for, and none is looked at.
- A line ends at its LF, with or without a CR. One over the cap is dropped up to its end and refused. RFC 2449 §4 has
  255 octets; before log-in a line may be longer, for passwords and base64 (RFC 5034 §4).
- Refusals in a row are counted; too many end the connection, and so does an HTTP request (a browser led here by a
  web page). A wrong password is the server's to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wd_trio.errors import Invalid
from wd_trio.proto import sasl
from wd_trio.proto.buffer import InputBuffer
from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.commands import Auth, Command, LogIn, Pass, Refused, Stls, User, parse
from wd_trio.proto.pop3.events import NEED_DATA, CommandEvent, Event, Fatal, NeedData, Reply
from wd_trio.proto.pop3.states import TRANSITIONS, State, refusal

_NOT_OFFERED: Final = frozenset({b"APOP", b"UTF8", b"LANG", b"LAST", b"RPOP"})
_HTTP: Final = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    max_line_bytes: int = 512
    """A whole command line with its end, after log-in."""
    max_log_in_line_bytes: int = 8192
    """The same before: PLAIN's three fields of 1,024 octets are 4,104 in base64."""
    max_errors: int = 20


class Pop3Engine:
    """One connection's protocol state. `passwords`: whether they may be sent over this connection; `stls`: whether
    TLS may begin on it."""

    def __init__(
        self, options: EngineOptions | None = None, *, passwords: bool = True, stls: bool = False
    ) -> None:
        self._options = options or EngineOptions()
        self._passwords = passwords
        self._stls = stls
        self._buffer = InputBuffer()
        self._skipping = False
        self._next: State | None = None
        self._name = ""
        self._asked = False
        self._errors = 0
        self.state = State.AUTHORIZATION

    @property
    def buffered_bytes(self) -> int:
        """Input that no event has taken yet."""
        return len(self._buffer)

    @property
    def movable(self) -> bool:
        """Whether another engine could go on from `state`, `name` and the input that no event has taken: not within
        AUTH's exchange, nor within a line that is skipped."""
        return not self._asked and not self._skipping

    @property
    def name(self) -> str:
        """What USER named, in the state NAMED; "" in others."""
        return self._name if self.state is State.NAMED else ""

    def resume(self, state: State, name: str = "") -> None:
        """Go on, with nothing fed yet, where another engine stood: in AUTHORIZATION, NAMED or TRANSACTION."""
        self.state, self._name = state, name

    def take_unread(self) -> bytes:
        """The input that no event has taken, which is then another engine's."""
        return self._buffer.take(len(self._buffer))

    def secured(self) -> None:
        """TLS has begun (RFC 2595 §4): passwords may be sent, and what was said before counts no more."""
        self._passwords, self._stls, self._name = True, False, ""
        self.state = State.AUTHORIZATION

    def receive(self, data: bytes) -> None:
        """Store input. Pull events until NEED_DATA before the next call: that is what bounds the memory."""
        self._buffer.feed(data)

    def accepted(self) -> None:
        """The command of the last CommandEvent succeeded: move to the state its table row names."""
        if self._next is None:
            raise RuntimeError("no command is waiting for its outcome")
        self.state, self._next = self._next, None

    def next_event(self) -> Event:
        """The next thing to do. Never raises, whatever the bytes."""
        self._next = None
        if self.state in (State.UPDATE, State.CLOSED):
            self._buffer.clear()
            return NEED_DATA
        line = self._next_line()
        if not isinstance(line, bytes):
            return line
        if self._asked:
            self._asked = False
            return self._response(line)
        return self._command(line)

    def _next_line(self) -> bytes | NeedData | Reply | Fatal:
        """The next line without its end."""
        logged_in = self.state is State.TRANSACTION
        limit = self._options.max_line_bytes if logged_in else self._options.max_log_in_line_bytes
        if not self._skipping:
            line = self._buffer.take_line(limit)
            if line is not None:
                return line.removesuffix(b"\n").removesuffix(b"\r")
            if len(self._buffer) < limit:
                return NEED_DATA
        _, ended = self._buffer.discard_line(0)
        self._skipping = not ended
        if not ended:
            return NEED_DATA
        self._asked = False
        return self._refuse(replies.LINE_TOO_LONG)

    def _command(self, line: bytes) -> Event:
        try:
            name, command = parse(line)
        except Refused as refused:
            return self._not_a_command(line, refused)
        target = TRANSITIONS[type(command)].get(self.state)
        if target is None:
            return self._refuse(replies.err(refusal(type(command), self.state)))
        match command:
            case Stls() if not self._stls:
                return self._refuse(replies.NOT_OFFERED)
            case User(name=username):
                return self._user(username)
            case Auth():
                return self._auth(command)
            case Pass(password=password):
                self.state = State.AUTHORIZATION
                command = LogIn(self._name, password)
        return self._event(name, command, target)

    def _event(self, name: str, command: Command, target: State) -> Event:
        self._errors = 0
        self._next = target
        return CommandEvent(name, command)

    def _user(self, name: str) -> Event:
        if not self._passwords:
            return self._refuse(replies.NEEDS_TLS)
        self._name = name
        self.state = State.NAMED
        return Reply(replies.NAME_TAKEN)

    def _auth(self, command: Auth) -> Event:
        self.state = State.AUTHORIZATION
        if not command.mechanism:
            return Reply(replies.mechanisms(passwords=self._passwords))
        if command.mechanism != "PLAIN":
            return self._refuse(replies.NO_MECHANISM)
        if not self._passwords:
            return self._refuse(replies.NEEDS_TLS)
        if command.initial is None:
            self._asked = True
            return Reply(replies.CHALLENGE)
        return self._response(b"" if command.initial == "=" else command.initial.encode())

    def _response(self, line: bytes) -> Event:
        """PLAIN's one message, in base64 or "*" (RFC 5034 §4)."""
        if line == b"*":
            return self._refuse(replies.CANCELLED)
        try:
            plain = sasl.parse_plain(sasl.decode_base64(line))
        except Invalid:
            return self._refuse(replies.BAD_RESPONSE)
        if plain.authzid and plain.authzid != plain.authcid:
            return self._refuse(replies.NOT_FOR_OTHERS)
        return self._event("AUTH", LogIn(plain.authcid, plain.password), State.TRANSACTION)

    def _not_a_command(self, line: bytes, refused: Refused) -> Event:
        word = line.split(b" ", 1)[0].upper()
        if word in _HTTP:
            return self._end(replies.NOT_POP3)
        if word in _NOT_OFFERED:
            return self._refuse(replies.NOT_OFFERED)
        return self._refuse(replies.err(refused.text))

    def _refuse(self, data: bytes) -> Reply | Fatal:
        self._errors += 1
        return self._end(replies.TOO_MANY_ERRORS) if self._errors > self._options.max_errors else Reply(data)

    def _end(self, data: bytes) -> Fatal:
        self.state = State.CLOSED
        self._buffer.clear()
        return Fatal(data)
