"""Every command that parses, by the value it gives; every spelling through the three feeds."""

from __future__ import annotations

import pytest
from imap_feeds import three_feeds

from wd_trio.errors import Invalid
from wd_trio.mail import model as m
from wd_trio.mail import search
from wd_trio.mail.numset import SequenceSet, UidSet
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.grammar import parse_date_time
from wd_trio.proto.imap.machine import State
from wd_trio.proto.imap.states import COMMANDS
from wd_trio.secret import Secret

BEFORE, AFTER, SELECTED = State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED
ONE_TO_STAR = SequenceSet(((1, 0),))
ONE = SequenceSet(((1, 1),))


def body(
    name: str, section: c.Section, *, peek: bool = False, partial: tuple[int, int] | None = None
) -> c.FetchBody:
    return c.FetchBody(name, section, peek, partial)


def command_name(line: bytes) -> str:
    words = line.decode("latin-1").upper().split()
    return " ".join(words[: 2 if words[0] == "UID" else 1])


GOOD = [
    (BEFORE, b"CAPABILITY", c.Capability()),
    (BEFORE, b"noop", c.Noop()),
    (SELECTED, b"NoOp  ", c.Noop()),
    (BEFORE, b"STARTTLS", c.StartTls()),
    (AFTER, b"LOGOUT", c.Logout()),
    (BEFORE, b"ID NIL", c.Id(())),
    (BEFORE, b"ID ()", c.Id(())),
    (AFTER, b'ID ("name" "x" "version" NIL)', c.Id((("name", "x"), ("version", None)))),
    (AFTER, b'ID ("os" "\xff\xc3\xa9")', c.Id((("os", "\ufffdé"),))),
    (BEFORE, b"LOGIN joe secret", c.Login("joe", Secret("secret"))),
    (BEFORE, b'LOGIN "j\\"o\\\\e" ""', c.Login('j"o\\e', Secret(""))),
    (BEFORE, b'LOGIN "jo\xc3\xa9" "p\xc3\xa4 ss"', c.Login("joé", Secret("pä ss"))),
    (BEFORE, b"LOGIN joe] NIL", c.Login("joe]", Secret("NIL"))),
    (BEFORE, b"AUTHENTICATE plain AGpvZQBzZWNyZXQ=", c.Authenticate("PLAIN", b"\0joe\0secret")),
    (BEFORE, b"AUTHENTICATE PLAIN =", c.Authenticate("PLAIN", b"")),
    (AFTER, b'LIST "" *', c.List("", ("*",))),
    (AFTER, b'LIST "" "%"', c.List("", ("%",))),
    (AFTER, b'LIST "" ""', c.List("", ("",))),
    (AFTER, b"LIST a/ b]%*", c.List("a/", ("b]%*",))),
    (AFTER, b'LIST "" inbox/%', c.List("", ("INBOX/%",))),
    (AFTER, b"NAMESPACE", c.Namespace()),
    (AFTER, b"STATUS Inbox (messages UNSEEN MESSAGES)", c.Status("INBOX", ("MESSAGES", "UNSEEN"))),
    (AFTER, b"SELECT inBOX", c.Select("INBOX", False)),
    (AFTER, b'SELECT "inbox/Work"', c.Select("INBOX/Work", False)),
    (AFTER, b"SELECT inboxes", c.Select("inboxes", False)),
    (AFTER, b'EXAMINE "Sent Mail"', c.Select("Sent Mail", True)),
    (AFTER, b"SELECT Entw&APw-rfe", c.Select("Entwürfe", False)),
    (AFTER, b'SELECT "a &- b"', c.Select("a & b", False)),
    (AFTER, b"IDLE", c.Idle()),
    (SELECTED, b"UNSELECT", c.Unselect()),
    (SELECTED, b"CLOSE", c.Close()),
    (SELECTED, b"EXPUNGE", c.Expunge()),
    (SELECTED, b"UID EXPUNGE 4,2:3,*:9", c.Expunge(SequenceSet(((4, 4), (2, 3), (9, 0))))),
    (SELECTED, b"STORE 1 FLAGS ()", c.Store(False, ONE, "set", False, 0, "")),
    (
        SELECTED,
        b"STORE 1:* +flags.silent (\\seen \\DELETED $Fwd b A \\Recent a)",
        c.Store(False, ONE_TO_STAR, "add", True, m.SEEN | m.DELETED, "$Fwd A b"),
    ),
    (
        SELECTED,
        b"UID STORE 4294967295 -FLAGS \\Draft kw ",
        c.Store(True, SequenceSet(((4294967295, 4294967295),)), "remove", False, m.DRAFT, "kw"),
    ),
    (
        SELECTED,
        b"FETCH 1 ALL",
        c.Fetch(False, ONE, ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE")),
    ),
    (SELECTED, b"FETCH 1 fast", c.Fetch(False, ONE, ("FLAGS", "INTERNALDATE", "RFC822.SIZE"))),
    (
        SELECTED,
        b"UID FETCH 1 FULL",
        c.Fetch(True, ONE, ("UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY")),
    ),
    (SELECTED, b"UID FETCH 1:* (FLAGS)", c.Fetch(True, ONE_TO_STAR, ("UID", "FLAGS"))),
    (SELECTED, b"UID FETCH 1 UID", c.Fetch(True, ONE, ("UID",))),
    (
        SELECTED,
        b"FETCH 1 (FLAGS bodystructure BODY FLAGS)",
        c.Fetch(False, ONE, ("FLAGS", "BODYSTRUCTURE", "BODY")),
    ),
    (SELECTED, b"FETCH 1 BODY[]", c.Fetch(False, ONE, (), (body("BODY[]", c.Section()),))),
    (
        SELECTED,
        b"FETCH 1 (UID body.peek[1.2.mime]<0.9223372036854775807>)",
        c.Fetch(
            False,
            ONE,
            ("UID",),
            (body("BODY[1.2.MIME]", c.Section("1.2", "MIME"), peek=True, partial=(0, (1 << 63) - 1)),),
        ),
    ),
    (
        SELECTED,
        b'FETCH 1 BODY.PEEK[HEADER.FIELDS (From "X Y" "a\\"b")]',
        c.Fetch(
            False,
            ONE,
            (),
            (
                body(
                    'BODY[HEADER.FIELDS (From "X Y" "a\\"b")]',
                    c.Section("", "HEADER.FIELDS", ("From", "X Y", 'a"b')),
                    peek=True,
                ),
            ),
        ),
    ),
    (
        SELECTED,
        b"FETCH 1 (BODY[3.HEADER.FIELDS.NOT (To)] BODY[2] BODY[4.TEXT] BODY[HEADER] BODY[TEXT])",
        c.Fetch(
            False,
            ONE,
            (),
            (
                body("BODY[3.HEADER.FIELDS.NOT (To)]", c.Section("3", "HEADER.FIELDS.NOT", ("To",))),
                body("BODY[2]", c.Section("2")),
                body("BODY[4.TEXT]", c.Section("4", "TEXT")),
                body("BODY[HEADER]", c.Section("", "HEADER")),
                body("BODY[TEXT]", c.Section("", "TEXT")),
            ),
        ),
    ),
    (
        SELECTED,
        b"FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT RFC822.SIZE)",
        c.Fetch(
            False,
            ONE,
            ("RFC822.SIZE",),
            (
                body("RFC822", c.Section()),
                body("RFC822.HEADER", c.Section(text="HEADER"), peek=True),
                body("RFC822.TEXT", c.Section(text="TEXT")),
            ),
        ),
    ),
    (
        SELECTED,
        b"FETCH 1 (BODY.PEEK[1] BODY[1] BODY.PEEK[1] BODY.PEEK[1]<0.5>)",
        c.Fetch(
            False,
            ONE,
            (),
            (
                body("BODY[1]", c.Section("1")),
                body("BODY[1]", c.Section("1"), peek=True, partial=(0, 5)),
            ),
        ),
    ),
    (SELECTED, b"FETCH 1 (MODSEQ UID)", c.Fetch(False, ONE, ("MODSEQ", "UID"))),
    (
        SELECTED,
        b"UID FETCH 1:* (FLAGS) (changedsince 12345)",
        c.Fetch(True, ONE_TO_STAR, ("UID", "FLAGS", "MODSEQ"), changed_since=12345),
    ),
    (
        SELECTED,
        b"FETCH 1 FAST (CHANGEDSINCE 1)",
        c.Fetch(False, ONE, ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "MODSEQ"), changed_since=1),
    ),
    (
        SELECTED,
        b"UID FETCH 1:* FLAGS (CHANGEDSINCE 7 vanished)",
        c.Fetch(True, ONE_TO_STAR, ("UID", "FLAGS", "MODSEQ"), changed_since=7, vanished=True),
    ),
    (
        SELECTED,
        b"UID FETCH 1 UID (VANISHED CHANGEDSINCE 7)",
        c.Fetch(True, ONE, ("UID", "MODSEQ"), changed_since=7, vanished=True),
    ),
    (
        SELECTED,
        b"FETCH 1 (MODSEQ FLAGS) (CHANGEDSINCE 9223372036854775807)",
        c.Fetch(False, ONE, ("MODSEQ", "FLAGS"), changed_since=(1 << 63) - 1),
    ),
    (
        SELECTED,
        b"FETCH 1 (binary[] BINARY.PEEK[1.2]<3.4> BINARY[1] BODY[1])",
        c.Fetch(
            False,
            ONE,
            (),
            (
                c.FetchBody("BINARY[]", c.Section(), False, None, True),
                c.FetchBody("BINARY[1.2]", c.Section("1.2"), True, (3, 4), True),
                c.FetchBody("BINARY[1]", c.Section("1"), False, None, True),
                c.FetchBody("BODY[1]", c.Section("1"), False),
            ),
        ),
    ),
    (
        SELECTED,
        b"FETCH 1 (BINARY.SIZE[1] BINARY.SIZE[] FLAGS binary.size[1])",
        c.Fetch(False, ONE, ("FLAGS",), binary_sizes=("1", "")),
    ),
    (SELECTED, b"FETCH 1 BINARY.SIZE[2]", c.Fetch(False, ONE, (), binary_sizes=("2",))),
    (
        SELECTED,
        b"STORE 1 (UNCHANGEDSINCE 0) FLAGS.SILENT ()",
        c.Store(False, ONE, "set", True, 0, "", 0),
    ),
    (
        SELECTED,
        b"UID STORE 1:* (unchangedsince 320162338) +FLAGS kw",
        c.Store(True, ONE_TO_STAR, "add", False, 0, "kw", 320162338),
    ),
    (SELECTED, b"COPY 1:* Inbox", c.Copy(False, ONE_TO_STAR, "INBOX")),
    (SELECTED, b'UID COPY 1 "Sent Mail"', c.Copy(True, ONE, "Sent Mail")),
    (SELECTED, b"MOVE 1 Trash", c.Copy(False, ONE, "Trash", True)),
    (SELECTED, b"uid move 1 Entw&APw-rfe", c.Copy(True, ONE, "Entwürfe", True)),
    (SELECTED, b"CHECK", c.Check()),
    (SELECTED, b"SEARCH ALL", c.Search(False, search.All())),
    (SELECTED, b"UID SEARCH 1", c.Search(True, search.Numbers(ONE, False))),
    (AFTER, b"ENABLE condstore UTF8=Accept X-Y CONDSTORE", c.Enable(("CONDSTORE", "UTF8=ACCEPT", "X-Y"))),
    (AFTER, b"CREATE a/b", c.Create("a/b")),
    (AFTER, b"CREATE a/b/", c.Create("a/b")),
    (AFTER, b"CREATE inbox/", c.Create("INBOX")),
    (AFTER, b"CREATE x (USE (\\sent \\Odd \\SENT))", c.Create("x", ("\\Sent", "\\Odd"))),
    (AFTER, b"CREATE x (use ())", c.Create("x")),
    (AFTER, b'DELETE "a b"', c.Delete("a b")),
    (AFTER, b"RENAME inbox old", c.Rename("INBOX", "old")),
    (AFTER, b'RENAME a "b/c"', c.Rename("a", "b/c")),
    (AFTER, b"SUBSCRIBE a", c.Subscribe("a", True)),
    (AFTER, b"UNSUBSCRIBE a", c.Subscribe("a", False)),
    (AFTER, b'LSUB "" %', c.Lsub("", "%")),
    (AFTER, b'LSUB "#news." "comp.*"', c.Lsub("#news.", "comp.*")),
    (AFTER, b'GETQUOTA ""', c.GetQuota("")),
    (AFTER, b"GETQUOTAROOT inbox", c.GetQuotaRoot("INBOX")),
    (
        AFTER,
        b'SETQUOTA "" (storage 512 MESSAGE 9223372036854775807)',
        c.SetQuota("", (("STORAGE", 512), ("MESSAGE", (1 << 63) - 1))),
    ),
    (AFTER, b"SETQUOTA user ()", c.SetQuota("user", ())),
    (AFTER, b"SELECT INBOX (condstore)", c.Select("INBOX", False, True)),
    (AFTER, b"EXAMINE INBOX (CONDSTORE CONDSTORE)", c.Select("INBOX", True, True)),
    (AFTER, b"SELECT a (QRESYNC (7 8))", c.Select("a", False, resync=c.Resync(7, 8))),
    (
        AFTER,
        b"EXAMINE a (qresync (4294967295 9223372036854775807 41:211,3,214:541) CONDSTORE)",
        c.Select(
            "a",
            True,
            True,
            c.Resync((1 << 32) - 1, (1 << 63) - 1, UidSet([(3, 3), (41, 211), (214, 541)])),
        ),
    ),
    (
        AFTER,
        b"SELECT a (QRESYNC (7 8 (1,3:4 2,9:10)))",
        c.Select(
            "a", False, resync=c.Resync(7, 8, None, (UidSet([(1, 1), (3, 4)]), UidSet([(2, 2), (9, 10)])))
        ),
    ),
    (
        AFTER,
        b"SELECT a (QRESYNC (7 8 1:9 (1:4294967295 1:4294967295)))",
        c.Select(
            "a",
            False,
            resync=c.Resync(
                7, 8, UidSet([(1, 9)]), (UidSet([(1, (1 << 32) - 1)]), UidSet([(1, (1 << 32) - 1)]))
            ),
        ),
    ),
    (
        AFTER,
        b"STATUS a (HIGHESTMODSEQ SIZE APPENDLIMIT deleted DELETED-STORAGE)",
        c.Status("a", ("HIGHESTMODSEQ", "SIZE", "APPENDLIMIT", "DELETED", "DELETED-STORAGE")),
    ),
    (
        AFTER,
        b'LIST (subscribed RECURSIVEMATCH) "" *',
        c.List("", ("*",), frozenset({"SUBSCRIBED", "RECURSIVEMATCH"}), extended=True),
    ),
    (AFTER, b'LIST () "" *', c.List("", ("*",), extended=True)),
    (AFTER, b'LIST (REMOTE) "" ""', c.List("", ("",), frozenset({"REMOTE"}), extended=True)),
    (AFTER, b'LIST "" (INBOX "a b" inbox %)', c.List("", ("INBOX", "a b", "%"), extended=True)),
    (
        AFTER,
        b'LIST "" % return (SUBSCRIBED children)',
        c.List("", ("%",), returns=frozenset({"SUBSCRIBED", "CHILDREN"}), extended=True),
    ),
    (AFTER, b'LIST "" % RETURN ()', c.List("", ("%",), extended=True)),
    (
        AFTER,
        b'LIST (SPECIAL-USE) "" (a b) RETURN (SPECIAL-USE status (MESSAGES UNSEEN messages) CHILDREN)',
        c.List(
            "",
            ("a", "b"),
            frozenset({"SPECIAL-USE"}),
            frozenset({"SPECIAL-USE", "STATUS", "CHILDREN"}),
            ("MESSAGES", "UNSEEN"),
            True,
        ),
    ),
    (AFTER, b'LIST "" RETURN', c.List("", ("RETURN",))),
]


@pytest.mark.parametrize(("state", "line", "command"), GOOD, ids=[repr(line)[:60] for _, line, _ in GOOD])
def test_commands_that_parse(state: State, line: bytes, command: c.Command) -> None:
    expected = [e.CommandEvent("a.1", command_name(line), command)]
    if isinstance(command, c.Idle):
        assert three_feeds(b"a.1 IDLE\r\nDONE\r\n", state) == [*expected, e.IdleDone()]
        return
    assert three_feeds(b"a.1 " + line + b"\r\n", state) == expected
    assert three_feeds(b"a.1 " + line + b"\n", state) == expected  # a bare LF ends a line too


def test_good_table_covers_every_command_but_append() -> None:
    assert {command_name(line) for _, line, _ in GOOD} == set(COMMANDS) - {"APPEND"}


def test_utf8_mode_takes_names_as_they_are() -> None:
    data = 'A1 SELECT "Entwürfe & Käse"\r\n'.encode()
    assert three_feeds(data, AFTER, utf8=True) == [
        e.CommandEvent("A1", "SELECT", c.Select("Entwürfe & Käse", False))
    ]
    data = b"A1 SELECT Entw&APw-rfe\r\n"
    assert three_feeds(data, AFTER, utf8=True) == [
        e.CommandEvent("A1", "SELECT", c.Select("Entw&APw-rfe", False))
    ]


def test_options_that_change_with_utf8_mode() -> None:
    [event] = three_feeds('A1 LIST "" ("ä" &APw-) RETURN ()\r\n'.encode(), AFTER, utf8=True)
    assert event == e.CommandEvent("A1", "LIST", c.List("", ("ä", "&APw-"), extended=True))
    [event] = three_feeds('A1 RENAME "ä/ö" {2+}\r\nü\r\n'.encode(), AFTER, utf8=True)
    assert event == e.CommandEvent("A1", "RENAME", c.Rename("ä/ö", "ü"))


def test_passwords_do_not_show() -> None:
    [event] = three_feeds(b"A1 LOGIN joe hunter2\r\n", BEFORE)
    assert "hunter2" not in repr(event)


@pytest.mark.parametrize(
    ("text", "epoch_s"),
    [
        (b"01-Jan-1970 00:00:00 +0000", 0),
        (b" 1-Jan-1970 00:00:00 +0000", 0),
        (b"1-jan-1970 00:00:00 -0000", 0),
        (b"17-Jul-1996 02:44:25 -0700", 837596665),
        (b"29-FEB-2024 23:59:60 +1400", 1709200800),
        (b"31-Dec-1969 23:59:59 +0000", -1),
        (b"01-Jan-0001 00:00:00 +0000", -62135596800),
        (b"31-Dec-9999 23:59:59 -2359", 253402300799 + 86340),
    ],
)
def test_date_time(text: bytes, epoch_s: int) -> None:
    assert parse_date_time(text) == epoch_s


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"32-Jan-2020 00:00:00 +0000",
        b"29-Feb-2023 00:00:00 +0000",
        b"00-Jan-2020 00:00:00 +0000",
        b"01-Foo-2020 00:00:00 +0000",
        b"01-Jan-0000 00:00:00 +0000",
        b"01-Jan-2020 24:00:00 +0000",
        b"01-Jan-2020 00:60:00 +0000",
        b"01-Jan-2020 00:00:61 +0000",
        b"01-Jan-2020 00:00:00 +2400",
        b"01-Jan-2020 00:00:00 +0060",
        b"01-Jan-2020 00:00:00 0000",
        b"01-Jan-2020 00:00:00 +0000 ",
        b"01-Jan-20 00:00:00 +0000",
        b"2020-01-01 00:00:00 +0000",
    ],
)
def test_date_time_refused(text: bytes) -> None:
    with pytest.raises(Invalid):
        parse_date_time(text)
