"""The directory: users with what they take up, and addresses with whom they belong to, as the API shows them.

Each call is one crossing, whatever it reads inside; pages lead both ways. Changes of addresses are here as far as
they go by an address's id; the rest is users.py's, whose rules these keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wd_trio import errors
from wd_trio.mail.address import normalise
from wd_trio.mail.model import Usage
from wd_trio.ports.documents import Document, Documents, Operation
from wd_trio.ports.gateway import Gateway, reads
from wd_trio.ports.mail import MailStore
from wd_trio.service.users import (
    ADDRESSES,
    ADDRESSES_OF_A_USER,
    USERS,
    Address,
    User,
    address_of,
    change_user,
    user_of,
    user_update,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A user, and what its mail takes up."""

    user: User
    usage: Usage


@dataclass(frozen=True, slots=True)
class ProfilePage:
    """Users in order of username; the cursors of the pages beside this one, if any."""

    profiles: tuple[Profile, ...]
    next: str | None
    previous: str | None
    total: int


@dataclass(frozen=True, slots=True)
class AddressPage:
    """Addresses in their own order."""

    addresses: tuple[Address, ...]
    next: str | None
    previous: str | None
    total: int


class Directory:
    """Look-ups for the API. All raise Unavailable with the engine."""

    def __init__(self, *, gateway: Gateway, documents: Documents, store: MailStore) -> None:
        self._gateway = gateway
        self._documents = documents
        self._store = store

    async def profile(self, user_id: str) -> Profile:
        """NotFound."""
        return await self._gateway.run(_profile, self._documents, self._store, user_id)

    async def profiles(
        self, prefix: str = "", *, after: str | None = None, before: str | None = None, limit: int = 20
    ) -> ProfilePage:
        """Users whose names begin with `prefix`: the first page, or that after or before a cursor. Invalid (what =
        "cursor")."""
        return await self._gateway.run(
            _profiles,
            self._documents,
            self._store,
            prefix=prefix.lower(),
            after=after,
            before=before,
            limit=limit,
        )

    async def addresses_of(self, user_id: str) -> tuple[User, list[Address]]:
        """A user and all its addresses, the oldest first. NotFound."""
        return await self._gateway.run(_addresses_of, self._documents, user_id)

    async def address_of(self, user_id: str, address_id: str) -> tuple[User, Address]:
        """One address of a user. NotFound (what = "user" or "address")."""
        return await self._gateway.run(_address_of, self._documents, user_id, address_id)

    async def addresses(
        self, prefix: str = "", *, after: str | None = None, before: str | None = None, limit: int = 20
    ) -> AddressPage:
        """All users' addresses that begin with `prefix`: the first page, or that after or before a cursor."""
        page = await self._gateway.run(
            self._documents.page,
            ADDRESSES,
            "address",
            prefix=prefix.lower(),
            after=after,
            before=before,
            limit=limit,
        )
        return AddressPage(tuple(map(address_of, page.documents)), page.next, page.previous, page.total)

    async def find_address(self, address: str) -> Address:
        """An address as it is stored. NotFound; Invalid for what is none."""
        normal = normalise(address)
        found = await self._gateway.run(self._documents.find, ADDRESSES, "address", normal, limit=1)
        if not found:
            raise errors.NotFound(f"no address {normal}", what="address")
        return address_of(found[0])

    async def set_main(self, user_id: str, address_id: str) -> None:
        """Make an address of a user its main one. NotFound (what = "user" or "address")."""

        def plan(document: Document) -> Sequence[Operation]:
            address = _owned(self._documents, user_id, address_id)
            if document.data["address"] == address.address:
                return ()
            return [user_update(document, address=address.address)]

        await self._gateway.run(change_user, self._documents, user_id, plan)


# What runs in the engine's threads: each is one crossing


@reads("store")
def _profile(documents: Documents, store: MailStore, user_id: str) -> Profile:
    user = user_of(documents.get(USERS, user_id))
    return Profile(user, store.usage(user_id))


@reads("store")
def _profiles(
    documents: Documents,
    store: MailStore,
    *,
    prefix: str,
    after: str | None,
    before: str | None,
    limit: int,
) -> ProfilePage:
    page = documents.page(USERS, "username", prefix=prefix, after=after, before=before, limit=limit)
    profiles = tuple(Profile(user, store.usage(user.id)) for user in map(user_of, page.documents))
    return ProfilePage(profiles, page.next, page.previous, page.total)


@reads("store")
def _addresses_of(documents: Documents, user_id: str) -> tuple[User, list[Address]]:
    user = user_of(documents.get(USERS, user_id))
    found = documents.find(ADDRESSES, "user", user_id, limit=ADDRESSES_OF_A_USER)
    return user, [address_of(document) for document in found]


@reads("store")
def _address_of(documents: Documents, user_id: str, address_id: str) -> tuple[User, Address]:
    return user_of(documents.get(USERS, user_id)), _owned(documents, user_id, address_id)


def _owned(documents: Documents, user_id: str, address_id: str) -> Address:
    document = documents.get(ADDRESSES, address_id)
    if document is None or document.data["user"] != user_id:
        raise errors.NotFound(f"no address {address_id} of {user_id}", what="address")
    return address_of(document)
