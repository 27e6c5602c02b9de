"""SEARCH: every key by its value, what is refused, charsets, nesting and size, and trees printed and parsed."""

from __future__ import annotations

import random
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imap_feeds import GO_AHEAD, TRAILER, TRAILER_EVENT, bad, engine_in, feed, three_feeds

from wd_trio.mail import model as m
from wd_trio.mail import search as s
from wd_trio.mail.numset import SequenceSet
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.grammar import DAY_S, EPOCH_ORDINAL, MONTHS
from wd_trio.proto.imap.machine import EngineOptions, State
from wd_trio.proto.imap.parse import MAX_DEPTH, MAX_SEQUENCE_ITEMS
from wd_trio.proto.imap.parse_search import MAX_KEYS

FEB_1_1994 = date(1994, 2, 1).toordinal()
FEB_1_1994_S = 760060800
A, B, C, D = (s.Header("From", letter) for letter in "abcd")
SEEN = s.Flag(m.SEEN)
UNKNOWN = e.Reply(b"A1 NO [BADCHARSET (US-ASCII UTF-8)] Unknown charset\r\n", bad=False)


def found(data: bytes, *, utf8: bool = False) -> c.Search:
    [event] = three_feeds(b"A1 " + data + b"\r\n", utf8=utf8)
    assert isinstance(event, e.CommandEvent), event
    assert isinstance(event.command, c.Search)
    return event.command


KEYS = [
    (b"ALL", s.All()),
    (b"ANSWERED", s.Flag(m.ANSWERED)),
    (b"deleted", s.Flag(m.DELETED)),
    (b"Draft", s.Flag(m.DRAFT)),
    (b"FLAGGED", s.Flag(m.FLAGGED)),
    (b"SEEN", SEEN),
    (b"UNANSWERED", s.Not(s.Flag(m.ANSWERED))),
    (b"UNDELETED", s.Not(s.Flag(m.DELETED))),
    (b"UNDRAFT", s.Not(s.Flag(m.DRAFT))),
    (b"UNFLAGGED", s.Not(s.Flag(m.FLAGGED))),
    (b"UNSEEN", s.Not(SEEN)),
    (b"NEW", s.NOTHING),
    (b"RECENT", s.NOTHING),
    (b"OLD", s.All()),
    (b"BCC a", s.Header("Bcc", "a")),
    (b'CC "a b"', s.Header("Cc", "a b")),
    (b"from {4+}\r\na\r\nb", s.Header("From", "a\r\nb")),
    (b'SUBJECT ""', s.Header("Subject", "")),
    (b"TO NIL", s.Header("To", "NIL")),
    (b"HEADER x-Spam {0+}\r\n", s.Header("x-Spam", "")),
    (b'HEADER "Message-Id" "<a@b>"', s.Header("Message-Id", "<a@b>")),
    (b'BODY "\\"x\\\\"', s.Body('"x\\')),
    (b"TEXT SEEN", s.Text("SEEN")),
    (b"KEYWORD $Fwd", s.Keyword("$Fwd")),
    (b"UNKEYWORD seen", s.Not(s.Keyword("seen"))),
    (b"LARGER 0", s.Size(0, None)),
    (b"SMALLER 4294967296", s.Size(None, 4294967296)),
    (b"BEFORE 1-Feb-1994", s.InternalDate(None, FEB_1_1994_S)),
    (b'ON "01-FEB-1994"', s.InternalDate(FEB_1_1994_S, FEB_1_1994_S + DAY_S)),
    (b"SINCE 01-feb-1994", s.InternalDate(FEB_1_1994_S, None)),
    (b"SENTBEFORE 1-Feb-1994", s.SentDate(None, FEB_1_1994)),
    (b"SENTON 1-Feb-1994", s.SentDate(FEB_1_1994, FEB_1_1994 + 1)),
    (b'SENTSINCE "1-Feb-1994"', s.SentDate(FEB_1_1994, None)),
    (b"ON 31-Dec-9999", s.InternalDate(253402214400, 253402300800)),
    (b"SENTON 31-Dec-9999", s.SentDate(date.max.toordinal(), date.max.toordinal() + 1)),
    (b"OLDER 1", s.Age(1, None)),
    (b"YOUNGER 259200", s.Age(None, 259200)),
    (b"MODSEQ 0", s.ModSeq(0)),
    (b"MODSEQ 9223372036854775807", s.ModSeq((1 << 63) - 1)),
    (b'MODSEQ "/flags/\\\\draft" all 620162338', s.ModSeq(620162338)),
    (b'MODSEQ "/flags/kw" Priv 5', s.ModSeq(5)),
    (b"2:4,7", s.Numbers(SequenceSet(((2, 4), (7, 7))), uid=False)),
    (b"*", s.Numbers(SequenceSet(((0, 0),)), uid=False)),
    (b"UID 5:*", s.Numbers(SequenceSet(((5, 0),)), uid=True)),
    (b"NOT SEEN", s.Not(SEEN)),
    (b"NOT UNSEEN", s.Not(s.Not(SEEN))),
    (b"(SEEN)", SEEN),
    (b"((((SEEN))))", SEEN),
    (b"(SEEN 1:2)", s.And((SEEN, s.Numbers(SequenceSet(((1, 2),)), uid=False)))),
    (b"SEEN ", SEEN),
    (b"SEEN FROM a", s.And((SEEN, A))),
    (b"NOT (FROM a FROM b)", s.Not(s.And((A, B)))),
    (b"NOT FROM a FROM b", s.And((s.Not(A), B))),
    (b"OR FROM a FROM b", s.Or((A, B))),
    (b"OR FROM a OR FROM b OR FROM c FROM d", s.Or((A, B, C, D))),
    (b"OR OR OR FROM a FROM b FROM c FROM d", s.Or((A, B, C, D))),
    (b"OR OR FROM a FROM b OR FROM c FROM d", s.Or((A, B, C, D))),
    (b"or (FROM a FROM b) FROM c FROM d", s.And((s.Or((s.And((A, B)), C)), D))),
    (b"OR NOT OR FROM a FROM b FROM c", s.Or((s.Not(s.Or((A, B))), C))),
    (b"FROM a OR FROM b FROM c FROM d", s.And((A, s.Or((B, C)), D))),
]


@pytest.mark.parametrize(("text", "key"), KEYS, ids=[repr(text)[:60] for text, _ in KEYS])
def test_keys(text: bytes, key: s.SearchKey) -> None:
    assert found(b"SEARCH " + text) == c.Search(False, key)
    assert found(b"UID SEARCH " + text) == c.Search(True, key)
    assert found(b"SEARCH RETURN (MIN) CHARSET us-ascii " + text) == c.Search(False, key, frozenset({"MIN"}))


@pytest.mark.parametrize(
    ("text", "returns"),
    [
        (b"", None),
        (b"RETURN () ", frozenset()),
        (b"return (count) ", frozenset({"COUNT"})),
        (b"RETURN (MIN MAX ALL COUNT) ", frozenset({"MIN", "MAX", "ALL", "COUNT"})),
    ],
)
def test_returns(text: bytes, returns: frozenset[str] | None) -> None:
    assert found(b"SEARCH " + text + b"SEEN") == c.Search(False, SEEN, returns)


@pytest.mark.parametrize(
    ("charset", "octets", "text"),
    [
        (b"UTF-8", "Grüße".encode(), "Grüße"),
        (b'"utf-8"', b"plain", "plain"),
        (b"{5+}\r\nUTF-8", "ß".encode(), "ß"),
        (b"US-ASCII", "ß".encode(), "ß"),
        (b"iso-8859-1", b"Gr\xfc\xdfe", "Grüße"),
        (b"ISO-8859-15", b"\xa4", "€"),
        (b"windows-1252", b"\x80", "€"),
        (b"KOI8-R", b"\xd0\xd2\xc9", "при"),
        (b"ISO-2022-JP", b"\x1b$B8!:w\x1b(B", "検索"),
        (b"Shift_JIS", b"\x8c\x9f\x8d\xf5", "検索"),
        (b"UTF-7", b"+AOQ-", "ä"),
    ],
)
def test_charsets(charset: bytes, octets: bytes, text: str) -> None:
    data = b"SEARCH CHARSET %b OR SUBJECT {%d+}\r\n%b HEADER X {%d+}\r\n%b" % (
        *(charset, len(octets), octets),
        *(len(octets), octets),
    )
    key = s.Or((s.Header("Subject", text), s.Header("X", text)))
    assert found(data) == c.Search(False, key)


def test_without_a_charset_texts_are_utf8() -> None:
    for data in (b'SEARCH BODY "\xc3\x9f"', b"SEARCH BODY {2+}\r\n\xc3\x9f"):
        assert found(data) == c.Search(False, s.Body("ß"))
        assert found(data, utf8=True) == c.Search(False, s.Body("ß"))


@pytest.mark.parametrize(
    "line",
    [
        b"SEARCH CHARSET x-klingon ALL",
        b'UID SEARCH RETURN () charset "" TEXT {11+}\r\nA2 LOGOUT\r\n ALL',
        b"SEARCH CHARSET idna SUBJECT {11}",
        b"SEARCH CHARSET {9+}\r\nX-Klingon SHOES",
        b"SEARCH CHARSET base64 ALL",
        b"SEARCH CHARSET " + b"x" * 5000 + b" ALL",
    ],
)
def test_unknown_charsets(line: bytes) -> None:
    """RFC 3501 §6.4.4: NO with BADCHARSET, and its literals are no commands."""
    assert three_feeds(b"A1 " + line + b"\r\n") == [UNKNOWN]


def test_literals_are_asked_for_one_by_one() -> None:
    data = b"A1 SEARCH CHARSET {5}\r\nUTF-8 (FROM {1}\r\na NOT SUBJECT {2}\r\n\xc3\x9f)\r\n"
    key = s.And((A, s.Not(s.Header("Subject", "ß"))))
    event = e.CommandEvent("A1", "SEARCH", c.Search(False, key))
    assert three_feeds(data) == [GO_AHEAD, GO_AHEAD, GO_AHEAD, event]


FAULTS = [
    (b"SEARCH", "Missing argument"),
    (b"SEARCH ", "Expected a search key"),
    (b"SEARCH  ALL", "Expected a search key"),
    (b"SEARCH SHOES", "Unknown search key"),
    (b"SEARCH ORANGE", "Unknown search key"),
    (b"SEARCH ALL1", "Expected a space"),
    (b"SEARCH ALL)", "Expected a space"),
    (b"SEARCH ALL  SEEN", "Expected a search key"),
    (b"SEARCH (ALL", "Missing argument"),
    (b"SEARCH ()", "Expected a search key"),
    (b"SEARCH (ALL )", "Expected a search key"),
    (b"SEARCH ALL(SEEN)", "Expected a space"),
    (b'SEARCH "ALL"', "Expected a search key"),
    (b"SEARCH NOT", "Missing argument"),
    (b"SEARCH NOT ", "Expected a search key"),
    (b"SEARCH OR", "Missing argument"),
    (b"SEARCH OR ALL", "Missing argument"),
    (b"SEARCH OR OR ALL ALL", "Missing argument"),
    (b"SEARCH OR (ALL)SEEN", "Expected a space"),
    (b"SEARCH (OR ALL) SEEN", "Expected a space"),
    (b"SEARCH 0", "Expected a search key"),
    (b"SEARCH 1:0", "Expected a space"),
    (b"SEARCH 4294967296", "Invalid message set"),
    (b"SEARCH $", "Expected a search key"),
    (b"SEARCH UID", "Missing argument"),
    (b"SEARCH UID ALL", "Invalid message set"),
    (b"SEARCH FROM", "Missing argument"),
    (b"SEARCH FROM (a)", "Expected a string"),
    (b"SEARCH FROM \xc3\xa9", "Expected a string"),
    (b'SEARCH FROM "\xff"', "Text is not in its charset"),
    (b"SEARCH FROM {1+}\r\n\xff", "Text is not in its charset"),
    (b"SEARCH FROM {1+}\r\n\0", "NUL in a literal"),
    (b'SEARCH CHARSET ISO-2022-JP FROM "\xff"', "Text is not in its charset"),
    (b"SEARCH CHARSET UTF-16 FROM abc", "Text is not in its charset"),
    (b"SEARCH CHARSET UTF-7 FROM +2AA-", "Text is not in its charset"),
    (b"SEARCH CHARSET", "Unknown search key"),
    (b"SEARCH CHARSET UTF-8", "Missing argument"),
    (b"SEARCH CHARSET UTF-8 CHARSET UTF-8 ALL", "Unknown search key"),
    (b"SEARCH CHARSET UTF-8 RETURN () ALL", "Unknown search key"),
    (b'SEARCH CHARSET "\xff" ALL', "Argument is not UTF-8"),
    (b"SEARCH HEADER Subject", "Missing argument"),
    (b"SEARCH KEYWORD \\Seen", "Expected a keyword"),
    (b'SEARCH KEYWORD "x"', "Expected a keyword"),
    (b"SEARCH UNKEYWORD", "Missing argument"),
    (b"SEARCH LARGER -1", "Expected a number"),
    (b"SEARCH SMALLER 9223372036854775808", "Number is too large"),
    (b"SEARCH OLDER 0", "An interval is at least one second"),
    (b"SEARCH YOUNGER x", "Expected a number"),
    (b"SEARCH ON 30-Feb-1994", "Invalid date"),
    (b"SEARCH ON 0-Feb-1994", "Invalid date"),
    (b"SEARCH ON 001-Feb-1994", "Invalid date"),
    (b"SEARCH ON 1-Foo-1994", "Invalid date"),
    (b"SEARCH ON 1-Feb-94", "Invalid date"),
    (b"SEARCH ON 1-Feb-0000", "Invalid date"),
    (b"SEARCH ON 1994-02-01", "Invalid date"),
    (b'SEARCH ON " 1-Feb-1994"', "Invalid date"),
    (b"SEARCH SENTON yesterday", "Invalid date"),
    (b'SEARCH SENTSINCE "1-Feb-1994', "Malformed quoted string"),
    (b"SEARCH SINCE", "Missing argument"),
    (b"SEARCH MODSEQ", "Missing argument"),
    (b"SEARCH MODSEQ -1", "Expected a number"),
    (b'SEARCH MODSEQ "/flags/x" 5', "Unknown entry type"),
    (b'SEARCH MODSEQ "/flags/x" shoes 5', "Unknown entry type"),
    (b'SEARCH MODSEQ "/comment" all 5', "Unknown metadata entry"),
    (b'SEARCH MODSEQ "/flags/x" all', "Missing argument"),
    (b"SEARCH RETURN", "Unknown search key"),
    (b"SEARCH RETURN ALL", "Expected a parenthesis"),
    (b"SEARCH RETURN ()", "Missing argument"),
    (b"SEARCH RETURN (SAVE) ALL", "Unknown SEARCH option"),
    (b"SEARCH RETURN (MIN", "Missing argument"),
    (b"SEARCH RETURN () RETURN () ALL", "Unknown search key"),
    (b"UID SEARCH", "Missing argument"),
]


@pytest.mark.parametrize(("line", "text"), FAULTS, ids=[repr(line)[:60] for line, _ in FAULTS])
def test_faults(line: bytes, text: str) -> None:
    assert three_feeds(b"A1 " + line + b"\r\n") == [bad(text)]


def test_no_charset_in_utf8_mode() -> None:
    for line in (b"SEARCH CHARSET UTF-8 ALL", b"SEARCH CHARSET {5+}\r\nUTF-8 ALL", b"SEARCH CHARSET {5}"):
        assert three_feeds(b"A1 " + line + b"\r\n", utf8=True) == [
            bad("CHARSET has no place under UTF8=ACCEPT")
        ]


def test_depth_is_capped() -> None:
    too_deep = bad("Search keys are nested too deeply")
    command = found(b"SEARCH " + b"NOT " * MAX_DEPTH + b"ALL")
    key, depth = command.key, 0
    while isinstance(key, s.Not):
        key, depth = key.key, depth + 1
    assert depth == MAX_DEPTH
    assert three_feeds(b"A1 SEARCH " + b"NOT " * (MAX_DEPTH + 1) + b"ALL\r\n") == [too_deep]
    assert found(b"SEARCH " + b"(" * MAX_DEPTH + b"ALL" + b")" * MAX_DEPTH) == c.Search(False, s.All())
    assert three_feeds(b"A1 SEARCH " + b"(" * (MAX_DEPTH + 1) + b"ALL\r\n") == [
        bad("Too many nested parentheses")
    ]
    mixed = b"OR NOT (SEEN " * (MAX_DEPTH // 3)
    closed = b"ALL" + b") ALL" * (MAX_DEPTH // 3)
    assert isinstance(found(b"SEARCH " + mixed + closed).key, s.Or)
    assert three_feeds(b"A1 SEARCH " + mixed * 2 + closed + b"\r\n") == [too_deep]


LARGE = EngineOptions(max_command_bytes=16 << 20)
MANY = 100_000


def answer(line: bytes) -> e.Event:
    """What one command gets from an engine that takes large ones."""
    event, trailer = feed(engine_in(State.SELECTED, LARGE), [line + b"\r\n", TRAILER])
    assert trailer == TRAILER_EVENT
    return event


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"OR ALL " * MANY + b"ALL", "Too many search keys"),
        (b"OR " * MANY + b"ALL " * MANY + b"ALL", "Too many search keys"),
        (b"OR NOT " * MANY + b"ALL", "Search keys are nested too deeply"),
        (b"NOT " * 10_000 + b"ALL", "Search keys are nested too deeply"),
        (b"NOT (" * MANY + b"ALL", "Search keys are nested too deeply"),
        (b"(" * MANY + b"ALL" + b")" * MANY, "Too many nested parentheses"),
        (b"ALL " * MANY + b"ALL", "Too many search keys"),
        (b"(" + b"ALL " * MANY + b"ALL)", "Too many search keys"),
        (b"1," * 1_000_000 + b"1", "Message set has too many items"),
        (b"UID " + b"1," * 1_000_000 + b"1", "Message set has too many items"),
        (b'SUBJECT "' + b'\\"' * MANY, "Malformed quoted string"),
        (b"MODSEQ " + b"9" * MANY, "Expected a number"),
        (b"ON " + b"1" * MANY, "Invalid date"),
        (b"KEYWORD " + b"x" * MANY + b"]", "Expected a space"),
        (b"x" * MANY, "Unknown search key"),
    ],
)
def test_large_programs(line: bytes, text: str) -> None:
    assert answer(b"A1 SEARCH " + line) == bad(text)


def test_the_largest_programs_that_are_taken() -> None:
    operands = MAX_KEYS // 2
    for line in (b"OR ALL " * (operands - 1) + b"ALL", b"OR " * (operands - 1) + b"ALL " * operands):
        event = answer(b"A1 SEARCH " + line)
        assert isinstance(event, e.CommandEvent)
        assert isinstance(event.command, c.Search)
        assert event.command.key == s.Or((s.All(),) * operands)
    event = answer(b"A1 SEARCH " + b"ALL " * (MAX_KEYS - 1) + b"ALL")
    assert isinstance(event, e.CommandEvent)
    event = answer(b"A1 SEARCH UID " + b",".join([b"1"] * MAX_SEQUENCE_ITEMS))
    assert isinstance(event, e.CommandEvent)


def test_garbage_of_search_words() -> None:
    words = [b"OR ", b"NOT ", b"(", b")", b" ", b"ALL ", b"FROM ", b'"', b"x ", b"{1+}\r\n", b"1:* ", b"UID "]
    words += [b"CHARSET ", b"UTF-8 ", b"RETURN ", b"(MIN) ", b"ON ", b"1-Feb-1994 ", b"MODSEQ ", b"\xff"]
    chooser = random.Random(3)
    for _ in range(300):
        line = b"A1 SEARCH " + b"".join(chooser.choices(words, k=chooser.randrange(30)))
        # Twice a line end: the first may fall to a literal that the line ends in.
        found_events = feed(engine_in(State.SELECTED), [line + b"\r\n\r\n\r\n" + TRAILER])
        assert found_events[-1] == TRAILER_EVENT
        assert all(isinstance(event, e.CommandEvent | e.Reply) for event in found_events)


# Trees printed the way clients may print them parse to the value they were printed from.

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(1, 0xFFFFFFFF)
NUMBER64 = st.integers(0, (1 << 63) - 1)
DAY = st.integers(1, date.max.toordinal() - 1)
RANGES = st.one_of(
    NUMBER.map(lambda n: (n, n)),
    st.tuples(NUMBER, NUMBER).map(lambda pair: (min(pair), max(pair))),
    (NUMBER | st.just(0)).map(lambda n: (n, 0)),
)
SETS = st.lists(RANGES, min_size=1, max_size=4).map(lambda items: SequenceSet(tuple(items)))


def start_s(day: int) -> int:
    return (day - EPOCH_ORDINAL) * DAY_S


LEAVES = st.one_of(
    st.sampled_from([s.All(), s.NOTHING, *(s.Flag(bit) for bit in m.SYSTEM_FLAGS.values())]),
    st.builds(s.Numbers, SETS, st.booleans()),
    st.text("abcXYZ$-_.019", min_size=1, max_size=8).map(s.Keyword),
    DAY.map(lambda day: s.InternalDate(None, start_s(day))),
    DAY.map(lambda day: s.InternalDate(start_s(day), None)),
    DAY.map(lambda day: s.InternalDate(start_s(day), start_s(day + 1))),
    DAY.map(lambda day: s.SentDate(None, day)),
    DAY.map(lambda day: s.SentDate(day, None)),
    DAY.map(lambda day: s.SentDate(day, day + 1)),
    NUMBER64.map(lambda size: s.Size(size, None)),
    NUMBER64.map(lambda size: s.Size(None, size)),
    NUMBER.map(lambda age: s.Age(age, None)),
    NUMBER.map(lambda age: s.Age(None, age)),
    NUMBER64.map(s.ModSeq),
    st.builds(s.Header, TEXT | st.sampled_from(["From", "To", "Subject", "Cc", "Bcc"]), TEXT),
    TEXT.map(s.Body),
    TEXT.map(s.Text),
)
OPERANDS = 4
TREES: st.SearchStrategy[s.SearchKey] = st.recursive(
    LEAVES,
    lambda keys: st.one_of(
        keys.map(s.Not),
        st.lists(keys, min_size=2, max_size=OPERANDS).map(lambda found: s.And(tuple(found))),
        # An Or within an Or does not come back: the parser makes one of both.
        st.lists(keys.filter(lambda key: not isinstance(key, s.Or)), min_size=2, max_size=OPERANDS).map(
            lambda found: s.Or(tuple(found))
        ),
    ),
    max_leaves=12,
)


def print_text(text: str) -> bytes:
    return encode.astring(text.encode(), utf8=True).replace(b"}\r\n", b"+}\r\n", 1)


def print_day(day: int) -> bytes:
    that = date.fromordinal(day)
    return f"{that.day}-{MONTHS[that.month - 1]}-{that.year:04d}".encode()


def print_range(word: str, first: int | None, last: int | None) -> bytes:
    """BEFORE, ON, SINCE and their SENT… forms, of ordinals."""
    if first is None:
        assert last is not None
        return f"{word}BEFORE ".encode() + print_day(last)
    return f"{word}{'SINCE' if last is None else 'ON'} ".encode() + print_day(first)


def print_key(key: s.SearchKey, chooser: random.Random) -> bytes:
    """One of the legal spellings."""
    match key:
        case s.And(keys):
            return b"(%b)" % b" ".join([print_key(each, chooser) for each in keys])
        case s.Or(keys):
            return print_or([print_key(each, chooser) for each in keys], chooser)
        case s.Not(s.Flag(bit)) if chooser.random() < 0.5:
            # Not(Flag) has a word of its own.
            return f"UN{flag_word(bit)}".encode()
        case s.Not(s.Keyword(word)) if chooser.random() < 0.5:
            return f"UNKEYWORD {word}".encode()
        case s.Not(inner):
            return b"NOT " + print_key(inner, chooser)
        case s.Header(name, text) if (
            name in ("From", "To", "Subject", "Cc", "Bcc") and chooser.random() < 0.5
        ):
            return name.upper().encode() + b" " + print_text(text)
        case _:
            return print_leaf(key, chooser)


def print_or(operands: list[bytes], chooser: random.Random) -> bytes:
    """ORs of two, nested to the left and the right at random."""
    if len(operands) == 1:
        return operands[0]
    cut = chooser.randrange(1, len(operands))
    return b"OR %b %b" % (print_or(operands[:cut], chooser), print_or(operands[cut:], chooser))


def flag_word(bit: int) -> str:
    return next(name for name, value in m.SYSTEM_FLAGS.items() if value == bit)[1:].upper()


def print_leaf(key: s.SearchKey, chooser: random.Random) -> bytes:
    match key:
        case s.All():
            return chooser.choice([b"ALL", b"OLD"])
        case s.Uids():
            return chooser.choice([b"NEW", b"RECENT"])
        case s.Flag(bit):
            return flag_word(bit).encode()
        case s.Numbers(numbers, uid):
            return f"{'UID ' if uid else ''}{numbers}".encode()
        case s.Keyword(word):
            return f"KEYWORD {word}".encode()
        case s.InternalDate(first, last):
            days = [None if at_s is None else at_s // DAY_S + EPOCH_ORDINAL for at_s in (first, last)]
            return print_range("", *days)
        case s.SentDate(first, last):
            return print_range("SENT", first, last)
        case s.Size(larger, smaller):
            return (f"SMALLER {smaller}" if larger is None else f"LARGER {larger}").encode()
        case s.Age(older, younger):
            return (f"YOUNGER {younger}" if older is None else f"OLDER {older}").encode()
        case s.ModSeq(least):
            entry = chooser.choice(["", '"/flags/\\\\Seen" shared '])
            return f"MODSEQ {entry}{least}".encode()
        case s.Header(name, text):
            return b"HEADER %b %b" % (print_text(name), print_text(text))
        case s.Body(text):
            return b"BODY " + print_text(text)
        case s.Text(text):
            return b"TEXT " + print_text(text)
    raise AssertionError(key)


@settings(max_examples=400, deadline=None)
@given(
    TREES,
    st.booleans(),
    st.none() | st.frozensets(st.sampled_from(["MIN", "MAX", "ALL", "COUNT"])),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_print_then_parse(
    key: s.SearchKey, uid: bool, returns: frozenset[str] | None, names_charset: bool, chooser: random.Random
) -> None:
    line = b"t UID SEARCH" if uid else b"t SEARCH"
    if returns is not None:
        line += f" RETURN ({' '.join(sorted(returns))})".encode()
    if names_charset:
        line += b" CHARSET UTF-8"
    printed = print_key(key, chooser)
    if isinstance(key, s.And) and chooser.random() < 0.5:
        printed = printed[1:-1]  # what stands side by side is one And
    [event] = feed(engine_in(State.SELECTED), [line + b" " + printed + b"\r\n"])
    assert isinstance(event, e.CommandEvent), (event, printed)
    assert event.command == c.Search(uid, key, returns)
