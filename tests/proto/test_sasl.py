"""SASL PLAIN and base64: one spelling for each response, everything else Invalid."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.errors import Invalid
from wd_trio.proto.sasl import PlainCredentials, decode_base64, encode_base64, parse_plain
from wd_trio.secret import Secret

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50)


@given(st.binary(max_size=200))
def test_base64_there_and_back(data: bytes) -> None:
    assert encode_base64(data) == base64.b64encode(data)
    assert decode_base64(encode_base64(data)) == data


@given(st.binary(max_size=30))
def test_whatever_decodes_is_canonical(text: bytes) -> None:
    try:
        data = decode_base64(text)
    except Invalid:
        return
    assert base64.b64encode(data) == text


@pytest.mark.parametrize(
    "text",
    [
        b"=",
        b"A",
        b"AA",
        b"AAA",
        b"AB==",
        b"AAB=",
        b"AA==AA==",
        b"AA=A",
        b"A A=",
        b"AAA=\r\n",
        b"-_AA",
        b"AAAA=",
    ],
)
def test_what_is_no_base64(text: bytes) -> None:
    with pytest.raises(Invalid):
        decode_base64(text)


@given(st.just("") | WORDS, WORDS, WORDS)
def test_plain(authzid: str, authcid: str, password: str) -> None:
    message = f"{authzid}\0{authcid}\0{password}".encode()
    assert parse_plain(message) == PlainCredentials(authzid, authcid, Secret(password))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"a",
        b"\0a",
        b"\0a\0",
        b"\0\0p",
        b"\0a\0p\0",
        b"a\0b\0c\0d",
        b"\0\xff\0p",
        b"\0a\0\xff",
        b"\xed\xa0\x80\0a\0p",
        b"\0a\0" + b"p" * 1025,
        b"\0" * 100_000,
    ],
    ids=lambda message: repr(message)[:20],
)
def test_what_is_no_plain(message: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse_plain(message)
    assert "p" * 1000 not in str(caught.value)


def test_the_longest_fields() -> None:
    longest = b"p" * 1024
    assert parse_plain(b"\0".join([longest] * 3)).authcid == longest.decode()
