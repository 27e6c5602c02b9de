"""Passwords: hashing with argon2id, and a memory of those that were verified a moment ago.

Hashing is slow on purpose and runs in the gateway's lane HASH, one thread per core; argon2's C code releases the
GIL. A password that cannot match (no such user, no password set, a hash of a kind that is not ours) is verified
against a decoy made with the same parameters, so that the answer takes the same time.

The memory knows keys, not passwords: HMAC-SHA256 under a random key of this process over the user, the stored
hash and the password. A changed hash makes other keys, so a new password never needs to clear anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError

from wd_trio import errors
from wd_trio.ports.gateway import HASH, in_lane
from wd_trio.secret import Secret

PASSWORD_BYTES: Final = 1024
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Verified:
    """`new_hash` is set when the password matched a hash made with other parameters: store it instead."""

    matches: bool
    new_hash: str | None = None


class Hasher:
    """argon2id with one lane of parallelism. Its methods block; run them through the gateway.

    They raise errors.Unavailable when the machine has no memory for them.
    """

    def __init__(self, *, time_cost: int, memory_kib: int) -> None:
        self._argon2 = PasswordHasher(
            time_cost=time_cost,
            memory_cost=memory_kib,
            parallelism=1,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
        )
        parameters = f"m={memory_kib},t={time_cost},p=1"
        self._decoy = f"$argon2id$v=19${parameters}${_random_base64(SALT_BYTES)}${_random_base64(HASH_BYTES)}"

    @in_lane(HASH)
    def hash(self, password: Secret) -> str:
        """The encoded hash to store, parameters and a fresh salt in it."""
        try:
            return self._argon2.hash(password.reveal())
        except HashingError as error:
            raise errors.Unavailable("argon2 could not hash", what="hash") from error

    @in_lane(HASH)
    def verify(self, password_hash: str, password: Secret) -> Verified:
        """Does the password match? False for "" and for hashes that are not argon2's, after the same time."""
        stored = password_hash if _is_argon2(password_hash) else self._decoy
        try:
            self._argon2.verify(stored, password.reveal())
        except VerifyMismatchError:
            return Verified(False)
        except VerificationError as error:
            raise errors.Unavailable("argon2 could not verify", what="hash") from error
        if stored is not password_hash:
            return Verified(False)
        outdated = self._argon2.check_needs_rehash(password_hash)
        return Verified(True, self.hash(password) if outdated else None)


class VerifiedCache:
    """Keys of verified credentials, each known for `lives_s` from its verification, `most` of them at a time."""

    def __init__(
        self, *, lives_s: float = 300.0, most: int = 10_000, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._lives_s = lives_s
        self._most = most
        self._clock = clock
        self._secret = os.urandom(32)
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ends)

    def key(self, who: str, password_hash: str, password: Secret) -> bytes:
        """The key of one user's password against one stored hash."""
        texts = [text.encode() for text in (who, password_hash, password.reveal())]
        framed = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        return hmac.digest(self._secret, framed, hashlib.sha256)

    def knows(self, key: bytes) -> bool:
        ends = self._ends.get(key)
        if ends is None:
            return False
        if self._clock() >= ends:
            del self._ends[key]
            return False
        self._ends.move_to_end(key)
        return True

    def add(self, key: bytes) -> None:
        self._ends[key] = self._clock() + self._lives_s
        self._ends.move_to_end(key)
        while len(self._ends) > self._most:
            self._ends.popitem(last=False)


def is_plausible(password: Secret) -> bool:
    """May this be a password at all: 1 to 1,024 bytes of UTF-8 without NUL."""
    text = password.reveal()
    if not 0 < len(text) <= PASSWORD_BYTES or "\0" in text:
        return False
    try:
        return len(text.encode()) <= PASSWORD_BYTES
    except UnicodeEncodeError:
        return False


def _is_argon2(password_hash: str) -> bool:
    try:
        extract_parameters(password_hash)
    except InvalidHashError:
        return False
    return password_hash.isascii()


def _random_base64(size: int) -> str:
    return base64.b64encode(os.urandom(size)).rstrip(b"=").decode()
