"""A stored message as a mail client shows it: people, dates, texts and attachments.

ENVELOPE and BODYSTRUCTURE are stored as the bytes that a FETCH sends, rendered at delivery. They are read back here
by a strict parser of parenthesised values, rather than from the header block: that costs about as much to parse, but
is several times as long and stands in another table, which a page would have to read besides. Nearly all are plain
(nothing escaped, no literals): one pattern takes such an envelope, or such a structure of a single text, apart. Raw
values (names, subjects) keep their RFC 2047 words in them and are decoded here, into text that any JSON can carry.

A body is a part with bytes of its own. Those of text/plain and text/html that are not marked as attachments are
the message's text; all others are attachments, an embedded message being one. Attachments are named ATT00001 … in
the order of their bytes, so a name holds as long as the message does.
"""

from __future__ import annotations

import email.utils
import html
import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from wd_trio.errors import Invalid
from wd_trio.mail import params
from wd_trio.mail.addresslist import MISSING_DOMAIN, MISSING_MAILBOX
from wd_trio.mail.headers import decode
from wd_trio.mail.params import Params

Value: TypeAlias = Any
"""A parsed value: None for NIL, int, bytes, or a list of values. Where it may be `Plain`, also str."""
Plain: TypeAlias = bytes | str
"""A string; str only for printable ASCII."""

_LITERAL: Final = re.compile(rb"\{(\d{1,10})\}\r\n")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[()]|[^ ()"]++|[^ ]', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_QUOTE, _OPEN, _CLOSE = b'"()'
_NIL: Final = b"NIL"

_QUOTED: Final = rb'"[^"\\\r\n]*+"'
_STRING: Final = rb"(?:NIL|%b)" % _QUOTED
_PEOPLE: Final = rb"(?:NIL|\((?:\(%b %b %b %b\))++\))" % ((_STRING,) * 4)
_PLAIN_ENVELOPE: Final = re.compile(
    rb"\((%b) (%b) (%b) (%b) (%b) (%b) (%b) (%b) (%b) (%b)\)"
    % (*(_STRING,) * 2, *(_PEOPLE,) * 6, *(_STRING,) * 2)
)
_PLAIN_TEXT: Final = re.compile(
    rb'\("text" (%b) (NIL|\(%b %b(?: %b %b)*+\)) NIL %b (%b) (\d{1,18}+) \d++ %b NIL NIL %b\)'
    % (*(_QUOTED,) * 5, _STRING, _QUOTED, _STRING, _STRING)
)
"""A BODYSTRUCTURE of one text without an id, a disposition and languages."""
_CACHED_BYTES: Final = 512
"""No longer value is kept by the caches here, so that they are bounded in bytes."""

_WRONG_SHAPE: Final = (TypeError, ValueError, IndexError, AttributeError, StopIteration)

_DATE: Final = re.compile(
    rb"(?:[A-Za-z]{3},)? *(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d{2}):(\d{2})(?::(\d{2}))? ([+-])(\d{2})(\d{2})"
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"), 1
    )
}
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_MINUTES: Final = tuple(f"T{minute // 60:02}:{minute % 60:02}:" for minute in range(1440))
_SECONDS: Final = tuple(f"{second:02}.000Z" for second in range(60))
_FIRST_S: Final = -62_135_596_800  # 0001-01-01
_LAST_S: Final = 253_402_300_799  # 9999-12-31
_MAX_DATE_BYTES: Final = 100

_TEXTS: Final = frozenset({"text/plain", "text/html"})
_CID: Final = re.compile(r"\bcid:([^\s\"'<>()]{1,998})", re.IGNORECASE)


# -- parenthesised values


def parse_value(data: bytes) -> Value:
    """The one value that `data` is (RFC 3501 §4): a list, a string, a number or NIL. Invalid for anything else."""
    stack: list[list[Value]] = []
    current: list[Value] = []
    at = 0
    while True:
        literal = _LITERAL.search(data, at)  # quoted strings hold no line end, so this is never within one
        for token in _TOKEN.findall(data, at, literal.start() if literal else len(data)):
            first = token[0]
            if first == _QUOTE and len(token) > 1:
                text = token[1:-1]
                current.append(_ESCAPED.sub(rb"\1", text) if b"\\" in text else text)
            elif first == _OPEN:
                stack.append(current)
                current = []
            elif first == _CLOSE:
                if not stack:
                    raise Invalid("a list ends that never began", what="value")
                inner, current = current, stack.pop()
                current.append(inner)
            elif token == b"NIL":
                current.append(None)
            elif token.isdigit():
                current.append(int(token))
            else:
                raise Invalid("neither a string nor a number", what="value")
        if literal is None:
            break
        at = literal.end() + int(literal[1])
        if at > len(data):
            raise Invalid("a literal is cut short", what="value")
        current.append(data[literal.end() : at])
    if stack or len(current) != 1:
        raise Invalid("not one value", what="value")
    return current[0]


_PLAIN_SYNTAX: Final = b"()0123456789 NIL\0"
_AS_JSON: Final = bytes.maketrans(b"() ", b"[],")


def _quick_value(data: bytes) -> Value:
    """What `parse_value` gives, its strings as str where all of them are printable ASCII.

    Nearly all stored values are such, and with the syntax between their strings exchanged they are JSON: a dozen
    calls instead of a step of Python for each token, of which a list of 250 messages has some 20,000.
    """
    if b"\\" not in data and b"\0" not in data and data.isascii():
        pieces = data.split(b'"')
        between = b"\0".join(pieces[::2])
        if not between.translate(None, _PLAIN_SYNTAX):
            between = between.translate(_AS_JSON).replace(b"][", b"],[").replace(b"NIL", b"null")
            pieces[::2] = between.split(b"\0")
            try:
                return msgspec.json.decode(b'"'.join(pieces))
            except msgspec.DecodeError:
                pass  # a control character in a string, a zero before a number: the parser knows what it is
    return parse_value(data)


# -- the envelope


class Person(msgspec.Struct, frozen=True):
    """Whom an address names; `name` is "" where there is none, `address` where it is not complete."""

    name: str
    address: str


People: TypeAlias = tuple[Person, ...]


class Envelope(msgspec.Struct, frozen=True):
    """An ENVELOPE in text. `date` is in seconds since the epoch, None where the header has none that can be read.
    Groups are left out, their members are not."""

    date: int | None
    subject: str
    from_: People
    sender: People
    reply_to: People
    to: People
    cc: People
    bcc: People
    in_reply_to: str
    message_id: str


def read_envelope(data: bytes) -> Envelope:
    """A stored ENVELOPE. Invalid for what is none."""
    plain = _PLAIN_ENVELOPE.fullmatch(data)
    if plain is None:
        return _envelope(_quick_value(data))
    written, subject, from_, sender, reply_to, to, cc, bcc, in_reply_to, message_id = plain.groups()
    first = _plain_people(from_)
    return Envelope(
        date=parse_date(written[1:-1]) if written != _NIL else None,
        subject=_plain_text(subject),
        from_=first,
        sender=first if sender == from_ else _plain_people(sender),
        reply_to=first if reply_to == from_ else _plain_people(reply_to),
        to=_plain_people(to),
        cc=_plain_people(cc),
        bcc=_plain_people(bcc),
        in_reply_to=_plain_text(in_reply_to),
        message_id=_plain_text(message_id),
    )


def _plain_text(stored: bytes) -> str:
    """A string without escapes, or NIL, as text."""
    if stored == _NIL:
        return ""
    return decode(stored[1:-1]) if b"=?" in stored or not stored.isascii() else stored[1:-1].decode()


def _plain_people(stored: bytes) -> People:
    if stored == _NIL:
        return ()
    return _known_people(stored) if len(stored) <= _CACHED_BYTES else _people(_quick_value(stored))


@lru_cache(maxsize=4096)  # the same few people are in every page of a mailbox
def _known_people(stored: bytes) -> People:
    return _people(_quick_value(stored))


def _envelope(value: Value) -> Envelope:
    if not isinstance(value, list) or len(value) != 10:
        raise Invalid("an envelope has ten fields", what="envelope")
    written, subject, from_, sender, reply_to, to, cc, bcc, in_reply_to, message_id = value
    try:
        return Envelope(
            date=parse_date(_octets(written)) if written else None,
            subject=_text(subject),
            from_=_people(from_),
            sender=_people(sender),
            reply_to=_people(reply_to),
            to=_people(to),
            cc=_people(cc),
            bcc=_people(bcc),
            in_reply_to=_text(in_reply_to),
            message_id=_text(message_id),
        )
    except _WRONG_SHAPE as error:
        raise Invalid("not an envelope", what="envelope") from error


def _text(value: Plain | None) -> str:
    if not value:
        return ""
    if isinstance(value, bytes):
        return decode(value)
    return decode(value.encode()) if "=?" in value else value


def _octets(value: Plain) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _word(value: Plain) -> str:
    """A type, an encoding and the like: ASCII, whatever it claims."""
    return value if isinstance(value, str) else value.decode("ascii", "replace")


def _people(value: list[Value] | None) -> People:
    if not value:
        return ()
    return tuple([_person(name, mailbox, host) for name, _, mailbox, host in value if host is not None])


def _person(name: Plain | None, mailbox: Plain | None, host: Plain) -> Person:
    if not mailbox or _octets(mailbox) == MISSING_MAILBOX or _octets(host) == MISSING_DOMAIN:
        return Person(_text(name), "")
    return Person(_text(name), _text(b"%b@%b" % (_octets(mailbox), _octets(host))))


def parse_date(value: bytes) -> int | None:
    """The moment that a Date header names, in seconds since the epoch; None when it names none (RFC 5322 §3.3)."""
    value = value.strip()[:_MAX_DATE_BYTES]
    match = _DATE.match(value)
    if match is None:
        return _obsolete_date(value)
    day, month, year, hours, minutes, seconds, sign, zone_hours, zone_minutes = match.groups(b"0")
    number = _MONTHS.get(month.lower())
    if number is None:
        return _obsolete_date(value)
    try:
        days = _day_number(int(year), number, int(day))
    except ValueError:
        return None
    offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
    moment = days * 86_400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return _sane(moment + offset if sign == b"-" else moment - offset)


@lru_cache(maxsize=1024)
def _day_number(year: int, month: int, day: int) -> int:
    return date(year, month, day).toordinal() - _EPOCH_DAY


def _obsolete_date(value: bytes) -> int | None:
    """Zones with names, years of two digits, comments (§4.3)."""
    try:
        parsed = email.utils.parsedate_tz(value.decode("ascii", "replace"))
        return _sane(int(email.utils.mktime_tz(parsed))) if parsed else None
    except (ValueError, OverflowError, IndexError):
        return None


def _sane(seconds: int) -> int | None:
    return seconds if _FIRST_S <= seconds <= _LAST_S else None


def iso_time(seconds: int) -> str:
    """A moment as JavaScript writes it: 2026-11-23T17:43:26.000Z."""
    day, second = divmod(seconds, 86_400)
    return _day_text(day) + _MINUTES[second // 60] + _SECONDS[second % 60]


@lru_cache(maxsize=1024)
def _day_text(number: int) -> str:
    return date.fromordinal(number + _EPOCH_DAY).isoformat()


# -- the structure


class Body(msgspec.Struct, frozen=True):
    """A part with bytes of its own. `part` is its section number; `size` counts the bytes as they are encoded.
    `content_id` is without its angle brackets; `related` says that a sibling refers to it (multipart/related)."""

    part: str
    content_type: str
    params: Params
    encoding: str
    size: int
    content_id: str
    disposition: str
    filename: str
    related: bool

    @property
    def is_text(self) -> bool:
        return self.content_type in _TEXTS and self.disposition != "attachment"


class Attachment(msgspec.Struct, frozen=True):
    """A body that is no text. `size_bytes` is about what it has when it is decoded."""

    id: str
    body: Body
    filename: str
    size_bytes: int


class Structure(msgspec.Struct, frozen=True):
    """A BODYSTRUCTURE: the message's own type, and its bodies in the order of their bytes."""

    content_type: str
    params: Params
    bodies: tuple[Body, ...]

    @property
    def texts(self) -> list[Body]:
        return [body for body in self.bodies if body.is_text]

    @property
    def has_files(self) -> bool:
        """Whether there is an attachment that no text refers to."""
        return any(not (body.is_text or body.related) for body in self.bodies)

    @property
    def attachments(self) -> list[Attachment]:
        others = (body for body in self.bodies if not body.is_text)
        return [_attachment(number, body) for number, body in enumerate(others, 1)]


def read_structure(data: bytes) -> Structure:
    """A stored BODYSTRUCTURE (with extension data). Invalid for what is none."""
    plain = _PLAIN_TEXT.fullmatch(data)
    if plain is not None:
        return _plain_structure(*plain.groups())
    return _structure(_quick_value(data))


def _structure(value: Value) -> Structure:
    bodies: list[Body] = []
    try:
        if isinstance(value[0], list):
            content_type, found = _multipart(value, "", bodies)
        else:
            content_type, found = _leaf(value, "1", bodies, related=False)
    except _WRONG_SHAPE as error:
        raise Invalid("not a body structure", what="bodystructure") from error
    return Structure(content_type, found, tuple(bodies))


def _plain_structure(subtype: bytes, pairs: bytes, encoding: bytes, size: bytes) -> Structure:
    found, name = (_known_params if len(pairs) <= _CACHED_BYTES else _stored_params)(pairs)
    body = Body(
        part="1",
        content_type="text/" + _word(subtype[1:-1]),
        params=found,
        encoding=_word(encoding[1:-1]),
        size=int(size),
        content_id="",
        disposition="",
        filename=name,
        related=False,
    )
    return Structure(body.content_type, found, (body,))


def _stored_params(stored: bytes) -> tuple[Params, str]:
    """A list of parameters, and the name among them."""
    found = _pairs(_quick_value(stored))
    return found, params.text(found, b"name") or ""


_known_params = lru_cache(maxsize=1024)(_stored_params)  # a charset, and little else


def _multipart(value: list[Value], prefix: str, bodies: list[Body]) -> tuple[str, Params]:
    count = next(place for place, item in enumerate(value) if not isinstance(item, list))
    subtype = _word(value[count])
    for number, child in enumerate(value[:count], 1):
        part = f"{prefix}{number}"
        if isinstance(child[0], list):
            _multipart(child, part + ".", bodies)
        else:
            _leaf(child, part, bodies, related=subtype == "related" and number > 1)
    return f"multipart/{subtype}", _pairs(value[count + 1])


def _leaf(value: list[Value], part: str, bodies: list[Body], *, related: bool) -> tuple[str, Params]:
    kind, subtype, pairs, content_id, _, encoding, size = value[:7]
    content_type = f"{_word(kind)}/{_word(subtype)}"
    # What a type adds stands between the size and the extension data: md5, disposition, language, location.
    disposition = value[-3]
    found = _pairs(pairs)
    about = _pairs(disposition[1]) if disposition else ()
    name = params.text(about, b"filename")
    bodies.append(
        Body(
            part=part,
            content_type=content_type,
            params=found,
            encoding=_word(encoding),
            size=size,
            content_id=_text(content_id).strip().removeprefix("<").removesuffix(">"),
            disposition=_word(disposition[0]) if disposition else "",
            filename=name if name is not None else params.text(found, b"name") or "",
            related=related,
        )
    )
    return content_type, found


def _pairs(value: list[Plain] | None) -> Params:
    if not value:
        return ()
    octets = [_octets(each) for each in value]
    return tuple(zip(octets[::2], octets[1::2], strict=True))


def _attachment(number: int, body: Body) -> Attachment:
    ending = ".eml" if body.content_type in ("message/rfc822", "message/global") else ""
    size = body.size * 3 // 4 if body.encoding == "base64" else body.size
    return Attachment(f"ATT{number:05d}", body, body.filename or f"attachment-{number}{ending}", size)


# -- texts


def text_to_html(text: str) -> str:
    """Plain text as HTML that shows the same: paragraphs at empty lines, breaks at the others."""
    paragraphs = html.escape(text.replace("\r\n", "\n").strip("\n")).split("\n\n")
    return "".join(f"<p>{paragraph.replace(chr(10), '<br/>')}</p>" for paragraph in paragraphs)


def link_attachments(document: str, attachments: Sequence[Attachment]) -> str:
    """HTML in which `cid:` links to attachments of the message (RFC 2392) are `attachment:ATT00001`."""
    ids = {each.body.content_id: each.id for each in attachments if each.body.content_id}
    if not ids:
        return document

    def link(match: re.Match[str]) -> str:
        found = ids.get(match[1])
        return f"attachment:{found}" if found else match[0]

    return _CID.sub(link, document)


def shown_params(pairs: Params) -> dict[str, str]:
    """Content-Type parameters as text by name, RFC 2231 forms decoded."""
    names = dict.fromkeys(name.rstrip(b"*") for name, _ in pairs)
    return {name.decode("ascii", "replace"): params.text(pairs, name) or "" for name in names}


def message_ids(value: bytes) -> list[str]:
    """The ids of a References field, in order."""
    return decode(value).split()
