"""A user's mailboxes and their updates, over the real engine; and a client that knows them by events alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from delivery_house import House

from wd_trio.mail.model import DELETED, Columns, FlagChange, flag_names
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.messages import Messages, Place
from wd_trio.service.updates import Batch, Feed, UpdateOptions, Updates

RAW = b"From: a@example.org\r\nSubject: small\r\n\r\nHello\r\n"
ALL = UidSet([(1, MAX_UID)])


@dataclass
class Post:
    """One user, and what can be done with the mailboxes."""

    house: House
    user: str
    mailboxes: Mailboxes
    messages: Messages

    def updates(self, **options: Any) -> Updates:
        """A server's: each has its own, over one store."""
        return Updates(
            gateway=self.house.gateway,
            store=self.house.store,
            hub=self.house.hub,
            options=UpdateOptions(**options),
        )

    async def add(self, path: str = "INBOX", *, flags: int = 0) -> int:
        with self.messages.spool(most_bytes=1 << 20) as spool:
            await spool.write(RAW)
            appended = await self.messages.append(
                self.user, path, spool, flags=flags, keywords="", internal_date=1, quota_bytes=None
            )
        return appended.uids[0]

    async def place(self, path: str = "INBOX") -> Place:
        return Place(self.user, (await self.mailboxes.find(self.user, path)).id)

    async def flag(self, uids: UidSet, change: FlagChange, path: str = "INBOX") -> None:
        async for _ in self.messages.store_flags(await self.place(path), uids, change):
            pass

    async def expunge(self, uids: UidSet, path: str = "INBOX") -> None:
        await self.flag(uids, FlagChange("add", DELETED), path)
        async for _ in self.messages.expunge(await self.place(path), uids):
            pass

    def state(self) -> dict[str, dict[int, list[str]]]:
        """What a client has to know in the end: flags by uid by mailbox."""
        return {
            mailbox.id: {
                row.uid: flag_names(row.flags, row.keywords)
                for row in self.house.store.fetch(mailbox.id, ALL, Columns.NONE, limit=10_000)
            }
            for mailbox in self.house.store.list_mailboxes(self.user)
        }

    def paths(self) -> dict[str, str]:
        return {mailbox.id: mailbox.path for mailbox in self.house.store.list_mailboxes(self.user)}

    def counters(self) -> dict[str, tuple[int, int]]:
        found = self.house.store.list_mailboxes(self.user)
        return {mailbox.id: (mailbox.messages, mailbox.unseen) for mailbox in found}


def post_of(house: House, user: str) -> Post:
    mailboxes = Mailboxes(gateway=house.gateway, store=house.store, hub=house.hub)
    messages = Messages(gateway=house.gateway, store=house.store, hub=house.hub, intake=house.intake)
    return Post(house, user, mailboxes, messages)


@dataclass
class Client:
    """A client's copy of everything, kept by events alone."""

    state: dict[str, dict[int, list[str]]]
    paths: dict[str, str]
    counters: dict[str, tuple[int, int]]
    position: str = ""
    asked_anew: list[str] = field(default_factory=list)

    def take(self, event: Any) -> None:
        command, mailbox = event["command"], event.get("mailbox", "")
        if command == "CREATE":
            self.state.setdefault(mailbox, {})
        if command in ("CREATE", "RENAME"):
            self.paths[mailbox] = event["path"]
        elif command == "DELETE":
            for held in (self.state, self.paths, self.counters):
                held.pop(mailbox, None)
        elif command in ("EXISTS", "FETCH"):
            assert (command == "EXISTS") or event["uid"] in self.state[mailbox], "FETCH of what is not known"
            self.state[mailbox][event["uid"]] = event["flags"]
        elif command == "EXPUNGE":
            self.state[mailbox].pop(event["uid"], None)
        elif command == "COUNTERS":
            self.counters[mailbox] = (event["total"], event["unseen"])
        else:
            assert command == "RESYNC"
            self.asked_anew.append(mailbox)


async def batch_of(feed: Feed) -> Batch:
    batch = await feed.next()
    assert batch is not None
    return batch


async def events_of(feed: Feed) -> list[Any]:
    return [event for event, _ in await batch_of(feed)]
