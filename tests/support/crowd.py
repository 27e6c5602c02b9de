"""A crowd of clients that check every line they are told, to see who survives what happens to a server.

Idlers wait in IDLE, readers have a mailbox selected and say nothing, talkers pipeline without end, droppers (POP3)
are logged in with marks made, senders deliver by LMTP, sweepers expunge what the senders bring. `check` makes the
quiet ones compare what they believe with what the server says: a number that means another message, a reply out of
order or half a line is *wrong*; a connection that was closed is *lost*; a command answered NO [UNAVAILABLE] was
*refused*, and is neither. The crowd runs in the test's own trio loop; the server is another process.
"""

from __future__ import annotations

import random
import re
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from imap_client_model import Believer

PIPELINE = 4
PATIENCE_S = 120.0
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Lost(Exception):
    """The server closed the connection, or said BYE."""


@dataclass
class Tally:
    """What became of a crowd."""

    lost: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    """The subjects of the messages that got a 250, but those that a sweeper may have expunged."""
    reasons: Counter[str] = field(default_factory=Counter)
    """The last words to those that were lost."""


class Wire:
    """Lines over a stream, in and out."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, host: str, port: int, tls: ssl.SSLContext | None = None) -> Wire:
        tcp = await trio.open_tcp_stream(host, port)
        stream: trio.abc.Stream = tcp
        if tls is not None:
            stream = trio.SSLStream(tcp, tls, server_hostname="localhost", https_compatible=True)
        return cls(stream, tcp.socket)

    async def line(self) -> str:
        while (end := self._buffer.find(b"\r\n")) < 0:
            try:
                data = await self._stream.receive_some(65536)
            except GONE as error:
                raise Lost(str(error)) from error
            if not data:
                raise Lost("closed" if not self._buffer else f"cut after {bytes(self._buffer)!r}")
            self._buffer += data
        line = bytes(self._buffer[:end]).decode("utf-8", "replace")
        del self._buffer[: end + 2]
        return line

    async def say(self, text: str) -> None:
        try:
            await self._stream.send_all(text.encode())
        except GONE as error:
            raise Lost(str(error)) from error

    def close(self) -> None:
        """Close it at once, without a word. Idempotent."""
        self._socket.close()


@dataclass
class Places:
    """Where the server's protocols are, as (host, port)."""

    imap: tuple[str, int]
    pop3: tuple[str, int]
    lmtp: tuple[str, int]
    tls: ssl.SSLContext | None = None
    """Speak TLS to IMAP and POP3 from the first byte."""


@dataclass
class Account:
    username: str
    address: str
    password: str


class ImapClient:
    """One IMAP connection that believes what it is told and checks it."""

    def __init__(self, wire: Wire, tally: Tally) -> None:
        self._wire = wire
        self._tally = tally
        self._tag = 0
        self.believer = Believer()
        self._pending: list[str] = []

    async def enter(self, account: Account) -> None:
        line = await self._wire.line()
        assert line.startswith("* OK"), line
        await self.ok("LOGIN", f'LOGIN {account.username} "{account.password}"')
        await self.ok("SELECT", "SELECT INBOX")

    async def say(self, text: str) -> str:
        """Send a command without waiting; its tag."""
        self._tag += 1
        await self._wire.say(f"t{self._tag} {text}\r\n")
        return f"t{self._tag}"

    async def answer(self, tag: str, word: str) -> str:
        """The tagged line's rest, having believed all untagged lines before it."""
        lines: list[str] = []
        while True:
            line = await self._wire.line()
            if line.startswith("* BYE"):
                raise Lost(line)
            if line.startswith("* "):
                lines.append(line)
            elif line.startswith(tag + " "):
                self.believer.hear(lines, word)
                return line[len(tag) + 1 :]
            elif line != "+ idling":
                raise AssertionError(f"{line!r} while waiting for {tag} {word}")

    async def command(self, word: str, text: str) -> str:
        return await self.answer(await self.say(text), word)

    async def ok(self, word: str, text: str) -> None:
        """The command, again and again while its worker is gone."""
        while not (status := await self.command(word, text)).startswith("OK"):
            assert status.startswith("NO [UNAVAILABLE]"), f"{text}: {status}"
            self._tally.refused[word] += 1

    async def begin_idle(self) -> str:
        tag = await self.say("IDLE")
        line = await self._wire.line()
        while line != "+ idling":
            if line.startswith(tag):
                assert line.startswith(f"{tag} NO [UNAVAILABLE]"), line
                self._tally.refused["IDLE"] += 1
                tag = await self.say("IDLE")
            else:
                self.believer.hear([line], "")
            line = await self._wire.line()
        return tag

    async def hear_idle(self) -> None:
        line = await self._wire.line()
        if line.startswith("* BYE"):
            raise Lost(line)
        assert line.startswith("* "), line
        self.believer.hear([line], "")

    async def end_idle(self, tag: str) -> None:
        await self._wire.say("DONE\r\n")
        status = await self.answer(tag, "")
        assert status.startswith("OK"), status

    async def verify(self) -> None:
        """The numbers mean what the client believes: Believer fails at the first that does not."""
        status = ""
        while not status.startswith("OK"):
            await self.ok("NOOP", "NOOP")
            known = len(self.believer.uids)
            status = await self.command("FETCH", f"FETCH 1:{known} (UID)") if known else "OK"
            assert status.startswith(("OK", "NO [UNAVAILABLE]", "NO [EXPUNGEISSUED]")), status
        told = self.believer.uids[:known]  # others may have come while it was answered
        assert None not in told, f"{told} of {known}"
        assert told == sorted(uid for uid in told if uid is not None), told


class Crowd:
    """Clients of one server. `gather` starts them in a nursery of the caller's.

    The first `swept` accounts will have sweepers: what is acknowledged for them need not be there in the end.
    """

    def __init__(self, places: Places, accounts: Sequence[Account], *, seed: int = 1, swept: int = 0) -> None:
        self.places = places
        self.accounts = list(accounts)
        self.tally = Tally()
        self.alive: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._gathered = 0
        self._numbers = 0
        self._checks: dict[object, trio.Event] = {}  # a client's event is set when it is to check
        self._checked = trio.Event()
        self._due = 0
        self._stop = trio.Event()
        self._wires: dict[object, list[Wire]] = {}
        self._swept = {account.address for account in self.accounts[:swept]}

    async def _connect(self, place: tuple[str, int], tls: ssl.SSLContext | None = None) -> Wire:
        """A wire that is closed with the client whose task this is."""
        wire = await Wire.connect(*place, tls)
        self._wires.setdefault(trio.lowlevel.current_task(), []).append(wire)
        return wire

    async def gather(self, nursery: trio.Nursery, **sizes: int) -> None:
        """Start so many `idlers`, `readers`, `talkers`, `droppers`, `senders`, `sweepers`; all are ready when this
        returns."""
        kinds: dict[str, Callable[[Account, trio.TaskStatus[None]], Awaitable[None]]] = {
            "idlers": self._idler,
            "readers": self._reader,
            "talkers": self._talker,
            "droppers": self._dropper,
            "senders": self._sender,
            "sweepers": self._sweeper,
        }
        self._swept |= {account.address for account in self.accounts[: sizes.get("sweepers", 0)]}
        ready = trio.CapacityLimiter(32)

        async def start(kind: str, account: Account) -> None:
            async with ready:
                try:
                    await nursery.start(self._run, kind, kinds[kind], account)
                except RuntimeError as error:  # it ended before it was ready, and left a word why
                    raise AssertionError(str(summary(self.tally))) from error

        async with trio.open_nursery() as starting:
            for kind, size in sizes.items():
                for number in range(size):
                    # a maildrop is locked by one session: droppers have accounts of their own, from the end
                    place = -1 - number if kind == "droppers" else number % len(self.accounts)
                    starting.start_soon(start, kind, self.accounts[place])

    async def _run(
        self,
        kind: str,
        client: Callable[[Account, trio.TaskStatus[None]], Awaitable[None]],
        account: Account,
        task_status: trio.TaskStatus[None],
    ) -> None:
        self.alive[kind] += 1
        me = trio.lowlevel.current_task()
        try:
            await client(account, task_status)
        except Lost as lost:
            self.tally.lost[kind] += 1
            self.tally.reasons[f"{kind}: {str(lost)[:80]}"] += 1
        except AssertionError as error:
            self.tally.wrong.append(f"{kind}: {error}")
        finally:
            self.alive[kind] -= 1
            for wire in self._wires.pop(me, []):
                wire.close()
            if self._checks.pop(me, None) is not None:
                self._one_checked()

    # -- checking

    async def check(self) -> None:
        """Make every idler, reader and dropper that is alive check what it believes; returns when all have."""
        self._due = len(self._checks)
        if not self._due:
            return
        self._checked = trio.Event()
        for event in self._checks.values():
            event.set()
        with trio.fail_after(PATIENCE_S):
            await self._checked.wait()

    def _one_checked(self) -> None:
        self._due -= 1
        if self._due == 0:
            self._checked.set()

    async def _wait_check(self) -> None:
        me = trio.lowlevel.current_task()
        event = self._checks[me] = trio.Event()
        await event.wait()

    def _done_checking(self, kind: str) -> None:
        self.tally.checked[kind] += 1
        self._checks[trio.lowlevel.current_task()] = trio.Event()
        self._one_checked()

    def stop(self) -> None:
        """Senders, sweepers and talkers end after what they are at."""
        self._stop.set()

    # -- the clients

    async def _enter(self, account: Account) -> ImapClient:
        client = ImapClient(await self._connect(self.places.imap, self.places.tls), self.tally)
        await client.enter(account)
        return client

    async def _idler(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        client = await self._enter(account)
        tag = await client.begin_idle()
        self._checks[trio.lowlevel.current_task()] = trio.Event()
        task_status.started()
        while True:
            await self._until_check(client.hear_idle)
            await client.end_idle(tag)
            await client.verify()
            tag = await client.begin_idle()
            self._done_checking("idlers")

    async def _until_check(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step again and again until a check is wanted. A step is broken off only between two lines."""
        due = self._checks[trio.lowlevel.current_task()]
        failure: Lost | AssertionError | None = None
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await due.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel)
            try:
                while True:
                    await step()
            except (Lost, AssertionError) as error:
                failure = error  # itself, and not in a group
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _reader(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        client = await self._enter(account)
        self._checks[trio.lowlevel.current_task()] = trio.Event()
        task_status.started()
        while True:
            await self._checks[trio.lowlevel.current_task()].wait()
            await client.verify()
            self._done_checking("readers")

    async def _talker(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        client = await self._enter(account)
        task_status.started()
        words = ["NOOP", "FETCH", "SEARCH", "NOOP"]
        texts = ["NOOP", "FETCH 1:* (UID FLAGS)", "UID SEARCH ALL", "NOOP"]
        while not self._stop.is_set():
            tags = [await client.say(text) for text in texts]
            for word, tag in zip(words, tags, strict=True):
                status = await client.answer(tag, word)
                if not status.startswith("OK"):
                    assert status.startswith(("NO [UNAVAILABLE]", "BAD No such message")), status
                    self.tally.refused[word] += status.startswith("NO")
            self.tally.checked["talkers"] += 1

    async def _dropper(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        wire = await self._connect(self.places.pop3, self.places.tls)
        await _positive(wire, None)
        status = "-ERR"
        while status.startswith("-ERR"):  # many come at once, and passwords take their time
            await _positive(wire, f"USER {account.username}")
            status = await _positive(wire, f"PASS {account.password}")
        await wire.say("UIDL\r\n")
        first = await _lines(wire)
        await _positive(wire, "DELE 1")
        stat = await _positive(wire, "STAT")
        self._checks[trio.lowlevel.current_task()] = trio.Event()
        task_status.started()
        while True:
            await self._checks[trio.lowlevel.current_task()].wait()
            assert await self._again(wire, "STAT") == stat
            await wire.say("UIDL\r\n")
            again = await _lines(wire)
            if again != [] or len(first) == 1:
                assert again == first[1:], f"{again} after {first}"
            self._done_checking("droppers")

    async def _again(self, wire: Wire, text: str) -> str:
        while (reply := await _positive(wire, text)).startswith("-ERR"):
            self.tally.refused[text] += 1
        return reply

    async def _sender(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        """Delivers to everybody, on one connection while it lasts; a lost one is opened again, as MTAs do."""
        wire = await self.open_lmtp()
        task_status.started()
        while not self._stop.is_set():
            self._numbers += 1
            subject = f"number {self._numbers}"
            try:
                await self.deliver(wire, self._random.choice(self.accounts).address, subject)
            except Lost as lost:
                self.tally.lost["senders"] += 1
                self.tally.reasons[f"senders: {str(lost)[:80]}"] += 1
                wire.close()
                wire = await self.open_lmtp()

    async def open_lmtp(self) -> Wire:
        """A connection that has said LHLO; opened again and again until a worker takes it."""
        while True:
            wire = await self._connect(self.places.lmtp)
            try:
                line = await wire.line()
                if line.startswith("220"):
                    await wire.say("LHLO crowd.example.org\r\n")
                    while (await wire.line())[3:4] == "-":
                        pass
                    return wire
            except Lost:
                wire.close()
            await trio.sleep(0.05)

    async def deliver(self, wire: Wire, address: str, subject: str) -> None:
        """Deliver one message, and note it where it was acknowledged. Lost."""
        await wire.say(f"MAIL FROM:<a@example.org>\r\nRCPT TO:<{address}>\r\nDATA\r\n")
        codes = [(await wire.line())[:3] for _ in range(3)]
        if codes != ["250", "250", "354"]:
            assert all(code[0] in "2345" for code in codes), codes
            if codes[2] == "354":
                await wire.say(".\r\n")
                await wire.line()
            self.tally.refused["DATA"] += 1
            await wire.say("RSET\r\n")
            await wire.line()
            return
        await wire.say(f"Subject: {subject}\r\n\r\nbody of {subject}\r\n.\r\n")
        line = await wire.line()
        if line.startswith("250"):
            if address not in self._swept:
                self.tally.acknowledged.append(subject)
        else:
            assert line.startswith("451"), line
            self.tally.refused["DATA"] += 1

    async def _sweeper(self, account: Account, task_status: trio.TaskStatus[None]) -> None:
        """Expunges some of what comes, so that everybody's numbers move."""
        client = await self._enter(account)
        task_status.started()
        while not self._stop.is_set():
            await client.ok("NOOP", "NOOP")
            known = len(client.believer.uids)
            if known > 3:
                number = self._random.randint(1, known)
                status = await client.command("STORE", f"STORE {number} +FLAGS.SILENT (\\Deleted)")
                assert status.startswith(("OK", "NO [UNAVAILABLE]", "NO [EXPUNGEISSUED]")), status
                status = await client.command("EXPUNGE", "EXPUNGE")
                assert status.startswith(("OK", "NO [UNAVAILABLE]")), status
            await trio.sleep(self._random.uniform(0.01, 0.1))


async def _positive(wire: Wire, text: str | None) -> str:
    """A POP3 command's one-line reply, +OK or -ERR [SYS/TEMP]; the greeting without a command."""
    if text is not None:
        await wire.say(text + "\r\n")
    line = await wire.line()
    assert line.startswith(("+OK", "-ERR [SYS/TEMP]")), f"{text}: {line}"
    return line


async def _lines(wire: Wire) -> list[str]:
    """The lines of a multi-line reply; none where it was refused for now."""
    head = await wire.line()
    if head.startswith("-ERR [SYS/TEMP]"):
        return []
    assert head.startswith("+OK"), head
    lines: list[str] = []
    while (line := await wire.line()) != ".":
        lines.append(line)
    return lines


async def subjects(places: Places, account: Account) -> list[str]:
    """The subjects of all messages in an account's INBOX, asked on a connection of its own."""
    wire = await Wire.connect(*places.imap, places.tls)
    client = ImapClient(wire, Tally())
    await client.enter(account)
    found: list[str] = []
    if client.believer.uids:
        tag = await client.say("FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        while not (line := await wire.line()).startswith(tag):
            if match := re.match(r"Subject: (.*)", line):
                found.append(match[1])
    wire.close()
    return found


def summary(tally: Tally) -> dict[str, Any]:
    """The tally in a few lines, for tables and failures."""
    return {
        "checked": dict(tally.checked),
        "lost": dict(tally.lost),
        "refused": dict(tally.refused),
        "why": dict(tally.reasons),
        "acknowledged": len(tally.acknowledged),
        "wrong": tally.wrong[:5],
    }
