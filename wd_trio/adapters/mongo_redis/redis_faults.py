"""Redis' answers and the driver's exceptions become the house's errors, here and nowhere else.

What passes by itself (no connection, loading, out of memory, a replica that was the primary, a cluster without a
node, credentials refused) is Unavailable. Any other error in an answer says that a script or a command is wrong:
that is a bug and passes as it is.
"""

from __future__ import annotations

from typing import Final

import redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

from wd_trio import errors

_PASSING: Final = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# Answers that no driver, or not every version of it, has a class for: by their first word.
_PASSING_WORDS: Final = frozenset(
    [
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOREPLICAS",
        "TRYAGAIN",
        "UNKILLABLE",
    ]
)


def passes(error: Exception) -> bool:
    """Whether the same command may well succeed later."""
    return isinstance(error, _PASSING) or str(error).partition(" ")[0] in _PASSING_WORDS


def translated(error: Exception) -> Exception:
    """The error to raise in place of the driver's; a fresh one, except for bugs, which pass as they are."""
    return unavailable(error) if passes(error) else error


def unavailable(error: Exception) -> errors.Unavailable:
    fault = errors.Unavailable(f"{type(error).__name__}: {error}", what="redis")
    fault.__cause__ = error
    return fault
