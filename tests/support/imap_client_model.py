"""What an IMAP client may believe: sequence numbers, uids and flags, moved only by what the server says.

`Believer` reads untagged lines and raises AssertionError at the first that RFC 3501 does not allow at that
moment: an EXPUNGE while FETCH, STORE or SEARCH is answered, a shrinking EXISTS, a number that does not exist, a
UID that is not the one the client knows.
"""

from __future__ import annotations

import re

EXISTS = re.compile(r"\* (\d+) EXISTS")
EXPUNGE = re.compile(r"\* (\d+) EXPUNGE")
FETCH = re.compile(r"\* (\d+) FETCH \((.*)\)")
UID = re.compile(r"UID (\d+)")
FLAGS = re.compile(r"FLAGS \(([^)]*)\)")
NO_EXPUNGE = ("FETCH", "STORE", "SEARCH")


class Believer:
    """One client's picture of its selected mailbox. A uid it has not been told is None."""

    def __init__(self) -> None:
        self.uids: list[int | None] = []
        self.flags: dict[int, frozenset[str]] = {}

    def hear(self, lines: list[str], command: str) -> None:
        """Take in the untagged lines that answered `command` ("" for lines in IDLE)."""
        for line in lines:
            if found := EXISTS.fullmatch(line):
                count = int(found[1])
                assert count >= len(self.uids), f"EXISTS shrinks: {line} after {len(self.uids)}"
                self.uids.extend([None] * (count - len(self.uids)))
            elif found := EXPUNGE.fullmatch(line):
                assert command not in NO_EXPUNGE, f"{line} while {command} is answered"
                number = int(found[1])
                assert 1 <= number <= len(self.uids), f"no such number: {line}"
                del self.uids[number - 1]
            elif found := FETCH.fullmatch(line):
                self._fetched(int(found[1]), found[2], line)

    def _fetched(self, number: int, items: str, line: str) -> None:
        assert 1 <= number <= len(self.uids), f"no such number: {line}"
        if uid := UID.search(items):
            known = self.uids[number - 1]
            assert known in (None, int(uid[1])), f"{line}: the client knows uid {known} there"
            self.uids[number - 1] = int(uid[1])
        known = self.uids[number - 1]
        if known is not None and (flags := FLAGS.search(items)):
            self.flags[known] = frozenset(flags[1].split())
