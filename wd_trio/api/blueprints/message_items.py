"""What answers show of messages: the shapes, and how they are made of rows.

A mailbox is listed again and again: what a list shows of a message's stored bytes is remembered by those very bytes,
so it can never be out of date, and costs nobody a second reading.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, field

from wd_trio.api.schema import Answer, Item
from wd_trio.mail.headers import decode, pick
from wd_trio.mail.htmltext import HtmlText
from wd_trio.mail.model import (
    ANSWERED,
    DELETED,
    DRAFT,
    FLAGGED,
    SEEN,
    Columns,
    MessagePage,
    MessageRow,
    flag_names,
)
from wd_trio.mail.params import Params
from wd_trio.mail.render import (
    Attachment,
    People,
    Person,
    Structure,
    iso_time,
    link_attachments,
    message_ids,
    read_envelope,
    read_structure,
    shown_params,
    text_to_html,
)

LIST_COLUMNS: Final = Columns.ENVELOPE | Columns.PREVIEW | Columns.STRUCTURE | Columns.IDS
SHOW_COLUMNS: Final = (
    Columns.ENVELOPE | Columns.STRUCTURE | Columns.PARTS | Columns.IDS | Columns.HEADER | Columns.ROPE
)
FORWARDED: Final = "$forwarded"
_HEADER_FIELDS: Final = frozenset(
    {b"return-path", b"delivered-to", b"references", b"list-id", b"list-unsubscribe"}
)
_OUTLINE_BYTES: Final = 2048
"""Messages with longer envelopes and structures are read each time: the memory of them is bounded in bytes."""
_ADDRESS: Final = re.compile(r"<([^<>]*)>")

Uid = Annotated[int, Meta(ge=1, le=0xFFFFFFFF, description="The message's IMAP uid")]


class ContentType(Item, frozen=True):
    value: str
    params: dict[str, str]


class MessageItem(Item, frozen=True):
    """A message in a list. Times are ISO 8601; `date` is the header's, `idate` when it came."""

    id: int
    mailbox: str
    thread: str
    from_: Person | None = field(name="from")
    to: People
    cc: People
    bcc: People
    message_id: str
    subject: str
    date: str
    idate: str
    intro: str
    attachments: bool
    size: int
    seen: bool
    deleted: bool
    flagged: bool
    draft: bool
    answered: bool
    forwarded: bool
    flags: list[str]
    content_type: ContentType


class AttachmentItem(Item, frozen=True):
    """`size_kb` is about what it has when it is decoded; `related`: the HTML refers to it."""

    id: str
    filename: str
    content_type: str
    disposition: str
    transfer_encoding: str
    related: bool
    size_kb: int


class Recipient(Item, frozen=True):
    value: str
    formatted: str


class EnvelopeItem(Item, frozen=True):
    """How the message was delivered: the envelope's sender and recipient."""

    from_: str = field(name="from")
    rcpt: list[Recipient]


class ListFields(Item, frozen=True):
    """The mailing list's own headers."""

    id: str
    unsubscribe: str


class MessageShown(Answer, kw_only=True, frozen=True):
    """One message, its texts in full. HTML refers to attachments of the message as `attachment:ATT00001`."""

    id: int
    mailbox: str
    user: str
    thread: str
    envelope: EnvelopeItem
    from_: Person | None = field(name="from")
    reply_to: People
    to: People
    cc: People
    bcc: People
    subject: str
    message_id: str
    in_reply_to: str
    references: builtins.list[str]
    date: str
    idate: str
    list: ListFields | None
    size: int
    seen: bool
    deleted: bool
    flagged: bool
    draft: bool
    answered: bool
    forwarded: bool
    flags: builtins.list[str]
    html: builtins.list[str]
    text: str
    attachments: builtins.list[AttachmentItem]
    content_type: ContentType


def message_items(page: MessagePage) -> list[MessageItem]:
    """The messages of a page read with LIST_COLUMNS."""
    mailbox = page.mailbox.id
    return [_item(mailbox, row) for row in page.rows]


def _item(mailbox: str, row: MessageRow) -> MessageItem:
    envelope, structure = row.envelope or b"", row.bodystructure or b""
    read = _known_outline if len(envelope) + len(structure) <= _OUTLINE_BYTES else _outline
    from_, to, cc, bcc, message_id, subject, date, attachments, content_type = read(envelope, structure)
    seen, deleted, flagged, draft, answered, forwarded, flags = _marks(row.flags, row.keywords)
    received = iso_time(row.internal_date)
    return MessageItem(
        id=row.uid,
        mailbox=mailbox,
        thread=row.thread_id or "",
        from_=from_,
        to=to,
        cc=cc,
        bcc=bcc,
        message_id=message_id,
        subject=subject,
        date=date or received,
        idate=received,
        intro=row.preview or "",
        attachments=attachments,
        size=row.size,
        seen=seen,
        deleted=deleted,
        flagged=flagged,
        draft=draft,
        answered=answered,
        forwarded=forwarded,
        flags=flags,
        content_type=content_type,
    )


class _Outline(NamedTuple):
    """What a list shows of a message that never changes; `date` is "" where the header has none."""

    from_: Person | None
    to: People
    cc: People
    bcc: People
    message_id: str
    subject: str
    date: str
    attachments: bool
    content_type: ContentType


def _outline(stored_envelope: bytes, stored_structure: bytes) -> _Outline:
    envelope = read_envelope(stored_envelope)
    structure = read_structure(stored_structure)
    return _Outline(
        from_=envelope.from_[0] if envelope.from_ else None,
        to=envelope.to,
        cc=envelope.cc,
        bcc=envelope.bcc,
        message_id=envelope.message_id,
        subject=envelope.subject,
        date="" if envelope.date is None else iso_time(envelope.date),
        attachments=structure.has_files,
        content_type=_content_type(structure.content_type, structure.params),
    )


_known_outline = lru_cache(maxsize=4096)(_outline)


class _Marks(NamedTuple):
    seen: bool
    deleted: bool
    flagged: bool
    draft: bool
    answered: bool
    forwarded: bool
    flags: list[str]


@lru_cache(maxsize=1024)
def _marks(flags: int, keywords: str) -> _Marks:
    return _Marks(
        seen=bool(flags & SEEN),
        deleted=bool(flags & DELETED),
        flagged=bool(flags & FLAGGED),
        draft=bool(flags & DRAFT),
        answered=bool(flags & ANSWERED),
        forwarded=FORWARDED in keywords.lower().split(),
        flags=flag_names(flags, keywords),
    )


def message_shown(
    user: str, mailbox: str, row: MessageRow, structure: Structure, texts: Sequence[str]
) -> MessageShown:
    """A message read with SHOW_COLUMNS; `texts` are those of `structure.texts`."""
    envelope = read_envelope(row.envelope or b"")
    found = pick(row.header or b"", _HEADER_FIELDS)
    attachments = structure.attachments
    html, text = _html_and_text(structure, texts)
    received = iso_time(row.internal_date)
    marks = _marks(row.flags, row.keywords)
    return MessageShown(
        id=row.uid,
        mailbox=mailbox,
        user=user,
        thread=row.thread_id or "",
        envelope=_delivered(found),
        from_=envelope.from_[0] if envelope.from_ else None,
        reply_to=envelope.reply_to,
        to=envelope.to,
        cc=envelope.cc,
        bcc=envelope.bcc,
        subject=envelope.subject,
        message_id=envelope.message_id,
        in_reply_to=envelope.in_reply_to,
        references=message_ids(found.get(b"references", b"")),
        date=received if envelope.date is None else iso_time(envelope.date),
        idate=received,
        list=_list_fields(found),
        size=row.size,
        seen=marks.seen,
        deleted=marks.deleted,
        flagged=marks.flagged,
        draft=marks.draft,
        answered=marks.answered,
        forwarded=marks.forwarded,
        flags=marks.flags,
        html=[link_attachments(document, attachments) for document in html],
        text=text,
        attachments=[_attachment(each) for each in attachments],
        content_type=_content_type(structure.content_type, structure.params),
    )


def _html_and_text(structure: Structure, texts: Sequence[str]) -> tuple[builtins.list[str], str]:
    """The HTML documents, and the plain text; each made of the other where a message has only one of them."""
    html: builtins.list[str] = []
    plain: builtins.list[str] = []
    for body, text in zip(structure.texts, texts, strict=True):
        (html if body.content_type == "text/html" else plain).append(text)
    if not html:
        html = [made for text in plain if (made := text_to_html(text))]
    if not plain:
        plain = [HtmlText().feed(document, last=True).strip() for document in html]
    return html, "\n".join(plain)


def _delivered(found: Mapping[bytes, bytes]) -> EnvelopeItem:
    path = decode(found.get(b"return-path", b""))
    match = _ADDRESS.search(path)
    to = decode(found.get(b"delivered-to", b""))
    rcpt = [Recipient(value=to, formatted=to)] if to else []
    return EnvelopeItem(from_=match[1] if match else path, rcpt=rcpt)


def _list_fields(found: Mapping[bytes, bytes]) -> ListFields | None:
    if b"list-id" not in found and b"list-unsubscribe" not in found:
        return None
    return ListFields(
        id=decode(found.get(b"list-id", b"")), unsubscribe=decode(found.get(b"list-unsubscribe", b""))
    )


def _attachment(attachment: Attachment) -> AttachmentItem:
    body = attachment.body
    return AttachmentItem(
        id=attachment.id,
        filename=attachment.filename,
        content_type=body.content_type,
        disposition=body.disposition or "attachment",
        transfer_encoding=body.encoding,
        related=body.related,
        size_kb=-(-attachment.size_bytes // 1024),
    )


@lru_cache(maxsize=1024)
def _content_type(content_type: str, params: Params) -> ContentType:
    return ContentType(value=content_type, params=shown_params(params))
