"""The MongoDB driver's exceptions become the house's errors, here and nowhere else.

Whatever passes by itself (no primary, a step-down, a time-out, a full disk, refused credentials) is Unavailable, and
Uncertain where it is not known whether a transaction was committed.
A unique index that the code did not look at itself is Conflict. Values that BSON cannot hold (lone surrogates,
integers beyond 64 bits, oversize) are the caller's fault: Invalid. What says that the code asked wrongly is a bug
and passes as it is, so that it ends one connection and opens no breaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from wd_trio import errors

_log = structlog.get_logger("wd_trio.mongodb")

UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"
"""The driver's label of an error behind which a transaction may be committed or not."""
DUPLICATE_KEY: Final = 11000
_OVERSIZE: Final = frozenset({10334, 15, 17419, 17420})  # BSONObjectTooLarge, Overflow (nested too deep), …
_BUGS: Final = frozenset({2, 9, 14, 59, 72, 73, 263})  # BadValue, …, OperationNotSupportedInTransaction
_CLIENT_KILLED: Final = 46841
_FIRST_PARSE_FAULT: Final = 15000  # above it, codes are numbered places that complain about a query


def is_bug(error: PyMongoError) -> bool:
    """Whether the error says that the code asked for something that cannot be."""
    if isinstance(error, (InvalidOperation, ConfigurationError)):
        return True
    code = error.code if isinstance(error, OperationFailure) else None
    if code is None or code in _OVERSIZE or code == _CLIENT_KILLED:
        return False
    return code in _BUGS or code > _FIRST_PARSE_FAULT


def duplicate_field(error: PyMongoError) -> str | None:
    """The last part of the indexed field whose uniqueness a write broke ("_id", "username"); None for another
    error."""
    details: dict[str, Any] = getattr(error, "details", None) or {}
    if isinstance(error, BulkWriteError):
        details = next(iter(details.get("writeErrors", ())), {})
    elif not isinstance(error, DuplicateKeyError):
        return None
    if details.get("code") != DUPLICATE_KEY:
        return None
    pattern = details.get("keyPattern") or {"constraint": 1}
    return str(next(iter(reversed(pattern)))).rpartition(".")[2]


def translated(error: PyMongoError) -> errors.WdError:
    """The error to raise in place of a driver's one that is no bug."""
    text = f"{type(error).__name__}: {error}"
    field = duplicate_field(error)
    if field is not None:
        return errors.Conflict(text, what=field)
    if isinstance(error, OperationFailure) and error.code in _OVERSIZE:
        return errors.Invalid(text, what="value")
    _log.warning("database_unavailable", error=text[:500])
    if error.has_error_label(UNKNOWN_COMMIT):
        return errors.Uncertain(text, what="mongodb")
    return errors.Unavailable(text, what="mongodb")


@contextmanager
def engine_faults() -> Iterator[None]:
    """Raise the house's errors in place of the driver's in this block."""
    try:
        yield
    except PyMongoError as error:
        if isinstance(error, BSONError):  # DocumentTooLarge is both
            raise errors.Invalid(f"a value that cannot be stored: {error}", what="value") from error
        if is_bug(error):
            raise
        raise translated(error) from error
    except (BSONError, UnicodeEncodeError, OverflowError) as error:
        raise errors.Invalid(f"a value that cannot be stored: {error}", what="value") from error
