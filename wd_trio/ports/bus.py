"""The bus: hints that something changed. A lost hint costs latency, never correctness.

A hint says which mailbox moved from one modseq to which other, and, when that is small, what the change was,
so that a session standing at `previous_modseq` need not ask the store.

A process hears "mailbox" hints of the users that it follows, and maybe of others; the other kinds, which are few and
which caches live by, it hears of all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wd_trio.mail.model import Changes


@dataclass(frozen=True, slots=True)
class Hint:
    """One committed change. `kind` is "mailbox" (then `changes` may tell it; modseq 0: emptied, renamed or
    deleted, ask the store), "folders" (a user's list of mailboxes changed), "account" (what a
    user is, has or may do changed: caches of it are stale), "user" (the credentials changed: whoever showed old ones
    shows them again) or "kill" (some of the user's sessions are marked to be ended)."""

    kind: str
    user_id: str
    mailbox_id: str = ""
    previous_modseq: int = 0
    modseq: int = 0
    changes: Changes | None = None


@dataclass(frozen=True, slots=True)
class Resync:
    """Hints were lost or may have been (a new subscription, an overflow): ask the store. `user_id` tells whose,
    "" that anybody's may have been."""

    user_id: str = ""


class Bus(Protocol):
    def publish_nowait(self, hint: Hint) -> None:
        """Hand a hint to every other process. Never blocks, never raises; a full queue drops it, and its
        readers are told to resync."""
        ...

    def follow(self, user_id: str) -> None:
        """Hear of this user's mailboxes from soon on: a Resync of the user tells from when, unless they were heard
        of all along. Never blocks, never raises; following twice is once."""
        ...

    def unfollow(self, user_id: str) -> None:
        """Need not hear of them any more."""
        ...

    async def receive(self) -> Sequence[Hint | Resync]:
        """Wait for hints of other processes; at least one. Ends with trio.EndOfChannel-like `Unavailable`
        only when the engine is gone for good."""
        ...
