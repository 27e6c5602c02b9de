"""Header fields: ranges, choosing, decoding; parameters; charsets."""

from __future__ import annotations

import email.header
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wd_trio.mail import charset, headers, params

BLOCK = (
    b"Received: a\r\n\tb\r\nFrom: x@y\r\nsubject : one\r\n  two\r\nno field here\r\nTO: a@b\nTo: c@d\r\n"
    b"X-Empty:\r\nSubject: second\r\n\r\n"
)


def test_fields_come_in_order_with_their_ranges() -> None:
    found = list(headers.fields(BLOCK))
    assert [(field.name, field.value) for field in found] == [
        (b"received", b"a\tb"),
        (b"from", b"x@y"),
        (b"subject", b"one  two"),
        (b"to", b"a@b"),
        (b"to", b"c@d"),
        (b"x-empty", b""),
        (b"subject", b"second"),
    ]
    assert [BLOCK[field.start : field.stop] for field in found][2] == b"subject : one\r\n  two\r\n"


def test_pick_takes_the_first_but_joins_addresses() -> None:
    assert headers.pick(BLOCK, {b"subject", b"to", b"x-empty"}) == {
        b"subject": b"one  two",
        b"to": b"a@b, c@d",
        b"x-empty": b"",
    }


@pytest.mark.parametrize(
    ("names", "exclude", "expected"),
    [
        (["SUBJECT", "from"], False, b"From: x@y\r\nsubject : one\r\n  two\r\nSubject: second\r\n\r\n"),
        (["to"], False, b"TO: a@b\nTo: c@d\r\n\r\n"),
        (["nothing"], False, b"\r\n"),
        (["received", "to", "subject", "x-empty", "no field here"], True, b"From: x@y\r\n\r\n"),
        ([], True, BLOCK),
    ],
)
def test_select_fields_keeps_bytes_and_order(names: list[str], exclude: bool, expected: bytes) -> None:
    assert headers.select_fields(BLOCK, names, exclude) == expected


def test_select_fields_of_a_block_that_was_cut_short() -> None:
    assert headers.select_fields(b"A: b\r\nSubject: x", ["subject"], False) == b"Subject: x\r\n\r\n"
    assert headers.select_fields(b"A: b\r\nSubject: x", ["subject"], True) == b"A: b\r\n\r\n"
    assert headers.select_fields(b"", ["subject"], True) == b"\r\n"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", b"A: x", b"B: y", b"\n", b"\r\n", b" ", b"\t", b":", b"\xff", b"\0"])
    ).map(b"".join)
)
def test_choosing_from_any_block(block: bytes) -> None:
    ranges = list(headers.fields(block))
    assert all(block[a.stop - 1 : a.stop] == b"\n" or a.stop == len(block) for a in ranges)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    for exclude in (False, True):
        chosen = headers.select_fields(block, ["a"], exclude)
        assert chosen.endswith(b"\r\n")
        assert len(chosen) <= len(block) + 4
        assert all((field.name == b"a") is not exclude for field in headers.fields(chosen))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?q?caf=C3=A9_ol=C3=A9?= x", "café olé x"),
        (b"=?UTF-8?B?w6k=?= =?utf-8?b?w6k?=", "éé"),
        (b"=?utf-8?b?w6?= =?utf-8?q?=A9?=", "é"),
        (b"a =?iso-8859-1?q?=E9?= =?utf-8?q?=C3=A9?= b", "a éé b"),
        (b"=?utf-8*en?q?x?=", "x"),
        (b"=?x-unknown?q?=C3=A9?=", "é"),
        (b"=?utf-8?b?!!!?=", ""),
        (b"=?utf-8?b?A?=", "=?utf-8?b?A?="),
        (b"=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        (b"=?broken", "=?broken"),
        ("grüße".encode(), "grüße"),
        (b"gr\xfc\xdfe", "grüße"),
        (b"=?utf-8?q?a?=b=?utf-8?q?c?=", "abc"),
    ],
)
def test_decode(value: bytes, expected: str) -> None:
    assert headers.decode(value) == expected


@settings(deadline=None)
@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]),
        min_size=1,
        max_size=60,
    )
)
def test_what_the_email_package_encodes_is_decoded(text: str) -> None:
    encoded = email.header.Header(text, "utf-8").encode().replace("\n", "")
    assert headers.decode(encoded.encode()) == text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"=?", b"?=", b"?q?", b"?b?", b"utf-8", b"utf-16", b"hz", b"=C3", b" ", b"w6k="])
        | st.binary(max_size=4)
    ).map(b"".join)
)
def test_decoding_any_words(value: bytes) -> None:
    headers.decode(value)


@pytest.mark.parametrize(
    "junk", [b"=?", b"=?a?q?", b"=?a?b?AAAA?= ", b"=?" + b"a" * 70, b" ", b"=?utf-8?q?=?="]
)
def test_decoding_long_junk(junk: bytes) -> None:
    assert len(headers.decode(junk * 20_000)) <= len(junk) * 20_000


# Parameters.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", ()),
        (b" a=b", ((b"a", b"b"),)),
        (b'A="x;y"; b = c d ;;', ((b"a", b"x;y"), (b"b", b"c d"))),
        (b'a="un"closed; b="open', ((b"a", b"un"), (b"b", b"open"))),
        (b'a="q\\"q\\\\q\\x"', ((b"a", b'q"q\\q\\x'),)),
        (b"junk; =x; a=1; b", ((b"a", b"1"),)),
        (b"charset=utf-8 (a comment)", ((b"charset", b"utf-8"),)),
        (b"filename=copy (1)", ((b"filename", b"copy (1)"),)),
        (b"n*0=a; n*1=b; x=y; n*2=c", ((b"n", b"abc"), (b"x", b"y"))),
        (b"n*1=b; n*0=a", ((b"n", b"ab"),)),
        (b"n*0*=utf-8''%41; n*1=\"b c\"", ((b"n*", b"utf-8''%41b%20c"),)),
        (b"n*0=a; n*1*=%42", ((b"n*", b"''a%42"),)),
        (b"n*=iso-8859-1'en'%E9; n=e", ((b"n*", b"iso-8859-1'en'%E9"), (b"n", b"e"))),
    ],
)
def test_parameters(value: bytes, expected: params.Params) -> None:
    assert params.parse(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"n*=iso-8859-1'en'%E9; n=e", "é"),
        (b"n*=utf-8''%C3%A9%zz", "é%zz"),
        (b"n*=%C3%A9", "é"),
        (b'n="=?utf-8?q?=C3=A9?="', "é"),
        (b"n*0*=''a; n*1*=b", "ab"),
        (b"m=x", None),
    ],
)
def test_a_parameter_as_text(value: bytes, expected: str | None) -> None:
    assert params.text(params.parse(value), b"n") == expected


def test_content_types() -> None:
    assert params.content_type(b"Text/HTML (c) ; a=b") == ("text", "html", ((b"a", b"b"),))
    assert params.content_type(b"text / plain")[:2] == ("text", "plain")
    for wrong in (
        b"",
        b"text",
        b"text/",
        b"/plain",
        b"a/b/c",
        b"te xt/plain",
        b"t\xe9/x",
        b"a" * 200 + b"/b",
    ):
        assert params.content_type(wrong).type == ""
    assert params.disposition(b" Attachment ; filename=x") == ("attachment", ((b"filename", b"x"),))
    assert params.disposition(b"; filename=x").kind == ""


@pytest.mark.parametrize("junk", [b";", b"a=", b"a", b'"', b"a*0=", b"a=(", b" ", b'a="\\', b"=", b"a= ("])
def test_long_junk_makes_few_short_parameters(junk: bytes) -> None:
    found = params.parse(junk * 100_000)
    assert len(found) <= params.MAX_PARAMS
    assert all(len(value) <= params.MAX_VALUE_BYTES for _, value in found)


# Charsets.


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"\xe9", "ISO-8859-1", "é"),
        (b"\x80", "iso-8859-1", "€"),
        (b"\xe9", "us-ascii", "é"),
        (b"\xc3\xa9", "us-ascii", "é"),
        (b"\xc3\xa9", "x-nonsense", "é"),
        (b"\xa4\xa4", "gb2312", "い"),
        (b'\x1b$B$"\x1b(B', "iso-2022-jp", "あ"),
        (b"a\xff\x81b", "utf-8", "aÿ\ufffdb"),
        (b"", "utf-8", ""),
    ],
)
def test_charsets(data: bytes, name: str, expected: str) -> None:
    assert charset.decode(data, name) == expected


def test_no_charset_gives_lone_surrogates() -> None:
    assert charset.decode(b"a+2AA-b", "utf-7") == "a?b"


@pytest.mark.parametrize(
    "name", ["idna", "punycode", "unicode_escape", "zlib", "rot13", "hex", "../x", "\0", "undefined"]
)
def test_codecs_that_are_no_charset_are_refused(name: str) -> None:
    assert charset.codec(name) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(sorted(set(charset._CODECS.values()))))
def test_no_charset_raises(data: bytes, name: str) -> None:
    assert isinstance(charset.decode(data, name), str)


def test_every_charset_of_the_table_exists() -> None:
    for name in set(charset._CODECS.values()):
        b"abc".decode(name, "replace")
