"""What has broken mail servers before: a clear answer or a clean end, and memory under the caps throughout."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imap_feeds import TRAILER, TRAILER_EVENT, bad, engine_in, feed, join_pieces, pull, three_feeds

from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.machine import EngineOptions, ImapEngine, State
from wd_trio.proto.imap.parse import MAX_SEQUENCE_ITEMS, BadSyntax, Cursor

BEFORE, AFTER, SELECTED = State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED
TOO_LONG = "[TOOBIG] Command is too long"
READ_BYTES = 65536


def held_bytes(engine: ImapEngine) -> int:
    """All that the engine keeps of what the peer sent."""
    return engine.buffered_bytes + len(engine._framer.frame)


def in_reads(data: bytes) -> list[bytes]:
    return [data[i : i + READ_BYTES] for i in range(0, len(data), READ_BYTES)]


@pytest.mark.parametrize("state", [BEFORE, SELECTED])
def test_a_hundred_thousand_parentheses(state: State) -> None:
    for line in (b"A1 " + b"(" * 100_000, b"A1 FETCH 1 " + b"(" * 100_000, b"A1 LIST " + b"(" * 100_000):
        engine = engine_in(state)
        assert feed(engine, [*in_reads(line + b"\r\n"), TRAILER]) == [bad(TOO_LONG), TRAILER_EVENT]
    large = EngineOptions(max_command_bytes=1 << 20)
    engine = engine_in(SELECTED, large)
    assert feed(engine, [b"A1 FETCH 1 " + b"(" * 100_000 + b"\r\n"]) == [bad("Expected a FETCH item")]


def test_depth_is_capped_where_lists_may_nest() -> None:
    cursor = Cursor(b"(" * 100)
    for _ in range(32):
        cursor.open_list()
    with pytest.raises(BadSyntax):
        cursor.open_list()


@pytest.mark.parametrize(("state", "cap"), [(BEFORE, 8192), (SELECTED, 65536)])
def test_an_endless_line_is_answered_once_and_not_kept(state: State, cap: int) -> None:
    engine = engine_in(state)
    found: list[e.Event] = []
    engine.receive(b"A1 NOOP ")
    for _ in range(64):
        engine.receive(b"x" * READ_BYTES)
        found += pull(engine)
        assert held_bytes(engine) <= cap
    assert found == [bad(TOO_LONG)]
    assert feed(engine, [b"\r\n" + TRAILER]) == [TRAILER_EVENT]


@pytest.mark.parametrize(("state", "cap"), [(BEFORE, 8192), (SELECTED, 65536)])
def test_the_longest_line(state: State, cap: int) -> None:
    start = b"A1 NOOP"
    assert three_feeds(start + b" " * (cap - len(start) - 2) + b"\r\n", state) == [
        e.CommandEvent("A1", "NOOP", c.Noop())
    ]
    assert three_feeds(start + b" " * (cap - len(start) - 1) + b"\r\n", state) == [bad(TOO_LONG)]
    assert three_feeds(b"x" * (cap + 1) + b"\r\n", state) == [bad(TOO_LONG, "*")]


def test_octets_that_no_line_may_hold() -> None:
    assert three_feeds(b"\0" * 1000 + b"\r\n", BEFORE) == [bad("Command has a NUL or a bare CR", "*")]
    assert three_feeds(b"\r" * 1000 + b"\n", BEFORE) == [bad("Command has a NUL or a bare CR", "*")]
    assert three_feeds(b"\n" * 50, BEFORE) == [bad("Invalid tag", "*")] * 50
    assert three_feeds(b"A1 NOOP\nA2 NOOP\n", BEFORE) == [
        e.CommandEvent("A1", "NOOP", c.Noop()),
        e.CommandEvent("A2", "NOOP", c.Noop()),
    ]


@pytest.mark.parametrize("state", [BEFORE, SELECTED])
def test_a_megabyte_of_pipelined_garbage(state: State) -> None:
    garbage = random.Random(1).randbytes(1 << 20).replace(b"}", b"]")
    engine = engine_in(state)
    found = feed(engine, [*in_reads(garbage), b"\r\n" + TRAILER])
    assert found[-1] == TRAILER_EVENT
    assert len(found) > 1000
    assert all(isinstance(event, e.Reply) and event.bad for event in found[:-1])


def test_every_reply_is_one_clean_line() -> None:
    alphabet = b'A1 \r\n\0"(){}[]\\*+%&\x7f\xff\xc3\xa9FETCH LOGIN 0123456789'
    chooser = random.Random(2)
    for _ in range(300):
        engine = engine_in(chooser.choice([BEFORE, AFTER, SELECTED]))
        for event in feed(engine, [bytes(chooser.choices(alphabet, k=300)) + b"\r\n"]):
            if isinstance(event, e.Reply | e.Fatal):
                assert event.data.endswith(b"\r\n")
                assert event.data[:-2].isascii()
                assert event.data[:-2].decode().isprintable()


def test_literal_floods() -> None:
    engine = engine_in(BEFORE)
    found = feed(engine, in_reads(b"A1 NOOP " + b"{4096+}\r\n" + (b"x" * 4096 + b"{4096+}\r\n") * 500))
    assert found == [bad("Unexpected arguments")]
    assert held_bytes(engine) < 8192
    engine = engine_in(BEFORE)
    found = feed(engine, in_reads(b"A1 LOGIN {4096}\r\n" * 10_000))
    # Each literal that was asked for took the announcements behind it as its octets.
    assert len(found) < 100
    assert all(isinstance(event, e.Reply) for event in found)
    assert held_bytes(engine) <= 8192
    engine = engine_in(SELECTED)
    fields = b"{0+}\r\n " * 1000
    assert feed(engine, in_reads(b"A1 FETCH 1 BODY[HEADER.FIELDS (" + fields + b")]\r\n" + TRAILER)) == [
        bad("Too many literals"),
        TRAILER_EVENT,
    ]


def test_a_million_sequence_items() -> None:
    line = b"A1 FETCH " + b"1," * 1_000_000 + b"1 FLAGS\r\n"
    engine = engine_in(SELECTED)
    assert feed(engine, [*in_reads(line), TRAILER]) == [bad(TOO_LONG), TRAILER_EVENT]
    engine = engine_in(SELECTED, EngineOptions(max_command_bytes=4 << 20))
    assert feed(engine, [line, TRAILER]) == [bad("Message set has too many items"), TRAILER_EVENT]
    most = b"A1 FETCH " + b",".join([b"1"] * MAX_SEQUENCE_ITEMS) + b" FLAGS\r\n"
    [event] = feed(engine, [most])
    assert isinstance(event, e.CommandEvent)


def test_many_sections_and_fields_are_capped() -> None:
    sections = b" ".join(b"BODY[%d]" % n for n in range(1, 258))
    assert three_feeds(b"A1 FETCH 1 (%b)\r\n" % sections) == [bad("Too many body sections")]
    assert isinstance(three_feeds(b"A1 FETCH 1 (%b)\r\n" % sections[:-10])[0], e.CommandEvent)
    assert three_feeds(b"A1 FETCH 1 BODY[HEADER.FIELDS (%b)]\r\n" % b" ".join([b"x"] * 1001)) == [
        bad("Too many header fields")
    ]


def test_backslashes_and_quotes_cost_no_more_than_their_number() -> None:
    for inside in (b"\\\\" * 30_000, b'\\"' * 30_000, b"\\\\" * 30_000 + b"\\", b"a\\" * 30_000):
        [event] = feed(engine_in(AFTER), [b'A1 SELECT "' + inside + b"\r\n"])
        assert event == bad("Malformed quoted string")


def test_memory_of_a_message_that_is_dropped_or_streamed() -> None:
    block = b"x" * READ_BYTES
    engine = engine_in(AFTER)
    engine.receive(b"A1 NOOP {%d+}\r\n" % (len(block) * 200))
    pull(engine)
    tracemalloc.start()
    try:
        for _ in range(199):
            engine.receive(block)
            assert pull(engine) == []
        assert tracemalloc.get_traced_memory()[1] < 4 * READ_BYTES
    finally:
        tracemalloc.stop()
    assert feed(engine, [block + b"\r\n" + TRAILER]) == [TRAILER_EVENT]


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"\r\n",
            b"\n",
            b"A1 ",
            b"A1 LOGIN ",
            b"A1 APPEND INBOX ",
            b"A1 IDLE\r\n",
            b"DONE\r\n",
            b"A1 AUTHENTICATE PLAIN\r\n",
            b"A1 UID FETCH 1:* (BODY[",
            b"{3}\r\n",
            b"{3+}\r\n",
            b"~{5+}\r\n",
            b"{70+}\r\n",
            b"{99999999999}\r\n",
            b"{99999999999+}\r\n",
            b'"',
            b"(",
            b")",
            b" ",
            b"x" * 300,
        ]
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([BEFORE, AFTER, SELECTED]),
    st.lists(PIECES, max_size=30),
    st.booleans(),
    st.integers(1, 50),
)
def test_no_input_raises_or_is_kept_beyond_the_caps(
    state: State, pieces: list[bytes], accept: bool, stride: int
) -> None:
    options = EngineOptions(
        max_command_bytes=400,
        max_line_bytes_unauthenticated=200,
        max_literal_bytes_unauthenticated=80,
        max_sasl_line_bytes=300,
        max_message_bytes=1000,
    )
    data = b"".join(pieces)
    whole = feed(engine_in(state, options), [data], accept=accept)
    engine = engine_in(state, options)
    found: list[e.Event] = []
    for i in range(0, len(data), stride):
        engine.receive(data[i : i + stride])
        found += pull(engine, accept=accept)
        assert held_bytes(engine) <= 401  # a bare LF stands as CRLF in a frame
    assert join_pieces(found) == whole
