"""Commands printed the way clients may print them parse to the value they were printed from."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from imap_feeds import engine_in

from wd_trio.mail import model as m
from wd_trio.mail.numset import SequenceSet
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.machine import State
from wd_trio.proto.imap.parse_fetch import section_name
from wd_trio.secret import Secret

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NAME = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"), max_size=20
).filter(lambda name: name.split("/")[0].upper() != "INBOX")
NUMBER = st.integers(1, 0xFFFFFFFF)
RANGES = st.one_of(
    NUMBER.map(lambda n: (n, n)),
    st.tuples(NUMBER, NUMBER).map(lambda pair: (min(pair), max(pair))),
    (NUMBER | st.just(0)).map(lambda n: (n, 0)),
)
MESSAGES = st.lists(RANGES, min_size=1, max_size=6).map(lambda items: SequenceSet(tuple(items)))
KEYWORDS = st.lists(st.text("abcXYZ$-_.019", min_size=1, max_size=8), max_size=4).map(m.join_keywords)
FIELD = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=":"), max_size=12)
PART = st.lists(st.integers(1, 99), max_size=3).map(lambda numbers: ".".join(map(str, numbers)))


@st.composite
def sections(draw: st.DrawFn) -> c.Section:
    part = draw(PART)
    texts = ["", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", *(["MIME"] if part else [])]
    text = draw(st.sampled_from(texts))
    fields = draw(st.lists(FIELD, min_size=1, max_size=3)) if "FIELDS" in text else []
    return c.Section(part, text, tuple(fields))


@st.composite
def bodies(draw: st.DrawFn) -> c.FetchBody:
    section = draw(sections())
    partial = draw(st.none() | st.tuples(st.integers(0, (1 << 63) - 1), st.integers(1, (1 << 63) - 1)))
    return c.FetchBody(section_name(section), section, draw(st.booleans()), partial)


@st.composite
def fetches(draw: st.DrawFn) -> c.Fetch:
    uid = draw(st.booleans())
    words = ["FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE"]
    items = draw(st.lists(st.sampled_from(words), unique=True))
    found = draw(st.lists(bodies(), max_size=3, unique_by=lambda body: (body.name, body.partial)))
    if not uid and not items and not found:
        items = ["FLAGS"]
    return c.Fetch(uid, draw(MESSAGES), (*(["UID"] if uid else []), *items), tuple(found))


STORES = st.builds(
    c.Store,
    st.booleans(),
    MESSAGES,
    st.sampled_from(["set", "add", "remove"]),
    st.booleans(),
    st.integers(0, 31),
    KEYWORDS,
)
COMMANDS = st.one_of(
    fetches(),
    STORES,
    st.builds(c.Login, TEXT, TEXT.map(Secret)),
    st.builds(c.Authenticate, st.sampled_from(["PLAIN", "X-OAUTH_2"]), st.none() | st.binary(max_size=40)),
    st.builds(c.Select, NAME, st.booleans()),
    st.builds(c.List, NAME, NAME.map(lambda name: (name,))),
    st.builds(
        c.Status,
        NAME,
        st.lists(
            st.sampled_from(["MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN"]),
            min_size=1,
            unique=True,
        ).map(tuple),
    ),
    st.builds(c.Expunge, MESSAGES),
    st.builds(
        c.Append, NAME, st.integers(0, 31), KEYWORDS, st.none() | st.integers(0, 10**10), st.integers(0, 9999)
    ),
    st.builds(
        c.Id,
        st.lists(
            st.tuples(st.text("abc", min_size=1, max_size=8), st.none() | TEXT), min_size=1, max_size=4
        ).map(tuple),
    ),
)


def print_command(command: c.Command) -> bytes:
    """One of the legal spellings; literals synchronise."""
    match command:
        case c.Login(username, password):
            return b"LOGIN %b %b" % (
                encode.astring(username.encode()),
                encode.astring(password.reveal().encode()),
            )
        case c.Authenticate(mechanism, initial):
            shown = b"" if initial is None else b" " + (b64encode(initial) or b"=")
            return b"AUTHENTICATE " + mechanism.lower().encode() + shown
        case c.Select(mailbox, read_only):
            return (b"EXAMINE " if read_only else b"SELECT ") + encode.mailbox_name(mailbox)
        case c.List(reference, (pattern,)):
            return b"LIST %b %b" % (encode.mailbox_name(reference), encode.mailbox_name(pattern))
        case c.Status(mailbox, items):
            return b"STATUS %b (%b)" % (encode.mailbox_name(mailbox), " ".join(items).encode())
        case c.Expunge(messages):
            return f"UID EXPUNGE {messages}".encode()
        case c.Id(fields):
            return encode.id_line(fields)[2:-2]
        case c.Append(mailbox, flags, keywords, internal_date, size):
            when = b"" if internal_date is None else encode.internal_date(internal_date) + b" "
            shown = encode.flags_list(flags, keywords)
            return b"APPEND %b %b %b{%d}" % (encode.mailbox_name(mailbox), shown, when, size)
        case c.Store(uid, messages, mode, silent, flags, keywords):
            word = {"set": "", "add": "+", "remove": "-"}[mode] + "FLAGS" + (".SILENT" if silent else "")
            start = f"{'UID ' if uid else ''}STORE {messages} {word} ".encode()
            return start + encode.flags_list(flags, keywords)
        case c.Fetch(uid, messages, items, found):
            shown = b" ".join([*(item.encode() for item in items), *map(print_body, found)])
            return f"{'UID ' if uid else ''}FETCH {messages} ".encode() + b"(%b)" % shown
    raise AssertionError(command)


def print_body(body: c.FetchBody) -> bytes:
    name = body.name.replace("BODY[", "BODY.PEEK[", 1) if body.peek else body.name
    return (name + (f"<{body.partial[0]}.{body.partial[1]}>" if body.partial else "")).encode()


@settings(max_examples=500, deadline=None)
@given(COMMANDS)
def test_print_then_parse(command: c.Command) -> None:
    before = isinstance(command, c.Login | c.Authenticate)
    engine = engine_in(State.NOT_AUTHENTICATED if before else State.SELECTED)
    engine.receive(b"t " + print_command(command) + b"\r\n")
    event = engine.next_event()
    while isinstance(event, e.Reply) and not event.bad:
        event = engine.next_event()
    assert isinstance(event, e.CommandEvent | e.AppendEvent), event
    assert event.command == command
