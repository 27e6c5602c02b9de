"""States, AUTHENTICATE's exchange, IDLE: what the server says to the engine, and lines that are no commands."""

from __future__ import annotations

import pytest
from imap_feeds import TRAILER, TRAILER_EVENT, bad, engine_in, feed, pull, three_feeds

from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.machine import EngineOptions, ImapEngine, State

BEFORE, AFTER, SELECTED = State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED
ASKED = e.CommandEvent("A1", "AUTHENTICATE", c.Authenticate("PLAIN", None))
IDLING = e.CommandEvent("A1", "IDLE", c.Idle())
AUTH = b"A1 AUTHENTICATE PLAIN\r\n"


def test_the_server_moves_the_state() -> None:
    engine = ImapEngine()
    assert engine.state is BEFORE
    engine.authenticated()
    assert engine.state is AFTER
    engine.selected()
    assert engine.state is SELECTED
    engine.unselected()
    assert engine.state is AFTER
    engine.logged_out()
    assert engine.state is State.LOGOUT


def test_pipelined_commands_meet_the_state_that_the_one_before_left() -> None:
    engine = ImapEngine()
    engine.receive(b"A1 LOGIN a b\r\nA2 SELECT INBOX\r\nA3 CLOSE\r\nA4 CLOSE\r\n")
    assert isinstance(engine.next_event(), e.CommandEvent)
    engine.authenticated()
    assert isinstance(engine.next_event(), e.CommandEvent)
    engine.selected()
    assert isinstance(engine.next_event(), e.CommandEvent)
    assert engine.has_input
    engine.unselected()
    assert engine.next_event() == bad("Select a mailbox first", "A4")
    assert not engine.has_input


def test_after_logout_nothing_is_read() -> None:
    engine = engine_in(AFTER)
    engine.receive(b"A1 LOGOUT\r\nA2 NOOP\r\n")
    assert isinstance(engine.next_event(), e.CommandEvent)
    engine.logged_out()
    engine.receive(b"A3 NOOP\r\n")
    assert engine.next_event() is e.NEED_DATA
    assert not engine.buffered


@pytest.mark.parametrize(
    ("line", "data"),
    [(b"AGEAYg==", b"\0a\0b"), (b"", b""), (b"*", None), (b"/+8=", b"\xff\xef")],
)
def test_sasl_responses(line: bytes, data: bytes | None) -> None:
    assert three_feeds(AUTH + line + b"\r\n", BEFORE) == [ASKED, e.SaslResponse(data)]


@pytest.mark.parametrize(
    "line",
    [
        *(b"=", b"A", b"AGEAYg", b"AGEAYh==", b"AG EAYg==", b"**", b" *", b"A2 NOOP", b"A\0==", b"A\r=="),
        *(b"x{11+}\r\nA2 LOGOUT\r\n", b"x{5}", b"\xff\xff\xff\xff", b"A" * 16384),
    ],
)
def test_what_is_no_sasl_response_ends_the_exchange(line: bytes) -> None:
    assert three_feeds(AUTH + line + b"\r\n", BEFORE) == [ASKED, bad("Invalid SASL response")]


def test_a_sasl_response_may_be_longer_than_a_command() -> None:
    [_, response] = three_feeds(AUTH + b"A" * 16380 + b"\r\n", BEFORE)
    assert response == e.SaslResponse(bytes(16380 // 4 * 3))


def test_challenges() -> None:
    engine = engine_in(BEFORE)
    engine.receive(b"A1 AUTHENTICATE X\r\n")
    assert engine.next_event() == e.CommandEvent("A1", "AUTHENTICATE", c.Authenticate("X", None))
    assert engine.challenge(b"") == b"+ \r\n"
    assert engine.in_sasl
    engine.receive(b"eA==\r\n")
    assert engine.next_event() == e.SaslResponse(b"x")
    assert not engine.in_sasl
    assert engine.challenge(b"\xff\xef") == b"+ /+8=\r\n"
    engine.receive(b"eQ==\r\nA2 NOOP\r\n")
    assert engine.next_event() == e.SaslResponse(b"y")
    assert engine.next_event() == e.CommandEvent("A2", "NOOP", c.Noop())


def test_ten_thousand_aborted_exchanges_leave_nothing() -> None:
    engine = engine_in(BEFORE)
    engine.receive((AUTH + b"*\r\n") * 10_000)
    assert pull(engine) == [ASKED, e.SaslResponse(None)] * 10_000
    assert engine.buffered_bytes == 0


@pytest.mark.parametrize("line", [b"DONE", b"done", b"DoNe "])
def test_done_ends_idle(line: bytes) -> None:
    assert three_feeds(b"A1 IDLE\r\n" + line + b"\r\n", AFTER) == [IDLING, e.IdleDone()]


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"A2 NOOP", b"A2 DONE", b"DONE x", b"DO\0NE", b"x" * 70000),
        *(b"A2 LOGIN {11+}\r\nA2 LOGOUT\r\n", b"A2 LOGIN {11}", b"A2 X {2+}\r\nab {2+}\r\ncd"),
    ],
)
def test_anything_else_ends_idle_with_bad(line: bytes) -> None:
    assert three_feeds(b"A1 IDLE\r\n" + line + b"\r\n", SELECTED) == [IDLING, bad("Expected DONE")]


def test_idle_as_the_server_sees_it() -> None:
    engine = engine_in(AFTER, EngineOptions())
    engine.receive(b"A1 IDLE\r\n")
    assert engine.next_event() == IDLING
    assert not engine.idling
    assert engine.begin_idle() == b"+ idling\r\n"
    assert engine.idling
    assert engine.next_event() is e.NEED_DATA
    assert feed(engine, [b"DONE\r\n" + TRAILER]) == [e.IdleDone(), TRAILER_EVENT]
    assert not engine.idling


def test_absurd_literals_in_a_line_that_is_no_command() -> None:
    fatal = e.Fatal(b"* BYE [TOOBIG] Literal is too large\r\n")
    assert three_feeds(AUTH + b"{5000+}\r\n", BEFORE) == [ASKED, bad("Invalid SASL response"), fatal]
    assert three_feeds(b"A1 IDLE\r\n{4294967296+}\r\n", AFTER) == [IDLING, bad("Expected DONE"), fatal]
