"""The types of single fields, shared by requests and responses: what a value must be, said once.

They are msgspec constraints, so the same words validate, and describe themselves in /openapi.json. Patterns stand
beside a length, because `$` alone would let a trailing newline through.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

PAGE_DEFAULT: Final = 20
PAGE_MOST: Final = 250

Id: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9a-f]{24}$", min_length=24, max_length=24, description="24 lower-case hex digits")
]
Text: TypeAlias = Annotated[str, Meta(max_length=256)]
Name: TypeAlias = Annotated[str, Meta(max_length=256, description="A display name")]
Username: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="Letters, digits and '-' joined by '.', '_', '=' or ':', with or without a domain",
    ),
]
Password: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
EmailAddress: TypeAlias = Annotated[str, Meta(min_length=3, max_length=254)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 53) - 1, description="A number of bytes")]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=PAGE_MOST, description="How many results on a page")]
PageNumber: TypeAlias = Annotated[
    int, Meta(ge=0, le=1 << 31, description="Told again in the answer; the cursors alone say what is shown")
]
Cursor: TypeAlias = Annotated[
    str, Meta(pattern="^[A-Za-z0-9_-]+$", max_length=4096, description="A cursor from an earlier answer")
]
