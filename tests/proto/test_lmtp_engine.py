"""The engine: transcripts fed whole, byte by byte and with trailing bytes; states; caps; hostile streams."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.lmtp import replies
from wd_trio.proto.lmtp.commands import Command, Mail, Rcpt
from wd_trio.proto.lmtp.engine import EngineOptions, LmtpEngine
from wd_trio.proto.lmtp.events import NEED_DATA, CommandEvent, Fatal, MessageData, Reply
from wd_trio.proto.lmtp.states import REFUSALS, TRANSITIONS, State

OPEN = b"LHLO client.example\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<r@x.example>\r\nDATA\r\n"
OPENED = ["LHLO", "MAIL", "RCPT", "DATA"]


def pull(engine: LmtpEngine) -> list[str | bytes | tuple[bytes, bool]]:
    """All events there are, every command accepted: names, replies as bytes, message pieces as pairs."""
    told: list[str | bytes | tuple[bytes, bool]] = []
    while True:
        match engine.next_event():
            case CommandEvent(name):
                engine.accepted()
                told.append(name)
            case Reply(data) | Fatal(data):
                told.append(data)
            case MessageData(data, last):
                told.append((data, last))
            case event:
                assert event is NEED_DATA
                return told


def run(feeds: Iterable[bytes], options: EngineOptions | None = None) -> list[str | bytes]:
    """The events of a stream; a message is one entry, its pieces joined, preceded by `message:`."""
    engine = LmtpEngine(options)
    told: list[str | bytes] = []
    pieces: list[bytes] = []
    for feed in feeds:
        engine.receive(feed)
        for item in pull(engine):
            if not isinstance(item, tuple):
                told.append(item)
                continue
            pieces.append(item[0])
            if item[1]:
                told.append(b"message:" + b"".join(pieces))
                pieces.clear()
    if pieces:
        told.append(b"unfinished:" + b"".join(pieces))
    return told


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def three_feeds(data: bytes, options: EngineOptions | None = None) -> list[str | bytes]:
    """The same events whole, byte by byte, and with the beginning of a further line behind."""
    whole = run([data], options)
    assert run(one_by_one(data), options) == whole
    assert run([data + b"NOO"], options) == whole
    return whole


SESSIONS: list[tuple[bytes, list[str | bytes]]] = [
    (b"NOOP\r\nVRFY x\r\nHELP\r\nRSET\r\nQUIT\r\n", ["NOOP", "VRFY", "HELP", "RSET", "QUIT"]),
    (b"MAIL FROM:<>\r\n", [b"503 5.5.1 Say LHLO first\r\n"]),
    (b"RCPT TO:<a@b>\r\n", [b"503 5.5.1 Say LHLO first\r\n"]),
    (b"DATA\r\n", [b"503 5.5.1 Say LHLO first\r\n"]),
    (b"EHLO x\r\nHELO x\r\nehlo\r\n", [replies.SMTP_HELLO] * 3),
    (b"STARTTLS\r\nAUTH PLAIN\r\nEXPN x\r\n", [replies.NOT_IMPLEMENTED] * 3),
    (b"LHLO x\r\nDATA\r\n", ["LHLO", b"503 5.5.1 MAIL comes first\r\n"]),
    (b"LHLO x\r\nMAIL FROM:<>\r\nDATA\r\n", ["LHLO", "MAIL", b"503 5.5.1 No valid recipients\r\n"]),
    (
        b"LHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n",
        ["LHLO", "MAIL", b"503 5.5.1 A transaction is open already\r\n", "RSET", "MAIL"],
    ),
    (
        b"LHLO x\r\nMAIL FROM:<>\r\nLHLO y\r\nRCPT TO:<a@b>\r\n",
        ["LHLO", "MAIL", "LHLO", b"503 5.5.1 MAIL comes first\r\n"],
    ),
    (b"NOOP\nNOOP\r\n", [replies.BAD_LINE_END, "NOOP"]),
    (b"NOOP\r\r\nNOOP\r\n", [b"500 5.5.1 Unknown command\r\n", "NOOP"]),
    (b"NOOP \x00\r\n", [b"501 5.5.2 Control characters have no place in a command\r\n"]),
    (b"\r\n\n", [b"500 5.5.1 Unknown command\r\n", replies.BAD_LINE_END]),
    (OPEN + b"hi\r\n.\r\nNOOP\r\n", [*OPENED, b"message:hi\r\n", "NOOP"]),
    (OPEN + b".\r\nNOOP\r\n", [*OPENED, b"message:", "NOOP"]),
    (OPEN + b"\r\n.\r\nNOOP\r\n", [*OPENED, b"message:\r\n", "NOOP"]),
    (OPEN + b"x\r\n.\r\n" + OPEN + b"y\r\n.\r\n", [*OPENED, b"message:x\r\n", *OPENED, b"message:y\r\n"]),
    (OPEN + b"x\r\n.\r\nRCPT TO:<a@b>\r\n", [*OPENED, b"message:x\r\n", b"503 5.5.1 MAIL comes first\r\n"]),
    (
        "LHLO x\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<ü@b>\r\nRSET\r\n".encode()
        + "MAIL FROM:<>\r\nRCPT TO:<ü@b>\r\n".encode(),
        ["LHLO", "MAIL", "RCPT", "RSET", "MAIL", replies.NEEDS_SMTPUTF8],
    ),
    (b"LHLO x\r\nBDAT 18446744073709551616\r\nMAIL FROM:<>\r\n", ["LHLO", replies.NOT_IMPLEMENTED]),
    (b"POST / HTTP/1.1\r\nLHLO x\r\n", [replies.NOT_LMTP]),
    (b"QUIT\r\nLHLO x\r\n", ["QUIT"]),
]


@pytest.mark.parametrize(("stream", "events"), SESSIONS)
def test_sessions(stream: bytes, events: list[str | bytes]) -> None:
    assert three_feeds(stream) == events


def test_starttls_stands_between_transactions_and_lhlo_is_said_again() -> None:
    engine = LmtpEngine(starttls=True)
    engine.receive(b"STARTTLS\r\nLHLO x\r\nSTARTTLS now\r\nMAIL FROM:<>\r\nSTARTTLS\r\n")
    engine.receive(b"RSET\r\nSTARTTLS\r\nMAIL FROM:<>\r\n")
    assert pull(engine) == [
        b"503 5.5.1 Say LHLO first\r\n",
        "LHLO",
        b"501 5.5.4 This command takes no argument\r\n",
        "MAIL",
        b"503 5.5.1 A transaction is open already\r\n",
        "RSET",
        "STARTTLS",
        b"503 5.5.1 Say LHLO first\r\n",
    ]


# What is between DATA and the one true end is data, whatever it looks like.
SMUGGLED = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nevil\r\n"
NOT_ENDS: list[tuple[bytes, bytes]] = [
    (b"\n.\n", b"\n.\n"),
    (b"\n.\r\n", b"\n.\r\n"),
    (b"\r.\r", b"\r.\r"),
    (b"\r.\r\n", b"\r.\r\n"),
    (b"\r\n.\n", b"\r\n\n"),
    (b"\r\n.\r", b"\r\n\r"),
    (b"\n\n.\n\n", b"\n\n.\n\n"),
    (b"\r\n\x00.\r\n", b"\r\n\x00.\r\n"),
    (b"\r\n.\x00\r\n", b"\r\n\x00\r\n"),
    (b"\r\n..\r\n", b"\r\n.\r\n"),
    (b"\r\n. \r\n", b"\r\n \r\n"),
    (b"\r\n.\r\r\n", b"\r\n\r\r\n"),
    (b"\n..\r\n", b"\n..\r\n"),
    (b"\r\n...\r\n", b"\r\n..\r\n"),
    (b"\r\r\n..\r\n", b"\r\r\n.\r\n"),
]


@pytest.mark.parametrize(("between", "kept"), NOT_ENDS)
def test_only_crlf_dot_crlf_ends_data(between: bytes, kept: bytes) -> None:
    stream = OPEN + b"good" + between + SMUGGLED + b".\r\nNOOP\r\n"
    assert three_feeds(stream) == [*OPENED, b"message:good" + kept + SMUGGLED, "NOOP"]


@pytest.mark.parametrize(
    ("first", "kept"),
    [
        (b".a\r\n", b"a\r\n"),
        (b"..\r\n", b".\r\n"),
        (b".\nx\r\n", b"\nx\r\n"),
        (b".\rx\r\n", b"\rx\r\n"),
        (b"a.\r\n", b"a.\r\n"),
    ],
)
def test_a_message_that_begins_with_a_dot(first: bytes, kept: bytes) -> None:
    assert three_feeds(OPEN + first + b".\r\n") == [*OPENED, b"message:" + kept]


def stuffed(message: bytes) -> bytes:
    """What a correct client sends for a message that is empty or ends in CRLF (RFC 5321 §4.5.2)."""
    lines = message.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines) + b".\r\n"


mail_bytes = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"..", b"x", b"\x00", b"\xff", b"\r\n.", b"\r\n.\r\n"])
    | st.binary(max_size=20),
    max_size=40,
).map(b"".join)


@given(mail_bytes, st.data())
def test_any_message_comes_out_as_it_went_in(message: bytes, data: st.DataObject) -> None:
    if message and not message.endswith(b"\r\n"):
        message += b"\r\n"
    stream = OPEN + stuffed(message) + b"NOOP\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    feeds = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    assert run(feeds) == [*OPENED, b"message:" + message, "NOOP"]


@given(st.lists(st.binary(max_size=300) | st.sampled_from([OPEN, b"\r\n.\r\n", b"LHLO x\r\n"]), max_size=20))
def test_any_bytes_are_borne_within_bounds(feeds: list[bytes]) -> None:
    engine = LmtpEngine(EngineOptions(max_line_bytes=128))
    for feed in feeds:
        engine.receive(feed)
        pull(engine)
        assert engine.buffered_bytes < 128


def test_every_refused_pair_has_its_text() -> None:
    for command, states in TRANSITIONS.items():
        for state in (State.CONNECTED, State.READY, State.MAIL, State.RCPT):
            assert (state in states) != ((command, state) in REFUSALS)
        assert State.DATA not in states
        assert State.CLOSED not in states


def test_a_command_that_the_server_refuses_moves_nothing() -> None:
    engine = LmtpEngine()
    engine.receive(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@x>\r\nDATA\r\n")
    outcomes: list[str] = []
    while (event := engine.next_event()) is not NEED_DATA:
        if isinstance(event, CommandEvent):
            outcomes.append(event.name)
            if not isinstance(event.command, Rcpt):
                engine.accepted()
        else:
            assert isinstance(event, Reply)
            outcomes.append(event.data.decode())
    assert outcomes == ["LHLO", "MAIL", "RCPT", "503 5.5.1 No valid recipients\r\n"]
    with pytest.raises(RuntimeError):
        engine.accepted()


def test_declared_size_beyond_the_cap_is_refused_at_mail() -> None:
    options = EngineOptions(max_message_bytes=1000)
    told = run([b"LHLO x\r\nMAIL FROM:<> SIZE=1001\r\nMAIL FROM:<> SIZE=1000\r\n"], options)
    assert told == ["LHLO", replies.TOO_BIG, "MAIL"]


def test_line_cap_is_exact_and_nothing_over_it_is_stored() -> None:
    options = EngineOptions(max_line_bytes=64)
    fits = b"NOOP " + b"x" * 57 + b"\r\n"
    assert len(fits) == 64
    assert three_feeds(fits, options) == ["NOOP"]
    assert three_feeds(b"NOOP " + b"x" * 58 + b"\r\nNOOP\r\n", options) == [replies.LINE_TOO_LONG, "NOOP"]


def test_an_endless_line_is_never_kept() -> None:
    engine = LmtpEngine()
    for _ in range(100):
        engine.receive(b"A" * 65536)
        assert engine.next_event() is NEED_DATA
        assert engine.buffered_bytes == 0
    engine.receive(b"\r\nNOOP\r\n")
    assert pull(engine) == [replies.LINE_TOO_LONG, "NOOP"]


def test_message_lines_have_no_cap() -> None:
    long_line = b"x" * 300_000 + b"\r\n"
    stream = OPEN + long_line + b".\r\n"
    feeds = [stream[i : i + 65536] for i in range(0, len(stream), 65536)]
    assert run(feeds) == [*OPENED, b"message:" + long_line]


def test_message_data_is_handed_on_at_once() -> None:
    engine = LmtpEngine()
    engine.receive(OPEN)
    pull(engine)
    for _ in range(50):
        engine.receive(b"\r\n.." * 1000)
        pull(engine)
        assert engine.buffered_bytes <= 4


def test_a_megabyte_of_garbage_ends_the_connection() -> None:
    engine = LmtpEngine()
    told: list[object] = []
    for _ in range(16):
        engine.receive(b"garbage\r\n" * 7300)
        told += pull(engine)
    assert told == [b"500 5.5.1 Unknown command\r\n"] * 20 + [replies.TOO_MANY_ERRORS]
    assert engine.state is State.CLOSED
    assert engine.buffered_bytes == 0


def test_errors_are_forgiven_by_a_message() -> None:
    bad = b"BAD\r\n" * 20
    told = run([bad, OPEN, b".\r\n", bad, b"BAD\r\n"])
    assert told.count(replies.TOO_MANY_ERRORS) == 1
    assert told[-1] == replies.TOO_MANY_ERRORS


def test_a_hundred_thousand_recipients() -> None:
    """Each is answered, no more than the limit are looked up, and the transaction still works."""
    engine = LmtpEngine(EngineOptions(max_recipients=100))
    engine.receive(b"LHLO x\r\nMAIL FROM:<>\r\n")
    assert pull(engine) == ["LHLO", "MAIL"]
    asked = refused = 0
    for _ in range(100):
        engine.receive(b"RCPT TO:<r@x.example>\r\n" * 1000)
        for item in pull(engine):
            asked += item == "RCPT"
            refused += item == replies.TOO_MANY_RECIPIENTS
        assert engine.buffered_bytes == 0
    assert (asked, refused) == (100, 99_900)
    engine.receive(b"DATA\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<r@x.example>\r\n")
    assert pull(engine) == ["DATA", (b"", True), "MAIL", "RCPT"]


def test_values_reach_the_server() -> None:
    engine = LmtpEngine()
    engine.receive(b"LHLO x\r\nMAIL FROM:<s@x> SIZE=12 BODY=8BITMIME\r\nRCPT TO:<r@x>\r\n")
    commands: list[Command] = []
    while isinstance(event := engine.next_event(), CommandEvent):
        engine.accepted()
        commands.append(event.command)
    assert commands[1:] == [Mail("s@x", 12, "8BITMIME"), Rcpt("r@x")]


def test_replies_are_lines_with_enhanced_codes() -> None:
    fixed = [value for value in vars(replies).values() if isinstance(value, bytes)]
    assert len(fixed) > 15
    for data in fixed:
        assert data.endswith(b"\r\n")
        assert data.count(b"\r\n") == 1
        if not data.startswith(b"354"):
            assert data[4:5] == data[:1]  # the class of the enhanced code is the class of the code
    assert replies.capabilities("mx.example", 1000) == (
        b"250-mx.example\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
        b"250-SMTPUTF8\r\n250 SIZE 1000\r\n"
    )
    assert replies.greeting("mx.example") == b"220 mx.example LMTP wd-trio\r\n"
