"""The input of one connection: octets that came and were not read yet.

Lines and octet runs are taken from the front. A search for a line end never looks at an octet twice, so a
peer that sends byte by byte costs no more than one that sends everything at once. The buffer itself has no
cap: whoever feeds it takes from it until nothing whole is left, and says how long a line may be; what
stays is then shorter than that.
"""

from __future__ import annotations


class InputBuffer:
    """Octets in order of arrival. `len()` is how many are unread."""

    __slots__ = ("_data", "_scanned")

    def __init__(self) -> None:
        self._data = bytearray()
        self._scanned = 0  # no LF before this offset

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Store what the peer sent."""
        self._data += data

    def take_line(self, limit: int) -> bytes | None:
        """The next line with its LF, of at most `limit` octets in all; None when there is none.

        None means "too long" where `len(buffer) >= limit`, else "not whole yet".
        """
        data = self._data
        at = data.find(b"\n", self._scanned, limit)
        if at < 0:
            self._scanned = min(len(data), limit)
            return None
        line = bytes(data[: at + 1])
        del data[: at + 1]
        self._scanned = 0
        return line

    def take(self, limit: int) -> bytes:
        """Up to `limit` octets, as many as are there."""
        data = self._data
        if limit >= len(data):
            taken = bytes(data)
            data.clear()
        else:
            taken = bytes(data[:limit])
            del data[:limit]
        self._scanned = 0
        return taken

    def discard(self, limit: int) -> int:
        """Drop up to `limit` octets; how many it were."""
        count = min(limit, len(self._data))
        del self._data[:count]
        self._scanned = 0
        return count

    def discard_line(self, keep: int) -> tuple[bytes, bool]:
        """Drop up to and including the next LF, or everything: the last `keep` octets dropped, and whether the
        LF was among them."""
        data = self._data
        at = data.find(b"\n", self._scanned)
        stop = at + 1 if at >= 0 else len(data)
        tail = bytes(data[max(0, stop - keep) : stop])
        del data[:stop]
        self._scanned = 0
        return tail, at >= 0

    def clear(self) -> None:
        """Forget everything unread."""
        self._data.clear()
        self._scanned = 0
