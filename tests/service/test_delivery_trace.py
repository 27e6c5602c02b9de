"""Trace headers: their text, their folding, and that nothing a peer says breaks out of them."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import compat32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.service.trace import Trace, trace_headers

DATE = 1893456000.9  # 2030-01-01


def headers(
    sender: str = "s@x.example",
    recipient: str = "r@y.example",
    lhlo: str = "mx.example",
    ip: str = "192.0.2.1",
    hostname: str = "store.example",
    *,
    secure: bool = False,
    utf8: bool = False,
) -> bytes:
    trace = Trace(lhlo=lhlo, ip=ip, secure=secure, utf8=utf8, id="65a1b2c3d4e5f60718293a4b")
    return trace_headers(sender=sender, recipient=recipient, hostname=hostname, trace=trace, date=DATE)


def test_the_three_headers() -> None:
    assert headers() == (
        b"Return-Path: <s@x.example>\r\n"
        b"Delivered-To: r@y.example\r\n"
        b"Received: from mx.example ([192.0.2.1]) by store.example with LMTP\r\n"
        b"\tid 65a1b2c3d4e5f60718293a4b for <r@y.example>;\r\n"
        b"\tTue, 01 Jan 2030 00:00:00 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (headers(sender=""), b"Return-Path: <>\r\n"),
        (headers(ip="2001:db8::7"), b"([IPv6:2001:db8::7])"),
        (headers(ip="unix"), b"(unix socket)"),
        (headers(secure=True), b"with LMTPS"),
        (headers(utf8=True), b"with UTF8LMTP\r\n"),
        (headers(secure=True, utf8=True), b"with UTF8LMTPS"),
        (headers(lhlo="a(b);c"), b"from a?b??c "),
        (headers(recipient='"two words"@y.example'), b'for <"two words"@y.example>;'),
        (headers(sender="ä@bücher.example"), "<ä@bücher.example>".encode()),
    ],
)
def test_variants(made: bytes, part: bytes) -> None:
    assert part in made


def test_lines_keep_under_78_columns_where_words_allow() -> None:
    for length in range(1, 60):
        made = headers(lhlo="l" * length, hostname="h" * (length * 7 % 60 + 1), recipient="r" * length + "@y")
        for line in made.decode().expandtabs(8).split("\r\n"):
            assert len(line) <= 78


texts = st.text(max_size=80) | st.text(alphabet='\r\n\x00 <>();:@\\"a\u2028', max_size=40)


@given(sender=texts, recipient=texts, lhlo=texts, ip=texts)
def test_no_value_breaks_out(sender: str, recipient: str, lhlo: str, ip: str) -> None:
    made = headers(sender=sender, recipient=recipient, lhlo=lhlo, ip=ip)
    assert b"\x00" not in made
    assert made.count(b"\r") == made.count(b"\n") == made.count(b"\r\n")
    for line in made.split(b"\r\n")[:-1]:
        assert line.startswith((b"Return-Path: ", b"Delivered-To: ", b"Received: ", b"\t"))
    parsed = BytesParser(policy=compat32).parsebytes(made + b"Subject: mine\r\n\r\nbody")
    assert parsed.keys() == ["Return-Path", "Delivered-To", "Received", "Subject"]
