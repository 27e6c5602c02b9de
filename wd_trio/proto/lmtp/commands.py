"""LMTP commands as values, and the grammar that makes them from one finished line (RFC 5321 §4.1, RFC 2033).

A line is at most a couple of thousand bytes, so the grammar is written with plain expressions that have one
way to match. Deviations, on purpose and harmless: a space after `FROM:`/`TO:` and trailing blanks are let
through; `_` may stand in a domain; dots in a local part may repeat; an unquoted path may be longer than 256
octets (SMTPUTF8, VERP) up to PATH_BYTES. Source routes are dropped (RFC 5321 appendix C). Text is UTF-8
(RFC 6531); a line that is not, or that holds a control character, is bad syntax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

PATH_BYTES: Final = 512
NAME_CHARS: Final = 255


@dataclass(frozen=True, slots=True)
class Lhlo:
    name: str


@dataclass(frozen=True, slots=True)
class Mail:
    """`sender` is "" for the null path; `size` is 0 when the client did not say."""

    sender: str
    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Rcpt:
    """`address` without brackets and route; its local part is quoted only where it must be."""

    address: str


@dataclass(frozen=True, slots=True)
class Data:
    pass


@dataclass(frozen=True, slots=True)
class Rset:
    pass


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class Vrfy:
    pass


@dataclass(frozen=True, slots=True)
class Help:
    pass


@dataclass(frozen=True, slots=True)
class StartTls:
    pass


@dataclass(frozen=True, slots=True)
class Quit:
    pass


Command: TypeAlias = Lhlo | Mail | Rcpt | Data | Rset | Noop | Vrfy | Help | StartTls | Quit


class Refused(Exception):
    """The line is no good; `code`, `enhanced` and `text` are the reply."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.enhanced = enhanced
        self.text = text


_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-.\u00a0-\U0010ffff]"
_DOMAIN: Final = (
    r"(?:[A-Za-z0-9_\u00a0-\U0010ffff][A-Za-z0-9_\-\u00a0-\U0010ffff]*"
    r"(?:\.[A-Za-z0-9_\u00a0-\U0010ffff][A-Za-z0-9_\-\u00a0-\U0010ffff]*)*\.?"
    r"|\[[A-Za-z0-9:.\-]+\])"
)
_PATH: Final = re.compile(
    rf"<(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?"
    rf'(?:(?P<plain>{_ATEXT}+)|"(?P<quoted>(?:[^"\\]|\\.)*)")'
    rf"(?:@(?P<domain>{_DOMAIN}))?>"
)
_PLAIN_LOCAL: Final = re.compile(rf"{_ATEXT}+")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([!-<>-~\u00a0-\U0010ffff]+))?")
_NAME: Final = re.compile(r"[A-Za-z0-9._:\-\[\]\u00a0-\U0010ffff]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def parse(line: bytes) -> tuple[str, Command]:
    """The command's word in capitals and its value, from a line without its CRLF. Raises Refused."""
    word, _, rest = line.partition(b" ")
    name = word.decode("ascii", "replace").upper()
    parser = PARSERS.get(name)
    if parser is None:
        raise Refused(500, "5.5.1", "Unknown command")
    try:
        text = rest.decode("utf-8").rstrip(" ")
    except UnicodeDecodeError:
        raise Refused(501, "5.5.2", "Neither ASCII nor UTF-8") from None
    if _CONTROL.search(text):
        raise Refused(501, "5.5.2", "Control characters have no place in a command")
    return name, parser(text)


def _lhlo(text: str) -> Command:
    if not text or len(text) > NAME_CHARS or not _NAME.fullmatch(text):
        raise Refused(501, "5.5.4", "LHLO takes a domain or an address literal")
    return Lhlo(text)


def _mail(text: str) -> Command:
    path, rest = _after_colon(text, "FROM:", "5.1.7")
    sender = "" if path == "<>" else _address(path, "5.1.7", domain_needed=False)
    size, body, smtputf8 = 0, "7BIT", False
    for key, value in _parameters(rest).items():
        if key == "SIZE" and value is not None and value.isascii() and value.isdigit() and len(value) <= 20:
            size = int(value)
        elif key == "BODY" and value is not None and value.upper() in ("7BIT", "8BITMIME"):
            body = value.upper()
        elif key == "SMTPUTF8" and value is None:
            smtputf8 = True
        elif key in ("SIZE", "BODY", "SMTPUTF8"):
            raise Refused(501, "5.5.4", f"Bad value of {key}")
        else:
            raise Refused(555, "5.5.4", "Unknown parameter")
    if not smtputf8 and not sender.isascii():
        raise Refused(553, "5.6.7", "Such an address needs SMTPUTF8")
    return Mail(sender, size, body, smtputf8)


def _rcpt(text: str) -> Command:
    path, rest = _after_colon(text, "TO:", "5.1.3")
    address = _address(path, "5.1.3", domain_needed=True)
    if _parameters(rest):
        raise Refused(555, "5.5.4", "Unknown parameter")
    return Rcpt(address)


def _after_colon(text: str, keyword: str, enhanced: str) -> tuple[str, str]:
    """The path of `FROM:<path> rest` and the rest. A ">" inside a quoted local part does not end the path."""
    if text[: len(keyword)].upper() != keyword:
        raise Refused(501, "5.5.4", f"Syntax: {keyword}<address>")
    rest = text[len(keyword) :].lstrip(" ")
    if rest.startswith("<>"):
        return "<>", rest[2:]
    match = _PATH.match(rest)
    if match is None or len(match[0].encode()) > PATH_BYTES:
        raise Refused(501, enhanced, "Bad address syntax")
    return match[0], rest[match.end() :]


def _address(path: str, enhanced: str, *, domain_needed: bool) -> str:
    match = _PATH.fullmatch(path)
    if match is None:  # the null path
        raise Refused(501, enhanced, "Bad address syntax")
    plain, quoted, domain = match["plain"], match["quoted"], match["domain"]
    if domain is None:
        if domain_needed and (plain or "").lower() != "postmaster":
            raise Refused(501, enhanced, "The address lacks its domain")
        domain = ""
    if plain is None:
        bare = re.sub(r"\\(.)", r"\1", quoted)
        plain = bare if _PLAIN_LOCAL.fullmatch(bare) else f'"{quoted}"'
    return f"{plain}@{domain}" if domain else plain


def _parameters(text: str) -> dict[str, str | None]:
    """ESMTP parameters by their names in capitals, in order."""
    found: dict[str, str | None] = {}
    if text and not text.startswith(" "):
        raise Refused(501, "5.5.4", "Bad address syntax")
    for item in text.split(" "):
        if not item:
            continue
        match = _PARAMETER.fullmatch(item)
        if match is None or match[1].upper() in found:
            raise Refused(501, "5.5.4", "Bad parameter syntax")
        found[match[1].upper()] = match[2]
    return found


def _bare(command: Command) -> Callable[[str], Command]:
    """A parser of a command that takes nothing."""

    def parse_bare(text: str) -> Command:
        if text:
            raise Refused(501, "5.5.4", "This command takes no argument")
        return command

    return parse_bare


def _vrfy(text: str) -> Command:
    if not text:
        raise Refused(501, "5.5.4", "VRFY takes a name")
    return Vrfy()


PARSERS: Final[Mapping[str, Callable[[str], Command]]] = {
    "LHLO": _lhlo,
    "MAIL": _mail,
    "RCPT": _rcpt,
    "DATA": _bare(Data()),
    "RSET": _bare(Rset()),
    "NOOP": lambda text: Noop(),  # RFC 5321 §4.1.1.9: an argument is ignored
    "VRFY": _vrfy,
    "HELP": lambda text: Help(),
    "STARTTLS": _bare(StartTls()),
    "QUIT": _bare(Quit()),
}
