"""Literals: welcome ones join their command, others are refused before they come or dropped by count."""

from __future__ import annotations

import pytest
from imap_feeds import GO_AHEAD, TRAILER, TRAILER_EVENT, bad, engine_in, feed, pull, three_feeds

from wd_trio.mail import model as m
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.machine import EngineOptions, State
from wd_trio.secret import Secret

BEFORE, AFTER, SELECTED = State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED
LOGGED_IN = e.CommandEvent("A1", "LOGIN", c.Login("joe", Secret("a b\r\nc")))
TOO_BIG_BYE = e.Fatal(b"* BYE [TOOBIG] Literal is too large\r\n")


def test_synchronising_literals_are_asked_for() -> None:
    assert three_feeds(b"A1 LOGIN {3}\r\njoe {6}\r\na b\r\nc\r\n", BEFORE) == [GO_AHEAD, GO_AHEAD, LOGGED_IN]


def test_non_synchronising_literals_are_not() -> None:
    assert three_feeds(b"A1 LOGIN {3+}\r\njoe {0006+}\r\na b\r\nc\r\n", BEFORE) == [LOGGED_IN]
    assert three_feeds(b"A1 LOGIN {3+}\njoe {6+}\na b\r\nc\n", BEFORE) == [LOGGED_IN]


def test_an_announcement_within_a_literal_is_data() -> None:
    [event] = three_feeds(b"A1 LOGIN {12+}\r\n{5+}\r\n{99}\r\n {3+}\r\nabc\r\n", BEFORE)
    assert event == e.CommandEvent("A1", "LOGIN", c.Login("{5+}\r\n{99}\r\n", Secret("abc")))


def test_empty_literals() -> None:
    [event] = three_feeds(b"A1 LOGIN {0+}\r\n {0+}\r\n\r\n", BEFORE)
    assert event == e.CommandEvent("A1", "LOGIN", c.Login("", Secret("")))


def test_literals_in_lists() -> None:
    [event] = three_feeds(b"A1 FETCH 1 BODY[HEADER.FIELDS ({2+}\r\nTo {3+}\r\nX Y)]\r\n")
    assert isinstance(event, e.CommandEvent)
    assert isinstance(event.command, c.Fetch)
    assert event.command.bodies[0].section.fields == ("To", "X Y")


# The command that the refused octets would be, were they read as one.
EVIL = b"A2 LOGOUT\r\n"

REFUSED = [
    (SELECTED, b"A1 NOOP {%s}\r\n", "Unexpected arguments"),
    (SELECTED, b"A1 FROB {%s}\r\n", "Unknown command"),
    (SELECTED, b"A1 FETCH {%s}\r\n", "Invalid message set"),
    (SELECTED, b"A1 FETCH 1 (FLAGS {%s}\r\n", "Expected a FETCH item"),
    (SELECTED, b"A1 STORE 1 FLAGS ({%s}\r\n", "Unclosed parenthesis"),
    (AFTER, b'A1 SELECT "a{%s}\r\n', "Malformed quoted string"),
    (AFTER, b"A1 SELECT a{%s}\r\n", "Unexpected arguments"),
    (AFTER, b"A1 SELECT ~{%s}\r\n", "Unexpected arguments"),
    (AFTER, b"A1 CREATE a ~{%s}\r\n", "Unexpected arguments"),
    (AFTER, b"A1 APPEND INBOX ~ {%s}\r\n", "Expected the literal of a message"),
    (AFTER, b"A1 APPEND INBOX UTF8 (~{%s}\r\n", "Enable UTF8=ACCEPT first"),
    (AFTER, b"A1 SETQUOTA a (STORAGE {%s}\r\n", "Expected a number"),
    (AFTER, b"A1 LIST ({%s}\r\n", "Expected a LIST option"),
    (SELECTED, b"A1 SEARCH {%s}\r\n", "Expected a search key"),
    (SELECTED, b"A1 SEARCH SINCE {%s}\r\n", "Invalid date"),
    (SELECTED, b"A1 SEARCH SUBJECT ~{%s}\r\n", "Expected a space"),
    (AFTER, b"A1 APPEND INBOX (\\Seen {%s}\r\n", "Unclosed parenthesis"),
    (AFTER, b'A1 APPEND INBOX "yesterday" {%s}\r\n', "Invalid date-time"),
    (AFTER, b"A1 LOGIN {%s}\r\n", "Already logged in"),
    (BEFORE, b"A1 APPEND INBOX {%s}\r\n", "Log in first"),
    (BEFORE, b"A1 LOGIN joe{%s}\r\n", "Expected a space"),
]


@pytest.mark.parametrize(("state", "line", "text"), REFUSED, ids=[repr(line) for _, line, _ in REFUSED])
def test_unwelcome_literals(state: State, line: bytes, text: str) -> None:
    # Synchronising: the refusal stands where the "+" would, and the next line is a new command.
    assert three_feeds(line % b"11", state) == [bad(text)]
    # Non-synchronising: its octets, the rest of the line and further literals are dropped by count.
    assert len(EVIL) == 11
    assert three_feeds(line % b"11+" + EVIL + b"\r\n", state) == [bad(text)]
    assert three_feeds(line % b"11+" + EVIL + b" x {11+}\r\n" + EVIL + b" y\r\n", state) == [bad(text)]
    assert three_feeds(line % b"11+" + EVIL + b" x {11}\r\n", state) == [bad(text)]
    assert three_feeds(line % b"0+" + b" x\r\n", state) == [bad(text)]


def test_literals_behind_a_line_that_is_refused_for_its_octets() -> None:
    text = "Command has a NUL or a bare CR"
    assert three_feeds(b"A1 NO\0OP {11+}\r\n" + EVIL + b"\r\n") == [bad(text)]
    assert three_feeds(b"A1 NOOP\r {11+}\r\n" + EVIL + b"\r\n") == [bad(text)]
    assert three_feeds(b"A1 NO\0OP {11}\r\n") == [bad(text)]
    assert three_feeds(b"A1 LOGIN {2+}\r\na\0 b\r\n", BEFORE) == [bad("NUL in a literal")]


def test_literals_behind_an_overlong_line() -> None:
    line = b"A1 NOOP " + b"x" * 9000
    assert three_feeds(line + b"{11+}\r\n" + EVIL + b"\r\n", BEFORE) == [
        bad("Command is too long".replace("Command", "[TOOBIG] Command"))
    ]
    assert three_feeds(line + b"{11}\r\n", BEFORE) == [bad("[TOOBIG] Command is too long")]
    # More digits than anyone looks at: nobody can say where the literal would end.
    assert three_feeds(line + b"{" + b"0" * 80 + b"5+}\r\n", BEFORE) == [
        bad("[TOOBIG] Command is too long"),
        TOO_BIG_BYE,
    ]


@pytest.mark.parametrize("size", [4097, 300_000_000, 4294967296, 1 << 63, 10**60])
def test_large_literals_before_log_in(size: int) -> None:
    expected = bad("[TOOBIG] Literal is too large") if size < 10**20 else bad("Expected a string")
    if size < 10**40:
        assert three_feeds(b"A1 LOGIN {%d}\r\n" % size, BEFORE) == [expected]
    assert three_feeds(b"A1 LOGIN {%d+}\r\n" % size, BEFORE) == [TOO_BIG_BYE]
    assert three_feeds(b"A1 NOOP {%d+}\r\n" % size, BEFORE) == [TOO_BIG_BYE]
    assert three_feeds(b"A1 NOOP {1+}\r\nx{%d+}\r\n" % size, BEFORE) == [
        bad("Unexpected arguments"),
        TOO_BIG_BYE,
    ]


def test_after_fatal_nothing_is_kept() -> None:
    engine = engine_in(BEFORE)
    assert feed(engine, [b"A1 LOGIN {300000000+}\r\n", b"x" * 1000, TRAILER]) == [TOO_BIG_BYE]
    assert engine.buffered_bytes == 0


def test_literals_of_one_command_before_log_in_are_summed() -> None:
    line = b"A1 LOGIN {2000+}\r\n" + b"x" * 2000 + b" {%d+}\r\n"
    assert len(three_feeds(line % 2096 + b"y" * 2096 + b"\r\n", BEFORE)) == 1
    assert three_feeds(line % 2097 + b"y" * 2097 + b"\r\n", BEFORE) == [bad("[TOOBIG] Literal is too large")]


def test_a_command_has_one_cap_with_its_literals() -> None:
    options = EngineOptions(max_command_bytes=100)
    line = b"A1 STATUS {60+}\r\n" + b"m" * 60 + b" (MESSAGES%s)\r\n"
    assert isinstance(three_feeds(line % b"", AFTER, options=options)[0], e.CommandEvent)
    assert three_feeds(line % (b" UNSEEN" * 3), AFTER, options=options) == [
        bad("[TOOBIG] Command is too long")
    ]
    assert three_feeds(b"A1 SELECT {100+}\r\n" + b"m" * 100 + b"\r\n", AFTER, options=options) == [
        bad("[TOOBIG] Literal is too large")
    ]
    assert three_feeds(b"A1 SELECT {100}\r\n", AFTER, options=options) == [
        bad("[TOOBIG] Literal is too large")
    ]
    # Filled to the last octet by a literal: its line end has no room.
    data = b"A1 SELECT {83+}\r\n" + b"m" * 83 + b"\r\n"
    assert three_feeds(data, AFTER, options=options) == [bad("[TOOBIG] Command is too long")]


def test_the_cost_of_many_literals_is_capped() -> None:
    start = b"A1 FETCH 1 BODY[HEADER.FIELDS ("
    costs = [len(start) + 5 * (n + 1) + 2 * n for n in range(10)]  # of the frame at each announcement
    data = start + b" ".join([b"{1+}\r\nx"] * 10) + b")]\r\n"
    enough = EngineOptions(max_judged_bytes=sum(costs))
    assert isinstance(three_feeds(data, options=enough)[0], e.CommandEvent)
    too_few = EngineOptions(max_judged_bytes=sum(costs) - 1)
    assert three_feeds(data, options=too_few) == [bad("Too many literals")]


def append(size: int, **more: object) -> e.AppendEvent:
    fields: dict[str, object] = {
        "mailbox": "INBOX",
        "flags": 0,
        "keywords": "",
        "internal_date": None,
        **more,
    }
    return e.AppendEvent("A1", c.Append(size=size, **fields))  # type: ignore[arg-type]


MESSAGE = b"From: x\r\n\r\nA2 LOGOUT\r\n{5+}\r\n\0\xff."


@pytest.mark.parametrize(
    ("head", "event"),
    [
        (b"APPEND inbox", append(len(MESSAGE))),
        (b"APPEND {5+}\r\ninbox", append(len(MESSAGE))),
        (b"append INBOX (\\Seen kw)", append(len(MESSAGE), flags=m.SEEN, keywords="kw")),
        (
            b'APPEND INBOX () " 1-Jan-1970 01:00:00 +0000"',
            append(len(MESSAGE), internal_date=3600),
        ),
        (b"APPEND INBOX {26+}\r\n01-Jan-1970 00:00:01 +0000", None),
    ],
)
def test_append(head: bytes, event: e.AppendEvent | None) -> None:
    if event is None:  # a date-time is no astring: the literal in its place is the message
        got = three_feeds(b"A1 " + head + b"\r\n", AFTER)
        assert got == [append(26), e.MessageData(b"01-Jan-1970 00:00:01 +0000", last=True)]
        return
    data = b"A1 %b {%d%b}\r\n%b\r\n"
    expected = [event, e.MessageData(MESSAGE, last=True)]
    assert three_feeds(data % (head, len(MESSAGE), b"+", MESSAGE), AFTER) == expected
    assert three_feeds(data % (head, len(MESSAGE), b"", MESSAGE), AFTER) == expected


def test_append_of_a_literal8() -> None:
    data = b"A1 APPEND INBOX (\\Seen) ~{%d%b}\r\n%b\r\n"
    expected = [append(len(MESSAGE), flags=m.SEEN, binary=True), e.MessageData(MESSAGE, last=True)]
    assert three_feeds(data % (len(MESSAGE), b"+", MESSAGE), AFTER) == expected
    assert three_feeds(data % (len(MESSAGE), b"", MESSAGE), AFTER) == expected
    assert three_feeds(data % (11, b"+", EVIL), AFTER, accept=False) == [
        append(11, flags=m.SEEN, binary=True)
    ]
    got = three_feeds(b"A1 APPEND INBOX ~{3+}\r\nabc)\r\n", AFTER)
    assert got[-1] == bad("Nothing may follow the message")


@pytest.mark.parametrize("word", [b"UTF8", b"utf8"])
def test_append_of_utf8(word: bytes) -> None:
    """RFC 6855 §4: the literal stands in parentheses, so that something must follow it."""
    head = b'A1 APPEND INBOX (kw) "01-Jan-1970 00:00:01 +0000" ' + word + b" (~{%d%b}\r\n%b)\r\n"
    offer = append(len(MESSAGE), keywords="kw", internal_date=1, utf8=True, binary=True)
    for plus in (b"+", b""):
        data = head % (len(MESSAGE), plus, MESSAGE)
        assert three_feeds(data, AFTER, utf8=True) == [offer, e.MessageData(MESSAGE, last=True)]
    assert three_feeds(head % (len(MESSAGE), b"+", MESSAGE), AFTER, utf8=True, accept=False) == [offer]


@pytest.mark.parametrize("rest", [b"", b" )", b"))", b") x", b") ", b" (~{2+}\r\nab)", b" {2}", b")\0"])
def test_append_of_utf8_must_end_with_its_parenthesis(rest: bytes) -> None:
    got = three_feeds(b"A1 APPEND INBOX UTF8 (~{3+}\r\nabc" + rest + b"\r\n", AFTER, utf8=True)
    assert got[-1] == bad("Unclosed parenthesis")
    assert not any(isinstance(event, e.MessageData) and event.last for event in got)


def test_append_of_utf8_wants_a_literal8() -> None:
    for data in (b"A1 APPEND a UTF8 ({3}\r\n", b"A1 APPEND a UTF8 ({3+}\r\nabc)\r\n"):
        assert three_feeds(data, AFTER, utf8=True) == [bad("Expected a literal8")]
    plain = b"A1 APPEND INBOX {3+}\r\nabc\r\n"
    assert three_feeds(plain, AFTER, utf8=True) == [append(3), e.MessageData(b"abc", last=True)]


def test_the_parenthesis_is_forgotten_with_its_command() -> None:
    data = b"A1 APPEND a UTF8 (~{11+}\r\n" + EVIL + b")\r\n"
    engine = engine_in(AFTER)
    engine.utf8 = True
    engine.receive(data)
    assert isinstance(engine.next_event(), e.AppendEvent)
    engine.refuse_message()
    again = b"A1 APPEND INBOX {1+}\r\nx\r\n"
    assert feed(engine, [again]) == [append(1), e.MessageData(b"x", last=True)]


def test_append_refused() -> None:
    assert three_feeds(b"A1 APPEND INBOX {11+}\r\n" + EVIL + b"\r\n", AFTER, accept=False) == [append(11)]
    assert three_feeds(b"A1 APPEND INBOX {11+}\r\n" + EVIL + b" {1+}\r\nx\r\n", AFTER, accept=False) == [
        append(11)
    ]
    assert three_feeds(b"A1 APPEND INBOX {11}\r\n", AFTER, accept=False) == [append(11)]


def test_append_answers_of_the_server() -> None:
    engine = engine_in(AFTER)
    engine.receive(b"A1 APPEND INBOX {4}\r\n")
    assert engine.next_event() == append(4)
    with pytest.raises(RuntimeError):
        engine.next_event()
    assert engine.accept_message() == b"+ OK\r\n"
    with pytest.raises(RuntimeError):
        engine.accept_message()
    assert feed(engine, [b"text", b"\r\nA1 APPEND INBOX {4+}\r\n"], accept=False)[-1] == append(4)
    engine = engine_in(AFTER)
    engine.receive(b"A1 APPEND INBOX {4+}\r\n")
    assert engine.next_event() == append(4)
    assert engine.accept_message() == b""


def test_an_accepted_message_can_still_be_refused() -> None:
    for sent in (b"", b"A2 LO", EVIL, EVIL + b"\r"):
        engine = engine_in(AFTER)
        engine.receive(b"A1 APPEND INBOX {11}\r\n" + sent)
        found = pull(engine)
        assert found[0] == append(11)
        assert engine.refuse_message() == b""
        assert feed(engine, [(EVIL + b"\r\n")[len(sent) :] + TRAILER]) == [TRAILER_EVENT]
    engine = engine_in(AFTER)
    feed(engine, [b"A1 APPEND INBOX {1+}\r\nx\r\n"])
    assert engine.refuse_message() == b""  # too late to drop anything
    assert feed(engine, [TRAILER]) == [TRAILER_EVENT]


@pytest.mark.parametrize("rest", [b" x\r\n", b" {2+}\r\nab\r\n", b" {2}\r\n", b")\r\n", b"\0\r\n", b" \r\n"])
def test_append_must_end_after_its_message(rest: bytes) -> None:
    got = three_feeds(b"A1 APPEND INBOX {3+}\r\nabc" + rest, AFTER)
    assert got[-1] == bad("Nothing may follow the message")
    assert not any(isinstance(event, e.MessageData) and event.last for event in got)


def test_append_of_nothing() -> None:
    assert three_feeds(b"A1 APPEND INBOX {0+}\r\n\r\n", AFTER) == [append(0), e.MessageData(b"", last=True)]


def test_append_of_too_much() -> None:
    options = EngineOptions(max_message_bytes=10)
    too_big = e.Reply(b"A1 NO [TOOBIG] Message is too large\r\n", bad=False)
    assert three_feeds(b"A1 APPEND INBOX {11+}\r\n" + EVIL + b"\r\n", AFTER, options=options) == [too_big]
    assert three_feeds(b"A1 APPEND INBOX {11}\r\n", AFTER, options=options) == [too_big]
    assert three_feeds(b"A1 APPEND INBOX {4294967296}\r\n", AFTER) == [too_big]
    assert three_feeds(b"A1 APPEND INBOX {99999999999999999999999}\r\n", AFTER) == [too_big]
    assert three_feeds(b"A1 APPEND INBOX {4294967296+}\r\n", AFTER) == [TOO_BIG_BYE]


def test_a_long_message_is_handed_over_as_it_comes() -> None:
    engine = engine_in(AFTER)
    block = b"0123456789abcdef" * 4096
    count = 40
    engine.receive(b"A1 APPEND INBOX {%d}\r\n" % (len(block) * count))
    assert pull(engine) == [append(len(block) * count)]
    for _ in range(count):
        engine.receive(block)
        assert pull(engine) == [e.MessageData(block, last=False)]
        assert engine.buffered_bytes == 0
    engine.receive(b"\r\n" + TRAILER)
    assert pull(engine) == [e.MessageData(b"", last=True), TRAILER_EVENT]


def test_a_refused_command_leaves_its_literals_behind() -> None:
    refused = b"A1 LOGIN {4000+}\r\n" + b"x" * 4000 + b"{%d+}\r\n" + b"y" * 4000 + b"\r\n"
    overlong = b"A1 LOGIN {4000+}\r\n" + b"x" * 4000 + b"z" * 9000 + b"\r\n"
    taken = b"A1 LOGIN {4000+}\r\n" + b"x" * 4000 + b" y\r\n"
    assert isinstance(three_feeds(refused % 4000 + taken, BEFORE)[-1], e.CommandEvent)
    assert isinstance(three_feeds(overlong + taken, BEFORE)[-1], e.CommandEvent)


def test_a_large_literal_to_be_dropped_is_not_read_though_it_is_here() -> None:
    data = b"A1 NOOP {1+}\r\nx{4097+}\r\n" + b"y" * 4097 + b"\r\n"
    assert feed(engine_in(BEFORE), [data]) == [bad("Unexpected arguments"), TOO_BIG_BYE]
