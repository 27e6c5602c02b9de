"""Addresses: those of a user, and all of them.

Which addresses a user has decides whose mail it gets, so they are root's to change; a user's token reads its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta

from wd_trio.api.auth import OWN, ROOT, Caller
from wd_trio.api.fields import EmailAddress, Id
from wd_trio.api.paging import turn_of
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Created, Done, Faults, Item, Listing, Paging, Request
from wd_trio.api.services import ApiServices
from wd_trio.service.users import Address

routes: Final = Routes("Addresses")


class AddressItem(Item, frozen=True):
    """An address of a user. `main` is the one that the user's mail is from."""

    id: str
    address: str
    main: bool
    created: datetime


class AddAddress(Request, frozen=True):
    user: Id
    address: EmailAddress
    main: Annotated[bool, Meta(description="Make it the main address; a user's first one is so anyway")] = (
        False
    )


@routes.route("POST", "/users/{user}/addresses", request=AddAddress, response=Created, access=ROOT)
async def add_address(request: AddAddress, caller: Caller, services: ApiServices) -> Created:
    """Add an address to a user"""
    address = await services.users.add_address(request.user, request.address, main=request.main)
    return Created(id=address.id)


class ListUserAddresses(Request, frozen=True):
    user: Id


class UserAddresses(Answer, kw_only=True, frozen=True):
    results: list[AddressItem]


@routes.route("GET", "/users/{user}/addresses", request=ListUserAddresses, response=UserAddresses, access=OWN)
async def list_user_addresses(
    request: ListUserAddresses, caller: Caller, services: ApiServices
) -> UserAddresses:
    """List a user's addresses, the oldest first"""
    user, addresses = await services.directory.addresses_of(request.user)
    return UserAddresses(
        results=[
            AddressItem(
                id=each.id,
                address=each.address,
                main=each.address == user.address,
                created=_time(each),
            )
            for each in addresses
        ]
    )


class OneAddress(Request, frozen=True):
    user: Id
    address: Annotated[Id, Meta(description="The address's id")]


class AddressShown(Answer, kw_only=True, frozen=True):
    id: str
    address: str
    main: bool
    created: datetime


@routes.route(
    "GET", "/users/{user}/addresses/{address}", request=OneAddress, response=AddressShown, access=OWN
)
async def get_address(request: OneAddress, caller: Caller, services: ApiServices) -> AddressShown:
    """Show one address of a user"""
    user, address = await services.directory.address_of(request.user, request.address)
    return AddressShown(
        id=address.id,
        address=address.address,
        main=address.address == user.address,
        created=_time(address),
    )


class ChangeAddress(Request, frozen=True):
    user: Id
    id: Annotated[Id, Meta(description="The address's id")]
    main: Annotated[bool, Meta(description="true makes it the main address; another one takes that away")]


@routes.route("PUT", "/users/{user}/addresses/{id}", request=ChangeAddress, response=Done, access=ROOT)
async def change_address(request: ChangeAddress, caller: Caller, services: ApiServices) -> Done:
    """Make an address a user's main one"""
    if not request.main:
        raise Faults({"main": "can only be set: make another address the main one"})
    await services.directory.set_main(request.user, request.id)
    return Done()


@routes.route("DELETE", "/users/{user}/addresses/{address}", request=OneAddress, response=Done, access=ROOT)
async def delete_address(request: OneAddress, caller: Caller, services: ApiServices) -> Done:
    """Remove an address from a user; the main one stays"""
    await services.users.delete_address_of(request.user, request.address)
    return Done()


class ListAddresses(Paging, frozen=True):
    query: Annotated[str, Meta(max_length=254, description="How addresses begin")] = ""


class OwnedAddress(Item, frozen=True):
    id: str
    address: str
    user: str
    created: datetime


class AddressListing(Listing, kw_only=True, frozen=True):
    query: str
    results: list[OwnedAddress]


@routes.route("GET", "/addresses", request=ListAddresses, response=AddressListing, access=ROOT)
async def list_addresses(request: ListAddresses, caller: Caller, services: ApiServices) -> AddressListing:
    """List all users' addresses"""
    turn = turn_of(request)
    page = await services.directory.addresses(
        request.query, after=turn.after, before=turn.before, limit=request.limit
    )
    return AddressListing(
        query=request.query,
        results=[
            OwnedAddress(id=each.id, address=each.address, user=each.user_id, created=_time(each))
            for each in page.addresses
        ],
        **turn.bounds(total=page.total, previous=page.previous, next=page.next),
    )


class ResolveAddress(Request, frozen=True):
    address: EmailAddress


class AddressResolved(Answer, kw_only=True, frozen=True):
    id: str
    address: str
    user: str
    created: datetime


@routes.route(
    "GET", "/addresses/resolve/{address}", request=ResolveAddress, response=AddressResolved, access=ROOT
)
async def resolve_address(request: ResolveAddress, caller: Caller, services: ApiServices) -> AddressResolved:
    """Find whose an address is"""
    found = await services.directory.find_address(request.address)
    return AddressResolved(id=found.id, address=found.address, user=found.user_id, created=_time(found))


def _time(address: Address) -> datetime:
    return datetime.fromtimestamp(address.created, UTC)
