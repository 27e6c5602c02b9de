"""Commands printed the way clients may print them parse to the value they were printed from."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from imap_feeds import engine_in

from wd_trio.mail import model as m
from wd_trio.mail.numset import EMPTY, SequenceSet, UidSet
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
NUMBER64 = st.integers(0, (1 << 63) - 1)
MODSEQ = st.integers(1, (1 << 63) - 1)
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
    partial = draw(st.none() | st.tuples(NUMBER64, st.integers(1, (1 << 63) - 1)))
    if draw(st.booleans()):
        part = draw(PART)
        return c.FetchBody(f"BINARY[{part}]", c.Section(part), draw(st.booleans()), partial, True)
    section = draw(sections())
    return c.FetchBody(section_name(section), section, draw(st.booleans()), partial)


@st.composite
def fetches(draw: st.DrawFn) -> c.Fetch:
    uid = draw(st.booleans())
    words = ["FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE", "MODSEQ"]
    items = draw(st.lists(st.sampled_from(words), unique=True))
    found = draw(st.lists(bodies(), max_size=3, unique_by=lambda body: (body.name, body.partial)))
    sizes = draw(st.lists(PART, max_size=2, unique=True))
    changed_since = draw(st.none() | MODSEQ)
    vanished = uid and changed_since is not None and draw(st.booleans())
    if not uid and not items and not found and not sizes:
        items = ["FLAGS"]
    if changed_since is not None and "MODSEQ" not in items:
        items.append("MODSEQ")
    plain = (*(["UID"] if uid else []), *items)
    return c.Fetch(uid, draw(MESSAGES), plain, tuple(found), tuple(sizes), changed_since, vanished)


UID_SETS = st.lists(st.integers(1, 60) | NUMBER, min_size=1, max_size=9).map(UidSet.of)


@st.composite
def resyncs(draw: st.DrawFn) -> c.Resync:
    match = EMPTY, EMPTY
    if draw(st.booleans()):
        one, other = draw(UID_SETS), draw(UID_SETS)
        count = min(len(one), len(other))
        match = one.slice(0, count), other.slice(0, count)
    return c.Resync(draw(NUMBER), draw(MODSEQ), draw(st.none() | UID_SETS), match)


STORES = st.builds(
    c.Store,
    st.booleans(),
    MESSAGES,
    st.sampled_from(["set", "add", "remove"]),
    st.booleans(),
    st.integers(0, 31),
    KEYWORDS,
    st.none() | NUMBER64,
)
STATUS_WORDS = ["MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ", "SIZE"]
STATUS_WORDS += ["APPENDLIMIT", "DELETED", "DELETED-STORAGE"]
STATUS_ITEMS = st.lists(st.sampled_from(STATUS_WORDS), min_size=1, unique=True).map(tuple)
ATOM = st.text("ABCXYZ-=._09", min_size=1, max_size=12)


@st.composite
def extended_lists(draw: st.DrawFn) -> c.List:
    selection = draw(st.frozensets(st.sampled_from(["SUBSCRIBED", "REMOTE", "SPECIAL-USE"])))
    recursive = draw(st.booleans())
    if recursive and selection - {"REMOTE"}:
        selection |= {"RECURSIVEMATCH"}
    returns = draw(st.frozensets(st.sampled_from(["SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS"])))
    patterns = tuple(draw(st.lists(NAME, min_size=1, max_size=4, unique=True)))
    items = draw(STATUS_ITEMS) if "STATUS" in returns else ()
    return c.List(draw(NAME), patterns, selection, returns, items, extended=True)


def without_separator(name: str) -> str:
    """A name as CREATE gives it: one separator at its end is no part of it."""
    return name.removesuffix("/")


COMMANDS = st.one_of(
    fetches(),
    STORES,
    st.builds(c.Login, TEXT, TEXT.map(Secret)),
    st.builds(c.Authenticate, st.sampled_from(["PLAIN", "X-OAUTH_2"]), st.none() | st.binary(max_size=40)),
    st.builds(c.Select, NAME, st.booleans(), st.booleans(), st.none() | resyncs()),
    st.builds(c.List, NAME, NAME.map(lambda name: (name,))),
    extended_lists(),
    st.builds(c.Lsub, NAME, NAME),
    st.builds(c.Status, NAME, STATUS_ITEMS),
    st.builds(
        c.Create,
        NAME.map(without_separator),
        st.lists(st.sampled_from(["\\Sent", "\\Drafts", "\\X-Odd"]), max_size=3, unique=True).map(tuple),
    ),
    st.builds(c.Delete, NAME),
    st.builds(c.Rename, NAME, NAME),
    st.builds(c.Subscribe, NAME, st.booleans()),
    st.just(c.Check()),
    st.builds(c.Enable, st.lists(ATOM, min_size=1, max_size=4, unique=True).map(tuple)),
    st.builds(c.GetQuota, TEXT),
    st.builds(c.GetQuotaRoot, NAME),
    st.builds(c.SetQuota, TEXT, st.lists(st.tuples(ATOM, NUMBER64), max_size=3).map(tuple)),
    st.builds(c.Copy, st.booleans(), MESSAGES, NAME, st.booleans()),
    st.builds(c.Expunge, MESSAGES),
    st.builds(
        c.Append,
        NAME,
        st.integers(0, 31),
        KEYWORDS,
        st.none() | st.integers(0, 10**10),
        st.integers(0, 9999),
        binary=st.booleans(),
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
            return b"LOGIN " + print_texts(username, password.reveal())
        case c.Authenticate(mechanism, initial):
            shown = b"" if initial is None else b" " + (b64encode(initial) or b"=")
            return b"AUTHENTICATE " + mechanism.lower().encode() + shown
        case c.Id(fields):
            return encode.id_line(fields)[2:-2]
        case c.Enable(names):
            return f"ENABLE {' '.join(names)}".encode()
        case c.Check():
            return b"check"
        case c.GetQuota(root):
            return b"GETQUOTA " + print_texts(root)
        case c.SetQuota(root, limits):
            shown = " ".join(f"{name} {limit}" for name, limit in limits).encode()
            return b"SETQUOTA %b (%b)" % (print_texts(root), shown)
        case c.Append(mailbox, flags, keywords, internal_date, size, _, binary):
            when = b"" if internal_date is None else encode.internal_date(internal_date) + b" "
            shown = encode.flags_list(flags, keywords)
            head = encode.literal8_head(size) if binary else encode.literal_head(size)
            return b"APPEND %b %b %b%b" % (encode.mailbox_name(mailbox), shown, when, head[:-2])
    return print_on_mailboxes(command) or print_on_messages(command)


def print_on_mailboxes(command: c.Command) -> bytes:
    """Likewise; nothing for a command on messages."""
    match command:
        case c.Select(mailbox, read_only, condstore, resync):
            word = b"EXAMINE " if read_only else b"SELECT "
            parameters = [*(["CONDSTORE"] if condstore else []), *([print_resync(resync)] if resync else [])]
            shown = f" ({' '.join(parameters)})" if parameters else ""
            return word + encode.mailbox_name(mailbox) + shown.encode()
        case c.List(reference, (pattern,), extended=False):
            return b"LIST " + print_names(reference, pattern)
        case c.List(reference, patterns, selection, returns, items):
            shown = " ".join(sorted(returns)).replace("STATUS", f"STATUS ({' '.join(items)})")
            return b"LIST (%b) %b (%b) RETURN (%b)" % (
                " ".join(sorted(selection)).encode(),
                print_names(reference),
                print_names(*patterns),
                shown.encode(),
            )
        case c.Lsub(reference, pattern):
            return b"LSUB " + print_names(reference, pattern)
        case c.Status(mailbox, items):
            return b"STATUS %b (%b)" % (print_names(mailbox), " ".join(items).encode())
        case c.Create(mailbox, uses):
            parameter = f" (USE ({' '.join(uses)}))" if uses else ""
            return b"CREATE " + print_names(mailbox + "/") + parameter.encode()
        case c.Delete(mailbox):
            return b"DELETE " + print_names(mailbox)
        case c.Rename(source, target):
            return b"RENAME " + print_names(source, target)
        case c.Subscribe(mailbox, subscribed):
            return (b"SUBSCRIBE " if subscribed else b"UNSUBSCRIBE ") + print_names(mailbox)
        case c.GetQuotaRoot(mailbox):
            return b"GETQUOTAROOT " + print_names(mailbox)
    return b""


def print_on_messages(command: c.Command) -> bytes:
    """Likewise, for all that is left."""
    match command:
        case c.Expunge(messages):
            return f"UID EXPUNGE {messages}".encode()
        case c.Copy(uid, messages, mailbox, move):
            word = "MOVE" if move else "COPY"
            return f"{'UID ' if uid else ''}{word} {messages} ".encode() + print_names(mailbox)
        case c.Store(uid, messages, mode, silent, flags, keywords, unchanged_since):
            word = {"set": "", "add": "+", "remove": "-"}[mode] + "FLAGS" + (".SILENT" if silent else "")
            modifier = "" if unchanged_since is None else f"(UNCHANGEDSINCE {unchanged_since}) "
            start = f"{'UID ' if uid else ''}STORE {messages} {modifier}{word} ".encode()
            return start + encode.flags_list(flags, keywords)
        case c.Fetch(uid, messages, items, found, sizes, changed_since, vanished):
            shown = b" ".join(
                [item.encode() for item in items]
                + [print_body(body) for body in found]
                + [f"BINARY.SIZE[{part}]".encode() for part in sizes]
            )
            modifier = (
                ""
                if changed_since is None
                else f" (CHANGEDSINCE {changed_since}{' VANISHED' if vanished else ''})"
            )
            return f"{'UID ' if uid else ''}FETCH {messages} ".encode() + b"(%b)" % shown + modifier.encode()
    raise AssertionError(command)


def print_resync(resync: c.Resync) -> str:
    known = "" if resync.known is None else f" {resync.known}"
    numbers, uids = resync.match
    match = f" ({numbers} {uids})" if numbers else ""
    return f"QRESYNC ({resync.uid_validity} {resync.modseq}{known}{match})"


def print_names(*names: str) -> bytes:
    return b" ".join([encode.mailbox_name(name) for name in names])


def print_texts(*texts: str) -> bytes:
    return b" ".join([encode.astring(text.encode()) for text in texts])


def print_body(body: c.FetchBody) -> bytes:
    name = body.name.replace("[", ".PEEK[", 1) if body.peek else body.name
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
