"""The mail store: mailboxes and messages of users. Synchronous; reached through the gateway.

Promises every adapter keeps (tests/contract holds them):
- Every change of a mailbox takes the next modseq of that mailbox; one call changes a mailbox at one modseq
  (a move onto the same mailbox at two).
- A uid never becomes visible before a smaller one, and is never given twice.
- Counters (messages, unseen, deleted, bytes; the user's usage) move in the same transaction.
- A call that returns has committed durably; one that raises has changed nothing.
- A call with an `origin` that changes something notes what it came to in the same transaction (mail/outcome.py).
- `path` "INBOX" is case-insensitive and always exists once the user has any mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import (
    Appended,
    BlobData,
    Changes,
    Columns,
    Copied,
    Expunged,
    FlagChange,
    FlagsStored,
    Found,
    Mailbox,
    MailboxSpec,
    MessagePage,
    MessageRow,
    NewMessage,
    Opened,
    Usage,
)
from wd_trio.mail.numset import UidSet
from wd_trio.mail.outcome import Origin, Outcome
from wd_trio.mail.search import SearchKey
from wd_trio.ports.blobs import Blobs


class MailStore(Blobs, Protocol):
    def ensure_mailboxes(self, user_id: str, specs: Sequence[MailboxSpec]) -> list[Mailbox]:
        """Make those of `specs` that do not exist yet (by path); return all of the user's mailboxes by path."""
        ...

    def list_mailboxes(self, user_id: str) -> list[Mailbox]:
        """All mailboxes of a user in order of path, INBOX first, counters included."""
        ...

    def get_mailbox(self, mailbox_id: str) -> Mailbox:
        """NotFound when it is gone."""
        ...

    def highest_modseqs(self, mailbox_ids: Sequence[str]) -> dict[str, int]:
        """Where each of these mailboxes stands, those that are gone left out; one round trip for 1,000."""
        ...

    def find_mailbox(self, user_id: str, path: str) -> Mailbox:
        """NotFound when there is none of that path."""
        ...

    def create_mailbox(self, user_id: str, spec: MailboxSpec, *, origin: Origin | None = None) -> Mailbox:
        """Make a mailbox. Conflict when there is one of that path, or of that special use (what="special use")."""
        ...

    def delete_mailbox(self, user_id: str, path: str, *, origin: Origin | None = None) -> str:
        """Remove a mailbox with its messages, not its children; its id. The name stays subscribed. NotFound;
        Denied for INBOX. However large, it is gone at once; `sweep_deleted` makes room of what was in it."""
        ...

    def rename_mailbox(
        self, user_id: str, source: str, target: str, *, origin: Origin | None = None
    ) -> list[str]:
        """Give a mailbox and all its children new paths at once (their ids). INBOX stays: its messages move to
        a new mailbox `target`, its children stay (RFC 3501 §6.3.5); the ids are INBOX's and the new one's.
        NotFound; Conflict when a path is taken; Invalid for a target within the source."""
        ...

    def subscribe(self, user_id: str, path: str, *, subscribed: bool, origin: Origin | None = None) -> None:
        """Note whether a name is subscribed; names outlive their mailboxes (RFC 3501 §6.3.6)."""
        ...

    def subscriptions(self, user_id: str) -> list[str]:
        """The subscribed names in order, whether mailboxes of these names exist or not."""
        ...

    def open_mailbox(self, user_id: str, path: str, *, known_modseq: int = -1) -> Opened:
        """All that SELECT tells, at one moment; uids left out when `known_modseq` is still the highest.
        NotFound when there is none of that path."""
        ...

    def append(
        self,
        user_id: str,
        path: str,
        messages: Sequence[NewMessage],
        *,
        blobs: Sequence[BlobData] = (),
        quota_bytes: int | None = None,
        create: bool = False,
        origin: Origin | None = None,
    ) -> Appended:
        """Add messages, in order, in one transaction, with the small blobs they bring along.

        Blobs not brought must be there already (Conflict, what="blob", when one is not). OverQuota when the
        user's usage would pass `quota_bytes`. A missing mailbox is made when `create` (deliveries), together
        with the default ones; else NotFound.
        """
        ...

    def fetch(
        self,
        mailbox_id: str,
        uids: UidSet,
        columns: Columns,
        *,
        limit: int = 256,
        budget_bytes: int = 1 << 20,
    ) -> list[MessageRow]:
        """Living messages among `uids` in order of uid: at most `limit`, and no more after `budget_bytes` of
        ropes and preloaded blobs (at least one row). With Columns.ROPE, blobs that fit the budget are preloaded."""
        ...

    def flags(self, mailbox_id: str, uids: UidSet) -> FlagRows:
        """The flags of all living messages among `uids`, at one moment. What FETCH FLAGS of a whole mailbox asks:
        callers bound it by the uids they pass, at about 10 bytes of memory for each. NotFound when it is gone."""
        ...

    def page(
        self,
        user_id: str,
        mailbox_id: str,
        columns: Columns,
        *,
        newest_first: bool = True,
        beyond: int = 0,
        unseen: bool = False,
        limit: int = 20,
    ) -> MessagePage:
        """Up to `limit` living messages of a user's mailbox in order of uid, from the newest on or from the oldest,
        past uid `beyond` (0: from the end); with `unseen`, only those without \\Seen. Ropes bring no blobs.
        NotFound when the user has no such mailbox, whoever else may have it."""
        ...

    def store_flags(
        self,
        mailbox_id: str,
        uids: UidSet,
        change: FlagChange,
        *,
        unchanged_since: int | None = None,
        origin: Origin | None = None,
    ) -> FlagsStored:
        """Change flags of the living messages among `uids`, one modseq for all. A message whose flags stay the
        same keeps its modseq; where none changed the mailbox's modseq stays too."""
        ...

    def expunge(
        self,
        mailbox_id: str,
        uids: UidSet | None = None,
        *,
        marked_only: bool = True,
        origin: Origin | None = None,
    ) -> Expunged:
        """Remove the messages marked \\Deleted, or marked or not (among `uids` when given); one modseq for all,
        journal kept."""
        ...

    def copy(
        self,
        mailbox_id: str,
        uids: UidSet,
        path: str,
        *,
        quota_bytes: int | None = None,
        move: bool = False,
        origin: Origin | None = None,
    ) -> Copied:
        """Copy, or move, the living messages among `uids` to the mailbox `path` of the same user, flags, dates
        and contents included, in one transaction. NotFound (what="target") when there is no such mailbox;
        OverQuota for a copy without room (a move needs none). A move onto the same mailbox is two changes in one
        transaction, each with a modseq of its own: first the new messages, then the expunge."""
        ...

    def search(
        self, mailbox_id: str, uids: UidSet, key: SearchKey, *, now: int, after: int = 0, limit: int = 1000
    ) -> Found:
        """The living messages among `uids` above `after` that match, looking at about `limit` messages, or at
        as many as a few MB of text allow. Substrings match without regard to case, in decoded text. Invalid
        (what="search") for a key with too many texts."""
        ...

    def changes_since(self, mailbox_id: str, modseq: int, *, limit: int = 1000) -> Changes:
        """What happened after `modseq`, about `limit` rows and journal entries at most (then `more`), cut
        between two modseqs. A page that was cut gives 1 for `uid_next`: what came in its span may have changed
        after it, so nothing new may be told before the last page. Outdated when the journal no longer reaches
        back so far, or `modseq` is of another history (after a restore); NotFound when the mailbox is gone."""
        ...

    def outcome(self, origin: Origin) -> Outcome | None:
        """What the command's write came to, for an hour at least, unless a later one of its session was noted. None
        tells nothing: the write may not have been made, or may be about to commit, or has changed nothing."""
        ...

    def trim_journal(self, *, older_than_s: int, limit: int) -> int:
        """Forget expunges that long ago, in at most `limit` mailboxes; how many mailboxes were trimmed."""
        ...

    def sweep_deleted(self, *, limit: int) -> int:
        """Remove for good what was in deleted mailboxes, some `limit` messages and other entries of it; how many
        they were, 0 when nothing is left. Whatever was cut short, the next call goes on with it."""
        ...

    def usage(self, user_id: str) -> Usage: ...

    def recount(self, user_id: str) -> Usage:
        """Compute the counters of a user and its mailboxes afresh from the messages, and return the usage."""
        ...

    def delete_user_mail(self, user_id: str) -> int:
        """Remove every mailbox and message of a user, as `delete_mailbox` does; how many messages there were.
        Idempotent."""
        ...

    def ping(self) -> None:
        """Touch the engine for reading; raises Unavailable."""
        ...
