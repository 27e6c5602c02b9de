"""Mailboxes of a user: listing, status, opening. The rules that IMAP, POP3 and the API share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from wd_trio.mail.model import DEFAULT_MAILBOXES, Mailbox, Opened
from wd_trio.mail.numset import UidSet
from wd_trio.ports.gateway import Gateway
from wd_trio.ports.mail import MailStore

RANGE_BYTES: Final = 120  # what one range of a UidSet weighs: three list slots and their integers


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxOptions:
    uid_cache_bytes: int = 16 << 20


@dataclass(slots=True)
class _Known:
    modseq: int
    uids: UidSet
    weight: int


class Mailboxes:
    """Use cases on mailboxes; each method is one crossing of the gateway."""

    def __init__(self, *, gateway: Gateway, store: MailStore, options: MailboxOptions | None = None) -> None:
        self._gateway = gateway
        self._store = store
        self._options = options or MailboxOptions()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._weight = 0

    async def list(self, user_id: str) -> list[Mailbox]:
        """All mailboxes of a user, INBOX first; the default ones are made when the user has none yet."""
        found = await self._gateway.run(self._store.list_mailboxes, user_id)
        return found or await self._gateway.run(self._store.ensure_mailboxes, user_id, DEFAULT_MAILBOXES)

    async def find(self, user_id: str, path: str) -> Mailbox:
        """NotFound when there is none of that path."""
        return await self._gateway.run(self._store.find_mailbox, user_id, path)

    async def open(self, user_id: str, path: str) -> tuple[Opened, UidSet]:
        """A mailbox and all its uids at one moment. The uids come from a cache shared by this process's
        sessions while the mailbox stands at the modseq they were read at. NotFound when there is none."""
        key = (user_id, path)
        known = self._known.get(key)
        opened = await self._gateway.run(
            self._store.open_mailbox, user_id, path, known_modseq=known.modseq if known else -1
        )
        if opened.uids is not None:
            self._remember(key, opened.mailbox.highest_modseq, opened.uids)
            return opened, opened.uids
        assert known is not None  # the store leaves uids out only for a modseq that it was told
        if key in self._known:
            self._known.move_to_end(key)
        return replace(opened, uids=known.uids), known.uids

    def _remember(self, key: tuple[str, str], modseq: int, uids: UidSet) -> None:
        old = self._known.pop(key, None)
        if old is not None:
            self._weight -= old.weight
        weight = 400 + RANGE_BYTES * uids.range_count
        self._known[key] = _Known(modseq, uids, weight)
        self._weight += weight
        while self._weight > self._options.uid_cache_bytes:
            _, dropped = self._known.popitem(last=False)
            self._weight -= dropped.weight
