"""Secrets: values that never print, and the two operations on them that must not be written by hand."""

from __future__ import annotations

import hmac
import secrets as _secrets

_PASSWORD_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Secret:
    """A text that no repr, log line or traceback shows; `reveal()` is the one way to it.

    Equality is constant-time in the length of the shorter text. Hashing is refused, so that a secret
    never becomes a dictionary key that outlives its use.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # unhashable on purpose, see above

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one call that needs it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret(empty)"

    __str__ = __repr__


def random_password() -> str:
    """A password of 16 letters and digits (93 random bits), without those that are read for one another."""
    return "".join(_secrets.choice(_PASSWORD_LETTERS) for _ in range(16))


def random_token() -> str:
    """An API token: 160 random bits as 40 lower-case hex digits."""
    return _secrets.token_hex(20)
