"""Pages of lists: WildDuck's cursors and page numbers over the cursors of the services.

A cursor of the API is a service's cursor and the number of the page it leads to, opaque to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from wd_trio.api.schema import Faults, Paging, decode_cursor, encode_cursor


class Bounds(TypedDict):
    """What every `Listing` is made with."""

    total: int
    page: int
    previous_cursor: str | bool
    next_cursor: str | bool


@dataclass(frozen=True, slots=True)
class Turn:
    """Which page is asked for: that after or before a service's cursor, else the first."""

    after: str | None
    before: str | None
    page: int

    def bounds(self, *, total: int, previous: str | None, next: str | None) -> Bounds:
        """How the answer tells where it stands; `previous` and `next` are the service's cursors."""
        return Bounds(
            total=total,
            page=self.page,
            previous_cursor=previous is not None and encode_cursor((previous, max(1, self.page - 1))),
            next_cursor=next is not None and encode_cursor((next, self.page + 1)),
        )


def turn_of(request: Paging) -> Turn:
    """Faults for cursors that are none of ours, and for two of them."""
    if request.next is not None and request.previous is not None:
        raise Faults({"previous": "cannot stand beside next"})
    if request.next is not None:
        after, page = decode_cursor(request.next, "next", tuple[str, int])
        return Turn(after, None, page)
    if request.previous is not None:
        before, page = decode_cursor(request.previous, "previous", tuple[str, int])
        return Turn(None, before, page)
    return Turn(None, None, max(1, request.page))
