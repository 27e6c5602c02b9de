"""Messages in lists: the same whether they were shown before or not, and whatever is remembered of them."""

from __future__ import annotations

import msgspec
import pytest

from wd_trio.api.blueprints import message_items as items
from wd_trio.mail.content import prepare
from wd_trio.mail.model import SEEN, MessageRow
from wd_trio.mail.render import Person

HEADERS = b"From: A <a@example.org>\r\nSubject: s\r\nDate: Mon, 23 Nov 2026 18:00:00 +0100\r\n"
RECEIVED_S = 1_795_428_000


def row(raw: bytes, *, uid: int = 1, flags: int = 0, keywords: str = "") -> MessageRow:
    content = prepare(raw).content()
    return MessageRow(
        uid,
        1,
        flags,
        keywords,
        RECEIVED_S,
        content.size,
        envelope=content.envelope,
        bodystructure=content.bodystructure,
        preview=content.preview,
        thread_id="t",
    )


@pytest.mark.parametrize("people", [1, 200])
def test_shown_again(people: int) -> None:
    """Two messages of the same octets, with flags, uids and mailboxes of their own."""
    to = b",\r\n ".join(b"p%d@example.org" % number for number in range(people))
    raw = HEADERS + b"To: %b\r\n\r\nhello\r\n" % to
    first = items._item("m1", row(raw))
    second = items._item("m2", row(raw, uid=2, flags=SEEN, keywords="$Forwarded work"))
    assert first.to == tuple(Person("", f"p{number}@example.org") for number in range(people))
    assert (first.id, first.mailbox, first.seen, first.forwarded, first.flags) == (1, "m1", False, False, [])
    assert (second.id, second.mailbox, second.seen, second.forwarded) == (2, "m2", True, True)
    assert second.flags == ["\\Seen", "$Forwarded", "work"]
    assert (first.date, first.intro, first.attachments) == ("2026-11-23T17:00:00.000Z", "hello", False)
    constant = ("from_", "to", "cc", "bcc", "message_id", "subject", "date", "attachments", "content_type")
    assert all(getattr(first, name) == getattr(second, name) for name in constant)
    assert msgspec.json.decode(msgspec.json.encode(first), type=items.MessageItem) == first


def test_a_date_that_cannot_be_read_is_that_of_arrival() -> None:
    raw = b"From: A <a@example.org>\r\nDate: yesterday\r\n\r\n"
    earlier, later = row(raw), row(raw, uid=2)
    later.internal_date += 60
    for each in (earlier, later):
        item = items._item("m", each)
        assert item.date == item.idate
    assert items._item("m", earlier).date != items._item("m", later).date


def test_what_is_long_is_not_remembered() -> None:
    items._known_outline.cache_clear()
    items._item("m", row(HEADERS + b"To: %b\r\n\r\n" % (b"someone@example.org, " * 200)))
    assert items._known_outline.cache_info().currsize == 0
    items._item("m", row(HEADERS + b"\r\n"))
    assert items._known_outline.cache_info().currsize == 1
