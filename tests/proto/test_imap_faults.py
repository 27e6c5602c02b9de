"""Commands that do not parse, or come at the wrong time: one fixed BAD each, and nothing gets lost behind it."""

from __future__ import annotations

import pytest
from imap_feeds import bad, three_feeds

from wd_trio.proto.imap.machine import State

BEFORE, AFTER, SELECTED = State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED
UNTAGGED = [
    b"",
    b" ",
    b" NOOP",
    b"+ NOOP",
    b"A+1 NOOP",
    b"A(1 NOOP",
    b'"A1" NOOP',
    b"A\x7f1 NOOP",
    b"\xff\xfe NOOP",
    b"* NOOP",
    b"A" * 129 + b" NOOP",
    b"\x16\x03\x01\x02\x00\x01",
]
FAULTS = [
    (SELECTED, b"", "Unknown command"),
    (SELECTED, b"FROBNICATE", "Unknown command"),
    (SELECTED, b"FETCH(1)", "Unknown command"),
    (SELECTED, b"UID", "Unknown command"),
    (SELECTED, b"UID NOOP", "Unknown command"),
    (SELECTED, b"UID  FETCH 1 FLAGS", "Unknown command"),
    (SELECTED, b"N\xc3\xb6op", "Unknown command"),
    (SELECTED, b" NOOP", "Unknown command"),
    (BEFORE, b"SELECT INBOX", "Log in first"),
    (BEFORE, b"FETCH 1 FLAGS", "Log in first"),
    (BEFORE, b"IDLE", "Log in first"),
    (AFTER, b"FETCH 1 FLAGS", "Select a mailbox first"),
    (AFTER, b"UID STORE 1 FLAGS ()", "Select a mailbox first"),
    (AFTER, b"CLOSE", "Select a mailbox first"),
    (AFTER, b"LOGIN joe secret", "Already logged in"),
    (SELECTED, b"AUTHENTICATE PLAIN", "Already logged in"),
    (SELECTED, b"NOOP x", "Unexpected arguments"),
    (SELECTED, b"NOOP {x}", "Unexpected arguments"),
    (SELECTED, b"CLOSE\t", "Unknown command"),
    (BEFORE, b"LOGIN", "Missing argument"),
    (BEFORE, b"LOGIN joe", "Missing argument"),
    (BEFORE, b"LOGIN joe ", "Expected a string"),
    (BEFORE, b"LOGIN joe a b", "Unexpected arguments"),
    (BEFORE, b'LOGIN "joe secret', "Malformed quoted string"),
    (BEFORE, b'LOGIN "jo\\e" x', "Malformed quoted string"),
    (BEFORE, b'LOGIN "joe"x y', "Expected a space"),
    (BEFORE, b"LOGIN joe \xc3\xa9", "Expected a string"),
    (BEFORE, b'LOGIN joe "\xff"', "Argument is not UTF-8"),
    (BEFORE, b"LOGIN (joe) x", "Expected a string"),
    (BEFORE, b"LOGIN jo%e x", "Expected a space"),
    (BEFORE, b"AUTHENTICATE", "Missing argument"),
    (BEFORE, b"AUTHENTICATE PL!AIN", "Invalid mechanism"),
    (BEFORE, b"AUTHENTICATE PLAIN A", "Invalid initial response"),
    (BEFORE, b"AUTHENTICATE PLAIN ====", "Invalid initial response"),
    (BEFORE, b"AUTHENTICATE PLAIN AA==AA==", "Unexpected arguments"),
    (BEFORE, b"AUTHENTICATE PLAIN AB==", "Invalid initial response"),
    (BEFORE, b"ID", "Missing argument"),
    (BEFORE, b'ID "x"', "Expected NIL or a list"),
    (BEFORE, b'ID ("x")', "Expected a space"),
    (BEFORE, b'ID ("x" "y"', "Missing argument"),
    (BEFORE, b'ID (NIL "y")', "Expected a string"),
    (BEFORE, b'ID ("%b" "y")' % (b"k" * 31), "ID has too many fields, or one that is too long"),
    (
        BEFORE,
        b"ID (" + b" ".join([b'"a" "b"'] * 31) + b")",
        "ID has too many fields, or one that is too long",
    ),
    (AFTER, b"LIST", "Missing argument"),
    (AFTER, b'LIST ""', "Missing argument"),
    (AFTER, b'LIST "" * *', "Unexpected arguments"),
    (AFTER, b'LIST "" (a b)', "Expected a string"),
    (AFTER, b"SELECT", "Missing argument"),
    (AFTER, b"SELECT *", "Expected a string"),
    (AFTER, b"SELECT a b", "Unexpected arguments"),
    (AFTER, b"SELECT a&b", "Mailbox name is not in modified UTF-7"),
    (AFTER, b'SELECT "caf\xc3\xa9"', "Mailbox name is not in modified UTF-7"),
    (AFTER, b'SELECT "a\tb"', "Mailbox name has a control character"),
    (AFTER, b"SELECT " + b"x" * 1025, "Mailbox name is too long"),
    (AFTER, b"STATUS INBOX", "Missing argument"),
    (AFTER, b"STATUS INBOX ()", "Expected a STATUS item"),
    (AFTER, b"STATUS INBOX (SHOESIZE)", "Unknown STATUS item"),
    (AFTER, b"STATUS INBOX MESSAGES", "Expected a parenthesis"),
    (AFTER, b"APPEND INBOX", "Missing argument"),
    (AFTER, b'APPEND INBOX "01-Jan-2020 00:00:00 +0000"', "Missing argument"),
    (AFTER, b"APPEND INBOX (\\Seen) text", "Expected the literal of a message"),
    (SELECTED, b"FETCH 0 FLAGS", "Invalid message set"),
    (SELECTED, b"FETCH 1:0 FLAGS", "Expected a space"),
    (SELECTED, b"FETCH 01 FLAGS", "Invalid message set"),
    (SELECTED, b"FETCH 4294967296 FLAGS", "Invalid message set"),
    (SELECTED, b"FETCH 12345678901 FLAGS", "Expected a space"),
    (SELECTED, b"FETCH 1,,2 FLAGS", "Expected a space"),
    (SELECTED, b"FETCH -1 FLAGS", "Invalid message set"),
    (SELECTED, b"FETCH 1:2:3 FLAGS", "Expected a space"),
    (SELECTED, b"FETCH $ FLAGS", "Invalid message set"),
    (SELECTED, b"FETCH 1", "Missing argument"),
    (SELECTED, b"FETCH 1 ()", "Expected a FETCH item"),
    (SELECTED, b"FETCH 1 (FLAGS", "Missing argument"),
    (SELECTED, b"FETCH 1 (FLAGS )", "Expected a FETCH item"),
    (SELECTED, b"FETCH 1 (FLAGS) x", "Unexpected arguments"),
    (SELECTED, b"FETCH 1 (ALL)", "Unknown FETCH item"),
    (SELECTED, b"FETCH 1 SHOES", "Unknown FETCH item"),
    (SELECTED, b"FETCH 1 BODY.PEEK", "Unknown FETCH item"),
    (SELECTED, b"FETCH 1 FLAGS[]", "Unexpected arguments"),
    (SELECTED, b"FETCH 1 ((FLAGS))", "Expected a FETCH item"),
    (SELECTED, b"FETCH 1 BODY[", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[0]", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[1.]", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[1..2]", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[MIME]", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[SHOES]", "Invalid body section"),
    (SELECTED, b"FETCH 1 BODY[HEADER.FIELDS]", "Expected a space"),
    (SELECTED, b"FETCH 1 BODY[HEADER.FIELDS ()]", "Expected a string"),
    (SELECTED, b"FETCH 1 BODY[HEADER (To)]", "Invalid body section"),
    (SELECTED, b'FETCH 1 BODY[HEADER.FIELDS ("a:b")]', "Invalid header field name"),
    (SELECTED, b'FETCH 1 BODY[HEADER.FIELDS ("\xc3\xa9")]', "Invalid header field name"),
    (SELECTED, b"FETCH 1 BODY[" + b"1." * 100 + b"1]", "Body section is nested too deeply"),
    (SELECTED, b"FETCH 1 BODY[]<5>", "Invalid partial"),
    (SELECTED, b"FETCH 1 BODY[]<0.0>", "Invalid partial"),
    (SELECTED, b"FETCH 1 BODY[]<-1.5>", "Invalid partial"),
    (SELECTED, b"FETCH 1 BODY[]<0.9223372036854775808>", "Invalid partial"),
    (SELECTED, b"FETCH 1 BODY[]<0.5", "Invalid partial"),
    (SELECTED, b"FETCH 1 RFC822<0.5>", "Unexpected arguments"),
    (SELECTED, b"STORE 1 FLAGS", "Missing argument"),
    (SELECTED, b"STORE 1 FLAGS ", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGZ ()", "Unknown STORE item"),
    (SELECTED, b"STORE 1 FLAGS (\\Seen", "Unclosed parenthesis"),
    (SELECTED, b"STORE 1 FLAGS (\\Seen  x)", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGS (\\Shoes)", "Unknown system flag"),
    (SELECTED, b"STORE 1 FLAGS (a]b)", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGS ((a))", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGS (\\*)", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGS (\xc3\xa9)", "Invalid flag"),
    (SELECTED, b"STORE 1 FLAGS (" + b"k" * 256 + b")", "Too many keywords, or one that is too long"),
    (
        SELECTED,
        b"STORE 1 FLAGS (" + b" ".join(b"k%d" % i for i in range(101)) + b")",
        "Too many keywords, or one that is too long",
    ),
    (SELECTED, b"UID EXPUNGE", "Missing argument"),
    (SELECTED, b"EXPUNGE 1", "Unexpected arguments"),
    (SELECTED, b"NO\0OP", "Command has a NUL or a bare CR"),
    (BEFORE, b'LOGIN "a\0b" x', "Command has a NUL or a bare CR"),
    (SELECTED, b"NOOP\rA2 NOOP", "Command has a NUL or a bare CR"),
    (SELECTED, b"NOOP\r", "Command has a NUL or a bare CR"),
]


@pytest.mark.parametrize(("state", "line", "text"), FAULTS, ids=[repr(line)[:60] for _, line, _ in FAULTS])
def test_faults(state: State, line: bytes, text: str) -> None:
    assert three_feeds(b"A1 " + line + b"\r\n", state) == [bad(text)]


@pytest.mark.parametrize("line", UNTAGGED, ids=[repr(line)[:40] for line in UNTAGGED])
def test_without_a_tag_the_answer_has_none(line: bytes) -> None:
    text = "Command has a NUL or a bare CR" if b"\0" in line else "Invalid tag"
    assert three_feeds(line + b"\r\n") == [bad(text, "*")]


def test_the_longest_tag_is_echoed() -> None:
    tag = "A" * 128
    assert three_feeds(tag.encode() + b" X\r\n") == [bad("Unknown command", tag)]


@pytest.mark.parametrize("state", [BEFORE, AFTER, SELECTED])
def test_a_bare_line_end_after_a_command_is_a_command_of_its_own(state: State) -> None:
    assert len(three_feeds(b"A1 NOOP\r\n\r\n", state)) == 2
