"""Golden transcripts: one file per subject, played against a real session over the real store.

A line is one of
    C: text      the client sends the text and CRLF          C| text   the text alone
    S: text      the server's next line; <*> any text, <n> a number
    SKIP tag     lines up to and with the tagged OK
    LOGIN user   connect, read the greeting, log in          END       the server has closed
    DELIVER user [seen]   another process's delivery of a small message, committed and hinted
C2, S2, SKIP2 and LOGIN2 speak of a second connection. <uidvalidity> in what a client sends is the last one that SKIP
has passed over. Whatever the server says beyond the file is a failure.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import transcripts
from imap_world import ENGINES, ImapWorld, open_world

HERE = Path(__file__).parent
FOUND_OUT_LATE = {"folders", "lost_mailbox"}
"""Where a task that has a mailbox open goes on with it for a while when it is gone; another one does not begin."""
KEYWORDS = "* FLAGS "
"""A task that goes on with a connection does not know which keywords its client has been told of."""
UID_VALIDITY = re.compile(r"UIDVALIDITY (\d+)")
LINE = re.compile(r"(SKIP|LOGIN|C|S)(2?)([:|]?) ?(.*)$")


async def play(world: ImapWorld, text: str, *, moving: bool = False, beside: str | None = None) -> None:
    skipped: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}: {line}"
        if not line or line.startswith("#"):
            continue
        if moving:
            world.move()
        if line == "END":
            assert await world.client(1).read_line() == "", where
        elif line.startswith("DELIVER "):
            await world.deliver(*line.split()[1:])
        else:
            await one_line(world, line, where, skipped, beside)
    for client in world.clients:
        assert client.buffered() == b"", "the server said more than the transcript"


async def one_line(world: ImapWorld, line: str, where: str, skipped: list[str], beside: str | None) -> None:
    matched = LINE.fullmatch(line)
    assert matched, where
    what, which, mark, rest = matched.groups()
    client = world.client(int(which or 1))
    if what == "C":
        await transcripts.say(client, mark, with_validity(rest, skipped))
    elif what == "S":
        await transcripts.expect(client, rest, where, beside=beside)
    elif what == "SKIP":
        while not (heard := await client.read_line()).startswith(rest + " "):
            assert heard, where
            skipped.append(heard)
        assert heard.startswith(f"{rest} OK"), where
    else:
        await client.log_in(rest)


def with_validity(text: str, skipped: list[str]) -> str:
    if "<uidvalidity>" not in text:
        return text
    return text.replace("<uidvalidity>", UID_VALIDITY.findall(" ".join(skipped))[-1])


@pytest.mark.parametrize("name", sorted({*transcripts.names(HERE / "imap")} - FOUND_OUT_LATE))
@pytest.mark.parametrize("how", ["parked", "moved", "moved and parked"])
async def test_transcript_with_other_tasks(name: str, how: str, tmp_path: Path) -> None:
    """Each command finds a task that knows the connection from its slot only; the client notices nothing."""
    async with open_world("sqlite", tmp_path, park_after_s=0.0 if "parked" in how else math.inf) as world:
        text = (HERE / "imap" / f"{name}.txt").read_text()
        await play(world, text, moving="moved" in how, beside=KEYWORDS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", transcripts.names(HERE / "imap"))
async def test_transcript(name: str, engine: str, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        await play(world, (HERE / "imap" / f"{name}.txt").read_text())
