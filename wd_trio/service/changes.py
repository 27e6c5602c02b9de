"""ChangeHub: who wants to know that a mailbox changed, and the pump that tells them.

Commit, then hint. A hint of this process reaches local subscribers at once and the other processes by the bus;
hints of the bus reach local subscribers only. Fan-out is bounded: a subscription keeps at most one mailbox's
pending hints up to a small number, beyond that only "ask the store" (overflow). A lost hint heals: a new
subscription, a bus resync and a slow sweep all mark subscribers as in need of `changes_since`.

A subscription to a user instead of a mailbox hears of everything that is the user's: messages in any mailbox, the
list of mailboxes, the account. The same bounds hold for it.

The bus carries hints only of users that are followed: from a session's beginning to its end, and while there is any
subscription for the user. When following has begun, the bus orders a resync for that user alone.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

import trio

from wd_trio import telemetry
from wd_trio.mail.model import Changes
from wd_trio.ports.bus import Bus, Hint

SWEEP_S: Final = 60.0
PENDING_HINTS: Final = 16
REMEMBERED_MAILBOXES: Final = 4096

MailboxListener: TypeAlias = Callable[[str, int, int, Changes | None], None]
"""Told of a mailbox's id, of the modseqs before and after a change, and of the change where it is small. Modseq 0:
ask the store, for it was emptied, renamed or deleted."""


class Subscription:
    """One session's interest in one mailbox, or in one user. `on_change` is called, without arguments, when there
    is news; it must not block. The session takes the news when it may tell them."""

    __slots__ = ("_hub", "_on_change", "_pending", "ask_store", "mailbox_id", "user_id")

    def __init__(
        self,
        hub: ChangeHub,
        on_change: Callable[[], None],
        *,
        mailbox_id: str = "",
        user_id: str = "",
        ask: bool,
    ) -> None:
        self._hub = hub
        self._on_change = on_change
        self._pending: list[Hint] = []
        self.mailbox_id = mailbox_id
        self.user_id = user_id
        self.ask_store = ask

    def __bool__(self) -> bool:
        """Whether there is news."""
        return self.ask_store or bool(self._pending)

    def take(self) -> tuple[list[Hint], bool]:
        """The pending hints in order of arrival, and whether the store must be asked as well. Empties both."""
        hints, ask = self._pending, self.ask_store
        self._pending, self.ask_store = [], False
        return hints, ask

    def push(self, hint: Hint | None) -> None:
        """Add a hint; None or an overflow means "ask the store"."""
        if hint is None or len(self._pending) >= PENDING_HINTS:
            self._pending.clear()
            self.ask_store = True
        elif not self.ask_store:
            self._pending.append(hint)
        self._on_change()

    def close(self) -> None:
        self._hub.remove(self)


class ChangeHub:
    """The subscriptions of one process, by mailbox and by user."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._by_mailbox: dict[str, set[Subscription]] = {}
        self._by_user: dict[str, set[Subscription]] = {}
        self._in_mailboxes: dict[str, set[Subscription]] = {}  # those to mailboxes, by their user
        self._followed: Counter[str] = Counter()
        self._latest: OrderedDict[str, int] = OrderedDict()  # modseq of the last hint, for late subscribers
        self._listeners: list[Callable[[Hint], None]] = []
        self._watchers: list[MailboxListener] = []
        self._anew: list[Callable[[], None]] = []
        self._resynced: list[Callable[[str], None]] = []

    def follow(self, user_id: str) -> None:
        """Have the bus carry hints of a user's mailboxes, until `unfollow` was called as often as this."""
        self._followed[user_id] += 1
        if self._followed[user_id] == 1:
            self._bus.follow(user_id)

    def unfollow(self, user_id: str) -> None:
        self._followed[user_id] -= 1
        if self._followed[user_id] <= 0:
            del self._followed[user_id]
            self._bus.unfollow(user_id)

    def follows(self, user_id: str) -> bool:
        """Whether somebody here follows that user."""
        return user_id in self._followed

    def subscribe(
        self, mailbox_id: str, on_change: Callable[[], None], *, known_modseq: int, user_id: str = ""
    ) -> Subscription:
        """Hear of changes of a mailbox that was read at `known_modseq`, a moment ago; a hint that came between
        the reading and this call makes the subscription ask the store. Close it when done. Without its `user_id`
        the user must be followed by whoever subscribes, and anybody's resync is this one's too."""
        ask = self._latest.get(mailbox_id, 0) > known_modseq
        subscription = Subscription(self, on_change, mailbox_id=mailbox_id, user_id=user_id, ask=ask)
        self._by_mailbox.setdefault(mailbox_id, set()).add(subscription)
        self._in_mailboxes.setdefault(user_id, set()).add(subscription)
        if user_id:
            self.follow(user_id)
        return subscription

    def subscribe_user(self, user_id: str, on_change: Callable[[], None]) -> Subscription:
        """Hear of everything that is a user's. It begins with "ask the store": whoever reads after this call
        misses nothing. Close it when done."""
        subscription = Subscription(self, on_change, user_id=user_id, ask=True)
        self._by_user.setdefault(user_id, set()).add(subscription)
        self.follow(user_id)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        user_id = subscription.user_id
        if subscription.mailbox_id:
            removed = _discard(self._by_mailbox, subscription.mailbox_id, subscription)
            _discard(self._in_mailboxes, user_id, subscription)
        else:
            removed = _discard(self._by_user, user_id, subscription)
        if removed and user_id:
            self.unfollow(user_id)

    def listen(self, listener: Callable[[Hint], None]) -> None:
        """Hear of every hint, local and remote (caches that must forget)."""
        self._listeners.append(listener)

    def watch(self, listener: MailboxListener) -> None:
        """Hear of every change of a mailbox, local and remote, without a subscription for each; see `on_resync`."""
        self._watchers.append(listener)

    def on_new_beginning(self, listener: Callable[[], None]) -> None:
        """Hear that the bus lost its place for everybody: its engine was away, and may have lost its memory."""
        self._anew.append(listener)

    def on_resync(self, listener: Callable[[str], None]) -> None:
        """Hear of every "ask the store", with the user that it concerns, "" for everybody: for those who follow
        mailboxes without subscriptions."""
        self._resynced.append(listener)

    def publish(self, hint: Hint, *, but: Subscription | None = None) -> None:
        """Tell local subscribers (not `but`, whose own doing it was) and the other processes."""
        self._tell(hint, but)
        self._bus.publish_nowait(hint)

    def _tell(self, hint: Hint, but: Subscription | None = None) -> None:
        for listener in self._listeners:
            listener(hint)
        for subscription in self._by_user.get(hint.user_id, ()):
            if subscription is not but:
                subscription.push(hint)
        if not hint.mailbox_id:
            return
        for watcher in self._watchers:
            watcher(hint.mailbox_id, hint.previous_modseq, hint.modseq, hint.changes)
        self._latest[hint.mailbox_id] = max(hint.modseq, self._latest.pop(hint.mailbox_id, 0))
        if len(self._latest) > REMEMBERED_MAILBOXES:
            self._latest.popitem(last=False)
        for subscription in self._by_mailbox.get(hint.mailbox_id, ()):
            if subscription is not but:
                subscription.push(hint)

    def resync(self, user_id: str = "") -> None:
        """Make every subscriber ask the store, or only a user's."""
        if user_id:
            whose = (self._by_user, user_id), (self._in_mailboxes, user_id), (self._in_mailboxes, "")
            concerned = [held.get(key, set()) for held, key in whose]
        else:
            concerned = [*self._by_mailbox.values(), *self._by_user.values()]
        for held in concerned:
            for subscription in held:
                subscription.push(None)
        for listener in self._resynced:
            listener(user_id)

    async def run(self) -> None:
        """The change pump and the slow sweep, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            while True:
                for item in await self._bus.receive():
                    if isinstance(item, Hint):
                        telemetry.hints_total.labels("received").inc()
                        self._tell(item)
                    else:
                        telemetry.hints_total.labels("resync").inc()
                        self.resync(item.user_id)
                        if not item.user_id:
                            for listener in self._anew:
                                listener()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            self.resync()


def _discard(held: dict[str, set[Subscription]], key: str, subscription: Subscription) -> bool:
    """Whether it was there."""
    subscriptions = held.get(key, set())
    if subscription not in subscriptions:
        return False
    subscriptions.discard(subscription)
    if not subscriptions:
        del held[key]
    return True
