"""The PROXY protocol's header: every form, every fault, in any number of pieces, and never a byte behind it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_headers import LOCAL, PROXY, TCP4, TCP6, UNIX, addresses, tls, v2, vector, with_checksum

from wd_trio.errors import Invalid
from wd_trio.proto.proxy import MAX_V1_BYTES, MAX_V2_BYTES, V2_SIGNATURE, Origin, crc32c, measure, parse

LONGEST_V1 = (
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(MAX_V1_BYTES - 2, b"x") + b"\r\n"
)
FOUR = addresses("203.0.113.7", 4711)
SIX = addresses("2001:db8::7", 4711)

GOOD = {
    "v1 tcp4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143\r\n", Origin("203.0.113.7", 4711)),
    "v1 ports at their ends": (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Origin("0.0.0.0", 0)),
    "v1 tcp6": (b"PROXY TCP6 2001:DB8:0:0::7 2001:db8::1 4711 143\r\n", Origin("2001:db8::7", 4711)),
    "v1 mapped": (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 143\r\n", Origin("203.0.113.7", 4711)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", Origin()),
    "v1 unknown with more": (b"PROXY UNKNOWN what ever\r\n", Origin()),
    "v1 longest": (LONGEST_V1, Origin()),
    "v2 tcp4": (v2(PROXY, TCP4, FOUR), Origin("203.0.113.7", 4711)),
    "v2 tcp6": (v2(PROXY, TCP6, SIX), Origin("2001:db8::7", 4711)),
    "v2 mapped": (
        v2(PROXY, TCP6, addresses("::ffff:203.0.113.7", 4711, "::1")),
        Origin("203.0.113.7", 4711),
    ),
    "v2 local": (v2(LOCAL, 0), Origin()),
    "v2 local with addresses": (v2(LOCAL, TCP4, FOUR), Origin()),
    "v2 local with nonsense": (v2(LOCAL, 0xFF, b"\xff\xff\xff"), Origin()),
    "v2 unspecified": (v2(PROXY, 0), Origin()),
    "v2 unspecified on tls": (v2(PROXY, 0, tls(1)), Origin()),
    "v2 unix": (v2(PROXY, UNIX, bytes(216)), Origin()),
    "v2 tls ended by the balancer": (v2(PROXY, TCP4, FOUR + tls(1)), Origin("203.0.113.7", 4711, True)),
    "v2 tls with certificates": (v2(PROXY, TCP6, SIX + tls(7)), Origin("2001:db8::7", 4711, True)),
    "v2 tls not used": (v2(PROXY, TCP4, FOUR + tls(0)), Origin("203.0.113.7", 4711)),
    "v2 certificate bits alone": (v2(PROXY, TCP4, FOUR + tls(6)), Origin("203.0.113.7", 4711)),
    "v2 unknown vectors": (
        v2(PROXY, TCP4, FOUR + vector(0xEE, b"x" * 50) + vector(4, b"") + tls(1)),
        Origin("203.0.113.7", 4711, True),
    ),
    "v2 checksum": (with_checksum(PROXY, TCP4, FOUR + tls(1)), Origin("203.0.113.7", 4711, True)),
    "v2 longest": (
        v2(PROXY, TCP4, FOUR + vector(4, bytes(MAX_V2_BYTES - 16 - 12 - 3))),
        Origin("203.0.113.7", 4711),
    ),
}

BAD = {
    "nothing of ours": b"a1 LOGIN anna secret\r\n",
    "no space": b"PROXY\r\n",
    "small letters": b"proxy TCP4 203.0.113.7 192.0.2.1 4711 143\r\n",
    "bare line feed": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143\n",
    "no family": b"PROXY \r\n",
    "another family": b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 143\r\n",
    "almost unknown": b"PROXY UNKNOWNS\r\n",
    "two spaces": b"PROXY TCP4  203.0.113.7 192.0.2.1 4711 143\r\n",
    "space at the end": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143 \r\n",
    "a port short": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n",
    "a port more": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143 1\r\n",
    "leading zero in an address": b"PROXY TCP4 203.0.113.07 192.0.2.1 4711 143\r\n",
    "three numbers": b"PROXY TCP4 203.0.113 192.0.2.1 4711 143\r\n",
    "tcp4 with six": b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 143\r\n",
    "tcp6 with four": b"PROXY TCP6 203.0.113.7 192.0.2.1 4711 143\r\n",
    "a scope": b"PROXY TCP6 fe80::1%eth0 fe80::2 4711 143\r\n",
    "a bad target": b"PROXY TCP4 203.0.113.7 localhost 4711 143\r\n",
    "port too large": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 143\r\n",
    "port with a zero before": b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 143\r\n",
    "port with a sign": b"PROXY TCP4 203.0.113.7 192.0.2.1 +4711 143\r\n",
    "target port none": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 imap\r\n",
    "not ascii": b"PROXY TCP4 203.0.113.7 192.0.2.1 471\xd9\xa1 143\r\n",
    "v1 too long": b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES - 1, b"x") + b"\r\n",
    "v1 without end": b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES, b"x"),
    "v2 signature broken": V2_SIGNATURE[:-1] + b"\r\n\r\n",
    "v2 version 1": v2(0x11, TCP4, FOUR),
    "v2 version 3": v2(0x31, TCP4, FOUR),
    "v2 another command": v2(0x22, TCP4, FOUR),
    "v2 datagrams": v2(PROXY, 0x12, FOUR),
    "v2 another family": v2(PROXY, 0x41, FOUR),
    "v2 stream of no family": v2(PROXY, 0x01, FOUR),
    "v2 addresses short": v2(PROXY, TCP4, FOUR[:-1]),
    "v2 six in four's room": v2(PROXY, TCP6, FOUR),
    "v2 unix short": v2(PROXY, UNIX, bytes(215)),
    "v2 vector without length": v2(PROXY, TCP4, FOUR + b"\x04\x00"),
    "v2 vector past the end": v2(PROXY, TCP4, FOUR + b"\x04\x00\x02x"),
    "v2 tls facts short": v2(PROXY, TCP4, FOUR + vector(0x20, bytes(4))),
    "v2 checksum wrong": v2(PROXY, TCP4, FOUR + vector(0x03, b"\1\2\3\4")),
    "v2 checksum short": v2(PROXY, TCP4, FOUR + vector(0x03, b"\1\2\3")),
    "v2 too long": V2_SIGNATURE + struct.pack("!BBH", PROXY, TCP4, MAX_V2_BYTES - 15),
}


def feed(chunks: list[bytes]) -> tuple[Origin, bytes]:
    """The origin and what was behind the header, of bytes that come in chunks; Invalid as it comes."""
    data = b""
    for number, chunk in enumerate(chunks):
        data += chunk
        length = measure(data)
        if length is not None:
            return parse(data[:length]), data[length:] + b"".join(chunks[number + 1 :])
    raise AssertionError("the header never ended")


@pytest.mark.parametrize("name", GOOD)
def test_good_headers_whole_byte_by_byte_and_with_more_behind(name: str) -> None:
    header, origin = GOOD[name]
    assert feed([header]) == (origin, b"")
    assert feed([bytes([byte]) for byte in header]) == (origin, b"")
    assert feed([header + b"\r\nPROXY a1 NOOP\r\n"]) == (origin, b"\r\nPROXY a1 NOOP\r\n")


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_are_refused_whole_and_byte_by_byte(name: str) -> None:
    header = BAD[name]
    with pytest.raises(Invalid):
        feed([header])
    with pytest.raises(Invalid):
        feed([bytes([byte]) for byte in header])


def test_a_fault_shows_with_the_first_wrong_byte() -> None:
    for start in (b"a", b"PRO ", b"\r\n\r\n\0\r\nQUIT\r", b"\n", b"\r\r"):
        with pytest.raises(Invalid):
            measure(start)
        if len(start) > 1:
            assert measure(start[:-1]) is None


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP6 ", V2_SIGNATURE, v2(PROXY, TCP4)[:14]]),
)
def test_any_bytes_are_a_header_a_fault_or_a_beginning(data: bytes, start: bytes) -> None:
    data = start + data
    try:
        length = measure(data)
    except Invalid:
        return
    if length is None:
        assert len(data) < MAX_V2_BYTES
        return
    assert 0 < length <= len(data)
    assert measure(data[: length - 1]) is None
    try:
        origin = parse(data[:length])
    except Invalid:
        return
    assert 0 <= origin.port <= 65535


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 65535),
    st.binary(max_size=40),
    st.lists(st.integers(1, 60), max_size=6),
)
def test_both_versions_tell_the_same_client(
    client: IPv4Address | IPv6Address, port: int, behind: bytes, cuts: list[int]
) -> None:
    mapped = client.ipv4_mapped if isinstance(client, IPv6Address) else None
    expected = Origin(str(mapped or client), port)
    family, target = ("TCP4", "192.0.2.1") if client.version == 4 else ("TCP6", "2001:db8::1")
    old = f"PROXY {family} {client} {target} {port} 143\r\n".encode()
    new = v2(PROXY, TCP4 if client.version == 4 else TCP6, addresses(str(client), port))
    for header in (old, new):
        data = header + behind
        chunks = []
        for cut in cuts:
            chunks.append(data[:cut])
            data = data[cut:]
        assert feed([*chunks, data]) == (expected, behind)
