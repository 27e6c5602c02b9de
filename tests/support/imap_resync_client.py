"""A client that keeps a mailbox's flags across connections by QRESYNC alone, as RFC 7162 tells clients to.

It believes what each untagged line says at once, and what the mailbox's modseq is only at a tagged one: then the last
HIGHESTMODSEQ code since the tagged one before, or else the highest MODSEQ of a FETCH (§3.2.4).
"""

from __future__ import annotations

import random
import re

import trio
from imap_world import SILENCE_S, Client, ImapWorld

EXISTS = re.compile(r"\* (\d+) EXISTS")
VANISHED = re.compile(r"\* VANISHED( \(EARLIER\))? ([\d:,]+)")
FETCH = re.compile(r"\* (\d+) FETCH \((.*)\)")
UID = re.compile(r"UID (\d+)")
FLAGS = re.compile(r"FLAGS \(([^)]*)\)")
MODSEQ = re.compile(r"MODSEQ \((\d+)\)")
HIGHEST = re.compile(r"HIGHESTMODSEQ (\d+)")
VALIDITY = re.compile(r"UIDVALIDITY (\d+)")


def numbers(text: str) -> list[int]:
    found: list[int] = []
    for item in text.split(","):
        first, _, last = item.partition(":")
        found += range(int(first), int(last or first) + 1)
    return found


class ResyncClient:
    """`cache` holds flags by uid and outlives connections; `uids` are those of the connection's numbers, None for
    messages that were only counted so far."""

    def __init__(self, world: ImapWorld, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.cache: dict[int, frozenset[str]] = {}
        self.uids: list[int | None] = []
        self.validity = 0
        self.modseq = 0
        self.complete = 0
        """The uid through which it has every message; modseqs say nothing of those that it never asked for."""
        self.numbered: list[int] = []
        """What the numbers of the last connection were, when it ended."""
        self._tag = 0
        self._code = self._seen = 0
        self._client: Client | None = None

    async def connect(self) -> None:
        """Connect and catch up."""
        self._client = self.world.connect()
        await self._client.log_in("alice")
        await self.command("ENABLE QRESYNC")
        await self.select()

    async def select(self) -> None:
        """Catch up on this connection; it may break over it."""
        self.numbered = [uid for uid in self.uids if uid is not None] or self.numbered
        self.uids = []
        if not self.modseq:
            await self.command("SELECT INBOX")
        else:
            await self.command(f"SELECT INBOX (QRESYNC ({self._known()}))")
        if not self.connected:
            return
        # Uids ascend: those that it has all come first, behind them are others, told or not.
        first = sorted(uid for uid in self.cache if uid <= self.complete)
        assert len(first) <= len(self.uids), f"{len(self.uids)} are there, the client has {first}"
        assert all(uid in (None, self.uids[at]) or self.uids[at] is None for at, uid in enumerate(first))
        self.uids[: len(first)] = first
        await self.fetch_new()

    def _known(self) -> str:
        parts = [str(self.validity), str(self.modseq)]
        if self.cache and self.rng.random() < 0.5:
            parts.append(",".join(map(str, sorted(self.cache))))
        # Samples are of what it has: numbers that stood for these very uids.
        if self.cache and self.rng.random() < 0.4 and self.numbered == sorted(self.cache):
            places = sorted(self.rng.sample(range(len(self.cache)), min(3, len(self.cache))))
            seqs = ",".join(str(place + 1) for place in places)
            parts.append(f"({seqs} {','.join(str(self.numbered[place]) for place in places)})")
        return " ".join(parts)

    async def fetch_new(self) -> None:
        """The flags of what was only counted so far: it stands behind all that was asked for."""
        if None in self.uids:
            await self.command(f"UID FETCH {self.complete + 1}:* (FLAGS)")
        assert self.uids == sorted(self.cache)
        self.complete = max(self.complete, *self.cache, 0)

    async def command(self, text: str, *, break_after: int = -1) -> None:
        """Run a command; or, with `break_after`, lose the connection after so many of its lines."""
        assert self._client is not None
        self._tag += 1
        tag = f"r{self._tag}"
        await self._client.send(f"{tag} {text}\r\n".encode())
        if text == "IDLE":
            await self._client.send(b"DONE\r\n")
        left = break_after
        while left != 0:
            line = await self._client.read_line()
            if not line:
                break  # the journal no longer reaches back to what this session was told: BYE
            if line.startswith(f"{tag} "):
                assert line.startswith((f"{tag} OK", f"{tag} NO [EXPUNGEISSUED]")), f"{text}: {line}"
                self._hear(line, text)
                self._stand()
                return
            self._hear(line, text)
            left -= 1
        await self.lose()

    async def lose(self) -> None:
        """The connection breaks: nothing more is heard, and what was not tagged proves no modseq."""
        assert self._client is not None
        await self._client.aclose()
        self._client = None
        with trio.fail_after(SILENCE_S):
            # The command that was broken off may still be done.
            while any(len(host) for host in self.world.hosts):
                await trio.lowlevel.checkpoint()
        self._code = self._seen = 0
        self.numbered = [uid for uid in self.uids if uid is not None]
        self.uids = []

    @property
    def connected(self) -> bool:
        return self._client is not None

    def _stand(self) -> None:
        self.modseq = self._code or max(self.modseq, self._seen)
        self._code = self._seen = 0

    def _hear(self, line: str, command: str) -> None:
        if found := VALIDITY.search(line):
            assert self.validity in (0, int(found[1]))
            self.validity = int(found[1])
        if found := HIGHEST.search(line):
            assert int(found[1]) >= self.modseq, "a mailbox goes back"
            self._code = int(found[1])
        assert not line.startswith("* ") or "EXPUNGE" not in line.split(" ")[2:3], line
        if found := EXISTS.fullmatch(line):
            assert int(found[1]) >= len(self.uids), line
            self.uids += [None] * (int(found[1]) - len(self.uids))
        elif found := VANISHED.fullmatch(line):
            self._vanished(numbers(found[2]), earlier=bool(found[1]), command=command)
        elif found := FETCH.fullmatch(line):
            self._fetched(int(found[1]), found[2], selecting=command.startswith("SELECT"))

    def _vanished(self, gone: list[int], *, earlier: bool, command: str) -> None:
        assert not command.startswith(("FETCH", "STORE", "SEARCH")), f"{gone} while {command} is answered"
        for uid in gone:
            if not earlier and uid in self.uids:
                self.uids.remove(uid)
            elif not earlier:
                self.uids.remove(None)  # one that was counted, and is gone before it was asked for
            else:
                assert uid not in self.uids, "EARLIER is for what has no number"
            self.cache.pop(uid, None)

    def _fetched(self, number: int, items: str, *, selecting: bool) -> None:
        uid = UID.search(items)
        modseq = MODSEQ.search(items)
        assert uid is not None
        assert modseq is not None
        assert self.uids[number - 1] in (None, int(uid[1]))
        self.uids[number - 1] = int(uid[1])
        if flags := FLAGS.search(items):
            self.cache[int(uid[1])] = frozenset(flags[1].split())
        self._seen = max(self._seen, int(modseq[1]))
        assert selecting or number <= len(self.uids)
