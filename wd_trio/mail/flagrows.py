"""The flags of many messages as columns.

A mailbox has thousands of messages and a handful of different flag sets. Kept column by column, flags can be read,
changed and written out without an object and a step of Python for each message: a byte per message holds its system
flags, so that a change of flags is a table of 256 (`bytes.translate`) and counting is `bytes.count`. Keywords, which
few messages have, stand apart. To everybody else it is a sequence of FlagRow, made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import overload

from wd_trio.mail.model import FlagRow
from wd_trio.mail.numset import UidSet


class FlagRows(Sequence[FlagRow]):
    """Rows in order of uid. `flags[i]` and `modseqs[i]` are those of the i-th of `uids`; `keywords` has an entry by
    uid for each message that has any. Immutable by agreement."""

    __slots__ = ("flags", "keywords", "modseqs", "uids")

    def __init__(
        self, uids: UidSet, flags: bytes, keywords: Mapping[int, str], modseqs: Sequence[int]
    ) -> None:
        """ValueError for columns of different length."""
        if not len(uids) == len(flags) == len(modseqs):
            raise ValueError(f"columns of {len(uids)}, {len(flags)} and {len(modseqs)} rows")
        self.uids = uids
        self.flags = flags
        self.keywords = keywords
        self.modseqs = modseqs

    @classmethod
    def of(cls, rows: Sequence[FlagRow]) -> FlagRows:
        """The columns of `rows`, which are in order of uid; the same object where they are columns already."""
        if isinstance(rows, FlagRows):
            return rows
        return cls(
            UidSet.of(row.uid for row in rows),
            bytes([row.flags for row in rows]),
            {row.uid: row.keywords for row in rows if row.keywords},
            [row.modseq for row in rows],
        )

    def __len__(self) -> int:
        return len(self.flags)

    def __iter__(self) -> Iterator[FlagRow]:
        keywords = self.keywords
        for uid, flags, modseq in zip(self.uids, self.flags, self.modseqs, strict=True):
            yield FlagRow(uid, modseq, flags, keywords.get(uid, "") if keywords else "")

    @overload
    def __getitem__(self, index: int) -> FlagRow: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FlagRow]: ...

    def __getitem__(self, index: int | slice) -> FlagRow | Sequence[FlagRow]:
        if isinstance(index, slice):
            return tuple(self)[index]
        uid = self.uids.at(index + len(self) if index < 0 else index)
        return FlagRow(uid, self.modseqs[index], self.flags[index], self.keywords.get(uid, ""))

    def __eq__(self, other: object) -> bool:
        """As sequences compare: equal to any other with the same rows."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that compares with lists

    def __repr__(self) -> str:
        return f"FlagRows({list(self)!r})"

    def where(self, keep: Sequence[int]) -> FlagRows:
        """The rows for which `keep`, one entry for each row, is true."""
        if all(keep):
            return self
        uids = UidSet.of(compress(self.uids, keep))
        return FlagRows(
            uids,
            bytes(compress(self.flags, keep)),
            {uid: text for uid, text in self.keywords.items() if uid in uids},
            list(compress(self.modseqs, keep)),
        )
