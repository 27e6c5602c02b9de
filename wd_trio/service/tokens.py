"""API tokens: 160 random bits that stand for root or for one user, kept only as their SHA-256.

    {"hash", "role", "created": ms} and a user's: {"user", "authVersion", "used": ms}

A user's token lives 14 days from its last use and 180 days at most; the last use is written once an hour, not for
each request. It is dead as soon as the user's auth version differs (a new password), or the user is disabled,
suspended or gone. Root's have no end but their deletion.

Verifying is one crossing, and none while the verdict is remembered: some seconds, for a bounded number of tokens.
A hint about a user makes every worker forget what it knows of that user, so the seconds are only what a lost hint
costs.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from wd_trio import errors
from wd_trio.ports.bus import Hint
from wd_trio.ports.documents import Delete, Document, Documents, Insert, Operation, Update
from wd_trio.ports.gateway import Gateway, reads, writes
from wd_trio.ports.ids import new_id
from wd_trio.secret import Secret, random_token
from wd_trio.service.changes import ChangeHub
from wd_trio.service.users import TOKENS, USERS

log = structlog.get_logger()

ROOT_ROLE: Final = "root"
USER_ROLE: Final = "user"
TOKENS_OF_A_USER: Final = 100
CHANGED: Final = "user"
"""The kind of the hint that a user's credentials changed."""
_TOKEN: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    idle_ttl_s: float = 14 * 86_400.0
    absolute_ttl_s: float = 180 * 86_400.0
    use_step_s: float = 3_600.0
    remembered_s: float = 5.0
    remembered: int = 10_000
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token. `user_id` is None for root's; `used` when its use was last written, in ms."""

    id: str
    role: str
    user_id: str | None
    used: int


class Tokens:
    """Use cases on tokens. All raise Unavailable with the engine."""

    def __init__(
        self, *, gateway: Gateway, documents: Documents, hub: ChangeHub, options: TokenOptions | None = None
    ) -> None:
        self._gateway = gateway
        self._documents = documents
        self._hub = hub
        self._options = options or TokenOptions()
        self._known: OrderedDict[str, tuple[Token, float]] = OrderedDict()
        self._changes = 0  # hints heard: a verdict that was under way at one is not remembered
        hub.listen(self._hear)

    async def issue(self, user_id: str, auth_version: int) -> Secret:
        """A fresh token of a user, whose credentials were verified at that version. The user's tokens that are over
        go, and the oldest beyond 100. NotFound when the user is gone."""
        token = Secret(random_token())
        now_ms = self._now_ms()
        data = {
            "hash": _hash(token),
            "role": USER_ROLE,
            "user": user_id,
            "authVersion": auth_version,
            "created": now_ms,
            "used": now_ms,
        }
        await self._gateway.run(_insert, self._documents, data, self._is_over)
        return token

    async def issue_root(self) -> Secret:
        """A fresh token of root's."""
        token = Secret(random_token())
        data = {"hash": _hash(token), "role": ROOT_ROLE, "created": self._now_ms()}
        await self._gateway.run(self._documents.apply, [Insert(TOKENS, new_id(), data)])
        return token

    async def has_root(self) -> bool:
        """Whether any token of root's was ever issued and not deleted since."""
        return bool(await self._gateway.run(self._documents.find, TOKENS, "role", ROOT_ROLE, limit=1))

    async def verify(self, token: Secret) -> Token:
        """Whose token this is. Denied for one that is unknown, over, or dead with its user's credentials."""
        if not _TOKEN.fullmatch(token.reveal()):
            raise errors.Denied("no token of ours", what="token")
        key = _hash(token)
        known = self._known.get(key)
        if known is not None and trio.current_time() < known[1]:
            return known[0]
        self._known.pop(key, None)
        changes = self._changes
        found = await self._gateway.run(_find, self._documents, key)
        verified = self._verified(found)
        if verified.user_id is not None and self._now_ms() - verified.used > self._options.use_step_s * 1000:
            await self._note_use(verified)
        if changes == self._changes:
            self._known[key] = verified, trio.current_time() + self._options.remembered_s
        while len(self._known) > self._options.remembered:
            self._known.popitem(last=False)
        return verified

    async def revoke(self, token: Token) -> None:
        """End a token; one that is gone already is no fault."""
        await self._gateway.run(self._documents.apply, [Delete(TOKENS, token.id)])
        self.forget(token.user_id or "")

    def forget(self, user_id: str) -> None:
        """A user's credentials changed ("": root's): no worker shall trust what it remembers of those tokens."""
        self._hub.publish(Hint(CHANGED, user_id))

    def _hear(self, hint: Hint) -> None:
        if hint.kind == CHANGED:
            self._changes += 1
            user_id = hint.user_id or None
            for key in [key for key, (token, _) in self._known.items() if token.user_id == user_id]:
                del self._known[key]

    def _verified(self, found: tuple[Document, Document | None] | None) -> Token:
        if found is None:
            raise errors.Denied("unknown token", what="token")
        document, user = found
        data = document.data
        if data["role"] == ROOT_ROLE:
            return Token(document.id, ROOT_ROLE, None, data["created"])
        if (
            data["role"] != USER_ROLE
            or user is None
            or user.data["disabled"]
            or user.data.get("suspended", False)
            or user.data.get("authVersion", 1) != data["authVersion"]
            or self._is_over(document)
        ):
            raise errors.Denied("a token that is over", what="token")
        return Token(document.id, USER_ROLE, user.id, data["used"])

    def _is_over(self, document: Document) -> bool:
        now_ms, data = self._now_ms(), document.data
        idle_ms, age_ms = now_ms - int(data["used"]), now_ms - int(data["created"])
        return idle_ms >= self._options.idle_ttl_s * 1000 or age_ms >= self._options.absolute_ttl_s * 1000

    async def _note_use(self, token: Token) -> None:
        """Write that the token was used. The request does not fail with it: the next one tries again."""
        try:
            await self._gateway.run(_touch, self._documents, token.id, self._now_ms())
        except errors.WdError as error:
            log.warning("use of a token not written", token=token.id, error=str(error))

    def _now_ms(self) -> int:
        return int(self._options.clock() * 1000)


def _hash(token: Secret) -> str:
    return hashlib.sha256(token.reveal().encode()).hexdigest()


# What runs in the engine's threads: each is one crossing


@reads("store")
def _find(documents: Documents, hash_: str) -> tuple[Document, Document | None] | None:
    """The token of that hash and its user."""
    for token in documents.find(TOKENS, "hash", hash_, limit=1):
        user_id = token.data.get("user")
        return token, documents.get(USERS, user_id) if user_id else None
    return None


@writes("store")
def _insert(documents: Documents, data: dict[str, Any], is_over: Callable[[Document], bool]) -> None:
    if documents.get(USERS, data["user"]) is None:
        raise errors.NotFound(f"no user {data['user']}", what="user")
    found = documents.find(TOKENS, "user", data["user"], limit=2 * TOKENS_OF_A_USER)
    live = [token for token in found if not is_over(token)]
    live.sort(key=lambda token: token.data["created"])
    excess = live[: max(0, len(live) - TOKENS_OF_A_USER + 1)]
    gone = [token for token in found if is_over(token)] + excess
    operations: list[Operation] = [Delete(TOKENS, token.id) for token in gone]
    documents.apply([*operations, Insert(TOKENS, new_id(), data)])


@writes("store")
def _touch(documents: Documents, token_id: str, now_ms: int) -> None:
    token = documents.get(TOKENS, token_id)
    if token is not None:
        documents.apply([Update(TOKENS, token_id, token.version, {**token.data, "used": now_ms})])
