"""Mailboxes of a user: listing with counters, making, showing, renaming, removing.

Ids name mailboxes; the literal `resolve` with a path finds one by name. A user who has no mailbox yet gets the
default ones with the first listing, as with the first delivery.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType

from wd_trio.api.auth import OWN, Caller
from wd_trio.api.fields import Id
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Created, Done, Faults, Item, Request
from wd_trio.api.services import ApiServices
from wd_trio.mail.model import SEPARATOR, Mailbox

routes: Final = Routes("Mailboxes")

Path = Annotated[str, Meta(min_length=1, max_length=1000, description='Levels are separated by "/"')]


class MailboxItem(Item, frozen=True):
    """A mailbox. `total` and `unseen` count messages, `size` is in bytes; each is there where it was asked for."""

    id: str
    name: str
    path: str
    special_use: str | None
    modify_index: int
    subscribed: bool
    hidden: bool
    total: int | UnsetType = UNSET
    unseen: int | UnsetType = UNSET
    size: int | UnsetType = UNSET


class ListMailboxes(Request, frozen=True):
    user: Id
    special_use: Annotated[bool, Meta(description="Only those with a special use")] = False
    counters: Annotated[bool, Meta(description="Count messages, all and unseen ones")] = False
    sizes: Annotated[bool, Meta(description="Tell how many bytes there are")] = False
    show_hidden: Annotated[bool, Meta(description="No mailbox is hidden: this changes nothing")] = False


class MailboxListing(Answer, kw_only=True, frozen=True):
    results: list[MailboxItem]


@routes.route("GET", "/users/{user}/mailboxes", request=ListMailboxes, response=MailboxListing, access=OWN)
async def list_mailboxes(request: ListMailboxes, caller: Caller, services: ApiServices) -> MailboxListing:
    """List the mailboxes of a user, INBOX first"""
    found = await services.reading.mailboxes(request.user)
    if not found:
        await services.users.get(request.user)
        found = await services.mailboxes.list(request.user)
    return MailboxListing(
        results=[
            _item(mailbox, counters=request.counters, sizes=request.sizes)
            for mailbox in found
            if mailbox.special_use or not request.special_use
        ]
    )


class CreateMailbox(Request, frozen=True):
    user: Id
    path: Path


@routes.route("POST", "/users/{user}/mailboxes", request=CreateMailbox, response=Created, access=OWN)
async def create_mailbox(request: CreateMailbox, caller: Caller, services: ApiServices) -> Created:
    """Create a mailbox"""
    made = await services.mailboxes.create(
        request.user, request.path, subscribed=True, require=services.users.require
    )
    return Created(id=made.id)


class MailboxShown(Answer, kw_only=True, frozen=True):
    id: str
    name: str
    path: str
    special_use: str | None
    modify_index: int
    subscribed: bool
    hidden: bool
    total: int
    unseen: int
    size: int


class GetMailbox(Request, frozen=True):
    user: Id
    mailbox: Id


@routes.route(
    "GET", "/users/{user}/mailboxes/{mailbox}", request=GetMailbox, response=MailboxShown, access=OWN
)
async def get_mailbox(request: GetMailbox, caller: Caller, services: ApiServices) -> MailboxShown:
    """Show a mailbox"""
    return _shown(await services.reading.mailbox(request.user, request.mailbox))


class ResolveMailbox(Request, frozen=True):
    user: Id
    path: Path


@routes.route(
    "GET", "/users/{user}/mailboxes/resolve", request=ResolveMailbox, response=MailboxShown, access=OWN
)
async def resolve_mailbox(request: ResolveMailbox, caller: Caller, services: ApiServices) -> MailboxShown:
    """Find a mailbox by its path"""
    return _shown(await services.mailboxes.find(request.user, request.path))


class UpdateMailbox(Request, frozen=True):
    user: Id
    mailbox: Id
    path: Annotated[Path | None, Meta(description="A new path; its children move with it")] = None
    subscribed: bool | None = None


@routes.route("PUT", "/users/{user}/mailboxes/{mailbox}", request=UpdateMailbox, response=Done, access=OWN)
async def update_mailbox(request: UpdateMailbox, caller: Caller, services: ApiServices) -> Done:
    """Rename a mailbox, or change whether it is subscribed"""
    if request.path is None and request.subscribed is None:
        raise Faults({"path": "is required, or subscribed"})
    await services.mailboxes.change(
        request.user, request.mailbox, path=request.path, subscribed=request.subscribed
    )
    return Done()


class DeleteMailbox(Request, frozen=True):
    user: Id
    mailbox: Id


@routes.route("DELETE", "/users/{user}/mailboxes/{mailbox}", request=DeleteMailbox, response=Done, access=OWN)
async def delete_mailbox(request: DeleteMailbox, caller: Caller, services: ApiServices) -> Done:
    """Delete a mailbox with all its messages; its children stay"""
    await services.mailboxes.remove(request.user, request.mailbox)
    return Done()


def _item(mailbox: Mailbox, *, counters: bool, sizes: bool) -> MailboxItem:
    return MailboxItem(
        id=mailbox.id,
        name=_name(mailbox),
        path=mailbox.path,
        special_use=mailbox.special_use or None,
        modify_index=mailbox.highest_modseq,
        subscribed=mailbox.subscribed,
        hidden=False,
        total=mailbox.messages if counters else UNSET,
        unseen=mailbox.unseen if counters else UNSET,
        size=mailbox.size_bytes if sizes else UNSET,
    )


def _shown(mailbox: Mailbox) -> MailboxShown:
    return MailboxShown(
        id=mailbox.id,
        name=_name(mailbox),
        path=mailbox.path,
        special_use=mailbox.special_use or None,
        modify_index=mailbox.highest_modseq,
        subscribed=mailbox.subscribed,
        hidden=False,
        total=mailbox.messages,
        unseen=mailbox.unseen,
        size=mailbox.size_bytes,
    )


def _name(mailbox: Mailbox) -> str:
    return mailbox.path.rpartition(SEPARATOR)[2]
