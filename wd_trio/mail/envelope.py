"""ENVELOPE, rendered once at delivery (RFC 3501 §7.4.2, RFC 9051 §7.5.2).

Fields come raw and unfolded from `headers.pick`; RFC 2047 words stay as they are, for the client to decode.
Sender and Reply-To default to From where they are absent or hold no address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wd_trio.mail import addresslist
from wd_trio.mail.headers import ADDRESS_FIELDS
from wd_trio.mail.strings import NIL, nstring, string

ENVELOPE_FIELDS: Final = ADDRESS_FIELDS | {b"date", b"subject", b"in-reply-to", b"message-id"}


def render_envelope(header_fields: Mapping[bytes, bytes], utf8: bool) -> bytes:
    """The parenthesised envelope of a message whose raw field values are given by lower-case name.

    With `utf8` false, 8-bit bytes go out as literals with the stored octets; with it, quoted as UTF-8.
    """
    get = header_fields.get
    sender_default = _addresses(get(b"from"), utf8)
    sender = _addresses(get(b"sender"), utf8)
    reply_to = _addresses(get(b"reply-to"), utf8)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        nstring(get(b"date"), utf8),
        nstring(get(b"subject"), utf8),
        sender_default,
        sender_default if sender is NIL else sender,
        sender_default if reply_to is NIL else reply_to,
        _addresses(get(b"to"), utf8),
        _addresses(get(b"cc"), utf8),
        _addresses(get(b"bcc"), utf8),
        nstring(get(b"in-reply-to"), utf8),
        nstring(get(b"message-id"), utf8),
    )


def _addresses(value: bytes | None, utf8: bool) -> bytes:
    if not value:
        return NIL
    rendered = [
        b"(%b %b %b %b)"
        % (
            NIL if name is None else string(name, utf8),
            NIL if route is None else string(route, utf8),
            NIL if mailbox is None else string(mailbox, utf8),
            NIL if host is None else string(host, utf8),
        )
        for name, route, mailbox, host in addresslist.parse(value)
    ]
    return b"(%b)" % b"".join(rendered) if rendered else NIL
