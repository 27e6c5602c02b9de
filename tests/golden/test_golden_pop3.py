"""Golden transcripts of POP3: one file per subject, played against a real session over the real store.

A line is one of
    C: text      the client sends the text and CRLF          C| text   the text alone
    S: text      the server's next line; <*> any text, <n> a number
    LOGIN user   connect, read the greeting, log in
    END          the server has closed                       LOST      the client's connection breaks
    DELIVER user text    a delivery elsewhere; `\\n` in the text ends a line
    EXPUNGE user uid     a message is expunged elsewhere
C2, S2, LOGIN2, END2 and LOST2 speak of a second connection. Whatever the server says beyond the file is a failure.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import transcripts
from imap_world import ENGINES
from pop3_hand_over import open_hand_over
from pop3_world import Pop3World, open_pop3_world

HERE = Path(__file__).parent
LINE = re.compile(r"(LOGIN|LOST|END|C|S)(2?)([:|]?) ?(.*)$")


async def nothing() -> None:
    """What happens between the answers and what the client says next."""


async def play(
    world: Pop3World, text: str, *, after_answers: Callable[[], Awaitable[None]] = nothing
) -> None:
    answered = False
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}: {line}"
        if not line or line.startswith("#"):
            continue
        if answered and line.startswith("C"):
            await after_answers()
        answered = line.startswith("S")
        word, _, rest = line.partition(" ")
        if word == "DELIVER":
            user, _, message = rest.partition(" ")
            await world.deliver(user, raw=message.replace("\\n", "\r\n").encode())
        elif word == "EXPUNGE":
            user, uid = rest.split()
            await world.expunge(user, int(uid))
        else:
            await one_line(world, line, where)
    for client in world.clients:
        assert client.buffered() == b"", "the server said more than the transcript"


async def one_line(world: Pop3World, line: str, where: str) -> None:
    matched = LINE.fullmatch(line)
    assert matched, where
    what, which, mark, rest = matched.groups()
    client = world.client(int(which or 1))
    if what == "C":
        await transcripts.say(client, mark, rest)
    elif what == "S":
        await transcripts.expect(client, rest, where)
    elif what == "END":
        assert await client.read_line() == "", where
        await world.lose(int(which or 1))
    elif what == "LOST":
        await world.lose(int(which or 1))
    else:
        await client.log_in(rest)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", transcripts.names(HERE / "pop3"))
async def test_transcript(name: str, engine: str, tmp_path: Path) -> None:
    async with open_pop3_world(tmp_path, engine=engine) as world:
        await play(world, (HERE / "pop3" / f"{name}.txt").read_text())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", transcripts.names(HERE / "pop3"))
async def test_transcript_from_worker_to_worker(name: str, engine: str, tmp_path: Path) -> None:
    """All connections go to another worker whenever what the client said has been answered."""
    async with open_hand_over(engine, tmp_path) as world:
        await play(world, (HERE / "pop3" / f"{name}.txt").read_text(), after_answers=world.move_if_it_can)
