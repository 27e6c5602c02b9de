"""Three sessions on one mailbox, in random order, against a simple model.

After every step each client's picture is held against what the RFC allows (imap_client_model), and whenever a
client has been told everything, against the model itself. Now and then the whole server is dropped without a
word, as kill -9 would: what was answered with OK is there afterwards, and nothing else is. Played once more with
sessions that park and move, whose next command finds nothing but their slot.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from imap_client_model import Believer
from imap_world import Client, ImapWorld, open_world

SESSIONS = 3
FLAGS = ("\\Seen", "\\Flagged", "\\Deleted", "Later")
one_session = st.integers(0, SESSIONS - 1)


class Loop:
    """A trio loop in a thread, with a world in it that can be dropped and opened again on the same files."""

    def __init__(self, folder: Path, park_after_s: float) -> None:
        self._folder = folder
        self._park_after_s = park_after_s
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._started.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(30)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        async def main() -> None:
            async with open_world("sqlite", self._folder, park_after_s=self._park_after_s) as self.world:
                self._stop = trio.Event()
                self._token = trio.lowlevel.current_trio_token()
                self._started.set()
                await self._stop.wait()

        try:
            trio.run(main)
        except BaseException as error:
            self.failure = error
            self._started.set()

    def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async def bounded() -> Any:
            with trio.fail_after(30):
                return await function(*args)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        assert self._thread is not None
        self._thread.join(30)
        if self.failure is not None:
            raise self.failure


class ThreeSessions(RuleBasedStateMachine):
    park_after_s = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = Loop(self.folder, self.park_after_s)
        self.loop.start()
        self.model: dict[int, frozenset[str]] = {}
        self.next_uid = 1
        self.tag = 0
        self.connect()

    def connect(self) -> None:
        self.clients: list[Client] = []
        self.believers: list[Believer] = []
        self.idling: list[str] = [""] * SESSIONS
        world: ImapWorld = self.loop.world
        for number in range(SESSIONS):
            client = self.loop.call(self._connected, world, number + 1)
            self.clients.append(client)
            self.believers.append(Believer())
            self.command(number, "SELECT INBOX", "SELECT")
            self.settle(number)

    @staticmethod
    async def _connected(world: ImapWorld, number: int) -> Client:
        client = world.client(number)
        await client.log_in("alice")
        return client

    def command(self, number: int, text: str, word: str) -> tuple[str, list[str]]:
        """Run a command, let its client hear, and return the tagged line and the untagged ones."""
        self.tag += 1
        lines = self.loop.call(self.clients[number].command, f"t{self.tag}", text)
        print(number, text, lines); self.believers[number].hear(lines[:-1], word)
        return lines[-1].split(" ", 1)[1], lines[:-1]

    def settle(self, number: int) -> None:
        """The client asks for all that is new, and then knows what the model knows."""
        self.command(number, "NOOP", "NOOP")
        believer = self.believers[number]
        if None in believer.uids:
            self.command(number, "FETCH 1:* (UID FLAGS)", "FETCH")
        assert believer.uids == sorted(self.model)
        for uid, flags in self.model.items():
            assert believer.flags[uid] == flags, f"uid {uid}: told {believer.flags[uid]}, is {flags}"

    def known(self, data: st.DataObject, number: int) -> list[int]:
        """Some of the numbers that this client has for messages whose uid it knows."""
        numbers = [at + 1 for at, uid in enumerate(self.believers[number].uids) if uid is not None]
        return sorted(data.draw(st.sets(st.sampled_from(numbers), min_size=1, max_size=4))) if numbers else []

    def living(self, number: int, chosen: list[int]) -> list[int]:
        uids = [self.believers[number].uids[at - 1] for at in chosen]
        return [uid for uid in uids if uid is not None and uid in self.model]

    @rule()
    def deliver(self) -> None:
        uid = self.loop.call(self.loop.world.deliver, "alice")
        assert uid == self.next_uid
        self.model[uid] = frozenset()
        self.next_uid += 1

    @rule(
        number=one_session,
        data=st.data(),
        mode=st.sampled_from(["", "+", "-"]),
        silent=st.booleans(),
        by_uid=st.booleans(),
    )
    def store(self, number: int, data: st.DataObject, mode: str, silent: bool, by_uid: bool) -> None:
        if self.idling[number]:
            return
        chosen = self.known(data, number)
        if not chosen:
            return
        flags = data.draw(st.sets(st.sampled_from(FLAGS), min_size=1))
        living = self.living(number, chosen)
        uids = [self.believers[number].uids[at - 1] for at in chosen]
        which = ",".join(str(n) for n in (uids if by_uid else chosen))
        word = "UID STORE" if by_uid else "STORE"
        ending = ".SILENT" if silent else ""
        tagged, _ = self.command(number, f"{word} {which} {mode}FLAGS{ending} ({' '.join(flags)})", word)
        assert tagged.startswith("OK" if by_uid or len(living) == len(chosen) else "NO [EXPUNGEISSUED]")
        for uid in living:
            old = self.model[uid]
            new = {"": frozenset(flags), "+": old | flags, "-": old - flags}[mode]
            self.model[uid] = new
            if silent:
                # The client knows the change it made, and nothing that others did and it was not told.
                believed = self.believers[number].flags.get(uid, frozenset())
                self.believers[number].flags[uid] = {
                    "": frozenset(flags),
                    "+": believed | flags,
                    "-": believed - flags,
                }[mode]

    @rule(number=one_session)
    def expunge(self, number: int) -> None:
        if self.idling[number]:
            return
        if None in self.believers[number].uids:
            self.command(number, "FETCH 1:* (UID FLAGS)", "FETCH")
        believed = set(self.believers[number].uids)
        tagged, _ = self.command(number, "EXPUNGE", "EXPUNGE")
        assert tagged.startswith("OK")
        # A message that this client has not been told of stays, marked or not.
        for uid in [uid for uid, flags in self.model.items() if "\\Deleted" in flags and uid in believed]:
            del self.model[uid]

    @rule(number=one_session, data=st.data())
    def uid_expunge(self, number: int, data: st.DataObject) -> None:
        if self.idling[number]:
            return
        chosen = self.known(data, number)
        if not chosen:
            return
        living = self.living(number, chosen)
        which = ",".join(str(self.believers[number].uids[at - 1]) for at in chosen)
        tagged, _ = self.command(number, f"UID EXPUNGE {which}", "UID EXPUNGE")
        assert tagged.startswith("OK")
        for uid in living:
            if "\\Deleted" in self.model[uid]:
                del self.model[uid]

    @rule(number=one_session, data=st.data(), mailbox=st.sampled_from(["Trash", "INBOX"]), move=st.booleans())
    def copy(self, number: int, data: st.DataObject, mailbox: str, move: bool) -> None:
        if self.idling[number]:
            return
        chosen = self.known(data, number)
        if not chosen:
            return
        living = self.living(number, chosen)
        which = ",".join(str(self.believers[number].uids[at - 1]) for at in chosen)
        word = "UID MOVE" if move else "UID COPY"
        tagged, _ = self.command(number, f"{word} {which} {mailbox}", word)
        assert tagged.startswith("OK")
        for uid in sorted(living):
            if mailbox == "INBOX":
                self.model[self.next_uid] = self.model[uid]
                self.next_uid += 1
            if move:
                del self.model[uid]

    @rule(number=one_session, data=st.data())
    def fetch(self, number: int, data: st.DataObject) -> None:
        if self.idling[number]:
            return
        if self.believers[number].uids:
            self.command(number, "FETCH 1:* (UID FLAGS)", "FETCH")

    @rule(number=one_session)
    def noop(self, number: int) -> None:
        if not self.idling[number]:
            self.settle(number)

    @rule(number=one_session)
    def idle(self, number: int) -> None:
        if self.idling[number]:
            return
        self.tag += 1
        self.idling[number] = f"t{self.tag}"
        self.loop.call(self.clients[number].send, f"t{self.tag} IDLE\r\n".encode())

    @precondition(lambda self: any(self.idling))
    @rule(number=one_session)
    def done(self, number: int) -> None:
        tag = self.idling[number]
        if not tag:
            return
        self.idling[number] = ""
        lines = self.loop.call(self._done, self.clients[number], tag)
        assert lines[-1].startswith(f"{tag} OK")
        self.believers[number].hear(lines[:-1], "IDLE")
        self.settle(number)

    @staticmethod
    async def _done(client: Client, tag: str) -> list[str]:
        await client.send(b"DONE\r\n")
        lines = [await client.read_line()]
        while not lines[-1].startswith(f"{tag} "):
            lines.append(await client.read_line())
        return lines

    @rule()
    def the_server_dies(self) -> None:
        self.loop.stop()
        self.loop.start()
        self.connect()

    def teardown(self) -> None:
        try:
            for number in range(SESSIONS):
                if not self.idling[number]:
                    self.settle(number)
        finally:
            self.loop.stop()
            shutil.rmtree(self.folder)


class ThreeThatMove(ThreeSessions):
    """The same, where each command may meet another task: all park at once, and move now and then."""

    park_after_s = 0.0

    @rule()
    def they_move(self) -> None:
        self.loop.call(self._moved, self.loop.world)

    @staticmethod
    async def _moved(world: ImapWorld) -> None:
        world.move()


TestThreeSessions = ThreeSessions.TestCase
TestThreeThatMove = ThreeThatMove.TestCase
TestThreeSessions.settings = TestThreeThatMove.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
from hypothesis import Phase
TestThreeThatMove.settings = settings(max_examples=400, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate])
del TestThreeSessions
