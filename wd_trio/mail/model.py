"""The words everybody shares: mailboxes, messages, flags, changes.

Plain values only. Rows that come by the hundred (`MessageRow`, `FlagRow`) are slotted and cheap; the rest is
frozen. Times are whole seconds since the epoch, UTC. System flags are bits of one integer; keywords are one
string, space-separated and sorted without regard to case ("" for none): both compare, hash and store as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, TypeAlias

from wd_trio.mail.numset import UidSet

Buffer: TypeAlias = bytes | bytearray | memoryview

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16

SYSTEM_FLAGS: Final[Mapping[str, int]] = {
    "\\Answered": ANSWERED,
    "\\Flagged": FLAGGED,
    "\\Deleted": DELETED,
    "\\Seen": SEEN,
    "\\Draft": DRAFT,
}
_BY_FOLDED_NAME: Final = {name.lower(): bit for name, bit in SYSTEM_FLAGS.items()}


def system_flag(name: str) -> int | None:
    """The bit of a system flag named in any case (`\\seen`), None for others (`\\Recent` included)."""
    return _BY_FOLDED_NAME.get(name.lower())


def join_keywords(words: Iterable[str]) -> str:
    """The canonical text of a set of keywords; the first spelling of each stands."""
    by_folded: dict[str, str] = {}
    for word in words:
        by_folded.setdefault(word.lower(), word)
    return " ".join(by_folded[key] for key in sorted(by_folded))


def with_keywords(in_use: str, texts: Iterable[str]) -> str:
    """The keywords in use in a mailbox, those of some messages' texts added."""
    words = [word for text in sorted(texts) for word in text.split()]
    return join_keywords([*in_use.split(), *words]) if words else in_use


def flag_names(flags: int, keywords: str) -> list[str]:
    """Flags as IMAP names them, system flags first."""
    names = [name for name, bit in SYSTEM_FLAGS.items() if flags & bit]
    return names + keywords.split() if keywords else names


@dataclass(frozen=True, slots=True)
class MailboxSpec:
    """A mailbox to be made. `special_use` is "" or one of RFC 6154's attributes ("\\Sent")."""

    path: str
    special_use: str = ""
    subscribed: bool = True


DEFAULT_MAILBOXES: Final = (
    MailboxSpec("INBOX"),
    MailboxSpec("Sent Mail", "\\Sent"),
    MailboxSpec("Trash", "\\Trash"),
    MailboxSpec("Drafts", "\\Drafts"),
    MailboxSpec("Junk", "\\Junk"),
)
SEPARATOR: Final = "/"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox with its maintained counters. `path` is Unicode, "/" between levels, INBOX in capitals."""

    id: str
    user_id: str
    path: str
    uid_validity: int
    uid_next: int
    highest_modseq: int
    special_use: str
    subscribed: bool
    messages: int
    unseen: int
    deleted: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A mailbox as SELECT needs it, all read at one moment.

    `uids` is None when the mailbox still stands at the modseq that the caller said it knows;
    `first_unseen_uid` is 0 when all are seen; `keywords` are those in use.
    """

    mailbox: Mailbox
    uids: UidSet | None
    first_unseen_uid: int
    keywords: str


@dataclass(frozen=True, slots=True)
class BlobData:
    """A blob ready to be kept: chunks of `CHUNK_BYTES` (the last may be shorter), each compressed or not."""

    digest: bytes
    size: int
    chunks: tuple[tuple[bool, bytes], ...]  # (compressed with zstd?, bytes)


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that is known of one message's bytes, scanned once, stored beside them and never parsed again.

    `envelope` and `bodystructure` are the parenthesised values a FETCH sends; `*_utf8` are their forms under
    UTF8=ACCEPT where these differ, else None; `body` is BODY without extension data. `header` is the header
    block with its closing empty line; `parts` an encoded mail.parts.PartTable; `rope` an encoded
    mail.rope.Rope whose blobs are `blobs`.
    """

    size: int
    header: bytes
    envelope: bytes
    envelope_utf8: bytes | None
    bodystructure: bytes
    bodystructure_utf8: bytes | None
    body: bytes
    parts: bytes
    preview: str
    rope: bytes
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class NewMessage:
    content: Content
    internal_date: int
    flags: int = 0
    keywords: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """`uids[i]` is the uid of the i-th message; all were given in one transaction at `modseq`."""

    mailbox_id: str
    user_id: str
    uid_validity: int
    uids: tuple[int, ...]
    previous_modseq: int
    modseq: int
    rows: tuple[FlagRow, ...]


class Columns(IntFlag):
    """What a page of messages is to bring beyond uid, modseq, flags, keywords, internal date and size."""

    NONE = 0
    ENVELOPE = 1
    STRUCTURE = 2
    HEADER = 4
    PARTS = 8
    ROPE = 16
    IDS = 32  # email id, thread id, saved date
    PREVIEW = 64
    BODY = 128  # BODY without extension data, which few ask for


@dataclass(slots=True)
class MessageRow:
    """One message of a page. Fields of columns that were not asked for are None.

    `blobs` holds whole blobs of this row's rope that fitted the page's byte budget, by digest; None for none.
    """

    uid: int
    modseq: int
    flags: int
    keywords: str
    internal_date: int
    size: int
    envelope: bytes | None = None
    envelope_utf8: bytes | None = None
    bodystructure: bytes | None = None
    bodystructure_utf8: bytes | None = None
    body: bytes | None = None
    header: bytes | None = None
    parts: bytes | None = None
    rope: bytes | None = None
    email_id: str | None = None
    thread_id: str | None = None
    saved_date: int | None = None
    preview: str | None = None
    blobs: dict[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A mailbox and some of its messages, read at one moment; `more` says that others follow in the same order."""

    mailbox: Mailbox
    rows: Sequence[MessageRow]
    more: bool


@dataclass(slots=True)
class FlagRow:
    uid: int
    modseq: int
    flags: int
    keywords: str


@dataclass(frozen=True, slots=True)
class FlagChange:
    """STORE's three ways: mode "set", "add" or "remove"."""

    mode: str
    flags: int
    keywords: str = ""


@dataclass(frozen=True, slots=True)
class FlagsStored:
    """The outcome of a STORE. `rows` are the messages' flags afterwards, changed or not, in order of uid;
    those changed carry `modseq` (equal to `previous_modseq` when nothing changed). `failed` lists the uids that
    UNCHANGEDSINCE held back, `missing` those that are gone."""

    previous_modseq: int
    modseq: int
    rows: Sequence[FlagRow]
    failed: UidSet
    missing: UidSet


@dataclass(frozen=True, slots=True)
class Expunged:
    previous_modseq: int
    modseq: int
    uids: UidSet


@dataclass(frozen=True, slots=True)
class Copied:
    """The outcome of COPY or MOVE: `sources[i]` became `targets.uids[i]`, in order of uid.

    `gone` is MOVE's expunge in the source mailbox, made in the same transaction; None for COPY.
    """

    sources: tuple[int, ...]
    targets: Appended
    gone: Expunged | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search: the matching uids, their highest modseq, and the uid to go on after (0: done)."""

    uids: UidSet
    modseq: int
    after: int


@dataclass(frozen=True, slots=True)
class Vanished:
    """The uids that left a mailbox in the transaction at `modseq`."""

    modseq: int
    uids: UidSet


@dataclass(frozen=True, slots=True)
class Changes:
    """All that happened in a mailbox after `since` up to and including `modseq`, complete over that span.

    `rows` are the living messages changed or new in it, in order of uid; `vanished` in order of modseq.
    `uid_next` and `modseq` belong together. `more` says that the span was cut short and `highest` lies beyond.
    """

    since: int
    modseq: int
    uid_next: int
    rows: Sequence[FlagRow] = ()
    vanished: Sequence[Vanished] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    size_bytes: int
    messages: int
