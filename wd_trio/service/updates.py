"""The updates of a user: what happens in its mailboxes, told as a stream of events that can be taken up anywhere.

There is no journal of events: the store's own is enough. A feed holds a position, which is for each mailbox its
modseq, its uidnext and a mark of its path. A hint that anything of the user's changed only wakes it; one crossing
then lists the mailboxes and asks `changes_since` for each that moved, and the difference is told. So a feed is
one bit: hints that are lost or too many cost nothing but time, and a burst of them costs one look.

The position travels with the events, so that any server goes on from it: nothing is missed, and what came after the
last position that the client has is told again. What cannot be told exactly is told as RESYNC, and the client reads
the mailbox anew: the journal does not reach back (Outdated), the position is none of ours, or it would be more than
POSITION_BYTES, or more than EVENTS_TOLD messages changed at once.

A feed ends when nothing happened for IDLE_S, when its user is to be logged out, and when the server leaves: its
client comes again with its position.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import Annotated, Any, Final, NamedTuple, Self, TypeAlias

import msgspec
import trio

from wd_trio.errors import Limited, NotFound, Outdated, Unavailable
from wd_trio.mail.model import Changes, FlagRow, Mailbox, Vanished, flag_names
from wd_trio.ports.bus import Hint
from wd_trio.ports.gateway import Gateway, reads
from wd_trio.ports.mail import MailStore
from wd_trio.service.changes import ChangeHub

KEEP_ALIVE_S: Final = 15.0
IDLE_S: Final = 1800.0
FEEDS_OF_A_USER: Final = 20
ROWS_A_LOOK: Final = 1000
EVENTS_TOLD: Final = 10_000
FOLDERS_TOLD: Final = 100
POSITION_BYTES: Final = 8192
_UNPACKED_BYTES: Final = 1 << 20
_NOWHERE: Final = "0"
"""The position of a user with too many mailboxes: whoever comes with it has to begin anew."""
_ENDING: Final = frozenset({"user", "kill"})
"""Kinds of hints after which a user's clients have to show their tokens again."""

Event: TypeAlias = Mapping[str, Any]
"""What clients are told: "command" and what belongs to it, in WildDuck's names."""
Told: TypeAlias = tuple[Event, str]


class _Known(NamedTuple):
    """What a client has been told of a mailbox."""

    modseq: int
    uid_next: int
    path_mark: int


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    mailbox: bytes
    modseq: _Count
    uid_next: _Count
    path_mark: _Count


Positions: TypeAlias = dict[str, _Known]
_UNKNOWN: Final = _Known(0, 1, 0)
_ANEW: Final[Event] = {"command": "RESYNC"}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[_Entry])


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    keep_alive_s: float = KEEP_ALIVE_S
    idle_s: float = IDLE_S
    feeds_of_a_user: int = FEEDS_OF_A_USER
    rows_a_look: int = ROWS_A_LOOK
    events_told: int = EVENTS_TOLD


class Batch:
    """Some events in order, made while they are read, each with the position after it, "" where that is not known;
    and the position after all. A batch without any is a sign of life."""

    __slots__ = ("_events", "position")

    def __init__(self, events: Callable[[], Iterator[Told]], position: str) -> None:
        self._events = events
        self.position = position

    def __iter__(self) -> Iterator[Told]:
        return self._events()


class Updates:
    """The feeds of one process."""

    def __init__(
        self, *, gateway: Gateway, store: MailStore, hub: ChangeHub, options: UpdateOptions | None = None
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._hub = hub
        self._options = options or UpdateOptions()
        self._feeds: dict[str, set[Feed]] = {}
        self._leaving = False
        hub.listen(self._hear)

    def feed(self, user_id: str, position: str = "") -> Feed:
        """A stream of what happens after `position`, "" for now. It takes its place here and gives it back at the end
        of its `with`, which is to begin before the next checkpoint. Limited when the user has all the feeds it may
        have here; Unavailable when the server is leaving."""
        if self._leaving:
            raise Unavailable("the server is leaving", what="updates")
        feeds = self._feeds.setdefault(user_id, set())
        if len(feeds) >= self._options.feeds_of_a_user:
            raise Limited("too many streams of updates", what="updates")
        feed = Feed(self, user_id, position)
        feeds.add(feed)
        return feed

    def end_all(self) -> None:
        """Let every feed come to its end, and begin no other: the server is leaving."""
        self._leaving = True
        for user_id in list(self._feeds):
            self._end(user_id)

    def _hear(self, hint: Hint) -> None:
        if hint.kind in _ENDING and hint.user_id in self._feeds:
            self._end(hint.user_id)

    def _end(self, user_id: str) -> None:
        for feed in self._feeds.get(user_id, ()):
            feed.end()


class Feed:
    """One client's stream. Use as a context manager, with one reader."""

    def __init__(self, updates: Updates, user_id: str, position: str) -> None:
        self._updates = updates
        self._options = updates._options
        self._user_id = user_id
        self._from = position
        self._positions: Positions | None = None
        self._ended = False
        self._more = False
        self._wake = trio.Event()
        self._active_at = trio.current_time()

    def __enter__(self) -> Self:
        self._subscription = self._updates._hub.subscribe_user(self._user_id, self._wake_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._subscription.close()
        feeds = self._updates._feeds[self._user_id]
        feeds.discard(self)
        if not feeds:
            del self._updates._feeds[self._user_id]

    def end(self) -> None:
        """Make `next` give None from now on."""
        self._ended = True
        self._wake_up()

    def _wake_up(self) -> None:
        self._wake.set()

    async def next(self) -> Batch | None:
        """The next batch; an empty one when nothing happened for `keep_alive_s`, None when it is over. The first
        comes at once, and says at which position the stream begins. Unavailable."""
        until = trio.current_time() + self._options.keep_alive_s
        while not self._ended:
            if self._subscription or self._more:
                self._wake = trio.Event()
                self._subscription.take()
                batch = await self._look()
                if batch is not None:
                    self._active_at = trio.current_time()
                    return batch
                continue
            with trio.move_on_after(until - trio.current_time()) as waited:
                await self._wake.wait()
            if waited.cancelled_caught:
                if trio.current_time() - self._active_at >= self._options.idle_s:
                    break
                return Batch(_nothing, "")
        return None

    async def _look(self) -> Batch | None:
        """Ask the store for everything that is new; None when nothing is."""
        known = self._positions
        begin: list[Told] | None = None
        if known is None:
            known, begin = self._begin()
        try:
            look = await self._updates._gateway.run(
                _look, self._updates._store, self._user_id, known, self._options.rows_a_look
            )
        except BaseException:
            self._subscription.push(None)  # what woke us is still to be told
            raise
        if known is None:
            self._positions = {mailbox.id: _known(mailbox) for mailbox in look.mailboxes}
            return Batch(lambda: iter(begin or ()), encode_position(self._positions))
        told = _Telling(known, look, self._options.events_told)
        self._more = look.more
        self._positions = told.after
        if begin is None and not told.any:
            return None
        return Batch(told.events, encode_position(told.after))

    def _begin(self) -> tuple[Positions | None, list[Told] | None]:
        """Where to begin, and what to tell before all else. None: at what there is now."""
        if not self._from:
            return None, None
        position = decode_position(self._from)
        return (None, [(_ANEW, "")]) if position is None else (position, [])


# -- one look


@dataclass(frozen=True, slots=True)
class _Look:
    """`changes` are those of mailboxes that moved, None for one that has to be read anew."""

    mailboxes: Sequence[Mailbox]
    changes: Mapping[str, Changes | None]
    more: bool


@reads("store")
def _look(store: MailStore, user_id: str, known: Positions | None, limit: int) -> _Look:
    """The mailboxes of a user and about `limit` changes in them. One crossing."""
    mailboxes = store.list_mailboxes(user_id)
    changes: dict[str, Changes | None] = {}
    more = False
    for place, mailbox in enumerate(mailboxes) if known is not None else ():
        since = (known or {}).get(mailbox.id, _UNKNOWN).modseq
        if since == mailbox.highest_modseq:
            continue
        if limit <= 0:
            more = True
            break
        try:
            found = store.changes_since(mailbox.id, since, limit=limit)
            if found.modseq > mailbox.highest_modseq:  # it moved on: counters must not be older than the news
                mailboxes[place] = store.get_mailbox(mailbox.id)
        except Outdated:
            changes[mailbox.id] = None
        except NotFound:
            continue  # it went in this moment: the next look tells
        else:
            changes[mailbox.id] = found
            limit -= len(found.rows) + len(found.vanished)
            more = more or found.more
    return _Look(mailboxes, changes, more)


class _Telling:
    """The difference between what a client knows and a look, and what it knows `after` being told.

    What happens to mailboxes has no journal, so each such event carries the position after it: a client that heard of
    a mailbox, and lost the connection before the next event, must later hear that it went.
    """

    def __init__(self, known: Positions, look: _Look, events_told: int) -> None:
        self._known = known
        self._look = look
        self._events_told = events_told
        self._gone = sorted(known.keys() - {mailbox.id for mailbox in look.mailboxes})
        self._new = [mailbox for mailbox in look.mailboxes if self._is_new(mailbox)]
        self._anew = len(self._gone) + len(self._new) > FOLDERS_TOLD
        self.after = {mailbox.id: self._told(mailbox) for mailbox in look.mailboxes}
        self.any = bool(look.changes or self._gone or self._new)

    def _is_new(self, mailbox: Mailbox) -> bool:
        known = self._known.get(mailbox.id)
        return known is None or known.path_mark != _mark(mailbox.path)

    def _told(self, mailbox: Mailbox) -> _Known:
        before = self._known.get(mailbox.id, _UNKNOWN)
        now = _known(mailbox)
        if self._anew:
            return now
        if mailbox.id not in self._look.changes:
            return before._replace(path_mark=now.path_mark)
        changes = self._look.changes[mailbox.id]
        if changes is None:
            return now
        # Of a page that was cut `uid_next` says nothing: until the last one is told, what is above the old one may
        # be new.
        uid_next = before.uid_next if changes.more else changes.uid_next
        return _Known(changes.modseq, uid_next, now.path_mark)

    def events(self) -> Iterator[Told]:
        if self._anew:
            yield _ANEW, encode_position(self.after)
            return
        sofar = dict(self._known)
        for mailbox_id in self._gone:
            del sofar[mailbox_id]
            yield {"command": "DELETE", "mailbox": mailbox_id}, encode_position(sofar)
        for mailbox in self._new:
            before = sofar.get(mailbox.id)
            sofar[mailbox.id] = (before or _UNKNOWN)._replace(path_mark=_mark(mailbox.path))
            command = "CREATE" if before is None else "RENAME"
            yield {"command": command, "mailbox": mailbox.id, "path": mailbox.path}, encode_position(sofar)
        for mailbox in self._look.mailboxes:
            if mailbox.id in self._look.changes:
                for event in self._messages(mailbox, sofar[mailbox.id]):
                    yield event, ""
                sofar[mailbox.id] = self.after[mailbox.id]
                counters = {"total": mailbox.messages, "unseen": mailbox.unseen}
                yield {"command": "COUNTERS", "mailbox": mailbox.id, **counters}, encode_position(sofar)

    def _messages(self, mailbox: Mailbox, before: _Known) -> Iterator[Event]:
        changes = self._look.changes[mailbox.id]
        count = 0 if changes is None else len(changes.rows) + sum(len(v.uids) for v in changes.vanished)
        if changes is None or count > self._events_told:
            yield {"command": "RESYNC", "mailbox": mailbox.id}
            return
        happened: list[tuple[int, FlagRow | Vanished]] = [(row.modseq, row) for row in changes.rows]
        happened += [(vanished.modseq, vanished) for vanished in changes.vanished]
        happened.sort(key=itemgetter(0))
        for modseq, what in happened:
            common = {"mailbox": mailbox.id, "modseq": modseq}
            if isinstance(what, Vanished):
                for uid in what.uids:
                    yield {"command": "EXPUNGE", **common, "uid": uid}
            else:
                command = "EXISTS" if what.uid >= before.uid_next else "FETCH"
                yield {
                    "command": command,
                    **common,
                    "uid": what.uid,
                    "flags": flag_names(what.flags, what.keywords),
                }


def _nothing() -> Iterator[Told]:
    return iter(())


# -- positions


def _known(mailbox: Mailbox) -> _Known:
    return _Known(mailbox.highest_modseq, mailbox.uid_next, _mark(mailbox.path))


def _mark(path: str) -> int:
    return zlib.crc32(path.encode())


def encode_position(positions: Positions) -> str:
    """A position as letters, digits, "-" and "_"."""
    entries = [_Entry(bytes.fromhex(mailbox), *known) for mailbox, known in sorted(positions.items())]
    text = base64.urlsafe_b64encode(zlib.compress(_ENCODER.encode(entries))).rstrip(b"=")
    return text.decode() if len(text) <= POSITION_BYTES else _NOWHERE


def decode_position(text: str) -> Positions | None:
    """What `encode_position` gave; None for what is no position."""
    if len(text) > POSITION_BYTES:
        return None
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        entries = _DECODER.decode(zlib.decompressobj().decompress(packed, _UNPACKED_BYTES))
    except (binascii.Error, ValueError, zlib.error, msgspec.MsgspecError):
        return None
    return {entry.mailbox.hex(): _Known(entry.modseq, entry.uid_next, entry.path_mark) for entry in entries}
