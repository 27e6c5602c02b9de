"""The parsers of commands of every state, and of those on messages but FETCH and SEARCH: each takes a cursor behind
the command's word, and gives its value.

A parser takes its arguments to the end of the frame; anything left is an error. None of them looks at states
or names: the table in states.py does.
"""

from __future__ import annotations

from typing import Final

from wd_trio.errors import Invalid
from wd_trio.proto.imap import commands, grammar
from wd_trio.proto.imap.parse import BadSyntax, Cursor
from wd_trio.proto.sasl import decode_base64
from wd_trio.secret import Secret

MAX_ID_FIELDS: Final = 30  # RFC 2971 §3.3 sets these three
MAX_ID_KEY_BYTES: Final = 30
MAX_ID_VALUE_BYTES: Final = 1024
MAX_ENABLED: Final = 100  # names in one ENABLE

_STORE_ITEMS: Final = {
    "FLAGS": ("set", False),
    "FLAGS.SILENT": ("set", True),
    "+FLAGS": ("add", False),
    "+FLAGS.SILENT": ("add", True),
    "-FLAGS": ("remove", False),
    "-FLAGS.SILENT": ("remove", True),
}


def parse_capability(cursor: Cursor) -> commands.Capability:
    cursor.end()
    return commands.Capability()


def parse_noop(cursor: Cursor) -> commands.Noop:
    cursor.end()
    return commands.Noop()


def parse_logout(cursor: Cursor) -> commands.Logout:
    cursor.end()
    return commands.Logout()


def parse_starttls(cursor: Cursor) -> commands.StartTls:
    cursor.end()
    return commands.StartTls()


def parse_unselect(cursor: Cursor) -> commands.Unselect:
    cursor.end()
    return commands.Unselect()


def parse_close(cursor: Cursor) -> commands.Close:
    cursor.end()
    return commands.Close()


def parse_check(cursor: Cursor) -> commands.Check:
    cursor.end()
    return commands.Check()


def parse_enable(cursor: Cursor) -> commands.Enable:
    """RFC 5161 §4."""
    cursor.space()
    names = [cursor.word("Expected a capability")]
    while not cursor.at_end():
        cursor.space()
        names.append(cursor.word("Expected a capability"))
        if len(names) > MAX_ENABLED:
            raise BadSyntax("Too many capabilities")
    return commands.Enable(tuple(dict.fromkeys(names)))


def parse_idle(cursor: Cursor) -> commands.Idle:
    cursor.end()
    return commands.Idle()


def parse_id(cursor: Cursor) -> commands.Id:
    """RFC 2971 §3.1; fields that are not UTF-8 are read as far as they are, for they only inform."""
    cursor.space()
    fields: list[tuple[str, str | None]] = []
    if not cursor.at(b"("):
        if cursor.nstring() is not None:
            raise BadSyntax("Expected NIL or a list")
        cursor.end()
        return commands.Id(())
    cursor.open_list()
    while not cursor.at(b")"):
        if fields:
            cursor.space()
        key = cursor.string()
        cursor.space()
        value = cursor.nstring()
        if (
            len(fields) >= MAX_ID_FIELDS
            or len(key) > MAX_ID_KEY_BYTES
            or len(value or b"") > MAX_ID_VALUE_BYTES
        ):
            raise BadSyntax("ID has too many fields, or one that is too long")
        fields.append((_lenient(key), None if value is None else _lenient(value)))
    cursor.close_list()
    cursor.end()
    return commands.Id(tuple(fields))


def parse_login(cursor: Cursor) -> commands.Login:
    cursor.space()
    username = cursor.text()
    cursor.space()
    password = Secret(cursor.text())
    cursor.end()
    return commands.Login(username, password)


def parse_authenticate(cursor: Cursor) -> commands.Authenticate:
    """RFC 3501 §6.2.2 with RFC 4959's initial response."""
    cursor.space()
    mechanism = cursor.match(grammar.MECHANISM, "Invalid mechanism")[0].decode("ascii").upper()
    if cursor.pos >= len(cursor.data):
        return commands.Authenticate(mechanism, None)
    cursor.space()
    text = cursor.match(grammar.INITIAL_RESPONSE, "Invalid initial response")[0]
    cursor.end()
    try:
        return commands.Authenticate(mechanism, b"" if text == b"=" else decode_base64(text))
    except Invalid:
        raise BadSyntax("Invalid initial response") from None


def parse_store(cursor: Cursor) -> commands.Store:
    return _store(cursor, uid=False)


def parse_uid_store(cursor: Cursor) -> commands.Store:
    return _store(cursor, uid=True)


def parse_expunge(cursor: Cursor) -> commands.Expunge:
    cursor.end()
    return commands.Expunge()


def parse_uid_expunge(cursor: Cursor) -> commands.Expunge:
    """RFC 4315 §2.1."""
    cursor.space()
    messages = cursor.sequence_set()
    cursor.end()
    return commands.Expunge(messages)


def parse_copy(cursor: Cursor) -> commands.Copy:
    return _copy(cursor, uid=False, move=False)


def parse_uid_copy(cursor: Cursor) -> commands.Copy:
    return _copy(cursor, uid=True, move=False)


def parse_move(cursor: Cursor) -> commands.Copy:
    """RFC 6851 §3.1."""
    return _copy(cursor, uid=False, move=True)


def parse_uid_move(cursor: Cursor) -> commands.Copy:
    return _copy(cursor, uid=True, move=True)


def parse_append(cursor: Cursor) -> commands.Append:
    """APPEND up to the announcement of its message (RFC 3501 §6.3.11, RFC 3516 §4.4, RFC 6855 §4).

    What the engine finds behind the message is `append_tail`.
    """
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    flags, keywords = 0, ""
    if cursor.at(b"("):
        flags, keywords = cursor.flag_list()
        cursor.space()
    internal_date = None
    if cursor.at(b'"'):
        text = cursor.string()
        try:
            internal_date = grammar.parse_date_time(text)
        except Invalid:
            raise BadSyntax("Invalid date-time") from None
        cursor.space()
    utf8 = cursor.took(b"UTF8 (")
    if utf8 and not cursor.utf8:
        raise BadSyntax("Enable UTF8=ACCEPT first")
    size, binary = cursor.message_literal()
    if utf8 and not binary:
        raise BadSyntax("Expected a literal8")
    return commands.Append(mailbox, flags, keywords, internal_date, size, utf8, binary)


def append_tail(command: commands.Append) -> bytes:
    """What must stand between an APPEND's message and the end of its line."""
    return b")" if command.utf8 else b""


def _copy(cursor: Cursor, *, uid: bool, move: bool) -> commands.Copy:
    cursor.space()
    messages = cursor.sequence_set()
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.end()
    return commands.Copy(uid, messages, mailbox, move)


def _store(cursor: Cursor, *, uid: bool) -> commands.Store:
    cursor.space()
    messages = cursor.sequence_set()
    cursor.space()
    unchanged_since = None
    if cursor.at(b"("):
        unchanged_since = cursor.listed(lambda: _store_modifier(cursor))[-1]
        cursor.space()
    word = cursor.word("Expected a STORE item")
    if word not in _STORE_ITEMS:
        raise BadSyntax("Unknown STORE item")
    mode, silent = _STORE_ITEMS[word]
    cursor.space()
    flags, keywords = cursor.flag_list() if cursor.at(b"(") else cursor.bare_flags()
    cursor.end()
    return commands.Store(uid, messages, mode, silent, flags, keywords, unchanged_since)


def _store_modifier(cursor: Cursor) -> int:
    """UNCHANGEDSINCE (RFC 7162 §3.1.3); 0 is valid, and holds back every message."""
    if cursor.word("Expected a STORE modifier") != "UNCHANGEDSINCE":
        raise BadSyntax("Unknown STORE modifier")
    cursor.space()
    return cursor.number64()


def _lenient(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
