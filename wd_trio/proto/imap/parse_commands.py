"""The parsers of all commands but FETCH: each takes a cursor behind the command's word, and gives its value.

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

_STATUS_ITEMS: Final = frozenset({"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN"})
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


def parse_namespace(cursor: Cursor) -> commands.Namespace:
    cursor.end()
    return commands.Namespace()


def parse_unselect(cursor: Cursor) -> commands.Unselect:
    cursor.end()
    return commands.Unselect()


def parse_close(cursor: Cursor) -> commands.Close:
    cursor.end()
    return commands.Close()


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


def parse_list(cursor: Cursor) -> commands.List:
    cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    pattern = cursor.list_mailbox()
    cursor.end()
    return commands.List(reference, (pattern,))


def parse_status(cursor: Cursor) -> commands.Status:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    cursor.open_list()
    items = [_status_item(cursor)]
    while not cursor.at(b")"):
        cursor.space()
        items.append(_status_item(cursor))
    cursor.close_list()
    cursor.end()
    return commands.Status(mailbox, tuple(dict.fromkeys(items)))


def parse_select(cursor: Cursor) -> commands.Select:
    return commands.Select(_only_mailbox(cursor), read_only=False)


def parse_examine(cursor: Cursor) -> commands.Select:
    return commands.Select(_only_mailbox(cursor), read_only=True)


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


def parse_append(cursor: Cursor) -> commands.Append:
    """APPEND up to the announcement of its message (RFC 3501 §6.3.11)."""
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
    return commands.Append(mailbox, flags, keywords, internal_date, cursor.message_literal())


def _store(cursor: Cursor, *, uid: bool) -> commands.Store:
    cursor.space()
    messages = cursor.sequence_set()
    cursor.space()
    word = cursor.atom("Expected a STORE item").decode("ascii").upper()
    if word not in _STORE_ITEMS:
        raise BadSyntax("Unknown STORE item")
    mode, silent = _STORE_ITEMS[word]
    cursor.space()
    flags, keywords = cursor.flag_list() if cursor.at(b"(") else cursor.bare_flags()
    cursor.end()
    return commands.Store(uid, messages, mode, silent, flags, keywords)


def _only_mailbox(cursor: Cursor) -> str:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.end()
    return mailbox


def _status_item(cursor: Cursor) -> str:
    item = cursor.atom("Expected a STATUS item").decode("ascii").upper()
    if item not in _STATUS_ITEMS:
        raise BadSyntax("Unknown STATUS item")
    return item


def _lenient(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
