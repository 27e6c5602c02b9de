"""PROXY headers of version 2, built from their fields."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from wd_trio.proto.proxy import V2_SIGNATURE, crc32c

LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31


def v2(command: int, family: int, content: bytes = b"") -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", command, family, len(content)) + content


def addresses(source: str, port: int, target: str = "", target_port: int = 143) -> bytes:
    """The address block for a client and a server of the same family."""
    client = ip_address(source)
    server = ip_address(target or ("192.0.2.1" if client.version == 4 else "2001:db8::1"))
    return client.packed + server.packed + struct.pack("!HH", port, target_port)


def vector(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def tls(client: int) -> bytes:
    """PP2_TYPE_SSL with these client bits, and the version as a nested vector."""
    return vector(0x20, struct.pack("!BI", client, 0) + vector(0x21, b"TLSv1.3"))


def with_checksum(command: int, family: int, content: bytes) -> bytes:
    """A header whose last vector is the right PP2_TYPE_CRC32C."""
    zeroed = v2(command, family, content + vector(0x03, bytes(4)))
    return zeroed[:-4] + struct.pack("!I", crc32c(zeroed))
