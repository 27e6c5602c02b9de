"""Driver exceptions become the house's errors, here and nowhere else.

What passes by itself (locked, full, I/O, no memory) is Unavailable; so is a damaged file, after a log line that
says what to do. A broken constraint that the code did not look for first is Conflict. Values that SQLite cannot
hold (lone surrogates, integers beyond 64 bits, oversize) are the caller's fault: Invalid. Misuse of the driver is
a bug and passes as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from wd_trio import errors

_log = structlog.get_logger("wd_trio.sqlite")
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE: Final = 0xFF  # extended result codes carry the primary code in their low byte


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 where the driver itself raised."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the error says that the file is no sound database."""
    return primary_code(error) in _DAMAGED


def translated(error: sqlite3.Error) -> errors.WdError:
    """The error to raise in place of a driver's one."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    text = f"{name}: {error}"
    if isinstance(error, sqlite3.IntegrityError):
        return errors.Conflict(text, what="constraint")
    if isinstance(error, sqlite3.DataError):
        return errors.Invalid(text, what="value")
    if is_damaged(error):
        _log.error(
            "database_damaged", error=text, advice="stop the server, move the file away, restore a backup"
        )
    else:
        _log.warning("database_unavailable", error=text)
    return errors.Unavailable(text, what="sqlite")


@contextmanager
def engine_faults() -> Iterator[None]:
    """Raise the house's errors in place of SQLite's in this block."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise translated(error) from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise errors.Invalid(f"a value that cannot be stored: {error}", what="value") from error
