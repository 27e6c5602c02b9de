"""Who mail to an address reaches, remembered for a short while by each process.

- Only what was found is remembered, and only under addresses as they are stored: one with a "+detail" may become
  somebody's own without any change of the user it means now. Who is unknown or disabled is looked up every time.
- An entry says at which version of its user's document it was true. It goes when that user's credentials, limits or
  addresses change (hints that every process hears of all users), when the bus lost its place,
  and in any case after `lives_s`: a lost hint costs no more than that.
- A look-up that was under way when a hint came is not remembered.
- What must not rest on a memory does not: a user who is gone has no mailbox, and quotas are counted by the append.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from wd_trio.ports.bus import Hint
from wd_trio.service.changes import ChangeHub

LIVES_S: Final = 15.0
LIMIT_BYTES: Final = 4 << 20
_ENTRY_BYTES: Final = 900  # the objects and tables of an entry, measured, texts apart
ACCOUNT: Final = "account"
"""The kind of hint after which a user is looked up again."""
_HEARD: Final = frozenset({ACCOUNT, "user", "kill"})


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom an address means. `address` is the stored one; `quota_bytes` the limit that counts, None for none."""

    user_id: str
    username: str
    address: str
    quota_bytes: int | None


class _Entry(NamedTuple):
    recipient: Recipient
    version: int
    ends: float
    size_bytes: int


class KnownRecipients:
    """What one process remembers, the longest unused forgotten first. Without a hub nothing is remembered."""

    def __init__(
        self, hub: ChangeHub | None, *, lives_s: float = LIVES_S, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self._lives_s = lives_s
        self._limit_bytes = limit_bytes if hub is not None else 0
        self._used_bytes = 0
        self._by_address: OrderedDict[str, _Entry] = OrderedDict()
        self._of_user: dict[str, set[str]] = {}
        self._heard = 0
        if hub is not None:
            hub.listen(self._hear)
            hub.on_new_beginning(self.clear)

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def get(self, address: str) -> Recipient | None:
        """The recipient of a normalised address, if it is known."""
        entry = self._by_address.get(address)
        if entry is None:
            return None
        if trio.current_time() >= entry.ends:
            self._drop(address)
            return None
        self._by_address.move_to_end(address)
        return entry.recipient

    def looking_up(self) -> Callable[[Recipient, int], None]:
        """To be called before a look-up; what it returns remembers what was found, at that version of the user,
        unless something was heard meanwhile."""
        heard = self._heard

        def remember(recipient: Recipient, version: int) -> None:
            if heard == self._heard:
                self._put(recipient, version)

        return remember

    def clear(self) -> None:
        self._heard += 1
        self._by_address.clear()
        self._of_user.clear()
        self._used_bytes = 0

    def _hear(self, hint: Hint) -> None:
        if hint.kind in _HEARD:
            self._heard += 1
            for address in tuple(self._of_user.get(hint.user_id, ())):
                self._drop(address)

    def _put(self, recipient: Recipient, version: int) -> None:
        before = self._by_address.get(recipient.address)
        if before is not None:
            if before.recipient.user_id == recipient.user_id and before.version > version:
                return
            self._drop(recipient.address)
        size = _ENTRY_BYTES + 2 * len(recipient.address) + len(recipient.username)
        ends = trio.current_time() + self._lives_s
        self._by_address[recipient.address] = _Entry(recipient, version, ends, size)
        self._of_user.setdefault(recipient.user_id, set()).add(recipient.address)
        self._used_bytes += size
        while self._used_bytes > self._limit_bytes:
            self._drop(next(iter(self._by_address)))

    def _drop(self, address: str) -> None:
        entry = self._by_address.pop(address)
        self._used_bytes -= entry.size_bytes
        addresses = self._of_user[entry.recipient.user_id]
        addresses.discard(address)
        if not addresses:
            del self._of_user[entry.recipient.user_id]
