"""Addresses as keys: one spelling for each mailbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.errors import Invalid
from wd_trio.mail import address


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("User@Example.COM", "user@example.com"),
        ("demo@localhost", "demo@localhost"),
        ("a@example.com.", "a@example.com"),
        (" a@b ", "a@b"),
        ('"user"@b', "user@b"),
        ('"us\\er"@b', "user@b"),
        ('"A b"@c', '"a b"@c'),
        ('"a\\"b"@c', '"a\\"b"@c'),
        ('"a@b"@c', '"a@b"@c'),
        ("a+Tag@b", "a+tag@b"),
        ("o'neil!#$%&*/=?^_`{|}~-@b", "o'neil!#$%&*/=?^_`{|}~-@b"),
        ("u@B\u00fccher.example", "u@xn--bcher-kva.example"),
        ("u@XN--BCHER-KVA.example", "u@xn--bcher-kva.example"),
        ("J\u00d6RG@b", "j\u00f6rg@b"),
        ("jo\u0308rg@b", "j\u00f6rg@b"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a@[ipv6:2001:db8::1]"),
        ("a@_srv.b-c.d", "a@_srv.b-c.d"),
        ("a" * 64 + "@b", "a" * 64 + "@b"),
    ],
)
def test_normal_forms(given: str, normal: str) -> None:
    assert address.normalise(given) == normal


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "a",
        "@b",
        "a@",
        "a@b@c",
        "a b@c",
        ".a@b",
        "a.@b",
        "a..b@c",
        '""@b',
        '"a@b',
        'a"b@c',
        "a\0@b",
        '"a\0"@b',
        '"a\r\nb"@c',
        "a\u202eb@c",
        "a\ud800@b",
        "a@b..c",
        "a@.b",
        "a@-b",
        "a@b-",
        "a@b c",
        "a@b/c",
        "a@b\n",
        "a@\ud800",
        "a@[1.2.3.4",
        "a@[<>]",
        "a@" + "b" * 64,
        "a@" + "b." * 130 + "c",
        "a" * 65 + "@b",
        "\u00e9" * 33 + "@b",
        "a@\u00e9" + "b" * 70,
        "<a@b>",
        "g: a@b;",
        "a,b@c",
        "x" * 1_000_000 + "@b",
    ],
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(Invalid):
        address.normalise(wrong)


@given(st.text('aB."\\ @+\u00e9\u0130\u00df\ufb01[]-', max_size=20))
def test_normal_forms_are_their_own(text: str) -> None:
    try:
        normal = address.normalise(text)
    except Invalid:
        return
    assert address.normalise(normal) == normal
    assert address.split(normal)[1].isascii()


def test_split() -> None:
    assert address.split("a@b@c") == ("a@b", "c")
    for wrong in ("", "a", "@b", "a@"):
        with pytest.raises(Invalid):
            address.split(wrong)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("user+tag@x", "user@x"),
        ("user+a+b@x", "user@x"),
        ("user@x", "user@x"),
        ("+tag@x", "+tag@x"),
        ("user+@x", "user@x"),
        ('"a b+c"@x', '"a b+c"@x'),
    ],
)
def test_detail_gives_the_base_address(given: str, base: str) -> None:
    assert address.detail(given) == base
