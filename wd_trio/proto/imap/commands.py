"""IMAP commands as values: what parse produces and the handlers take. One frozen class each, named by the RFC.

Mailbox names are Unicode (modified UTF-7 decoded, or UTF-8 as it came under UTF8=ACCEPT), "INBOX" in capitals
whatever the client wrote. Flags are split: bits of mail.model's system flags and canonical keywords.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wd_trio.mail.numset import SequenceSet
from wd_trio.secret import Secret


@dataclass(frozen=True, slots=True)
class Capability:
    pass


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class Logout:
    pass


@dataclass(frozen=True, slots=True)
class Id:
    """RFC 2971; keys as sent, None for NIL."""

    fields: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Authenticate:
    """`initial` is the decoded initial response (RFC 4959), None when there is none ("=" gives b"")."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class List:
    """`patterns` holds one pattern for the basic command. `reference` and patterns are Unicode."""

    reference: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    pass


@dataclass(frozen=True, slots=True)
class Status:
    mailbox: str
    items: tuple[str, ...]  # upper case


@dataclass(frozen=True, slots=True)
class Select:
    mailbox: str
    read_only: bool  # EXAMINE


@dataclass(frozen=True, slots=True)
class Unselect:
    pass


@dataclass(frozen=True, slots=True)
class Close:
    pass


@dataclass(frozen=True, slots=True)
class Section:
    """BODY[…]'s inside. `part` is "" for the whole message, else "1.2"; `text` one of "", "HEADER",
    "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", "MIME"; `fields` as the client wrote them, in order."""

    part: str = ""
    text: str = ""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchBody:
    """BODY[section]<start.count>; `name` is what the response item is called, without the partial origin:
    "BODY[…]", "RFC822", "RFC822.HEADER" or "RFC822.TEXT"."""

    name: str
    section: Section
    peek: bool
    partial: tuple[int, int] | None = None  # (start, count)


@dataclass(frozen=True, slots=True)
class Fetch:
    """`items` are plain upper-case data items, macros expanded ("FLAGS", "ENVELOPE", "BODY", …); `bodies` the
    sections; both in the client's order, without repeats. `uid`: UID FETCH (then "UID" is among the items)."""

    uid: bool
    messages: SequenceSet
    items: tuple[str, ...]
    bodies: tuple[FetchBody, ...] = ()


@dataclass(frozen=True, slots=True)
class Store:
    uid: bool
    messages: SequenceSet
    mode: str  # "set", "add", "remove"
    silent: bool
    flags: int
    keywords: str


@dataclass(frozen=True, slots=True)
class Expunge:
    """`messages` is given by UID EXPUNGE only."""

    messages: SequenceSet | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Everything before the message literal; its bytes follow as MessageData events.

    `internal_date` is in seconds since the epoch, None when the client gave none.
    """

    mailbox: str
    flags: int
    keywords: str
    internal_date: int | None
    size: int


@dataclass(frozen=True, slots=True)
class Idle:
    pass


Command: TypeAlias = (
    Capability
    | Noop
    | Logout
    | Id
    | Login
    | Authenticate
    | List
    | Namespace
    | Status
    | Select
    | Unselect
    | Close
    | Fetch
    | Store
    | Expunge
    | Append
    | Idle
)
