"""IMAP's character classes, numbers and dates, built from the ABNF of RFC 3501 §9.

Patterns work on octets and are anchored by `.match(data, pos)`; every repetition is possessive or its
follow-set is disjoint from it, so nothing backtracks. Deviations from the ABNF, all towards tolerance:
- quoted strings may hold octets ≥ 0x80 (RFC 6855, RFC 9051 §4.3; clients send UTF-8 passwords without asking);
- a partial's numbers may reach 2^63 - 1 (RFC 9051 has number64);
- date-time's day may be one digit without the leading space; a second may be 60.
Narrower than the ABNF: a tag has at most MAX_TAG_BYTES, so that an echo stays small.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from wd_trio.errors import Invalid

MAX_NUMBER: Final = 0xFFFFFFFF  # number, nz-number
MAX_NUMBER64: Final = (1 << 63) - 1
MAX_TAG_BYTES: Final = 128

_ATOM_SPECIALS: Final = rb"\x00-\x20\x7f-\xff(){%*\"\\\]"  # atom-specials and what is no CHAR
_ASTRING_SPECIALS: Final = rb"\x00-\x20\x7f-\xff(){%*\"\\"
_LIST_SPECIALS: Final = rb"\x00-\x20\x7f-\xff(){\"\\"
_TAG_SPECIALS: Final = rb"\x00-\x20\x7f-\xff(){%*\"\\+"

ATOM: Final = re.compile(rb"[^" + _ATOM_SPECIALS + rb"]++")
ASTRING_CHARS: Final = re.compile(rb"[^" + _ASTRING_SPECIALS + rb"]++")
LIST_CHARS: Final = re.compile(rb"[^" + _LIST_SPECIALS + rb"]++")
FLAG: Final = re.compile(rb"\\?[^" + _ATOM_SPECIALS + rb"]++")
USE: Final = re.compile(rb"\\[^" + _ATOM_SPECIALS + rb"]++")  # RFC 6154 use-attr
QUOTED: Final = re.compile(rb'"([^"\\\r\n\x00]*+(?:\\["\\][^"\\\r\n\x00]*+)*+)"')
QUOTED_PAIR: Final = re.compile(rb"\\(.)")
LITERAL: Final = re.compile(rb"\{([0-9]{1,20})\}\r\n")  # as framing writes it into a frame

_TAG: Final = rb"([^" + _TAG_SPECIALS + rb"]{1,%d}+)" % MAX_TAG_BYTES
TAG: Final = re.compile(_TAG + rb"(?= |\Z)")
COMMAND_HEAD: Final = re.compile(_TAG + rb" ([A-Za-z][A-Za-z0-9.-]*+)(?= |\Z)")
UID_VERB: Final = re.compile(rb" ([A-Za-z]++)(?= |\Z)")
END: Final = re.compile(rb" *+\Z")  # trailing spaces are forgiven

NUMBER: Final = re.compile(rb"[0-9]{1,19}+(?![0-9])")
_SEQ_NUMBER: Final = rb"(?:[1-9][0-9]{0,9}+|\*)"
_SEQ_RANGE: Final = _SEQ_NUMBER + rb"(?::" + _SEQ_NUMBER + rb")?+"
SEQUENCE_SET: Final = re.compile(_SEQ_RANGE + rb"(?:," + _SEQ_RANGE + rb")*+")

FETCH_WORD: Final = re.compile(rb"[A-Za-z][A-Za-z0-9.]*+")
SEARCH_WORD: Final = re.compile(rb"[A-Za-z]++")
SECTION_PART: Final = re.compile(rb"[1-9][0-9]{0,9}+(?:\.[1-9][0-9]{0,9}+)*+")
SECTION_TEXT: Final = re.compile(rb"[A-Za-z]++(?:\.[A-Za-z]++)*+")
PARTIAL: Final = re.compile(rb"<([0-9]{1,19}+)\.([0-9]{1,19}+)>")
FIELD_NAME: Final = re.compile(r"[ -9;-~]*\Z")  # RFC 5322 §3.6.8 ftext, and spaces
MECHANISM: Final = re.compile(rb"[A-Za-z0-9_-]{1,20}+(?= |\Z)")
INITIAL_RESPONSE: Final = re.compile(rb"=\Z|[A-Za-z0-9+/]++={0,2}+")

# No name may hold these: RFC 6855 §3 lists them, and no line of ours could carry the first.
MAILBOX_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAY_S: Final = 86400
EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_MONTH_NUMBERS: Final = {name.upper().encode(): number for number, name in enumerate(MONTHS, 1)}
_DATE: Final = re.compile(rb"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})\Z")
_DATE_TIME: Final = re.compile(
    rb"(?: ?([0-9])|([0-9]{2}))-([A-Za-z]{3})-([0-9]{4}) "
    rb"([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})\Z"
)


def parse_date_time(text: bytes) -> int:
    """Seconds since the epoch of a date-time without its quotes (`17-Jul-1996 02:44:25 -0700`).

    Invalid when it has another form, or names a day or a time of day that does not exist.
    """
    match = _DATE_TIME.match(text)
    if match is None:
        raise Invalid("not a date-time", what="date-time")
    one, two, month, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(zone_hour) > 23 or int(zone_minute) > 59:
        raise Invalid("no such time of day", what="date-time")
    day = _ordinal(year, month, one or two, what="date-time")
    zone_s = (int(zone_hour) * 60 + int(zone_minute)) * 60
    local_s = (day - EPOCH_ORDINAL) * DAY_S + (int(hour) * 60 + int(minute)) * 60 + int(second)
    return local_s + zone_s if sign == b"-" else local_s - zone_s


def parse_date(text: bytes) -> int:
    """The proleptic Gregorian ordinal of a date without its quotes (`1-Feb-1994`).

    Invalid when it has another form, or names a day that does not exist.
    """
    match = _DATE.match(text)
    if match is None:
        raise Invalid("not a date", what="date")
    day, month, year = match.groups()
    return _ordinal(year, month, day, what="date")


def _ordinal(year: bytes, month: bytes, day: bytes, *, what: str) -> int:
    try:
        return date(int(year), _MONTH_NUMBERS.get(month.upper(), 0), int(day)).toordinal()
    except ValueError:
        raise Invalid("no such day", what=what) from None
