"""Golden transcripts: the files of a folder, and what their lines mean whatever the protocol.

C: text is sent with CRLF, C| text without; S: text is the server's next line, where <*> is any text and <n> a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol


class Talker(Protocol):
    """A client's end of a connection."""

    async def send(self, data: bytes) -> None: ...

    async def read_line(self) -> str: ...

    def buffered(self) -> bytes: ...


def names(folder: Path) -> list[str]:
    """The transcripts of a folder."""
    return sorted(path.stem for path in folder.glob("*.txt"))


def pattern(line: str) -> re.Pattern[str]:
    """What the server may say where a transcript has `line`."""
    return re.compile(re.escape(line).replace(re.escape("<*>"), ".*").replace(re.escape("<n>"), r"\d+"))


async def say(client: Talker, mark: str, text: str) -> None:
    await client.send(text.encode() + (b"" if mark == "|" else b"\r\n"))


async def expect(client: Talker, text: str, where: str, *, beside: str | None = None) -> None:
    """`beside` is how lines begin that may come before it, and that no transcript has."""
    heard = await client.read_line()
    while beside is not None and heard.startswith(beside) and not text.startswith(beside):
        heard = await client.read_line()
    assert pattern(text).fullmatch(heard), f"{where}\nheard: {heard}"
