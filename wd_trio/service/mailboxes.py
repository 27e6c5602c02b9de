"""Mailboxes of a user: listing, opening, making, renaming, deleting. The rules that IMAP, POP3 and the API share.

Names are Unicode, "/" between levels, normalised to NFC. A change of the list is hinted to the user's other
sessions; sessions that look at a mailbox whose messages left it are made to ask the store, which tells them.
What takes several steps of the store takes them in one crossing. Where the engine has no transaction around them, a
fault between two leaves the first ones done. An `origin` (mail/outcome.py) is told to the last of them.
"""

from __future__ import annotations

import builtins
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wd_trio.errors import Denied, Invalid, Limited, NotFound
from wd_trio.mail import names
from wd_trio.mail.model import DEFAULT_MAILBOXES, SEPARATOR, Mailbox, MailboxSpec, Opened, Usage
from wd_trio.mail.names import INBOX, canonical
from wd_trio.mail.numset import UidSet
from wd_trio.mail.outcome import Origin
from wd_trio.ports.bus import Hint
from wd_trio.ports.gateway import Gateway, reads, writes
from wd_trio.ports.mail import MailStore
from wd_trio.service.changes import ChangeHub

SPECIAL_USES: Final = frozenset({"\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash"})

MAX_MAILBOXES: Final = 10_000
RANGE_BYTES: Final = 120  # what one range of a UidSet weighs: three list slots and their integers


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxOptions:
    uid_cache_bytes: int = 16 << 20


@dataclass(slots=True)
class _Known:
    mailbox_id: str
    modseq: int
    uids: UidSet
    weight: int


class Mailboxes:
    """Use cases on mailboxes; each is one crossing of the gateway unless it says more. Those that name a mailbox by
    id find only the user's own."""

    def __init__(
        self, *, gateway: Gateway, store: MailStore, hub: ChangeHub, options: MailboxOptions | None = None
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._hub = hub
        self._options = options or MailboxOptions()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._weight = 0
        self._keys: dict[str, tuple[str, str]] = {}  # by mailbox id, of those known

    async def list(self, user_id: str) -> builtins.list[Mailbox]:
        """All mailboxes of a user, INBOX first; the default ones are made when the user has none yet."""
        found = await self._gateway.run(self._store.list_mailboxes, user_id)
        return found or await self._gateway.run(self._store.ensure_mailboxes, user_id, DEFAULT_MAILBOXES)

    async def find(self, user_id: str, path: str) -> Mailbox:
        """NotFound when there is none of that path."""
        return await self._gateway.run(self._store.find_mailbox, user_id, canonical(path))

    async def create(
        self,
        user_id: str,
        path: str,
        *,
        special_use: str = "",
        subscribed: bool = False,
        require: Callable[[str], None] | None = None,
        origin: Origin | None = None,
    ) -> Mailbox:
        """Make a mailbox, and subscribe its name where that is asked for. `require` is called, in the engine's
        thread, with a user of whom nothing is there yet, and raises when there shall be nothing. Invalid for a bad
        name or special use, Conflict when it exists, Limited when the user has too many."""
        name = names.checked(path)
        if special_use and special_use not in SPECIAL_USES:
            raise Invalid("not a special use that can be given", what="special use")
        spec = MailboxSpec(name, special_use, subscribed=subscribed)
        made = await self._gateway.run(_create, self._store, user_id, spec, require, origin=origin)
        self._hub.publish(Hint("folders", user_id))
        return made

    async def delete(self, user_id: str, path: str, *, origin: Origin | None = None) -> None:
        """Remove a mailbox and its messages, not its children. Denied for INBOX, NotFound without one."""
        path = canonical(path)
        if path == INBOX:
            raise Denied("INBOX stays", what="mailbox")
        mailbox_id = await self._gateway.run(self._store.delete_mailbox, user_id, path, origin=origin)
        self._tell(user_id, [mailbox_id])

    async def remove(self, user_id: str, mailbox_id: str) -> None:
        """As `delete`, by id; its name is no longer subscribed."""
        await self._gateway.run(_remove, self._store, user_id, mailbox_id)
        self._tell(user_id, [mailbox_id])

    async def rename(self, user_id: str, source: str, target: str, *, origin: Origin | None = None) -> None:
        """Rename a mailbox with its children; INBOX gives its messages to a new mailbox and stays.
        Invalid for a bad name or a target within the source, Conflict when a name is taken, NotFound."""
        source, name = canonical(source), names.checked(target)
        if source != INBOX:
            _require_outside(source, name)
        renamed = await self._gateway.run(self._store.rename_mailbox, user_id, source, name, origin=origin)
        self._tell(user_id, renamed)

    async def change(
        self, user_id: str, mailbox_id: str, *, path: str | None = None, subscribed: bool | None = None
    ) -> None:
        """Rename a mailbox with its children, but never INBOX (Denied), and note whether it is subscribed; None
        leaves it as it is: what was subscribed stays so under its new name. Errors of `rename` and `subscribe`."""
        name = None if path is None else names.checked(path)
        renamed = await self._gateway.run(_change, self._store, user_id, mailbox_id, name, subscribed)
        if renamed:
            self._tell(user_id, renamed)

    def _tell(self, user_id: str, mailbox_ids: builtins.list[str]) -> None:
        """These mailboxes are gone or have new names."""
        for mailbox_id in mailbox_ids:
            self._hub.publish(Hint("mailbox", user_id, mailbox_id))
        self._hub.publish(Hint("folders", user_id))

    async def subscribe(
        self, user_id: str, path: str, *, subscribed: bool, origin: Origin | None = None
    ) -> None:
        """Note whether a name is subscribed; there need not be a mailbox of that name. Invalid for a bad name,
        Limited for one too many."""
        name = names.checked(path) if subscribed else canonical(path)
        await self._gateway.run(_subscribe, self._store, user_id, name, subscribed=subscribed, origin=origin)

    async def subscriptions(self, user_id: str) -> builtins.list[str]:
        """The subscribed names, mailboxes or not."""
        return await self._gateway.run(self._store.subscriptions, user_id)

    async def usage(self, user_id: str) -> Usage:
        return await self._gateway.run(self._store.usage, user_id)

    async def open(self, user_id: str, path: str) -> tuple[Opened, UidSet]:
        """A mailbox and all its uids at one moment. The uids come from a cache shared by this process's
        sessions while the mailbox stands at the modseq they were read at. NotFound when there is none."""
        key = (user_id, canonical(path))
        known = self._known.get(key)
        opened = await self._open(key, known.modseq if known else -1)
        if known is not None and opened.uids is None and opened.mailbox.id != known.mailbox_id:
            # Another mailbox has the name now, and happens to stand at the same modseq.
            opened = await self._open(key, -1)
        if opened.uids is not None:
            self._remember(key, opened.mailbox, opened.uids)
            return opened, opened.uids
        assert known is not None  # the store leaves uids out only for a modseq that it was told
        if key in self._known:
            self._known.move_to_end(key)
        return replace(opened, uids=known.uids), known.uids

    async def reopen(self, user_id: str, mailbox_id: str) -> tuple[Opened, UidSet]:
        """As `open`, by id, whatever the mailbox is called now: for those who had it open before."""
        key = self._keys.get(mailbox_id)
        if key is not None:
            with contextlib.suppress(NotFound):  # it may have another name now
                found = await self.open(*key)
                if found[0].mailbox.id == mailbox_id:
                    return found
        opened = await self._gateway.run(_reopen, self._store, user_id, mailbox_id)
        assert opened.uids is not None  # no modseq was told for which they could be left out
        self._remember((user_id, opened.mailbox.path), opened.mailbox, opened.uids)
        return opened, opened.uids

    async def highest_modseqs(self, mailbox_ids: Sequence[str]) -> dict[str, int]:
        """Where these mailboxes stand, those that are gone left out."""
        return await self._gateway.run(self._store.highest_modseqs, mailbox_ids)

    async def _open(self, key: tuple[str, str], known_modseq: int) -> Opened:
        return await self._gateway.run(self._store.open_mailbox, *key, known_modseq=known_modseq)

    def _remember(self, key: tuple[str, str], mailbox: Mailbox, uids: UidSet) -> None:
        old = self._known.pop(key, None)
        if old is not None:
            self._forget(old)
        weight = 400 + RANGE_BYTES * uids.range_count
        self._known[key] = _Known(mailbox.id, mailbox.highest_modseq, uids, weight)
        self._keys[mailbox.id] = key
        self._weight += weight
        while self._weight > self._options.uid_cache_bytes:
            self._forget(self._known.popitem(last=False)[1])

    def _forget(self, known: _Known) -> None:
        self._weight -= known.weight
        self._keys.pop(known.mailbox_id, None)


# What runs in the engine's threads: each is one crossing


@reads("store")
def owned(store: MailStore, user_id: str, mailbox_id: str) -> Mailbox:
    """A mailbox of this very user. NotFound (what="mailbox")."""
    found = store.get_mailbox(mailbox_id)
    if found.user_id != user_id:
        raise NotFound(f"user {user_id} has no mailbox {mailbox_id}", what="mailbox")
    return found


@reads("store")
def _reopen(store: MailStore, user_id: str, mailbox_id: str) -> Opened:
    opened = store.open_mailbox(user_id, owned(store, user_id, mailbox_id).path)
    if opened.mailbox.id != mailbox_id:  # renamed, and another made under its name, in this moment
        raise NotFound(f"no mailbox {mailbox_id}", what="mailbox")
    return opened


@writes("store")
def _create(
    store: MailStore,
    user_id: str,
    spec: MailboxSpec,
    require: Callable[[str], None] | None,
    *,
    origin: Origin | None,
) -> Mailbox:
    here = store.list_mailboxes(user_id)
    if not here:  # mailboxes go with their user: where there are some, there is the user
        if require is not None:
            require(user_id)
        here = store.ensure_mailboxes(user_id, DEFAULT_MAILBOXES)
    if len(here) >= MAX_MAILBOXES:
        raise Limited("too many mailboxes", what="mailboxes")
    if spec.subscribed:
        _require_subscribable(store, user_id)
    return store.create_mailbox(user_id, spec, origin=origin)


@writes("store")
def _remove(store: MailStore, user_id: str, mailbox_id: str) -> None:
    path = owned(store, user_id, mailbox_id).path
    store.delete_mailbox(user_id, path)
    store.subscribe(user_id, path, subscribed=False)


@writes("store")
def _change(
    store: MailStore, user_id: str, mailbox_id: str, name: str | None, subscribed: bool | None
) -> list[str]:
    """The ids of the mailboxes that were renamed, if any."""
    mailbox = owned(store, user_id, mailbox_id)
    path, renamed = mailbox.path, list[str]()
    if subscribed and not mailbox.subscribed:
        _require_subscribable(store, user_id)
    if name is not None and name != path:
        if path == INBOX:
            raise Denied("INBOX stays", what="mailbox")
        _require_outside(path, name)
        renamed = store.rename_mailbox(user_id, path, name)
        if mailbox.subscribed:  # subscriptions are names
            store.subscribe(user_id, path, subscribed=False)
            subscribed = subscribed is not False
        path = name
    if subscribed is not None:
        store.subscribe(user_id, path, subscribed=subscribed)
    return renamed


@writes("store")
def _subscribe(store: MailStore, user_id: str, name: str, *, subscribed: bool, origin: Origin | None) -> None:
    if subscribed:
        _require_subscribable(store, user_id)
    store.subscribe(user_id, name, subscribed=subscribed, origin=origin)


def _require_outside(source: str, name: str) -> None:
    if name.startswith(source + SEPARATOR):
        raise Invalid("a mailbox cannot move into itself", what="name")


def _require_subscribable(store: MailStore, user_id: str) -> None:
    if len(store.subscriptions(user_id)) >= MAX_MAILBOXES:
        raise Limited("too many subscriptions", what="subscriptions")
