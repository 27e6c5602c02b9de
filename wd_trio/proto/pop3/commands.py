"""POP3 commands as values, and the grammar that makes them from one finished line (RFC 1939 §9, RFC 2449 §4, 5034).

Keywords come in any case. A password is the rest of its line with every space in it (RFC 1939 §7); a name is the rest
of its line too, since addresses and UTF-8 names pass. Deviations, on purpose and harmless: blanks may repeat between
numbers and trail, and a number may be as long as a line. A line with a control character, or that is not UTF-8, is
bad syntax. What was refused never comes back in a text: it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from wd_trio.secret import Secret


@dataclass(frozen=True, slots=True)
class User:
    name: str


@dataclass(frozen=True, slots=True)
class Pass:
    password: Secret


@dataclass(frozen=True, slots=True)
class Auth:
    """`mechanism` is in capitals, "" when the client asks which there are; `initial` is base64 as it came
    ("=" for an empty response), None without an initial response."""

    mechanism: str
    initial: str | None = None


@dataclass(frozen=True, slots=True)
class LogIn:
    """What USER and PASS, or AUTH and its exchange, come to. Never parsed: the engine makes it."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Capa:
    pass


@dataclass(frozen=True, slots=True)
class Stls:
    pass


@dataclass(frozen=True, slots=True)
class Stat:
    pass


@dataclass(frozen=True, slots=True)
class List:
    """`number` is None for all messages. Numbers are any that were written, 0 and huge ones included."""

    number: int | None = None


@dataclass(frozen=True, slots=True)
class Uidl:
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Retr:
    number: int


@dataclass(frozen=True, slots=True)
class Top:
    number: int
    lines: int


@dataclass(frozen=True, slots=True)
class Dele:
    number: int


@dataclass(frozen=True, slots=True)
class Rset:
    pass


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class Quit:
    pass


Command: TypeAlias = (
    User | Pass | Auth | LogIn | Capa | Stls | Stat | List | Uidl | Retr | Top | Dele | Rset | Noop | Quit
)


class Refused(Exception):
    """The line is no good; `text` is for the reply."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER: Final = re.compile(r"[0-9]{1,512}")  # any that fits a line after log-in; int() has a limit above


def parse(line: bytes) -> tuple[str, Command]:
    """The command's keyword in capitals and its value, from a line without its end. Raises Refused."""
    word, _, rest = line.partition(b" ")
    name = word.decode("ascii", "replace").upper()
    parser = PARSERS.get(name)
    if parser is None:
        raise Refused("Unknown command")
    try:
        text = rest.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("Neither ASCII nor UTF-8") from None
    if _CONTROL.search(text):
        raise Refused("Control characters have no place in a command")
    return name, parser(text)


def _user(text: str) -> Command:
    name = text.strip(" ")
    if not name:
        raise Refused("USER takes a name")
    return User(name)


def _pass(text: str) -> Command:
    if not text:
        raise Refused("PASS takes a password")
    return Pass(Secret(text))


def _auth(text: str) -> Command:
    words = text.split()
    if len(words) > 2:
        raise Refused("AUTH takes a mechanism and at most one response")
    mechanism, initial = (*words, None, None)[:2]
    return Auth((mechanism or "").upper(), initial)


def _numbers(text: str) -> list[int]:
    words = text.split()
    if not all(_NUMBER.fullmatch(word) for word in words):
        raise Refused("A message number has only digits")
    return [int(word) for word in words]


def _bare(command: Command) -> Callable[[str], Command]:
    """A parser of a command that takes nothing."""

    def parse_bare(text: str) -> Command:
        if text.strip(" "):
            raise Refused("This command takes no argument")
        return command

    return parse_bare


def _one(make: Callable[[int], Command]) -> Callable[[str], Command]:
    """A parser of a command that takes a message number."""

    def parse_one(text: str) -> Command:
        numbers = _numbers(text)
        if len(numbers) != 1:
            raise Refused("This command takes one message number")
        return make(numbers[0])

    return parse_one


def _one_or_all(make: Callable[[int | None], Command]) -> Callable[[str], Command]:
    """A parser of a command that takes a message number or nothing."""

    def parse_one_or_all(text: str) -> Command:
        numbers = _numbers(text)
        if len(numbers) > 1:
            raise Refused("This command takes one message number or none")
        return make(numbers[0] if numbers else None)

    return parse_one_or_all


def _top(text: str) -> Command:
    numbers = _numbers(text)
    if len(numbers) != 2:
        raise Refused("TOP takes a message number and a number of lines")
    return Top(*numbers)


PARSERS: Final[Mapping[str, Callable[[str], Command]]] = {
    "USER": _user,
    "PASS": _pass,
    "AUTH": _auth,
    "CAPA": _bare(Capa()),
    "STLS": _bare(Stls()),
    "STAT": _bare(Stat()),
    "LIST": _one_or_all(List),
    "UIDL": _one_or_all(Uidl),
    "RETR": _one(Retr),
    "TOP": _top,
    "DELE": _one(Dele),
    "RSET": _bare(Rset()),
    "NOOP": _bare(Noop()),
    "QUIT": _bare(Quit()),
}
