"""Sets of uids as sorted ranges, and the sequence sets that clients write.

`UidSet` is immutable: sessions that look at the same mailbox at the same modseq share one, and a view that
moves on shares nothing it must copy lazily. Membership, position → uid and uid → position are O(log ranges);
a mailbox nobody deletes from is one range, whatever its size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Final

MAX_UID: Final = 0xFFFFFFFF


class UidSet:
    """An immutable set of positive integers, ordered, kept as disjoint, non-adjacent ranges."""

    __slots__ = ("_before", "_hi", "_len", "_lo")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """`ranges` are (first, last) pairs in any order; they may touch or overlap."""
        lo: list[int] = []
        hi: list[int] = []
        for first, last in sorted(ranges):
            if first > last:
                continue
            if hi and first <= hi[-1] + 1:
                hi[-1] = max(hi[-1], last)
            else:
                lo.append(first)
                hi.append(last)
        self._take(lo, hi)

    def _take(self, lo: list[int], hi: list[int]) -> None:
        self._lo = lo
        self._hi = hi
        self._before = list(accumulate((b - a + 1 for a, b in zip(lo, hi, strict=True)), initial=0))
        self._len = self._before.pop()

    @classmethod
    def of(cls, uids: Iterable[int]) -> UidSet:
        """The set of `uids`, which come in any order; sorted input is the fast case."""
        lo: list[int] = []
        hi: list[int] = []
        previous = -1
        for uid in uids:
            if uid == previous + 1:
                hi[-1] = uid
            elif uid > previous:
                lo.append(uid)
                hi.append(uid)
            elif uid != previous:
                return cls((u, u) for u in {uid, *uids, *cls._made(lo, hi)})
            previous = uid
        return cls._made(lo, hi)

    @classmethod
    def _made(cls, lo: list[int], hi: list[int]) -> UidSet:
        made = cls.__new__(cls)
        made._take(lo, hi)
        return made

    def __len__(self) -> int:
        return self._len

    def __bool__(self) -> bool:
        return self._len > 0

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(map(range, self._lo, [last + 1 for last in self._hi]))

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, int) and self.index(uid) >= 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UidSet) and self._lo == other._lo and self._hi == other._hi

    def __hash__(self) -> int:
        return hash((tuple(self._lo), tuple(self._hi)))

    def __repr__(self) -> str:
        return f"UidSet({str(self) or 'empty'})"

    def __str__(self) -> str:
        """As IMAP writes it: `1:3,7`."""
        return ",".join(
            str(first) if first == last else f"{first}:{last}"
            for first, last in zip(self._lo, self._hi, strict=True)
        )

    def ranges(self) -> list[tuple[int, int]]:
        """(first, last) pairs in order."""
        return list(zip(self._lo, self._hi, strict=True))

    @property
    def range_count(self) -> int:
        """How many ranges it takes: what the set costs in memory."""
        return len(self._lo)

    @property
    def first(self) -> int:
        """The smallest uid; 0 for the empty set."""
        return self._lo[0] if self._lo else 0

    @property
    def last(self) -> int:
        """The largest uid; 0 for the empty set."""
        return self._hi[-1] if self._hi else 0

    def index(self, uid: int) -> int:
        """The position of `uid` counted from 0, or -1."""
        i = bisect_right(self._lo, uid) - 1
        if i < 0 or uid > self._hi[i]:
            return -1
        return self._before[i] + uid - self._lo[i]

    def below(self, uid: int) -> int:
        """How many members are smaller than `uid`."""
        i = bisect_right(self._lo, uid) - 1
        if i < 0:
            return 0
        return self._before[i] + min(uid - self._lo[i], self._hi[i] - self._lo[i] + 1)

    def at(self, index: int) -> int:
        """The uid at a position counted from 0. IndexError beyond the end."""
        if not 0 <= index < self._len:
            raise IndexError(index)
        i = bisect_right(self._before, index) - 1
        return self._lo[i] + index - self._before[i]

    def slice(self, start: int, stop: int) -> UidSet:
        """The members at positions start … stop - 1."""
        start, stop = max(start, 0), min(stop, self._len)
        if start >= stop:
            return EMPTY
        if stop - start == self._len:
            return self
        return self.between(self.at(start), self.at(stop - 1))

    def between(self, first: int, last: int) -> UidSet:
        """The members from `first` to `last`, both included."""
        i, j = bisect_left(self._hi, first), bisect_right(self._lo, last)
        if i >= j:
            return EMPTY
        lo, hi = self._lo[i:j], self._hi[i:j]
        lo[0], hi[-1] = max(lo[0], first), min(hi[-1], last)
        return UidSet._made(lo, hi) if lo[0] <= hi[0] and lo[-1] <= hi[-1] else EMPTY

    def __or__(self, other: UidSet) -> UidSet:
        if not other:
            return self
        if not self:
            return other
        if other._lo[0] > self._hi[-1] + 1:
            return UidSet._made(self._lo + other._lo, self._hi + other._hi)
        return UidSet(self.ranges() + other.ranges())

    def __and__(self, other: UidSet) -> UidSet:
        lo: list[int] = []
        hi: list[int] = []
        i = j = 0
        while i < len(self._lo) and j < len(other._lo):
            first, last = max(self._lo[i], other._lo[j]), min(self._hi[i], other._hi[j])
            if first <= last:
                lo.append(first)
                hi.append(last)
            if self._hi[i] < other._hi[j]:
                i += 1
            else:
                j += 1
        return UidSet._made(lo, hi)

    def __sub__(self, other: UidSet) -> UidSet:
        if not other or not self or other._lo[0] > self._hi[-1] or other._hi[-1] < self._lo[0]:
            return self
        lo: list[int] = []
        hi: list[int] = []
        j = 0
        for first, last in zip(self._lo, self._hi, strict=True):
            start = first
            while j < len(other._lo) and other._hi[j] < start:
                j += 1
            k = j
            while k < len(other._lo) and other._lo[k] <= last:
                if other._lo[k] > start:
                    lo.append(start)
                    hi.append(other._lo[k] - 1)
                start = other._hi[k] + 1
                k += 1
            if start <= last:
                lo.append(start)
                hi.append(last)
        return UidSet._made(lo, hi)

    def pages(self, size: int) -> Iterator[UidSet]:
        """The set cut into consecutive sets of `size` members, the last perhaps smaller."""
        for start in range(0, self._len, size):
            yield self.slice(start, start + size)


EMPTY: Final = UidSet()


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """What a client wrote (RFC 3501 §9 sequence-set), normalised pairs; 0 stands for `*`."""

    items: tuple[tuple[int, int], ...]

    def resolve(self, largest: int) -> UidSet:
        """The numbers meant, where `*` is `largest` (RFC 3501: `*` matches the largest number in use, and a
        range is taken in either order). The empty set when nothing is in use."""
        if not largest:
            return EMPTY
        pairs = ((a or largest, b or largest) for a, b in self.items)
        return UidSet((min(a, b), max(a, b)) for a, b in pairs)

    def __str__(self) -> str:
        return ",".join((str(a) if a else "*") if a == b else f"{a or '*'}:{b or '*'}" for a, b in self.items)
