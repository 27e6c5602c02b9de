"""Limits: claims that live holders share, and strikes that fade. Volatile: a restart of the engine may forget.

Where several servers share an engine, a claim counts only while its owner's server is alive: claiming vouches for it,
like beginning a session and renewing its lease (ports/sessions.py).
"""

from __future__ import annotations

from typing import Protocol


class Limits(Protocol):
    def claim(self, key: str, holder: str, *, owner: str, most: int) -> bool:
        """Take one of `most` places under `key` for `holder`; False when all are taken. Taking twice is once, for
        the owner who came last.

        `owner` is the process that holds it (`<server>/<worker>`), so that `release_owner` can end them all.
        """
        ...

    def release(self, key: str, holder: str) -> None: ...

    def release_owner(self, owner: str) -> int:
        """End every claim of a process that is gone; how many there were."""
        ...

    def claims(self, key: str) -> int: ...

    def strike(self, key: str, *, window_s: float) -> int:
        """Count one strike and return how many `key` has; the count ends `window_s` after its first strike."""
        ...

    def strikes(self, key: str) -> int: ...

    def forgive(self, key: str) -> None: ...
