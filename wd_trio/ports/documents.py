"""Documents: declared collections behind one small port. Their rules live in service/, once.

A document is a JSON object (`data`) with an id and a version. Versions count up from 1 with every update and
make updates compare-and-set. `apply` is atomic over all its operations and every unique index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Index:
    """One indexed top-level field of the data (a string; a list of strings indexes each; absent: not indexed)."""

    field: str
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    indexes: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    version: int
    data: Json


@dataclass(frozen=True, slots=True)
class Insert:
    collection: Collection
    id: str
    data: Json


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the data of a document; `version` is the one that was read."""

    collection: Collection
    id: str
    version: int
    data: Json


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a document; of any version where `version` is None. One that is absent is no fault."""

    collection: Collection
    id: str
    version: int | None = None


Operation: TypeAlias = Insert | Update | Delete


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents in order of an index's value, then id; `next` and `previous` are the cursors of the pages beside
    it, if any: one for `after`, the other for `before`."""

    documents: tuple[Document, ...]
    next: str | None
    total: int
    previous: str | None = None


class Documents(Protocol):
    def get(self, collection: Collection, id: str) -> Document | None: ...

    def find(self, collection: Collection, field: str, value: str, *, limit: int = 100) -> list[Document]:
        """Documents whose indexed `field` equals `value`, in order of id. KeyError for an undeclared index."""
        ...

    def page(
        self,
        collection: Collection,
        field: str,
        *,
        prefix: str = "",
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
    ) -> DocumentPage:
        """A page in the order of an indexed field, of values that begin with `prefix`: the first one, that after a
        cursor, or that which ends before one. Invalid (what = "cursor")."""
        ...

    def apply(self, operations: Sequence[Operation]) -> None:
        """All of them or none. Conflict (what = field or "version") on a unique index or a changed version;
        NotFound when an updated document is gone."""
        ...
