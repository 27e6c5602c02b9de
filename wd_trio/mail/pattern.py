"""LIST patterns (RFC 3501 §6.3.8): `*` matches anything, `%` anything within one level.

Matched as a set of positions moved along the name, so that no pattern costs more than its length times the
name's, whatever its wildcards.
"""

from __future__ import annotations

from wd_trio.mail.model import SEPARATOR


def matches(pattern: str, name: str) -> bool:
    """Whether a mailbox name matches; INBOX in any case, everything else exactly."""
    if name == "INBOX" and pattern.upper() == "INBOX":
        return True
    if pattern in ("*", "%"):
        return pattern == "*" or SEPARATOR not in name
    if "*" not in pattern and "%" not in pattern:
        return pattern == name
    positions = _skip(pattern, {0})
    for character in name:
        moved: set[int] = set()
        for at in positions:
            if at == len(pattern):
                continue
            expected = pattern[at]
            if expected == "*" or (expected == "%" and character != SEPARATOR):
                moved.add(at)
            elif expected == character:
                moved.add(at + 1)
        positions = _skip(pattern, moved)
        if not positions:
            return False
    return len(pattern) in positions


def _skip(pattern: str, positions: set[int]) -> set[int]:
    """Positions reachable without a character: a wildcard may match nothing."""
    reached = set(positions)
    for start in positions:
        at = start
        while at < len(pattern) and pattern[at] in "*%":
            at += 1
            reached.add(at)
    return reached
