"""Messages of a mailbox: pages, one message, its source and attachments, changes, upload.

A message's id is its IMAP uid. A page shows what was rendered at delivery: one crossing, no body is parsed. Sources
and attachments are streamed from the store, uploads into it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from urllib.parse import quote

import trio
from msgspec import UNSET, Meta, UnsetType
from werkzeug.exceptions import RequestTimeout

from wd_trio.api.asgi import Header, Incoming, Reply
from wd_trio.api.auth import OWN, Caller
from wd_trio.api.blueprints.message_items import (
    LIST_COLUMNS,
    SHOW_COLUMNS,
    MessageItem,
    MessageShown,
    Uid,
    message_items,
    message_shown,
)
from wd_trio.api.fields import Id
from wd_trio.api.paging import turn_of
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Done, Faults, Item, Listing, Paging, Request
from wd_trio.api.services import ApiOptions, ApiServices
from wd_trio.errors import NotFound
from wd_trio.mail.model import (
    ANSWERED,
    DELETED,
    DRAFT,
    FLAGGED,
    SEEN,
    Columns,
    FlagChange,
    join_keywords,
    system_flag,
)
from wd_trio.mail.numset import MAX_UID, SequenceSet, UidSet
from wd_trio.mail.render import read_structure
from wd_trio.service.changing import Wanted
from wd_trio.service.spool import Spool

routes: Final = Routes("Messages")

RFC822: Final = "message/rfc822"
JSON_UPLOAD_BYTES: Final = 8 << 20
"""A message inside JSON is in memory several times; a larger one has to come as message/rfc822."""
UPLOAD_S: Final = 900.0
_MESSAGES: Final = "/users/{user}/mailboxes/{mailbox}/messages"
_MESSAGE: Final = _MESSAGES + "/{message}"
# What strangers sent must never be a page of this site.
_STRANGERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
)
_MEDIA: Final = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)  # RFC 6838 §4.2
_CURSOR: Final = re.compile(r"[0-9]{1,10}")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9$_.!#&'+,/:;<=>?@^`|~-]{1,64}")

Chosen = Annotated[
    str,
    Meta(
        pattern=r"^([0-9]{1,10}(,[0-9]{1,10})*|[0-9]{1,10}:([0-9]{1,10}|\*))$",
        max_length=8192,
        description='Which messages: "1", "1,2,7" or a range "3:9"; "*" is the newest',
    ),
]
Flags = Annotated[
    list[Annotated[str, Meta(max_length=64)]],
    Meta(max_length=100, description='Flags as IMAP names them: "\\\\Seen", "work"'),
]


# -- lists


class ListMessages(Paging, frozen=True):
    user: Id
    mailbox: Id
    order: Annotated[Literal["asc", "desc"], Meta(description="By uid; desc shows the newest first")] = "desc"
    unseen: Annotated[bool, Meta(description="Only messages that were not read")] = False


class MessageListing(Listing, kw_only=True, frozen=True):
    special_use: str | None
    results: list[MessageItem]


@routes.route("GET", _MESSAGES, request=ListMessages, response=MessageListing, access=OWN)
async def list_messages(request: ListMessages, caller: Caller, services: ApiServices) -> MessageListing:
    """List the messages of a mailbox by uid"""
    turn = turn_of(request)
    back = turn.before is not None
    page = await services.reading.page(
        request.user,
        request.mailbox,
        LIST_COLUMNS,
        newest_first=(request.order == "desc") is not back,
        beyond=_uid_of(turn.before or turn.after),
        unseen=request.unseen,
        limit=request.limit,
    )
    items = message_items(page)
    if back:
        items.reverse()
    # Behind the page one came from there is something; on its other side what the store says.
    is_more = (page.more, True) if back else (turn.after is not None, page.more)
    first, last = (str(items[0].id), str(items[-1].id)) if items else (None, None)
    return MessageListing(
        special_use=page.mailbox.special_use or None,
        results=items,
        **turn.bounds(
            total=page.mailbox.unseen if request.unseen else page.mailbox.messages,
            previous=first if is_more[0] else None,
            next=last if is_more[1] else None,
        ),
    )


def _uid_of(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not _CURSOR.fullmatch(cursor) or not 1 <= int(cursor) <= MAX_UID:
        raise Faults({"next": "is no cursor of ours"})
    return int(cursor)


# -- one message


class GetMessage(Request, frozen=True):
    user: Id
    mailbox: Id
    message: Uid
    mark_as_seen: Annotated[bool, Meta(description="Set \\Seen as well")] = False


@routes.route("GET", _MESSAGE, request=GetMessage, response=MessageShown, access=OWN)
async def get_message(request: GetMessage, caller: Caller, services: ApiServices) -> MessageShown:
    """Show a message: who, when, its texts, its attachments"""
    row = await services.reading.message(request.user, request.mailbox, request.message, SHOW_COLUMNS)
    if request.mark_as_seen and not row.flags & SEEN:
        wanted = Wanted(add=FlagChange("add", SEEN))
        chosen = SequenceSet(((row.uid, row.uid),))
        await services.changing.change(request.user, request.mailbox, chosen, wanted)
        row.flags |= SEEN
    structure = read_structure(row.bodystructure or b"")
    texts = await services.reading.texts(row, structure.texts)
    return message_shown(request.user, request.mailbox, row, structure, texts)


class GetSource(Request, frozen=True):
    user: Id
    mailbox: Id
    message: Uid


@routes.route(
    "GET",
    _MESSAGE + "/message.eml",
    request=GetSource,
    response=None,
    access=OWN,
    media=RFC822,
    deadline=False,
)
async def get_source(request: GetSource, caller: Caller, services: ApiServices) -> Reply:
    """Stream the source of a message"""
    with trio.fail_after(services.options.request_s):
        row = await services.reading.message(request.user, request.mailbox, request.message, Columns.ROPE)
    return _streamed(services.reading.source(row), RFC822, length=row.size)


class GetAttachment(Request, frozen=True):
    user: Id
    mailbox: Id
    message: Uid
    attachment: Annotated[str, Meta(pattern="^ATT[0-9]{5}$", max_length=8)]


@routes.route(
    "GET",
    _MESSAGE + "/attachments/{attachment}",
    request=GetAttachment,
    response=None,
    access=OWN,
    media="application/octet-stream",
    deadline=False,
)
async def get_attachment(request: GetAttachment, caller: Caller, services: ApiServices) -> Reply:
    """Stream an attachment, decoded"""
    columns = Columns.ROPE | Columns.PARTS | Columns.STRUCTURE
    with trio.fail_after(services.options.request_s):
        row = await services.reading.message(request.user, request.mailbox, request.message, columns)
    for attachment in read_structure(row.bodystructure or b"").attachments:
        if attachment.id == request.attachment:
            body = attachment.body
            media = body.content_type if _MEDIA.fullmatch(body.content_type) else "application/octet-stream"
            return _streamed(services.reading.content(row, body), media, filename=attachment.filename)
    raise NotFound(f"no attachment {request.attachment}", what="attachment")


def _streamed(
    pieces: AsyncIterator[bytes], media: str, *, length: int | None = None, filename: str = ""
) -> Reply:
    headers: list[Header] = [*_STRANGERS]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    if filename:
        name = quote(filename, safe="").encode()
        headers.append((b"content-disposition", b"attachment; filename*=UTF-8''" + name))
    return Reply(pieces, media=media, headers=tuple(headers))


# -- changes


class Change(Request, frozen=True):
    """What is to become of messages; `flags` replaces all flags, the others set or clear one each."""

    user: Id
    mailbox: Id
    message: Chosen
    flags: Flags | None = None
    seen: bool | None = None
    flagged: bool | None = None
    deleted: bool | None = None
    draft: bool | None = None
    answered: bool | None = None
    move_to: Annotated[Id | None, Meta(description="The mailbox to move them to")] = None


class UpdateMessages(Change, frozen=True):
    """Change some messages of a mailbox."""


class UpdateMessage(Change, frozen=True):
    """Change a message, or some, by their place in the path."""


class Changed(Answer, kw_only=True, frozen=True):
    """`updated` counts the messages that there were; `id` tells for each that moved its uid before and after."""

    updated: int
    id: list[tuple[int, int]] | UnsetType = UNSET
    mailbox: str | UnsetType = UNSET


@routes.route("PUT", _MESSAGES, request=UpdateMessages, response=Changed, access=OWN)
async def update_messages(request: UpdateMessages, caller: Caller, services: ApiServices) -> Changed:
    """Change flags of messages, or move them"""
    return await _change(request, services)


@routes.route("PUT", _MESSAGE, request=UpdateMessage, response=Changed, access=OWN)
async def update_message(request: UpdateMessage, caller: Caller, services: ApiServices) -> Changed:
    """Change flags of a message, or move it"""
    return await _change(request, services)


async def _change(request: Change, services: ApiServices) -> Changed:
    flags = _flags_of(request)
    if request.move_to is None and not any(flags):
        raise Faults({"message": "stays as it is: nothing to change is named"})
    replace, add, remove = flags
    wanted = Wanted(replace=replace, add=add, remove=remove, move_to=request.move_to)
    chosen = _chosen(request.message)
    outcome = await services.changing.change(request.user, request.mailbox, chosen, wanted)
    if not outcome.updated and request.message.isdigit():
        raise NotFound(f"no message {request.message}", what="message")
    if request.move_to is None:
        return Changed(updated=outcome.updated)
    return Changed(updated=outcome.updated, id=outcome.moved, mailbox=request.move_to)


def _flags_of(request: Change) -> tuple[FlagChange | None, FlagChange | None, FlagChange | None]:
    """The flags to replace all others with, to add, to remove."""
    added = removed = 0
    for wish, bit in (
        (request.seen, SEEN),
        (request.flagged, FLAGGED),
        (request.deleted, DELETED),
        (request.draft, DRAFT),
        (request.answered, ANSWERED),
    ):
        if wish is not None:
            added |= bit if wish else 0
            removed |= 0 if wish else bit
    replace: FlagChange | None = None
    if request.flags is not None:
        bits, words = _parse_flags(request.flags)
        replace = FlagChange("set", bits, words)
    return (
        replace,
        FlagChange("add", added) if added else None,
        FlagChange("remove", removed) if removed else None,
    )


def _parse_flags(names: list[str]) -> tuple[int, str]:
    bits = 0
    words: list[str] = []
    for name in names:
        bit = system_flag(name)
        if bit is not None:
            bits |= bit
        elif _KEYWORD.fullmatch(name):
            words.append(name)
        else:
            raise Faults({"flags": f"holds {name!r}, which is no flag"})
    return bits, join_keywords(words)


def _chosen(text: str) -> SequenceSet:
    pairs: list[tuple[int, int]] = []
    for piece in text.split(","):
        first, _, last = piece.partition(":")
        pair = int(first), 0 if last == "*" else int(last or first)
        if not 1 <= pair[0] <= MAX_UID or pair[1] > MAX_UID or (last != "*" and not pair[1]):
            raise Faults({"message": "names uids from 1 to 4294967295"})
        pairs.append(pair)
    return SequenceSet(tuple(pairs))


class DeleteMessage(Request, frozen=True):
    user: Id
    mailbox: Id
    message: Uid


@routes.route("DELETE", _MESSAGE, request=DeleteMessage, response=Done, access=OWN)
async def delete_message(request: DeleteMessage, caller: Caller, services: ApiServices) -> Done:
    """Delete a message for good"""
    uids = UidSet.of([request.message])
    if not await services.changing.delete(request.user, request.mailbox, uids):
        raise NotFound(f"no message {request.message}", what="message")
    return Done()


class EmptyMailbox(Request, frozen=True):
    user: Id
    mailbox: Id


class Emptied(Answer, kw_only=True, frozen=True):
    deleted: int
    errors: int = 0


@routes.route("DELETE", _MESSAGES, request=EmptyMailbox, response=Emptied, access=OWN, deadline=False)
async def empty_mailbox(request: EmptyMailbox, caller: Caller, services: ApiServices) -> Emptied:
    """Delete all messages of a mailbox for good"""
    return Emptied(deleted=await services.changing.empty(request.user, request.mailbox))


# -- upload


class UploadMessage(Request, frozen=True):
    """`raw` is the message in base64; a body of type message/rfc822 is the message itself."""

    user: Id
    mailbox: Id
    raw: str | None = None
    date: Annotated[
        datetime | None, Meta(description="When it is said to have come; UTC where it does not say")
    ] = None
    unseen: Annotated[bool, Meta(description="Leave it unread")] = False
    flagged: bool = False
    draft: bool = False
    flags: Flags | None = None


class UploadedItem(Item, frozen=True):
    id: int
    mailbox: str
    size: int


class Uploaded(Answer, kw_only=True, frozen=True):
    message: UploadedItem


@routes.route(
    "POST",
    _MESSAGES,
    request=UploadMessage,
    response=Uploaded,
    access=OWN,
    raw=(RFC822,),
    body_bytes=JSON_UPLOAD_BYTES,
    deadline=False,
)
async def upload_message(request: UploadMessage, caller: Caller, services: ApiServices) -> Uploaded:
    """Add a message as it is"""
    bits, words = _parse_flags(request.flags or [])
    bits |= (0 if request.unseen else SEEN) | FLAGGED * request.flagged | DRAFT * request.draft
    date = request.date or datetime.now(UTC)
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    with services.changing.spool(most_bytes=services.options.message_bytes) as spool:
        with trio.move_on_after(UPLOAD_S) as slow:
            if caller.sent.media == RFC822:
                await _receive(caller.sent, spool, services.options)
            else:
                await spool.write(_decoded(request.raw))
        if slow.cancelled_caught:
            raise RequestTimeout
        if not spool.size:
            raise Faults({"raw": "is empty"})
        with trio.fail_after(max(services.options.request_s, _append_s(spool.size))):
            appended = await services.changing.add(
                request.user,
                request.mailbox,
                spool,
                flags=bits,
                keywords=words,
                internal_date=int(date.timestamp()),
            )
        made = UploadedItem(id=appended.uids[0], mailbox=appended.mailbox_id, size=spool.size)
    return Uploaded(message=made)


async def _receive(sent: Incoming, spool: Spool, options: ApiOptions) -> None:
    """Take the body in, as fast as it can be kept; a client may pause for `body_s`."""
    while True:
        with trio.move_on_after(options.body_s) as slow:
            chunk = await sent.chunk(options.message_bytes)
        if slow.cancelled_caught:
            raise RequestTimeout
        if chunk is None:
            return
        await spool.write(chunk)


def _decoded(raw: str | None) -> bytes:
    if raw is None:
        raise Faults({"raw": "is required"})
    try:
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Faults({"raw": "is no base64"}) from error


def _append_s(size: int) -> float:
    """How long keeping a message may take: a large one comes in many transactions."""
    return 6.0 + size / (4 << 20)
