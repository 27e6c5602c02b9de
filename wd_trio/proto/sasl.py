"""SASL without I/O: base64 as protocols carry it, and the PLAIN mechanism (RFC 4616).

Base64 is strict (RFC 4648 §4: alphabet, padding, no stray bits), so that one response has one spelling.
Errors name no part of what the peer sent: it may be a password. Preparing names and passwords (RFC 8265)
is left to whoever compares them.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Final

from wd_trio.errors import Invalid
from wd_trio.secret import Secret

MAX_FIELD_BYTES: Final = 1024  # each of PLAIN's three; RFC 4616 asks for at least 255


@dataclass(frozen=True, slots=True)
class PlainCredentials:
    """What PLAIN carries. `authzid` is "" when the client asks to act as itself."""

    authzid: str
    authcid: str
    password: Secret


def decode_base64(text: bytes) -> bytes:
    """The octets that canonical base64 stands for; b"" for b"". Invalid for anything else."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise Invalid("not base64", what="base64") from None
    if encode_base64(data) != text:
        raise Invalid("base64 with stray bits", what="base64")
    return data


def encode_base64(data: bytes) -> bytes:
    """Base64 in one line without an end of line."""
    return binascii.b2a_base64(data, newline=False)


def parse_plain(message: bytes) -> PlainCredentials:
    """Take PLAIN's message `[authzid] NUL authcid NUL password` apart.

    Invalid when it has not exactly two NULs, name or password are empty, a field is longer than
    MAX_FIELD_BYTES, or anything is not UTF-8.
    """
    fields = message.split(b"\0", 3)
    if len(fields) != 3:
        raise Invalid("PLAIN needs three fields", what="credentials")
    if any(len(field) > MAX_FIELD_BYTES for field in fields):
        raise Invalid("a PLAIN field is too long", what="credentials")
    if not fields[1] or not fields[2]:
        raise Invalid("PLAIN without a name or a password", what="credentials")
    try:
        authzid, authcid, password = (field.decode("utf-8") for field in fields)
    except UnicodeDecodeError:
        raise Invalid("PLAIN is not UTF-8", what="credentials") from None
    return PlainCredentials(authzid, authcid, Secret(password))
