"""BODYSTRUCTURE and BODY, rendered once at delivery (RFC 3501 §7.4.2, RFC 9051 §7.5.2).

Types, encodings and parameter names go out in lower case, values with the bytes of the header (RFC 2231 values
as `name*`, still percent-encoded, hence ASCII). A message/global part has an envelope and a structure of its
own only under UTF-8: clients of RFC 3501 know this form for message/rfc822 alone.
"""

from __future__ import annotations

from functools import lru_cache

from wd_trio.mail.envelope import render_envelope
from wd_trio.mail.mime import Part
from wd_trio.mail.params import Disposition, Params
from wd_trio.mail.strings import NIL, nstring, string


def render_bodystructure(part: Part, extended: bool, utf8: bool) -> bytes:
    """The parenthesised structure of a part; `extended` gives BODYSTRUCTURE, else BODY. The depth of recursion
    is that of the scan."""
    if part.type == "multipart":
        return _multipart(part, extended, utf8)
    fields = [
        string(part.type.encode(), utf8),
        string(part.subtype.encode(), utf8),
        _params(part.params, utf8),
        nstring(part.id, utf8),
        nstring(part.description, utf8),
        string(part.encoding.encode(), utf8),
        b"%d" % part.size,
    ]
    if part.type == "text":
        fields.append(b"%d" % part.lines)
    elif part.message is not None and (utf8 or part.subtype == "rfc822"):
        fields += (
            render_envelope(part.message.fields or {}, utf8),
            render_bodystructure(part.message, extended, utf8),
            b"%d" % part.lines,
        )
    if extended:
        fields.append(nstring(part.md5, utf8))
        fields += _extension(part, utf8)
    return b"(%b)" % b" ".join(fields)


def _multipart(part: Part, extended: bool, utf8: bool) -> bytes:
    children = b"".join([render_bodystructure(child, extended, utf8) for child in part.children])
    fields = [children, string(part.subtype.encode(), utf8)]
    if extended:
        fields.append(_params(part.params, utf8))
        fields += _extension(part, utf8)
    return b"(%b)" % b" ".join(fields)


def _extension(part: Part, utf8: bool) -> tuple[bytes, bytes, bytes]:
    """Disposition, language and location."""
    language = NIL
    if part.language:
        language = b"(%b)" % b" ".join([string(tag, utf8) for tag in part.language])
    return _disposition(part.disposition, utf8), language, nstring(part.location, utf8)


def _disposition(disposition: Disposition | None, utf8: bool) -> bytes:
    if disposition is None:
        return NIL
    return b"(%b %b)" % (string(disposition.kind.encode(), utf8), _params(disposition.params, utf8))


@lru_cache(maxsize=512)
def _rendered(params: Params, utf8: bool) -> bytes:
    return b"(%b)" % b" ".join([string(word, utf8) for pair in params for word in pair])


def _params(params: Params, utf8: bool) -> bytes:
    if not params:
        return NIL
    if len(params) > 2:
        return _rendered.__wrapped__(params, utf8)
    return _rendered(params, utf8)
