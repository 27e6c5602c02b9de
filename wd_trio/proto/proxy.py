"""The PROXY protocol's header (versions 1 and 2, as HAProxy's specification of it says): for whom a balancer speaks.

Bytes in, one `Origin` out, in two steps that never touch what follows the header:
- `measure` says how many of the bytes seen so far are the header. None means that all of them are, and more will
  come: a reader may therefore take everything it saw, or exactly as many as it was told.
- `parse` reads a whole header.

Whoever may send a header is trusted to name any client, so nothing is guessed: one spelling of each field, exact
lengths, a checksum verified where there is one. A balancer's own connections (LOCAL, UNKNOWN), those of an unknown
family and those of Unix sockets have no client address to tell: their socket's own holds. Version 1 knows nothing of
TLS; version 2 says so in PP2_TYPE_SSL, whose other facts (versions, certificates) are of no use here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from wd_trio.errors import Invalid

MAX_V1_BYTES: Final = 107
"""The longest line of version 1, its end included (§2.1)."""
MAX_V2_BYTES: Final = 4096
"""Ours: the length field allows 64 KiB; addresses and what balancers add stay below one."""

V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1_START: Final = b"PROXY "
_V2_FIXED_BYTES: Final = 16
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_MAX_PORT: Final = 65535

# version 2: the low half of byte 13, the whole of byte 14
_LOCAL: Final = 0x0
_PROXY: Final = 0x1
_UNSPEC: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX_STREAM: Final = 0x31
_ADDRESS_BYTES: Final = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}

_TYPE_CRC32C: Final = 0x03
_TYPE_SSL: Final = 0x20
_SSL_FIXED_BYTES: Final = 5
_CLIENT_SSL: Final = 0x01


@dataclass(frozen=True, slots=True)
class Origin:
    """The client that a balancer speaks for. `ip` is canonical, and "" where the socket's own address holds;
    `secure`: the client's connection to the balancer is on TLS."""

    ip: str = ""
    port: int = 0
    secure: bool = False


def measure(data: bytes) -> int | None:
    """How many bytes at the beginning of `data` are the header; None while it is not complete, and then all are.

    Invalid as soon as `data` cannot become a header, or becomes one too long.
    """
    if data.startswith(V2_SIGNATURE):
        return _measure_v2(data)
    if data.startswith(_V1_START):
        return _measure_v1(data)
    if V2_SIGNATURE.startswith(data) or _V1_START.startswith(data):
        return None
    raise Invalid("no PROXY header", what="proxy header")


def _measure_v1(data: bytes) -> int | None:
    line, newline, _ = data[:MAX_V1_BYTES].partition(b"\n")
    if newline:
        if not line.endswith(b"\r"):
            raise Invalid("the line does not end in CR LF", what="proxy header")
        return len(line) + 1
    if len(data) >= MAX_V1_BYTES:
        raise Invalid("the line is too long", what="proxy header")
    return None


def _measure_v2(data: bytes) -> int | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    length = _V2_FIXED_BYTES + int.from_bytes(data[14:16])
    if length > MAX_V2_BYTES:
        raise Invalid("the header is too long", what="proxy header")
    return length if len(data) >= length else None


def parse(header: bytes) -> Origin:
    """Read a whole header, as `measure` cut it. Invalid when it breaks the protocol."""
    if header.startswith(V2_SIGNATURE):
        return _parse_v2(header)
    return _parse_v1(header)


# --- version 1 --------------------------------------------------------------------------------------------


def _parse_v1(header: bytes) -> Origin:
    try:
        line = header.removesuffix(b"\r\n").decode("ascii")
    except UnicodeDecodeError:
        raise Invalid("the line is not ASCII", what="proxy header") from None
    _, family, *rest = line.split(" ")
    if family == "UNKNOWN":
        return Origin()  # what follows is to be ignored (§2.1)
    if family not in ("TCP4", "TCP6") or len(rest) != 4:
        raise Invalid("not PROXY, family, two addresses and two ports", what="proxy header")
    source, _ = (_address(text, family) for text in rest[:2])
    source_port, _ = (_port(text) for text in rest[2:])
    return Origin(source, source_port)


def _address(text: str, family: str) -> str:
    try:
        if family == "TCP4":
            return str(IPv4Address(text))
        if "%" in text:  # a scope means something on the balancer's machine only
            raise Invalid("an address with a scope", what="proxy header")
        return _without_mapping(IPv6Address(text))
    except AddressValueError:
        raise Invalid(f"an address that is not {family}'s", what="proxy header") from None


def _without_mapping(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise Invalid("a port that is none", what="proxy header")
    return int(text)


# --- version 2 --------------------------------------------------------------------------------------------


def _parse_v2(header: bytes) -> Origin:
    if len(header) < _V2_FIXED_BYTES or len(header) != _V2_FIXED_BYTES + int.from_bytes(header[14:16]):
        raise Invalid("a length that is not the header's", what="proxy header")
    version, command = divmod(header[12], 16)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise Invalid("an unknown version or command", what="proxy header")
    if command == _LOCAL:
        return Origin()  # the rest is to be skipped, whatever it says (§2.2)
    family = header[13]
    if family not in _ADDRESS_BYTES:
        raise Invalid("an address family that no stream has", what="proxy header")
    end = _V2_FIXED_BYTES + _ADDRESS_BYTES[family]
    if end > len(header):
        raise Invalid("addresses cut short", what="proxy header")
    secure = _read_extras(header, end)
    if family == _TCP4:
        return Origin(str(IPv4Address(header[16:20])), int.from_bytes(header[24:26]), secure)
    if family == _TCP6:
        return Origin(_without_mapping(IPv6Address(header[16:32])), int.from_bytes(header[48:50]), secure)
    return Origin()


def _read_extras(header: bytes, at: int) -> bool:
    """Whether the client is on TLS, by the vectors from `at` on; a checksum among them must be right."""
    secure = False
    for kind, start, end in _vectors(header, at):
        if kind == _TYPE_CRC32C:
            if end - start != 4 or header[start:end] != crc32c(
                header[:start] + bytes(4) + header[end:]
            ).to_bytes(4):
                raise Invalid("the checksum is wrong", what="proxy header")
        elif kind == _TYPE_SSL:
            if end - start < _SSL_FIXED_BYTES:
                raise Invalid("TLS facts cut short", what="proxy header")
            secure = bool(header[start] & _CLIENT_SSL)
    return secure


def _vectors(header: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each value."""
    while at < len(header):
        start = at + 3
        end = start + int.from_bytes(header[at + 1 : start])
        if start > len(header) or end > len(header):
            raise Invalid("a vector cut short", what="proxy header")
        yield header[at], start, end
        at = end


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - shifted bit by bit
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720 appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
