"""The grammar of POP3 commands: tables of what parses, what is refused, and printing and parsing back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.pop3.commands import (
    PARSERS,
    Auth,
    Capa,
    Command,
    Dele,
    List,
    Noop,
    Pass,
    Quit,
    Refused,
    Retr,
    Rset,
    Stat,
    Stls,
    Top,
    Uidl,
    User,
    parse,
)
from wd_trio.secret import Secret

GOOD: list[tuple[str, Command]] = [
    ("USER ann", User("ann")),
    ("user ann@x.example", User("ann@x.example")),
    ("USER  ann ", User("ann")),
    ("USER Ann Smith", User("Ann Smith")),
    ("USER jürgen", User("jürgen")),
    ("PASS x", Pass(Secret("x"))),
    ("PASS  two  spaces ", Pass(Secret(" two  spaces "))),
    ("Pass päss", Pass(Secret("päss"))),
    ("AUTH", Auth("")),
    ("AUTH ", Auth("")),
    ("auth plain", Auth("PLAIN")),
    ("AUTH PLAIN =", Auth("PLAIN", "=")),
    ("AUTH PLAIN AGEAYg==", Auth("PLAIN", "AGEAYg==")),
    ("CAPA", Capa()),
    ("STLS", Stls()),
    ("stat", Stat()),
    ("STAT ", Stat()),
    ("LIST", List()),
    ("LIST ", List()),
    ("list 17", List(17)),
    ("LIST  17  ", List(17)),
    ("LIST 0", List(0)),
    ("LIST 007", List(7)),
    ("UIDL", Uidl()),
    ("UIDL 3", Uidl(3)),
    ("RETR 1", Retr(1)),
    ("RETR 18446744073709551617", Retr(1 << 64 | 1)),
    ("TOP 1 0", Top(1, 0)),
    ("TOP 2 999999999999999999999999", Top(2, 999999999999999999999999)),
    ("DELE 5", Dele(5)),
    ("RSET", Rset()),
    ("NOOP", Noop()),
    ("Quit", Quit()),
]


@pytest.mark.parametrize(("line", "command"), GOOD)
def test_good_lines(line: str, command: Command) -> None:
    name, parsed = parse(line.encode())
    assert parsed == command
    assert name == line.split(" ", 1)[0].upper()


def test_every_keyword_has_a_good_line() -> None:
    assert {line.split(" ", 1)[0].upper() for line, _ in GOOD} == PARSERS.keys()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b" STAT",
        b"STATS",
        b"STAT\tx",
        b"STAT x",
        b"CAPA x",
        b"RSET 1",
        b"NOOP 1",
        b"QUIT now",
        b"USER",
        b"USER ",
        b"USER  ",
        b"USER a\x00b",
        b"USER a\rb",
        b"USER \xff",
        b"PASS",
        b"PASS ",
        b"PASS a\x00",
        b"PASS \xc3",
        b"AUTH PLAIN a b",
        b"LIST x",
        b"LIST -1",
        b"LIST +1",
        b"LIST 1.0",
        b"LIST 1 2",
        "LIST \u0661".encode(),
        "LIST ²".encode(),
        b"LIST " + b"9" * 5000,
        b"UIDL 1 2",
        b"UIDL *",
        b"UIDL \xff",
        "UIDL é".encode(),
        b"RETR",
        b"RETR ",
        b"RETR 1 2",
        b"RETR one",
        b"TOP",
        b"TOP 1",
        b"TOP 1 2 3",
        b"TOP 1 -1",
        b"TOP 1 all",
        b"DELE",
        b"DELE 1,2",
        b"DELE 1:2",
        b"\xffUIT",
    ],
)
def test_bad_lines(line: bytes) -> None:
    with pytest.raises(Refused):
        parse(line)


def test_no_text_tells_what_was_sent() -> None:
    for line in (b"PASS s3cret\x00", b"PASSs3cret", b"AUTH PLAIN s3cret s3cret", b"s3cret"):
        with pytest.raises(Refused) as caught:
            parse(line)
        assert "s3cret" not in caught.value.text
        assert caught.value.text.isascii()
        assert not caught.value.text.startswith("[")
    assert "s3cret" not in repr(parse(b"PASS s3cret"))


def print_command(command: Command) -> bytes:
    match command:
        case User(name):
            return b"USER " + name.encode()
        case Pass(password):
            return b"PASS " + password.reveal().encode()
        case Auth(mechanism, initial):
            return " ".join(filter(None, ("AUTH", mechanism, initial))).encode()
        case Top(number, lines):
            return b"TOP %d %d" % (number, lines)
        case List(number=None) | Uidl(number=None) | Capa() | Stat() | Rset() | Noop() | Quit():
            return type(command).__name__.upper().encode()
        case List(number) | Uidl(number) | Retr(number) | Dele(number):
            return b"%s %d" % (type(command).__name__.upper().encode(), number or 0)
    raise AssertionError(command)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x7f"), min_size=1)
NUMBERS = st.integers(min_value=0, max_value=10**40)
COMMANDS = st.one_of(
    TEXT.map(lambda text: text.strip(" ")).filter(bool).map(User),
    TEXT.map(Secret).map(Pass),
    st.builds(Auth, st.just("PLAIN"), st.none() | st.from_regex(r"\A[A-Za-z0-9+/]{1,40}={0,2}\Z")),
    st.builds(List, st.none() | NUMBERS),
    st.builds(Uidl, st.none() | NUMBERS),
    st.builds(Retr, NUMBERS),
    st.builds(Top, NUMBERS, NUMBERS),
    st.builds(Dele, NUMBERS),
    st.sampled_from([Capa(), Stat(), Rset(), Noop(), Quit()]),
)


@given(COMMANDS)
def test_print_and_parse(command: Command) -> None:
    assert parse(print_command(command))[1] == command


@given(st.binary(max_size=300))
def test_any_line_parses_or_is_refused(line: bytes) -> None:
    try:
        name, _ = parse(line)
    except Refused:
        return
    assert name in PARSERS
