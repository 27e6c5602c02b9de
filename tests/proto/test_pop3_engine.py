"""The POP3 engine: streams fed whole, byte by byte and with trailing bytes; states; caps; hostile streams."""

import base64
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.commands import PARSERS, Command, LogIn, Pass
from wd_trio.proto.pop3.engine import EngineOptions, Pop3Engine
from wd_trio.proto.pop3.events import NEED_DATA, CommandEvent, Fatal, Reply
from wd_trio.proto.pop3.states import TRANSITIONS, State, refusal

GRANTED = "secret"


def pull(engine: Pop3Engine) -> list[str | bytes]:
    """All events there are: names of commands, replies as bytes. Everything succeeds but a log-in with another
    password than GRANTED, which is told as `denied:name`."""
    told: list[str | bytes] = []
    while True:
        match engine.next_event():
            case CommandEvent(name, LogIn(username, password)):
                if password.reveal() == GRANTED:
                    engine.accepted()
                    told.append(f"{name}:{username}")
                else:
                    told.append(f"denied:{username}")
            case CommandEvent(name):
                engine.accepted()
                told.append(name)
            case Reply(data) | Fatal(data):
                told.append(data)
            case event:
                assert event is NEED_DATA
                return told


def run(
    feeds: Iterable[bytes], options: EngineOptions | None = None, *, passwords: bool = True
) -> list[str | bytes]:
    engine = Pop3Engine(options, passwords=passwords)
    told: list[str | bytes] = []
    for feed in feeds:
        engine.receive(feed)
        told += pull(engine)
    return told


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def three_feeds(
    data: bytes, options: EngineOptions | None = None, *, passwords: bool = True
) -> list[str | bytes]:
    """The same events whole, byte by byte, and with the beginning of a further line behind."""
    whole = run([data], options, passwords=passwords)
    assert run(one_by_one(data), options, passwords=passwords) == whole
    assert run([data + b"NOO"], options, passwords=passwords) == whole
    return whole


def plain(authcid: str, password: str = GRANTED, authzid: str = "") -> bytes:
    return base64.b64encode(f"{authzid}\0{authcid}\0{password}".encode())


OPEN = b"USER ann\r\nPASS secret\r\n"
OPENED: list[str | bytes] = [replies.NAME_TAKEN, "PASS:ann"]
LOG_IN = replies.err("Log in first")
LOGGED_IN = replies.err("Logged in already")
CANCELLED = [replies.CHALLENGE, replies.CANCELLED, replies.err("USER comes first")]
UNKNOWN = replies.err("Unknown command")

SESSIONS: list[tuple[bytes, list[str | bytes]]] = [
    (OPEN, OPENED),
    (OPEN.replace(b"\r", b""), OPENED),
    (b"user ann\r\npass secret\r\n", OPENED),
    (b"PASS secret\r\n", [replies.err("USER comes first")]),
    (b"USER ann\r\nCAPA\r\nUSER bob\r\nPASS secret\r\n", [*[replies.NAME_TAKEN, "CAPA"], *[OPENED[0], "PASS:bob"]]),
    (
        b"USER ann\r\nPASS no\r\nPASS secret\r\n" + OPEN,
        [replies.NAME_TAKEN, "denied:ann", replies.err("USER comes first"), *OPENED],
    ),
    (b"USER ann\r\nSTAT\r\nPASS secret\r\n", [replies.NAME_TAKEN, LOG_IN, "PASS:ann"]),
    (b"AUTH\r\n", [b"+OK Mechanisms follow\r\nPLAIN\r\n.\r\n"]),
    (b"AUTH LOGIN\r\n", [replies.NO_MECHANISM]),
    (b"AUTH PLAIN " + plain("ann") + b"\r\nNOOP\r\n", ["AUTH:ann", "NOOP"]),
    (b"AUTH plain\r\n" + plain("ann") + b"\r\nNOOP\r\n", [replies.CHALLENGE, "AUTH:ann", "NOOP"]),
    (b"AUTH PLAIN\n" + plain("ann") + b"\nNOOP\n", [replies.CHALLENGE, "AUTH:ann", "NOOP"]),
    (b"AUTH PLAIN " + plain("ann", "no") + b"\r\nNOOP\r\n", ["denied:ann", LOG_IN]),
    (b"AUTH PLAIN " + plain("ann", authzid="ann") + b"\r\n", ["AUTH:ann"]),
    (b"AUTH PLAIN " + plain("ann", authzid="bob") + b"\r\n", [replies.NOT_FOR_OTHERS]),
    (b"AUTH PLAIN\r\n*\r\nCAPA\r\n", [replies.CHALLENGE, replies.CANCELLED, "CAPA"]),
    (b"AUTH PLAIN *\r\nCAPA\r\n", [replies.CANCELLED, "CAPA"]),
    (b"AUTH PLAIN =\r\n", [replies.BAD_RESPONSE]),
    (b"AUTH PLAIN\r\n\r\nCAPA\r\n", [replies.CHALLENGE, replies.BAD_RESPONSE, "CAPA"]),
    (b"AUTH PLAIN\r\nQUIT\r\nQUIT\r\n", [replies.CHALLENGE, replies.BAD_RESPONSE, "QUIT"]),
    (b"USER ann\r\nAUTH PLAIN\r\n*\r\nPASS secret\r\n", [replies.NAME_TAKEN, *CANCELLED]),
    (b"APOP ann 0\r\nSTLS\r\nUTF8\r\nLANG\r\n", [replies.NOT_OFFERED] * 4),
    (OPEN + b"USER ann\r\nPASS secret\r\nAUTH PLAIN\r\nAUTH\r\n", [*OPENED, *[LOGGED_IN] * 4]),
    (
        OPEN + b"STAT\r\nLIST\r\nUIDL 1\r\nRETR 1\r\nTOP 1 2\r\nDELE 1\r\nRSET\r\nNOOP\r\nCAPA\r\nQUIT\r\nSTAT\r\n",
        [*OPENED, "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP", "CAPA", "QUIT"],
    ),
    (b"QUIT\r\n" + OPEN, ["QUIT"]),
    (b"USER ann\r\nQUIT\r\nPASS secret\r\n", [replies.NAME_TAKEN, "QUIT"]),
    (b"\r\n\n \r\n", [UNKNOWN] * 3),
    (b"CAPA\r\r\nCAPA\r\n", [UNKNOWN, "CAPA"]),
    (b"CAPA\x00\r\n\x00CAPA\r\n", [UNKNOWN] * 2),
    (b"GET / HTTP/1.1\r\nCAPA\r\n", [replies.NOT_POP3]),
    (b"\x16\x03\x01\x02\x00\x01\n", [UNKNOWN]),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "events"), SESSIONS)
def test_sessions(stream: bytes, events: list[str | bytes]) -> None:
    assert three_feeds(stream) == events


def test_without_passwords_nothing_is_asked_for() -> None:
    stream = OPEN + b"AUTH PLAIN\r\nAUTH PLAIN " + plain("ann") + b"\r\nAUTH\r\nCAPA\r\nQUIT\r\n"
    assert three_feeds(stream, passwords=False) == [
        replies.NEEDS_TLS,
        replies.err("USER comes first"),
        replies.NEEDS_TLS,
        replies.NEEDS_TLS,
        b"+OK Mechanisms follow\r\n.\r\n",
        "CAPA",
        "QUIT",
    ]


def test_a_password_is_the_rest_of_its_line() -> None:
    engine = Pop3Engine()
    engine.receive(b"USER ann\r\nPASS  a  b \r\n")
    assert engine.next_event() == Reply(replies.NAME_TAKEN)
    event = engine.next_event()
    assert isinstance(event, CommandEvent)
    assert isinstance(event.command, LogIn)
    assert event.command.password.reveal() == " a  b "
    assert "a  b" not in repr(event)


# --- the state table

LINES: dict[str, bytes] = {
    "USER": b"USER x",
    "PASS": b"PASS no",
    "AUTH": b"AUTH PLAIN " + plain("x", "no"),
    "LIST": b"LIST 1",
    "UIDL": b"UIDL 1",
    "RETR": b"RETR 1",
    "TOP": b"TOP 1 1",
    "DELE": b"DELE 1",
} | {name: name.encode() for name in ("CAPA", "STLS", "STAT", "RSET", "NOOP", "QUIT")}
REACH = {State.AUTHORIZATION: b"", State.NAMED: b"USER ann\r\n", State.TRANSACTION: OPEN}


@pytest.mark.parametrize(("name", "state"), list(itertools.product(PARSERS, REACH)))
def test_every_command_in_every_state(name: str, state: State) -> None:
    engine = Pop3Engine(stls=True)
    engine.receive(REACH[state])
    pull(engine)
    assert engine.state is state
    (target,) = [row.get(state) for command, row in TRANSITIONS.items() if command.__name__.upper() == name]
    engine.receive(LINES[name] + b"\r\n")
    (told,) = pull(engine)
    if target is None:
        (command,) = [command for command in TRANSITIONS if command.__name__.upper() == name]
        assert told == replies.err(refusal(command, state))
        assert engine.state is state
    elif name == "USER":
        assert told == replies.NAME_TAKEN
        assert engine.state is State.NAMED
    elif name in ("PASS", "AUTH"):
        assert told == ("denied:ann" if name == "PASS" else "denied:x")
        assert engine.state is State.AUTHORIZATION
    else:
        assert told == name
        assert engine.state is target


def test_under_tls_the_dialogue_begins_anew() -> None:
    """RFC 2595 §4: what was said before counts no more."""
    engine = Pop3Engine(passwords=False, stls=True)
    engine.receive(b"USER ann\r\nSTLS x\r\nSTLS\r\n")
    assert engine.next_event() == Reply(replies.NEEDS_TLS)
    assert engine.next_event() == Reply(replies.err("This command takes no argument"))
    assert pull(engine) == ["STLS"]
    engine.secured()
    engine.receive(b"PASS secret\r\nSTLS\r\nUSER ann\r\n")
    assert pull(engine) == [replies.err("USER comes first"), replies.NOT_OFFERED, replies.NAME_TAKEN]


def test_stls_is_for_before_log_in() -> None:
    engine = Pop3Engine(stls=True)
    engine.receive(OPEN + b"STLS\r\n")
    assert pull(engine)[-1] == replies.err("Logged in already")


def test_the_state_moves_only_when_accepted() -> None:
    engine = Pop3Engine()
    engine.receive(OPEN + b"QUIT\r\n")
    assert engine.next_event() == Reply(replies.NAME_TAKEN)
    event = engine.next_event()
    assert isinstance(event, CommandEvent)
    assert engine.state is State.AUTHORIZATION
    engine.accepted()
    assert engine.state is State.TRANSACTION
    with pytest.raises(RuntimeError):
        engine.accepted()
    assert isinstance(engine.next_event(), CommandEvent)
    assert engine.state is State.TRANSACTION
    engine.accepted()
    assert engine.state is State.UPDATE
    engine.receive(b"STAT\r\n")
    assert engine.next_event() is NEED_DATA
    assert engine.buffered_bytes == 0


def test_the_table_names_every_command() -> None:
    parsed = {command for command in Command.__args__ if command is not LogIn}  # type: ignore[attr-defined]  # a union
    assert TRANSITIONS.keys() == parsed
    assert refusal(Pass, State.AUTHORIZATION) != refusal(Pass, State.TRANSACTION)


# --- caps

SMALL = EngineOptions(max_line_bytes=20, max_log_in_line_bytes=40, max_errors=3)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_lines_up_to_the_cap_and_beyond(end: bytes) -> None:
    fits = b"LIST" + b" " * (16 - len(end)) + end
    assert len(fits) == 20
    assert three_feeds(OPEN + fits + b"NOOP\r\n", SMALL) == [*OPENED, "LIST", "NOOP"]
    over = b"LIST" + b" " * (17 - len(end)) + end
    assert three_feeds(OPEN + over + b"NOOP\r\n", SMALL) == [*OPENED, replies.LINE_TOO_LONG, "NOOP"]
    long = b"USER " + b"x" * 1000 + end
    assert three_feeds(long + b"CAPA\r\n", SMALL) == [replies.LINE_TOO_LONG, "CAPA"]


def test_a_long_line_is_not_stored() -> None:
    engine = Pop3Engine()
    for _ in range(1000):
        engine.receive(b"x" * 1000)
        assert engine.next_event() is NEED_DATA
        assert engine.buffered_bytes <= 8192
    engine.receive(b"\r\nCAPA\r\n")
    assert pull(engine) == [replies.LINE_TOO_LONG, "CAPA"]


def test_the_largest_credentials_pass_and_a_longer_response_ends_the_exchange() -> None:
    name, password = "n" * 1024, "p" * 1024
    response = plain(name, password, authzid=name)
    assert three_feeds(b"AUTH PLAIN " + response + b"\r\n") == [f"denied:{name}"]
    stream = b"AUTH PLAIN\r\n" + b"A" * 9000 + b"\r\nCAPA\r\n"
    assert three_feeds(stream) == [replies.CHALLENGE, replies.LINE_TOO_LONG, "CAPA"]


def test_too_many_faults_in_a_row_end_the_connection() -> None:
    assert three_feeds(b"X\r\n" * 3 + b"CAPA\r\n" + b"X\r\n" * 5 + b"CAPA\r\n", SMALL) == [
        *[UNKNOWN] * 3,
        "CAPA",
        *[UNKNOWN] * 3,
        replies.TOO_MANY_ERRORS,
    ]


# --- any stream


@given(st.binary(max_size=400), st.integers(min_value=1, max_value=50), st.booleans())
def test_any_stream_gives_the_same_events_however_it_is_cut(data: bytes, size: int, logged_in: bool) -> None:
    stream = (OPEN if logged_in else b"") + data
    cut = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert run(cut, SMALL) == run([stream], SMALL)


TOKENS = st.sampled_from(
    [
        *(
            b"USER ",
            b"ann",
            b"PASS ",
            b"secret",
            b"AUTH PLAIN",
            b" ",
            plain("ann"),
            b"*",
            b"=",
            b"STAT",
            b"LIST",
        ),
        *(
            b"RETR 1",
            b"DELE 1",
            b"TOP 1 1",
            b"QUIT",
            b"\n",
            b"\r",
            b"\x00",
            b"\xff",
            b"9" * 30,
            *[b"\r\n"] * 3,
        ),
    ]
)


@given(st.lists(TOKENS, max_size=40), st.integers(min_value=1, max_value=9))
def test_likely_streams_too(tokens: list[bytes], size: int) -> None:
    stream = b"".join(tokens)
    cut = [stream[i : i + size] for i in range(0, len(stream), size)]
    told = run([stream])
    assert run(cut) == told
    assert all(isinstance(item, str) or item.startswith((b"+OK", b"-ERR", b"+ ")) for item in told)
