"""Replies as octets: pure functions, one whole response or one value each (RFC 3501 §7, §9).

What humans read is made safe here: no CR, LF, NUL or 8-bit octet of a text reaches the wire, whoever wrote it.
Strings take their shortest legal form (atom, quoted, literal); mailbox names go out in modified UTF-7, or as
UTF-8 in quotes once the client enabled it. Functions on FETCH's path cache what repeats: flag lists, days,
section names; LIST's lines, which one client after another asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from typing import Final

from wd_trio.mail import mutf7
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import SEPARATOR, SYSTEM_FLAGS, flag_names
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.proto.imap.commands import FetchBody
from wd_trio.proto.imap.grammar import ASTRING_CHARS, DAY_S, EPOCH_ORDINAL, MONTHS

SYSTEM_FLAG_NAMES: Final = tuple(SYSTEM_FLAGS)  # in the order in which FLAGS lists name them
MAX_QUOTED_BYTES: Final = 1024  # longer strings go out as literals; some clients cap their lines
VANISHED_RANGES: Final = 350  # in one response: at most 22 octets each, so that a line keeps below 8 KiB
_MIN_DATE_S: Final = (1 - EPOCH_ORDINAL) * DAY_S
_MAX_DATE_S: Final = (date.max.toordinal() - EPOCH_ORDINAL) * DAY_S + DAY_S - 1
_UNQUOTABLE: Final = (b"\r", b"\n", b"\0")


def _clean(text: str) -> str:
    """A text that fits into one line of US-ASCII."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isascii() and c.isprintable() else " " if c.isascii() else "?" for c in text)


def _condition(start: str, status: str, text: str, code: str) -> bytes:
    shown = _clean(text) or "-"
    if code:
        return f"{start} {status} [{_clean(code)}] {shown}\r\n".encode("ascii")
    return f"{start} {status} {shown}\r\n".encode("ascii")


def tagged(tag: str, status: str, text: str, code: str = "") -> bytes:
    """The reply that ends a command: `A1 OK [code] text`; `status` is OK, NO or BAD."""
    return _condition(tag, status, text, code)


def ok(text: str, code: str = "") -> bytes:
    """An untagged OK, perhaps with a response code: `* OK [UIDNEXT 5] text`."""
    return _condition("*", "OK", text, code)


def bye(text: str, code: str = "") -> bytes:
    return _condition("*", "BYE", text, code)


def continuation(text: str = "OK") -> bytes:
    """The command continuation request: `+ text`."""
    return f"+ {_clean(text)}\r\n".encode("ascii")


def capability(names: Iterable[str]) -> bytes:
    """`* CAPABILITY …`; the names as they stand, IMAP4rev1 among them."""
    return f"* CAPABILITY {' '.join(names)}\r\n".encode("ascii")


def flags(names: Iterable[str]) -> bytes:
    """SELECT's `* FLAGS (…)`."""
    return f"* FLAGS ({' '.join(names)})\r\n".encode("ascii")


def exists(count: int) -> bytes:
    return b"* %d EXISTS\r\n" % count


def recent(count: int) -> bytes:
    return b"* %d RECENT\r\n" % count


def expunge(seq: int) -> bytes:
    return b"* %d EXPUNGE\r\n" % seq


def vanished(uids: UidSet, *, earlier: bool = False) -> Iterator[bytes]:
    """`* VANISHED 300:310,405`: what is gone; `(EARLIER)`: what the client learns of now, and had no number (RFC 7162
    §3.2.10). As many responses as it takes to keep each one's line short."""
    word = "VANISHED (EARLIER)" if earlier else "VANISHED"
    ranges = uids.ranges()
    for start in range(0, len(ranges), VANISHED_RANGES):
        yield f"* {word} {UidSet(ranges[start : start + VANISHED_RANGES])}\r\n".encode("ascii")


def search(numbers: Iterable[int], modseq: int | None = None) -> bytes:
    """`* SEARCH 2 84 882 (MODSEQ 917)`; `* SEARCH` when nothing was found. `modseq` is the highest of what was
    found, where the client asked by MODSEQ (RFC 7162 §3.1.5)."""
    found = " ".join(["* SEARCH", *map(str, numbers)])
    suffix = f" (MODSEQ {modseq})" if found != "* SEARCH" and modseq is not None else ""
    return f"{found}{suffix}\r\n".encode("ascii")


def esearch(tag: str, items: Iterable[tuple[str, int | UidSet | None]], *, uid: bool) -> bytes:
    """`* ESEARCH (TAG "A1") UID COUNT 3 ALL 1:3 MODSEQ 9` (RFC 4731 §3.1). Items without a value, None or the
    empty set, are left out, as MIN, MAX and ALL are when nothing was found."""
    shown = "".join([f" {name} {value}" for name, value in items if value not in (None, EMPTY)])
    return f'* ESEARCH (TAG "{tag}"){" UID" if uid else ""}{shown}\r\n'.encode("ascii")


def copyuid(uid_validity: int, sources: Iterable[int], targets: Iterable[int]) -> str:
    """COPYUID's response code (RFC 4315 §3): the n-th of `sources` became the n-th of `targets`. Both go out in
    the order given, which is what clients pair them by."""
    return f"COPYUID {uid_validity} {_runs(sources)} {_runs(targets)}"


def list_line(
    name: str,
    attributes: Sequence[str] = (),
    separator: str = SEPARATOR,
    *,
    utf8: bool = False,
    word: str = "LIST",
    childinfo: Sequence[str] = (),
) -> bytes:
    """`* LIST (attributes) "/" name`; an empty `separator` is NIL; `word` is LIST or LSUB. `childinfo` names the
    selection options that children of `name` meet: `("CHILDINFO" ("SUBSCRIBED"))` (RFC 5258 §3.5)."""
    return _list_line(word, tuple(attributes), separator, mailbox_name(name, utf8=utf8), tuple(childinfo))


@lru_cache(maxsize=4096)
def _list_line(
    word: str, attributes: tuple[str, ...], separator: str, name: bytes, childinfo: tuple[str, ...]
) -> bytes:
    shown = quoted(separator.encode("ascii")) if separator else b"NIL"
    children = " ".join(f'"{option}"' for option in childinfo).encode("ascii")
    return b"* %b (%b) %b %b%b\r\n" % (
        word.encode("ascii"),
        " ".join(attributes).encode("ascii"),
        shown,
        name,
        b' ("CHILDINFO" (%b))' % children if children else b"",
    )


def status(mailbox: str, items: Iterable[tuple[str, int | None]], *, utf8: bool = False) -> bytes:
    """`* STATUS name (MESSAGES 1 UIDNEXT 2 APPENDLIMIT NIL)`; None is NIL, which APPENDLIMIT alone may be."""
    values = " ".join(f"{name} {'NIL' if value is None else value}" for name, value in items)
    return b"* STATUS %b (%b)\r\n" % (mailbox_name(mailbox, utf8=utf8), values.encode("ascii"))


def quota(root: str, resources: Iterable[tuple[str, int, int]], *, utf8: bool = False) -> bytes:
    """`* QUOTA root (STORAGE 10 512)`: resources as (name, usage, limit) (RFC 9208 §4.2.1)."""
    shown = " ".join(f"{name} {usage} {limit}" for name, usage, limit in resources)
    return b"* QUOTA %b (%b)\r\n" % (astring(root.encode(), utf8=utf8), shown.encode("ascii"))


def quotaroot(mailbox: str, roots: Iterable[str], *, utf8: bool = False) -> bytes:
    """`* QUOTAROOT name root …` (RFC 9208 §4.2.2)."""
    shown = b"".join([b" " + astring(root.encode(), utf8=utf8) for root in roots])
    return b"* QUOTAROOT %b%b\r\n" % (mailbox_name(mailbox, utf8=utf8), shown)


def enabled(names: Iterable[str]) -> bytes:
    """`* ENABLED …`: what this ENABLE switched on, perhaps nothing (RFC 5161 §3.2)."""
    return f"* ENABLED{''.join(f' {name}' for name in names)}\r\n".encode("ascii")


def namespace() -> bytes:
    """One personal namespace without a prefix (RFC 2342)."""
    return f'* NAMESPACE (("" "{SEPARATOR}")) NIL NIL\r\n'.encode("ascii")


def id_line(fields: Sequence[tuple[str, str | None]]) -> bytes:
    """`* ID ("name" "value" …)`, or NIL for no fields (RFC 2971 §3.2)."""
    if not fields:
        return b"* ID NIL\r\n"
    shown = b" ".join(
        string(key.encode()) + b" " + nstring(None if value is None else value.encode())
        for key, value in fields
    )
    return b"* ID (%b)\r\n" % shown


def quoted(octets: bytes) -> bytes:
    """A quoted string. The caller knows that no CR, LF or NUL is in it."""
    return b'"' + octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def literal_head(size: int) -> bytes:
    """What precedes `size` octets of a literal."""
    return b"{%d}\r\n" % size


def literal(octets: bytes) -> bytes:
    return b"{%d}\r\n%b" % (len(octets), octets)


def literal8_head(size: int) -> bytes:
    """What precedes `size` octets of a literal8, NULs allowed (RFC 3516 §7)."""
    return b"~{%d}\r\n" % size


def literal8(octets: bytes) -> bytes:
    return b"~{%d}\r\n%b" % (len(octets), octets)


def string(octets: bytes, *, utf8: bool = False) -> bytes:
    """A quoted string where one can carry `octets`, else a literal; `utf8` lets 8-bit UTF-8 stand in quotes."""
    if len(octets) > MAX_QUOTED_BYTES or any(octet in octets for octet in _UNQUOTABLE):
        return literal(octets)
    return quoted(octets) if octets.isascii() or (utf8 and _is_utf8(octets)) else literal(octets)


def nstring(octets: bytes | None, *, utf8: bool = False) -> bytes:
    """A string, or NIL for None."""
    return b"NIL" if octets is None else string(octets, utf8=utf8)


def astring(octets: bytes, *, utf8: bool = False) -> bytes:
    """An atom where one can carry `octets`, else a string. NIL is quoted, so that it cannot be misread."""
    if ASTRING_CHARS.fullmatch(octets) and octets.upper() != b"NIL":
        return octets
    return string(octets, utf8=utf8)


@lru_cache(maxsize=4096)
def mailbox_name(name: str, *, utf8: bool = False) -> bytes:
    """A mailbox name as the client reads it: modified UTF-7, or UTF-8 in quotes under UTF8=ACCEPT."""
    return astring(name.encode() if utf8 else mutf7.encode(name).encode("ascii"), utf8=utf8)


def fetch_line(seq: int, items: bytes) -> bytes:
    """A whole FETCH response; `items` is the inside of its parentheses."""
    return b"* %d FETCH (%b)\r\n" % (seq, items)


def fetch_flags(seqs: Iterable[int], rows: FlagRows, *, uid: bool, flags: bool, modseq: bool) -> bytes:
    """A FETCH response for each row, of UID, FLAGS and MODSEQ those asked for (at least one). All of them are one
    format: a mailbox's worth costs a fraction of line by line."""
    shapes: list[bytes] = []
    columns: list[Iterable[int | bytes]] = [seqs]
    if uid:
        shapes.append(b"UID %d")
        columns.append(rows.uids)
    if flags:
        shapes.append(b"FLAGS %b")
        columns.append(_flags_lists(rows))
    if modseq:
        shapes.append(b"MODSEQ (%d)")
        columns.append(rows.modseqs)
    values: list[int | bytes] = [0] * (len(rows) * len(columns))
    for place, column in enumerate(columns):
        values[place :: len(columns)] = column
    return b"* %%d FETCH (%b)\r\n" % b" ".join(shapes) * len(rows) % tuple(values)


def _flags_lists(rows: FlagRows) -> list[bytes]:
    texts = {value: flags_list(value, "") for value in set(rows.flags)}
    lists = [texts[value] for value in rows.flags]
    for uid, keywords in rows.keywords.items():
        at = rows.uids.index(uid)
        lists[at] = flags_list(rows.flags[at], keywords)
    return lists


@lru_cache(maxsize=4096)
def flags_list(flags: int, keywords: str) -> bytes:
    """FETCH's value of FLAGS, with its parentheses."""
    return f"({' '.join(flag_names(flags, keywords))})".encode("ascii")


@lru_cache(maxsize=1024)
def _day(number: int) -> bytes:
    day = date.fromordinal(number + EPOCH_ORDINAL)
    return f'"{day.day:2d}-{MONTHS[day.month - 1]}-{day.year:04d}'.encode("ascii")


def internal_date(epoch_s: int) -> bytes:
    """FETCH's value of INTERNALDATE, quoted, in UTC; times outside the years 1 to 9999 become the nearest inside."""
    day, second = divmod(min(max(epoch_s, _MIN_DATE_S), _MAX_DATE_S), DAY_S)
    return b'%b %02d:%02d:%02d +0000"' % (_day(day), second // 3600, second // 60 % 60, second % 60)


def modseq(value: int) -> bytes:
    """FETCH's item MODSEQ, whole (RFC 7162 §3.1.4)."""
    return b"MODSEQ (%d)" % value


def binary_size(part: str, size: int) -> bytes:
    """FETCH's item BINARY.SIZE, whole (RFC 3516 §4.3)."""
    return f"BINARY.SIZE[{part}] {size}".encode("ascii")


@lru_cache(maxsize=1024)
def body_name(body: FetchBody) -> bytes:
    """What a section's response item is called: `BODY[HEADER.FIELDS (FROM "X Y")]<0>`, `BINARY[1.2]`."""
    origin = f"<{body.partial[0]}>" if body.partial else ""
    return f"{body.name}{origin}".encode("ascii")


def _runs(numbers: Iterable[int]) -> str:
    """Numbers in their order, runs of consecutive ones as ranges: `304,319:320`."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join([str(first) if first == last else f"{first}:{last}" for first, last in runs])


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
