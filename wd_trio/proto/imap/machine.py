"""The IMAP engine: octets in, events out, one at a time; no socket, no clock.

    engine.receive(data)                # store
    event = engine.next_event()         # until NEED_DATA
    engine.authenticated()              # the server says what became of a command

framing cuts a command → the table in states.py names its parser and the states that allow it → a value, or a
fixed complaint that the engine answers itself. The server answers an event before it pulls the next, so a
pipelined command always meets the state that the one before it left.

A literal is judged when it is announced, by parsing what came so far: its command must exist, be allowed and
want a literal there, and the size must fit. Otherwise the tagged refusal takes the place of the "+", and what a
non-synchronising client sends anyway is dropped by count.

Memory: what next_event leaves behind is one command under the state's cap, whatever the peer sends. A
message is never stored: MessageData hands over what came. SASL and IDLE take single lines; a line that does
not belong there ends them with a tagged BAD (`in_sasl`, `idling` tell), as does anything but a line end after
an APPEND's message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from wd_trio.errors import Invalid
from wd_trio.proto.imap import commands, encode, events, grammar
from wd_trio.proto.imap.framing import Framer, Step
from wd_trio.proto.imap.parse import BadSyntax, Cursor, LiteralAwaited, UnknownCharset
from wd_trio.proto.imap.parse_commands import append_tail
from wd_trio.proto.imap.states import COMMANDS, State, complaint
from wd_trio.proto.sasl import decode_base64, encode_base64

__all__ = ["EngineOptions", "ImapEngine", "State"]

_GO_AHEAD: Final = encode.continuation()
_CHARSETS_CODE: Final = "BADCHARSET (US-ASCII UTF-8)"  # RFC 3501 §7.1; more are read, these are all one needs


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Caps on what a client sends, in octets unless named otherwise."""

    max_command_bytes: int = 65536  # after log-in: lines and literals of one command, APPEND's message apart
    max_line_bytes_unauthenticated: int = 8192  # before: likewise
    max_literal_bytes_unauthenticated: int = 4096  # the literals of one command before log-in
    max_judged_bytes: int = 512 << 10  # parsed to judge one command's literals: each costs what came so far
    max_message_bytes: int = 64 << 20
    max_sasl_line_bytes: int = 16384  # tokens of OAUTHBEARER need more than a command line


class _Mode(Enum):
    COMMAND = auto()
    OFFERED = auto()  # an AppendEvent waits for accept_message() or refuse_message()
    MESSAGE = auto()
    SASL = auto()
    IDLE = auto()
    OVER = auto()


_RESTING: Final = (_Mode.COMMAND, _Mode.IDLE)


class ImapEngine:
    """One connection's protocol. `state` is read by the server and moved by its five words below;
    `utf8` is set once the client enabled UTF8=ACCEPT."""

    def __init__(self, options: EngineOptions = EngineOptions()) -> None:
        self.options: Final = options
        self.state = State.NOT_AUTHENTICATED
        self.utf8 = False
        self._framer = Framer()
        self._mode = _Mode.COMMAND
        self._tag = ""  # of the latest command
        self._literal_bytes = 0  # accepted in the command that is being cut
        self._judged_bytes = 0  # parsed for that
        self._message_left = 0  # octets of the message still to come
        self._message_tail = b""  # what must follow them on their line

    # What the server says.

    def authenticated(self) -> None:
        """A log-in succeeded."""
        self.state = State.AUTHENTICATED

    def selected(self) -> None:
        """A mailbox is selected."""
        self.state = State.SELECTED

    def unselected(self) -> None:
        """No mailbox is selected any longer."""
        self.state = State.AUTHENTICATED

    def logged_out(self) -> None:
        """The connection ends: whatever came or comes is dropped."""
        self.state = State.LOGOUT
        self._end()

    def challenge(self, data: bytes) -> bytes:
        """Go on with AUTHENTICATE: the bytes that carry `data` to the client; its answer comes as SaslResponse.

        A line that is not base64 or too long ends the exchange: the Reply (tagged BAD) is then its answer.
        """
        self._mode = _Mode.SASL
        return b"+ %b\r\n" % encode_base64(data)

    def begin_idle(self) -> bytes:
        """Enter IDLE (RFC 2177): the bytes to send. IdleDone ends it, or a Reply (tagged BAD)."""
        self._mode = _Mode.IDLE
        return encode.continuation("idling")

    def go_on_idling(self, tag: str) -> None:
        """Be in the IDLE of that tag, which another engine began: nothing is sent."""
        self._tag = tag
        self._mode = _Mode.IDLE

    def accept_message(self) -> bytes:
        """Take the offered message: the bytes to send, if any. MessageData follows, or a Reply (tagged BAD)
        when the command does not end after the message."""
        self._settle_offer()
        self._framer.begin_octets()
        self._mode = _Mode.MESSAGE
        return _GO_AHEAD if self._framer.literal.synchronising else b""

    def refuse_message(self) -> bytes:
        """Do without the message that is offered, or without the rest of one that was accepted: the bytes to
        send (none). What follows of the command is dropped, nothing when its end came already; the server
        answers its tag."""
        if self._mode is _Mode.MESSAGE:
            self._framer.skip_octets(self._message_left)
            self._mode = _Mode.COMMAND
        elif self._mode is _Mode.OFFERED:
            self._settle_offer()
            self._framer.refuse()
        return b""

    # What the server asks.

    @property
    def idling(self) -> bool:
        """Between begin_idle() and the line that ends it."""
        return self._mode is _Mode.IDLE

    @property
    def in_sasl(self) -> bool:
        """Between challenge() and the client's answer."""
        return self._mode is _Mode.SASL

    @property
    def buffered_bytes(self) -> int:
        """Octets that came and were not read yet."""
        return len(self._framer.buffer)

    @property
    def has_input(self) -> bool:
        """Whether octets came that were not read yet: a pipelined command, or a part of one."""
        return len(self._framer.buffer) > 0

    buffered = has_input

    @property
    def resting(self) -> bool:
        """Whether everything that came was dealt with, and nothing but a new command, or IDLE's end, is awaited."""
        return self._mode in _RESTING and self._framer.resting

    def take_unread(self) -> bytes | None:
        """Give up what came and was not dealt with: another engine in the same state would go on with it. None where
        none could: within an exchange or a message, and behind a literal that was asked for."""
        if self._mode not in _RESTING or not self._framer.untouched:
            return None
        return self._framer.take_octets(len(self._framer.buffer))

    # Octets in, events out.

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Store what the peer sent."""
        if self._mode is not _Mode.OVER:
            self._framer.buffer.feed(data)

    def next_event(self) -> events.Event:
        """The next thing that happened; NEED_DATA when nothing whole is there. Never raises for any input.

        RuntimeError when an AppendEvent was neither accepted nor refused.
        """
        match self._mode:
            case _Mode.COMMAND:
                return self._next_command()
            case _Mode.MESSAGE:
                return self._next_piece()
            case _Mode.SASL:
                return self._next_sasl()
            case _Mode.IDLE:
                return self._next_idle()
            case _Mode.OFFERED:
                raise RuntimeError("the message must be accepted or refused first")
            case _Mode.OVER:
                return events.NEED_DATA

    def _next_command(self) -> events.Event:
        limit = self._command_limit()
        while True:
            step = self._framer.advance(limit, self._skip_limit())
            match step:
                case Step.NEED_DATA:
                    return events.NEED_DATA
                case Step.COMMAND:
                    return self._finish(self._framer.take_frame())
                case Step.LITERAL:
                    event = self._judge_literal(limit)
                    if event is not None:
                        return event
                case _:
                    return self._reject(step)

    def _finish(self, frame: bytes) -> events.Event:
        self._forget_literals()
        try:
            name, command = self._parse(frame, None)
        except BadSyntax as fault:
            return self._answer(fault)
        return events.CommandEvent(self._tag, name, command)

    def _parse(self, frame: bytes, pending: int | None) -> tuple[str, commands.Command]:
        """The command of a frame and its name; `_tag` is set on the way, "" when there is none."""
        self._tag = ""
        head = grammar.COMMAND_HEAD.match(frame)
        if head is None:
            self._read_tag(frame)
            raise BadSyntax("Unknown command" if self._tag else "Invalid tag")
        self._tag = head[1].decode("ascii")
        name = head[2].decode("ascii").upper()
        at = head.end()
        if name == "UID" and (verb := grammar.UID_VERB.match(frame, at)):
            name = f"UID {verb[1].decode('ascii').upper()}"
            at = verb.end()
        rule = COMMANDS.get(name)
        if rule is None:
            raise BadSyntax("Unknown command")
        if self.state not in rule.states:
            raise BadSyntax(complaint(rule.states, self.state))
        return name, rule.parse(Cursor(frame, at, pending=pending, utf8=self.utf8))

    def _judge_literal(self, limit: int) -> events.Event | None:
        """Decide on the literal that was announced just now; None when it is awaited and needs no answer."""
        framer = self._framer
        size = framer.literal.size
        if not framer.literal.synchronising and size > self._skip_limit():
            return self._lost()
        self._judged_bytes += len(framer.frame)
        if self._judged_bytes > self.options.max_judged_bytes:
            self._read_tag(framer.frame)
            return self._refuse(self._bad("Too many literals"))
        try:
            name, command = self._parse(framer.frame, size)
        except LiteralAwaited:
            return self._collect_literal(limit)
        except BadSyntax as fault:
            return self._refuse(self._answer(fault))
        # Only APPEND's parser ends at a literal that was not sent yet.
        if not isinstance(command, commands.Append):
            return self._refuse(self._bad(f"{name} takes no literal there"))
        if size > self.options.max_message_bytes:
            self._forget_literals()
            framer.refuse()
            return events.Reply(encode.tagged(self._tag, "NO", "Message is too large", "TOOBIG"), bad=False)
        self._mode = _Mode.OFFERED
        self._message_tail = append_tail(command)
        return events.AppendEvent(self._tag, command)

    def _collect_literal(self, limit: int) -> events.Event | None:
        framer = self._framer
        size = framer.literal.size
        total = self._literal_bytes + size
        allowed = self.options.max_literal_bytes_unauthenticated
        if len(framer.frame) + size > limit or (self.state is State.NOT_AUTHENTICATED and total > allowed):
            return self._refuse(self._bad("Literal is too large", "TOOBIG"))
        self._literal_bytes = total
        framer.accept_literal()
        return events.Reply(_GO_AHEAD, bad=False) if framer.literal.synchronising else None

    def _refuse(self, reply: events.Reply) -> events.Reply:
        """Answer the command whose literal was announced, and drop the rest of it."""
        self._forget_literals()
        self._framer.refuse()
        return reply

    def _next_piece(self) -> events.Event:
        framer = self._framer
        piece = framer.take_octets(self._message_left)
        self._message_left -= len(piece)
        if self._message_left:
            return events.MessageData(piece, last=False) if piece else events.NEED_DATA
        step = framer.advance(self._command_limit(), self._skip_limit())
        if step is Step.NEED_DATA:
            return events.MessageData(piece, last=False) if piece else events.NEED_DATA
        self._mode = _Mode.COMMAND
        tail = self._message_tail
        if step is Step.COMMAND and framer.frame == tail:
            return events.MessageData(piece, last=True)
        return self._intruder(step, "Unclosed parenthesis" if tail else "Nothing may follow the message")

    def _next_sasl(self) -> events.Event:
        framer = self._framer
        step = framer.advance(self.options.max_sasl_line_bytes, self._skip_limit())
        if step is Step.NEED_DATA:
            return events.NEED_DATA
        self._mode = _Mode.COMMAND
        if step is not Step.COMMAND:
            return self._intruder(step, "Invalid SASL response")
        line = framer.take_frame()
        if line == b"*":
            return events.SaslResponse(None)
        try:
            return events.SaslResponse(decode_base64(line))
        except Invalid:
            return self._bad("Invalid SASL response")

    def _next_idle(self) -> events.Event:
        framer = self._framer
        step = framer.advance(self._command_limit(), self._skip_limit())
        if step is Step.NEED_DATA:
            return events.NEED_DATA
        self._mode = _Mode.COMMAND
        if step is Step.COMMAND and framer.frame.strip(b" ").upper() == b"DONE":
            return events.IdleDone()
        return self._intruder(step, "Expected DONE")

    def _intruder(self, step: Step, text: str) -> events.Event:
        """A line came that has no place here: it ends the latest command with BAD, and is dropped."""
        if step is Step.LOST:
            return self._lost()
        if step is Step.LITERAL:
            self._framer.refuse()
        return self._bad(text)

    def _reject(self, step: Step) -> events.Event:
        """Answer a command that framing gave up."""
        self._forget_literals()
        if step is Step.LOST:
            return self._lost()
        self._read_tag(self._framer.frame)
        if step is Step.TOO_LONG:
            return self._bad("Command is too long", "TOOBIG")
        return self._bad("Command has a NUL or a bare CR")

    def _settle_offer(self) -> None:
        if self._mode is not _Mode.OFFERED:
            raise RuntimeError("no message is offered")
        self._forget_literals()
        self._message_left = self._framer.literal.size
        self._mode = _Mode.COMMAND

    def _forget_literals(self) -> None:
        self._literal_bytes = self._judged_bytes = 0

    def _read_tag(self, frame: bytes) -> None:
        tag = grammar.TAG.match(frame)
        self._tag = tag[1].decode("ascii") if tag else ""

    def _answer(self, fault: BadSyntax) -> events.Reply:
        if isinstance(fault, UnknownCharset):
            return events.Reply(encode.tagged(self._tag, "NO", str(fault), _CHARSETS_CODE), bad=False)
        return self._bad(str(fault))

    def _bad(self, text: str, code: str = "") -> events.Reply:
        return events.Reply(encode.tagged(self._tag or "*", "BAD", text, code), bad=True)

    def _lost(self) -> events.Fatal:
        self._end()
        return events.Fatal(encode.bye("Literal is too large", "TOOBIG"))

    def _end(self) -> None:
        self._mode = _Mode.OVER
        self._framer = Framer()

    def _command_limit(self) -> int:
        if self.state is State.NOT_AUTHENTICATED:
            return self.options.max_line_bytes_unauthenticated
        return self.options.max_command_bytes

    def _skip_limit(self) -> int:
        """The largest literal of a refused command that is read through."""
        if self.state is State.NOT_AUTHENTICATED:
            return self.options.max_literal_bytes_unauthenticated
        return grammar.MAX_NUMBER
