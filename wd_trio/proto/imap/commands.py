"""IMAP commands as values: what parse produces and the handlers take. One frozen class each, named by the RFC.

Mailbox names are Unicode (modified UTF-7 decoded, or UTF-8 as it came under UTF8=ACCEPT), "INBOX" in capitals
whatever the client wrote. Flags are split: bits of mail.model's system flags and canonical keywords.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wd_trio.mail.numset import EMPTY, SequenceSet, UidSet
from wd_trio.mail.search import SearchKey
from wd_trio.secret import Secret


@dataclass(frozen=True, slots=True)
class Capability:
    pass


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class StartTls:
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
    """`patterns` holds one pattern for the basic command. `reference` and patterns are Unicode.

    The extended command (RFC 5258, 5819, 6154): `selection` and `returns` hold upper-case option names
    ("SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"; "SUBSCRIBED", "CHILDREN", "SPECIAL-USE",
    "STATUS" with `status_items`). `extended` tells LIST with any of these, or several patterns.
    """

    reference: str
    patterns: tuple[str, ...]
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status_items: tuple[str, ...] = ()
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Lsub:
    reference: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Create:
    """`special_use` is CREATE … (USE (…)), RFC 6154; a trailing separator is cut off already."""

    mailbox: str
    special_use: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    mailbox: str
    subscribed: bool  # False: UNSUBSCRIBE


@dataclass(frozen=True, slots=True)
class Check:
    pass


@dataclass(frozen=True, slots=True)
class Enable:
    """RFC 5161; names in capitals, known or not."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GetQuota:
    root: str


@dataclass(frozen=True, slots=True)
class GetQuotaRoot:
    mailbox: str


@dataclass(frozen=True, slots=True)
class SetQuota:
    root: str
    limits: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    pass


@dataclass(frozen=True, slots=True)
class Status:
    mailbox: str
    items: tuple[str, ...]  # upper case


@dataclass(frozen=True, slots=True)
class Resync:
    """SELECT … (QRESYNC (…)), RFC 7162 §3.2.5: what the client knows of the mailbox, as of `modseq`.

    `known` is None where it did not say which uids; then it means all that there ever were. `match` holds sample
    message numbers and the uids that these had, equally many of both, paired in order; empty for none.
    """

    uid_validity: int
    modseq: int
    known: UidSet | None = None
    match: tuple[UidSet, UidSet] = (EMPTY, EMPTY)


@dataclass(frozen=True, slots=True)
class Select:
    mailbox: str
    read_only: bool  # EXAMINE
    condstore: bool = False  # SELECT … (CONDSTORE), RFC 7162 §3.1.8
    resync: Resync | None = None


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
    binary: bool = False  # BINARY[part] (RFC 3516): the part decoded of its transfer encoding


@dataclass(frozen=True, slots=True)
class Fetch:
    """`items` are plain upper-case data items, macros expanded ("FLAGS", "ENVELOPE", "BODY", …); `bodies` the
    sections; both in the client's order, without repeats. `uid`: UID FETCH (then "UID" is among the items)."""

    uid: bool
    messages: SequenceSet
    items: tuple[str, ...]
    bodies: tuple[FetchBody, ...] = ()
    binary_sizes: tuple[str, ...] = ()  # the parts of BINARY.SIZE[part]
    changed_since: int | None = None  # RFC 7162; then "MODSEQ" is among the items
    vanished: bool = False  # with UID and `changed_since` only: which are gone, too (RFC 7162 §3.2.6)


@dataclass(frozen=True, slots=True)
class Store:
    uid: bool
    messages: SequenceSet
    mode: str  # "set", "add", "remove"
    silent: bool
    flags: int
    keywords: str
    unchanged_since: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY, or MOVE (RFC 6851) where `move`."""

    uid: bool
    messages: SequenceSet
    mailbox: str
    move: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """`returns` is None for the plain command, else ESEARCH's options in capitals (RFC 4731; an empty list
    means ALL). `key` is one tree; sequence sets in it are still `Numbers`. A charset that is not known never
    gets here: the engine answers NO [BADCHARSET]."""

    uid: bool
    key: SearchKey
    returns: frozenset[str] | None = None


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
    utf8: bool = False  # APPEND … UTF8 (literal8), RFC 6855
    binary: bool = False  # the message came as a literal8 (RFC 3516): NULs are allowed


@dataclass(frozen=True, slots=True)
class Idle:
    pass


Command: TypeAlias = (
    Capability
    | Noop
    | Logout
    | StartTls
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
    | Copy
    | Search
    | Create
    | Delete
    | Rename
    | Subscribe
    | Lsub
    | Check
    | Enable
    | GetQuota
    | GetQuotaRoot
    | SetQuota
    | Expunge
    | Append
    | Idle
)
