"""Users and their addresses: the rules, over the documents port.

A user is a document; each of its addresses is another one, unique over all users. What concerns both is one
atomic `apply` in which the user's document is touched too, so that an address never outlives its user and two
changes of one user never cross. Compare-and-set that loses is tried again inside the same crossing.

A username that is an address is always among its user's addresses: log-in accepts usernames and addresses, and
nobody else can take it. Looking somebody up is one crossing, whatever it takes inside.

Quotas: None means the default, 0 means no limit; a `Recipient` carries the limit that counts, None for no limit.
Recipients are remembered for a while (recipients.py); so whatever changes a user says so, once it may have happened.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import trio

from wd_trio import errors
from wd_trio.mail.address import detail, normalise
from wd_trio.mail.model import DEFAULT_MAILBOXES
from wd_trio.ports.bus import Hint
from wd_trio.ports.documents import (
    Collection,
    Delete,
    Document,
    Documents,
    Index,
    Insert,
    Operation,
    Update,
)
from wd_trio.ports.gateway import Gateway, reads, writes
from wd_trio.ports.ids import new_id
from wd_trio.ports.mail import MailStore
from wd_trio.secret import Secret
from wd_trio.service.changes import ChangeHub
from wd_trio.service.credentials import Hasher, is_plausible
from wd_trio.service.recipients import ACCOUNT, KnownRecipients, Recipient

USERS: Final = Collection("users", (Index("username", unique=True),))
ADDRESSES: Final = Collection("addresses", (Index("address", unique=True), Index("user")))
TRACKING: Final = Collection("tracking", (Index("connected"),))
"""One record a user, under the user's id, which goes with its user; what is in it is tracking.py's."""

TOKENS: Final = Collection("tokens", (Index("hash", unique=True), Index("role"), Index("user")))
"""API tokens, which go with their user; what is in them is tokens.py's."""

USERNAME_CHARACTERS: Final = 128
NAME_CHARACTERS: Final = 256
ADDRESSES_OF_A_USER: Final = 1_000
_A_USERS_TOKENS: Final = 1_000  # more than tokens.py ever lets a user have
CAS_ATTEMPTS: Final = 5

# WildDuck's usernames: words of letters, digits and "-", joined by one of ". _ = :", perhaps with a domain.
_USERNAME: Final = re.compile(r"[a-z0-9-]+(?:[._=:][a-z0-9-]+)*(?:@[a-z0-9-]+(?:\.[a-z0-9-]+)*)?")

Plan: TypeAlias = Callable[[Document], Sequence[Operation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserOptions:
    default_quota_bytes: int = 0  # of users who have no quota of their own; 0: unlimited


@dataclass(frozen=True, slots=True)
class User:
    """`address` is the main one, "" when there is none; `password_hash` is "" for a user who cannot log in. A
    suspended user cannot log in, a disabled one cannot receive mail either. `auth_version` counts passwords."""

    id: str
    username: str
    name: str
    address: str
    password_hash: str = field(repr=False)
    quota_bytes: int | None
    disabled: bool
    created: int
    version: int
    suspended: bool = False
    auth_version: int = 1

    @property
    def may_log_in(self) -> bool:
        return not (self.disabled or self.suspended)

    @property
    def login_hash(self) -> str:
        """The hash that a log-in is verified against: "", which nothing matches, for a user who may not log in."""
        return self.password_hash if self.may_log_in else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChange:
    """What to change of a user; None: leave it as it is."""

    name: str | None = None
    password: Secret | None = None
    quota_bytes: int | None = None
    disabled: bool | None = None
    suspended: bool | None = None


@dataclass(frozen=True, slots=True)
class Address:
    id: str
    address: str
    user_id: str
    created: int


class Users:
    """Use cases on users. All raise Unavailable with the engine; changes raise NotFound for unknown users."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        documents: Documents,
        store: MailStore,
        hasher: Hasher,
        hub: ChangeHub | None = None,
        options: UserOptions | None = None,
    ) -> None:
        """Without a hub nobody hears of changes, and no recipient is remembered."""
        self._gateway = gateway
        self._documents = documents
        self._store = store
        self._hasher = hasher
        self._hub = hub
        self._known = KnownRecipients(hub)
        self._options = options or UserOptions()

    async def create(
        self,
        username: str,
        password: Secret | None,
        *,
        address: str | None = None,
        name: str = "",
        quota_bytes: int | None = None,
    ) -> User:
        """Make a user with its addresses and default mailboxes.

        Without `address`, a username that is an address is the main address; without `password`, the user cannot
        log in. Conflict (what = "username" or "address") for what is taken; Invalid (what = the field).
        """
        username = checked_username(username)
        main = normalise(address) if address is not None else normalise(username) if "@" in username else ""
        _check_name(name)
        _check_quota(quota_bytes)
        password_hash = "" if password is None else await self._hash(password)
        user = User(
            new_id(), username, name, main, password_hash, quota_bytes, False, int(time.time()), version=1
        )
        operations: list[Operation] = [Insert(USERS, user.id, _data_of(user))]
        operations += [
            _address_insert(user.id, each, user.created)
            for each in sorted({main, _reserved(username)} - {""})
        ]
        await self._gateway.run(_create, self._documents, self._store, user.id, operations)
        return user

    async def get(self, user_id: str) -> User:
        """NotFound when there is none of that id."""
        return user_of(await self._gateway.run(self._documents.get, USERS, user_id))

    def require(self, user_id: str) -> None:
        """NotFound when the user is gone: for a unit of work in the engine's thread that must not outlive it."""
        if self._documents.get(USERS, user_id) is None:
            raise errors.NotFound(f"no user {user_id}", what="user")

    async def by_username(self, username: str) -> User:
        """NotFound when there is none of that name, in any case of letters."""
        found = await self._gateway.run(self._documents.find, USERS, "username", username.lower(), limit=1)
        return user_of(found[0] if found else None)

    async def by_login(self, name: str) -> User | None:
        """The user whom a log-in names by username or by any of its addresses; None when there is none."""
        username = name.lower()
        address = ""
        if "@" in username:
            try:
                address = normalise(name)
            except errors.Invalid:
                return None
        found = await self._gateway.run(_find_login, self._documents, username, address)
        return user_of(found) if found else None

    async def page(
        self, prefix: str = "", after: str | None = None, limit: int = 20
    ) -> tuple[list[User], str | None, int]:
        """Users by username from `prefix` on: a page, the cursor of the next one if any, and the total."""
        page = await self._gateway.run(
            self._documents.page, USERS, "username", prefix=prefix.lower(), after=after, limit=limit
        )
        return [user_of(document) for document in page.documents], page.next, page.total

    async def set_password(self, user_id: str, password: Secret) -> None:
        """Invalid (what = "password") for one that is empty, too long or holds NUL."""
        await self.update(user_id, UserChange(password=password))

    async def update(self, user_id: str, change: UserChange) -> None:
        """Change several things at once, all or none. Invalid (what = the field)."""
        news: dict[str, object] = {}
        if change.name is not None:
            _check_name(change.name)
            news["name"] = change.name
        if change.quota_bytes is not None:
            _check_quota(change.quota_bytes)
            news["quota"] = change.quota_bytes
        if change.disabled is not None:
            news["disabled"] = change.disabled
        if change.suspended is not None:
            news["suspended"] = change.suspended
        password_hash = None if change.password is None else await self._hash(change.password)

        def plan(document: Document) -> Sequence[Operation]:
            if password_hash is None:
                return [user_update(document, **news)]
            versions = {"authVersion": document.data.get("authVersion", 1) + 1}
            return [user_update(document, **news, password=password_hash, **versions)]

        await self._change(user_id, plan)

    async def replace_hash(self, user: User, password_hash: str) -> bool:
        """Store a hash of the same password instead of the user's; False, and nothing done, when the password
        changed meanwhile."""

        def plan(document: Document) -> Sequence[Operation]:
            if document.data["password"] != user.password_hash:
                return ()
            return [user_update(document, password=password_hash)]

        return await self._gateway.run(change_user, self._documents, user.id, plan)

    async def set_quota(self, user_id: str, quota_bytes: int | None) -> None:
        """None: the default; 0: no limit. Invalid (what = "quota") for a negative one."""
        _check_quota(quota_bytes)
        await self._set(user_id, "quota", quota_bytes)

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """A disabled user can neither log in nor receive mail."""
        await self._set(user_id, "disabled", disabled)

    async def delete(self, user_id: str) -> None:
        """Remove a user, its addresses and all its mail. The mail goes last: a deletion that was interrupted is
        finished by calling again (which then raises NotFound all the same)."""

        def plan(document: Document) -> Sequence[Operation]:
            found = self._documents.find(ADDRESSES, "user", user_id, limit=ADDRESSES_OF_A_USER)
            tokens = self._documents.find(TOKENS, "user", user_id, limit=_A_USERS_TOKENS)
            return [
                Delete(USERS, user_id, document.version),
                Delete(TRACKING, user_id),
                *(Delete(TOKENS, token.id) for token in tokens),
                *(Delete(ADDRESSES, address.id) for address in found),
            ]

        try:
            await self._change(user_id, plan)
        except errors.NotFound:
            await self._gateway.run(self._store.delete_user_mail, user_id)
            raise
        await self._gateway.run(self._store.delete_user_mail, user_id)

    async def add_address(self, user_id: str, address: str, *, main: bool = False) -> Address:
        """A first address is the main one in any case. Conflict (what = "address") for one that is taken;
        Limited beyond 1,000 addresses; Invalid."""
        normal = normalise(address)
        added = Address(new_id(), normal, user_id, int(time.time()))

        def plan(document: Document) -> Sequence[Operation]:
            found = self._documents.find(ADDRESSES, "user", user_id, limit=ADDRESSES_OF_A_USER)
            if len(found) == ADDRESSES_OF_A_USER:
                raise errors.Limited("too many addresses", what="address")
            return [
                user_update(document, address=normal if main else document.data["address"] or normal),
                Insert(ADDRESSES, added.id, _address_data(user_id, normal, added.created)),
            ]

        await self._change(user_id, plan)
        return added

    async def addresses(self, user_id: str) -> list[Address]:
        """A user's addresses, the oldest first; none for an unknown user."""
        found = await self._gateway.run(
            self._documents.find, ADDRESSES, "user", user_id, limit=ADDRESSES_OF_A_USER
        )
        return [address_of(document) for document in found]

    async def delete_address(self, address: str) -> None:
        """NotFound for an unknown one; Denied (what = "address") for the main address of its user and for one
        that is its username; Invalid."""
        normal = normalise(address)
        found = await self._gateway.run(self._documents.find, ADDRESSES, "address", normal, limit=1)
        if not found:
            raise errors.NotFound(f"no address {normal}", what="address")
        await self.delete_address_of(found[0].data["user"], found[0].id)

    async def delete_address_of(self, user_id: str, address_id: str) -> None:
        """As `delete_address`, one of this very user by its id."""

        def plan(document: Document) -> Sequence[Operation]:
            found = self._documents.get(ADDRESSES, address_id)
            if found is None or found.data["user"] != user_id:
                raise errors.NotFound(f"no address {address_id} of {user_id}", what="address")
            if found.data["address"] in (document.data["address"], _reserved(document.data["username"])):
                raise errors.Denied("the main address and the username's stay", what="address")
            return [user_update(document), Delete(ADDRESSES, address_id)]

        await self._change(user_id, plan)

    async def resolve(self, address: str) -> Recipient:
        """Whom mail to `address` reaches: its user, or that of the address without "+detail".

        NotFound when there is none; Denied when the user is disabled; Invalid for what is no address.
        """
        normal = normalise(address)
        known = self._known.get(normal)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known
        remember = self._known.looking_up()
        base = detail(normal)
        candidates = (normal,) if base == normal else (normal, base)
        found = await self._gateway.run(_find_recipient, self._documents, candidates)
        if found is None:
            raise errors.NotFound(f"no address {normal}", what="address")
        document, matched = found
        user = user_of(document)
        if user.disabled:
            raise errors.Denied(f"{user.username} is disabled", what="user")
        recipient = Recipient(user.id, user.username, matched, self.quota_of(user))
        if matched == normal:
            remember(recipient, user.version)
        return recipient

    def quota_of(self, user: User) -> int | None:
        """The limit that counts for a user in bytes; None for no limit."""
        own = user.quota_bytes
        return (self._options.default_quota_bytes if own is None else own) or None

    async def _hash(self, password: Secret) -> str:
        if not is_plausible(password):
            raise errors.Invalid("a password has 1 to 1,024 bytes and no NUL", what="password")
        return await self._gateway.run(self._hasher.hash, password)

    async def _set(self, user_id: str, key: str, value: object) -> None:
        await self._change(user_id, lambda document: [user_update(document, **{key: value})])

    async def _change(self, user_id: str, plan: Plan) -> None:
        """Whatever becomes of it, everybody shall look again: a change whose outcome is not known may have come."""
        try:
            await self._gateway.run(change_user, self._documents, user_id, plan)
        finally:
            if self._hub is not None:
                self._hub.publish(Hint(ACCOUNT, user_id))


def checked_username(username: str) -> str:
    """The stored form of a username, in lower case; Invalid (what = "username")."""
    username = username.strip().lower()
    if len(username) > USERNAME_CHARACTERS or not _USERNAME.fullmatch(username):
        raise errors.Invalid(
            "a username is letters, digits and '-', joined by '.', '_', '=' or ':', with or without a domain; "
            f"at most {USERNAME_CHARACTERS} characters",
            what="username",
        )
    return username


# What runs in the engine's threads: each is one crossing


@writes("store")
def _create(documents: Documents, store: MailStore, user_id: str, operations: Sequence[Operation]) -> None:
    documents.apply(operations)
    store.ensure_mailboxes(user_id, DEFAULT_MAILBOXES)


@writes("store")
def change_user(documents: Documents, user_id: str, plan: Plan) -> bool:
    """Apply what `plan` makes of the user's document, again where somebody else was faster; False when it makes
    nothing. NotFound; Conflict (what = "version") after some attempts."""
    for attempt in range(1, CAS_ATTEMPTS + 1):
        document = documents.get(USERS, user_id)
        if document is None:
            break
        operations = plan(document)
        if not operations:
            return False
        try:
            documents.apply(operations)
        except errors.Conflict as error:
            if error.what != "version" or attempt == CAS_ATTEMPTS:
                raise
        except errors.NotFound:
            break  # the user went between the two calls
        else:
            return True
    raise errors.NotFound(f"no user {user_id}", what="user")


@reads("store")
def _find_login(documents: Documents, username: str, address: str) -> Document | None:
    found = documents.find(USERS, "username", username, limit=1)
    if found or not address:
        return found[0] if found else None
    by_address = _find_recipient(documents, (address,))
    return by_address[0] if by_address else None


@reads("store")
def _find_recipient(documents: Documents, candidates: Sequence[str]) -> tuple[Document, str] | None:
    for candidate in candidates:
        for address in documents.find(ADDRESSES, "address", candidate, limit=1):
            user = documents.get(USERS, address.data["user"])
            if user is not None:
                return user, candidate
    return None


# Documents and values


def _data_of(user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "name": user.name,
        "address": user.address,
        "password": user.password_hash,
        "quota": user.quota_bytes,
        "disabled": user.disabled,
        "suspended": user.suspended,
        "authVersion": user.auth_version,
        "created": user.created,
    }


def user_of(document: Document | None) -> User:
    """The user that a document is. NotFound for none."""
    if document is None:
        raise errors.NotFound("no such user", what="user")
    data = document.data
    return User(
        id=document.id,
        username=data["username"],
        name=data["name"],
        address=data["address"],
        password_hash=data["password"],
        quota_bytes=data["quota"],
        disabled=data["disabled"],
        created=data["created"],
        version=document.version,
        suspended=data.get("suspended", False),  # documents of the first versions have neither
        auth_version=data.get("authVersion", 1),
    )


def user_update(document: Document, **changes: object) -> Update:
    """The operation that changes these keys of a user's document."""
    return Update(USERS, document.id, document.version, {**document.data, **changes})


def _address_insert(user_id: str, address: str, created: int) -> Insert:
    return Insert(ADDRESSES, new_id(), _address_data(user_id, address, created))


def _address_data(user_id: str, address: str, created: int) -> dict[str, Any]:
    return {"address": address, "user": user_id, "created": created}


def address_of(document: Document) -> Address:
    return Address(document.id, document.data["address"], document.data["user"], document.data["created"])


def _reserved(username: str) -> str:
    """The address that a username takes with it, "" for a plain one."""
    return normalise(username) if "@" in username else ""


def _check_name(name: str) -> None:
    if len(name) > NAME_CHARACTERS or not name.isprintable():
        raise errors.Invalid(f"a name has at most {NAME_CHARACTERS} printable characters", what="name")


def _check_quota(quota_bytes: int | None) -> None:
    if quota_bytes is not None and not 0 <= quota_bytes < 1 << 63:
        raise errors.Invalid("a quota is a number of bytes, 0 for no limit", what="quota")
