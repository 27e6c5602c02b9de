"""FETCH's data items (RFC 3501 §6.4.5, RFC 3516, RFC 7162): words, macros, BODY and BINARY sections.

Words are data: a later extension adds a name to _PLAIN, nothing more. A section is kept apart and carries the
name that its response item will have, written once here: `BODY[HEADER.FIELDS (To "X Y")]`. Each distinct
section makes the server send its octets again, so their number is capped.
"""

from __future__ import annotations

from typing import Final

from wd_trio.proto.imap import grammar
from wd_trio.proto.imap.commands import Fetch, FetchBody, Section
from wd_trio.proto.imap.parse import BadSyntax, Cursor

MAX_BODIES: Final = 256  # sections in one FETCH, sizes of decoded parts among them
MAX_PART_DEPTH: Final = 100  # numbers in a section's part
MAX_FIELDS: Final = 1000  # names in one HEADER.FIELDS

_MACROS: Final = {
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}
_PLAIN: Final = frozenset(
    {"FLAGS", "UID", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE", "MODSEQ"},
)
_SECTIONS: Final = {"BODY": False, "BODY.PEEK": True}  # word before "[" → peek
_BINARIES: Final = {"BINARY": False, "BINARY.PEEK": True}
_WHOLE: Final = {
    "RFC822": FetchBody("RFC822", Section(), False),
    "RFC822.HEADER": FetchBody("RFC822.HEADER", Section(text="HEADER"), True),
    "RFC822.TEXT": FetchBody("RFC822.TEXT", Section(text="TEXT"), False),
}
_SECTION_TEXTS: Final = frozenset({"HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", "MIME"})


class _Items:
    """Items in the client's order, each once."""

    __slots__ = ("binary_sizes", "bodies", "plain")

    def __init__(self) -> None:
        self.plain: dict[str, None] = {}
        self.bodies: dict[tuple[str, tuple[int, int] | None], FetchBody] = {}
        self.binary_sizes: dict[str, None] = {}

    def add_body(self, body: FetchBody) -> None:
        key = (body.name, body.partial)
        known = self.bodies.get(key)
        # One response item answers both spellings, and marks \Seen when either asked for it.
        if known is None or not body.peek:
            self.bodies[key] = body
        self._cap()

    def add_binary_size(self, part: str) -> None:
        self.binary_sizes[part] = None
        self._cap()

    def _cap(self) -> None:
        if len(self.bodies) + len(self.binary_sizes) > MAX_BODIES:
            raise BadSyntax("Too many body sections")


def parse_fetch(cursor: Cursor) -> Fetch:
    """FETCH's arguments."""
    return _fetch(cursor, uid=False)


def parse_uid_fetch(cursor: Cursor) -> Fetch:
    """UID FETCH's arguments; "UID" is always among the items."""
    return _fetch(cursor, uid=True)


def _fetch(cursor: Cursor, *, uid: bool) -> Fetch:
    cursor.space()
    messages = cursor.sequence_set()
    cursor.space()
    items = _Items()
    if uid:
        items.plain["UID"] = None
    if cursor.at(b"("):
        cursor.listed(lambda: _item(cursor, items))
    else:
        _macro_or_item(cursor, items)
    changed_since, vanished = None, False
    if cursor.at(b" ("):
        cursor.space()
        modifiers = dict(cursor.listed(lambda: _modifier(cursor)))
        changed_since, vanished = modifiers.get("CHANGEDSINCE"), "VANISHED" in modifiers
        if vanished and (changed_since is None or not uid):
            raise BadSyntax("VANISHED goes with UID FETCH and CHANGEDSINCE")
        items.plain["MODSEQ"] = None
    cursor.end()
    bodies, sizes = tuple(items.bodies.values()), tuple(items.binary_sizes)
    return Fetch(uid, messages, tuple(items.plain), bodies, sizes, changed_since, vanished)


def _modifier(cursor: Cursor) -> tuple[str, int]:
    """CHANGEDSINCE (RFC 7162 §3.1.4.1) with its modseq, or VANISHED (§3.2.6)."""
    modifier = cursor.word("Expected a FETCH modifier")
    if modifier == "VANISHED":
        return modifier, 0
    if modifier != "CHANGEDSINCE":
        raise BadSyntax("Unknown FETCH modifier")
    cursor.space()
    return modifier, cursor.modseq()


def _macro_or_item(cursor: Cursor, items: _Items) -> None:
    match = grammar.FETCH_WORD.match(cursor.data, cursor.pos)
    macro = _MACROS.get(match[0].decode("ascii").upper()) if match else None
    if match is None or macro is None:
        _item(cursor, items)
        return
    cursor.pos = match.end()
    items.plain.update(dict.fromkeys(macro))


def _item(cursor: Cursor, items: _Items) -> None:
    word = cursor.match(grammar.FETCH_WORD, "Expected a FETCH item")[0].decode("ascii").upper()
    if cursor.at(b"[") and word in _SECTIONS:
        items.add_body(_body(cursor, peek=_SECTIONS[word]))
    elif cursor.at(b"[") and word in _BINARIES:
        part = _binary_part(cursor)
        partial = _partial(cursor) if cursor.at(b"<") else None
        items.add_body(FetchBody(f"BINARY[{part}]", Section(part), _BINARIES[word], partial, binary=True))
    elif cursor.at(b"[") and word == "BINARY.SIZE":
        items.add_binary_size(_binary_part(cursor))
    elif word in _PLAIN:
        items.plain[word] = None
    elif word in _WHOLE:
        items.add_body(_WHOLE[word])
    else:
        raise BadSyntax("Unknown FETCH item")


def _body(cursor: Cursor, *, peek: bool) -> FetchBody:
    cursor.pos += 1
    section = _section(cursor)
    if not cursor.took(b"]"):
        raise BadSyntax("Invalid body section")
    return FetchBody(section_name(section), section, peek, _partial(cursor) if cursor.at(b"<") else None)


def _section(cursor: Cursor) -> Section:
    part = _part(cursor)
    if part and not cursor.at(b"."):
        return Section(part)
    if part:
        cursor.pos += 1
    elif cursor.at(b"]"):
        return Section()
    text = cursor.match(grammar.SECTION_TEXT, "Invalid body section")[0].decode("ascii").upper()
    if text not in _SECTION_TEXTS or (text == "MIME" and not part):
        raise BadSyntax("Invalid body section")
    return Section(part, text, _fields(cursor) if text.startswith("HEADER.") else ())


def _part(cursor: Cursor) -> str:
    """A section's part, "" when none comes next."""
    match = grammar.SECTION_PART.match(cursor.data, cursor.pos)
    if match is None:
        return ""
    part = match[0].decode("ascii")
    if part.count(".") >= MAX_PART_DEPTH:
        raise BadSyntax("Body section is nested too deeply")
    cursor.pos = match.end()
    return part


def _binary_part(cursor: Cursor) -> str:
    """RFC 3516 §7 section-binary: a part alone, "" for the whole message."""
    cursor.pos += 1
    part = _part(cursor)
    if not cursor.took(b"]"):
        raise BadSyntax("Invalid body section")
    return part


def _fields(cursor: Cursor) -> tuple[str, ...]:
    cursor.space()
    fields = cursor.listed(lambda: _field(cursor))
    if len(fields) > MAX_FIELDS:
        raise BadSyntax("Too many header fields")
    return tuple(fields)


def _field(cursor: Cursor) -> str:
    name = cursor.text()
    # What no header can hold is refused rather than echoed: the response names the fields.
    if not grammar.FIELD_NAME.match(name):
        raise BadSyntax("Invalid header field name")
    return name


def _partial(cursor: Cursor) -> tuple[int, int]:
    match = cursor.match(grammar.PARTIAL, "Invalid partial")
    start, count = int(match[1]), int(match[2])
    if not count or start > grammar.MAX_NUMBER64 or count > grammar.MAX_NUMBER64:
        raise BadSyntax("Invalid partial")
    return start, count


def section_name(section: Section) -> str:
    """What a section's response item is called, without a partial's origin."""
    inside = section.part
    if section.text:
        inside += f".{section.text}" if inside else section.text
    if section.fields:
        inside += f" ({' '.join(_astring(field) for field in section.fields)})"
    return f"BODY[{inside}]"


def _astring(field: str) -> str:
    if grammar.ASTRING_CHARS.fullmatch(field.encode("ascii")):
        return field
    escaped = field.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
