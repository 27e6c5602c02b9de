"""Mail addresses as keys for look-up: one spelling for all spellings of one mailbox (RFC 5321 §4.1.2, §2.4).

The local part is compared without regard to case (as practically every host does) and in Unicode NFC; quotes
that nothing needs are removed. The domain is compared as its ASCII form (IDNA), so that "BÜCHER.example" and
"xn--bcher-kva.example" are one. Lengths are those of RFC 5321 §4.5.3.1, in octets of UTF-8.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from wd_trio.errors import Invalid

MAX_LOCAL_BYTES: Final = 64
MAX_DOMAIN_BYTES: Final = 255
MAX_ADDRESS_BYTES: Final = 254
DETAIL_MARK: Final = "+"

_ATOM: Final = re.compile(r"[^\s\"(),:;<>@\[\]\\.]++")
_QUOTED: Final = re.compile(r'"((?:[^"\\]++|\\.)++)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*+(?<!-))?")
_LITERAL: Final = re.compile(r"\[[0-9a-z:.\-]{1,64}+\]")
_MAX_LABEL: Final = 63


def split(address: str) -> tuple[str, str]:
    """The local part and the domain as they are written. Invalid when either is missing."""
    local, _, domain = address.rpartition("@")
    if not local or not domain:
        raise Invalid("an address needs a local part and a domain", what="address")
    return local, domain


def normalise(address: str) -> str:
    """The one spelling of an address under which it is stored and looked up. Invalid when it is no address.

    A plus-detail is kept: see `detail`.
    """
    if len(address) > MAX_ADDRESS_BYTES:
        raise Invalid("address too long", what="address")
    local, domain = split(address.strip(" "))
    try:
        normal = f"{_local(local)}@{_domain(domain)}"
        if len(normal.encode()) > MAX_ADDRESS_BYTES:
            raise Invalid("address too long", what="address")
    except UnicodeError as error:
        raise Invalid("not Unicode, or no domain name", what="address") from error
    return normal


def detail(address: str) -> str:
    """The base address of one with a plus-detail: "user+tag@x" → "user@x"; any other as it is. Invalid when it
    is no address at all."""
    local, domain = split(address)
    base = local.partition(DETAIL_MARK)[0]
    return f"{base}@{domain}" if base and not local.startswith('"') else address


def _local(local: str) -> str:
    if quoted := _QUOTED.fullmatch(local):
        local = _ESCAPED.sub(r"\1", quoted[1])
    elif not _is_dot_atom(local):
        raise Invalid("bad local part", what="address")
    local = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())
    if not local.isprintable() or len(local.encode()) > MAX_LOCAL_BYTES:
        raise Invalid("bad local part", what="address")
    if _is_dot_atom(local):
        return local
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_dot_atom(local: str) -> bool:
    return all(_ATOM.fullmatch(atom) for atom in local.split("."))


def _domain(domain: str) -> str:
    if domain.startswith("["):
        literal = domain.lower()
        if not _LITERAL.fullmatch(literal):
            raise Invalid("bad domain literal", what="address")
        return literal
    ascii_form = (domain if domain.isascii() else domain.encode("idna").decode("ascii")).lower()
    labels = ascii_form.removesuffix(".").split(".")
    if len(ascii_form) > MAX_DOMAIN_BYTES or not all(
        len(label) <= _MAX_LABEL and _LABEL.fullmatch(label) for label in labels
    ):
        raise Invalid("bad domain", what="address")
    return ".".join(labels)
