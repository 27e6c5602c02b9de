"""Previews: readable, short, and linear on hostile HTML."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wd_trio.mail import preview as module
from wd_trio.mail.mime import scan
from wd_trio.mail.preview import MAX_CHARACTERS, preview, readable, strip_html


def of(header: str, body: bytes | str) -> str:
    data = (
        header.replace("\n", "\r\n").encode()
        + b"\r\n\r\n"
        + (body.encode() if isinstance(body, str) else body)
    )
    return preview(data, scan(data))


def test_plain_text() -> None:
    assert of("Subject: x", " Hello,\r\n\r\n  this is\tit. \r\n") == "Hello, this is it."
    assert of("Subject: x", "") == ""
    assert of("Subject: x", "word " * 200) == ("word " * 40).strip()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("quoted-printable", b"caf=C3=A9 ol=\r\n=C3=A9"),
        ("base64", base64.encodebytes("café olé".encode())),
        ("BASE64", base64.encodebytes("café olé".encode()).rstrip(b"=\n") + b"!"),
        ("8bit", "café olé".encode()),
        ("x-unknown", "café olé".encode()),
    ],
)
def test_transfer_encodings(encoding: str, body: bytes) -> None:
    header = f"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}"
    assert of(header, body).startswith("café ol")


def test_charsets() -> None:
    assert of("Content-Type: text/plain; charset=iso-8859-1", b"caf\xe9") == "café"
    assert of("Content-Type: text/plain; charset=nonsense", b"caf\xe9") == "café"


def test_only_the_beginning_is_read() -> None:
    body = "é".encode() * module.MAX_BODY_BYTES
    assert of("Content-Type: text/plain; charset=utf-8\nX: y", body) == "é" * MAX_CHARACTERS
    encoded = base64.encodebytes(body)
    header = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64"
    assert of(header, encoded) == "é" * MAX_CHARACTERS


MULTI = """Content-Type: multipart/mixed; boundary=a

--a
Content-Type: image/png

binary
--a
Content-Type: text/plain
Content-Disposition: attachment

attached
--a
Content-Type: message/rfc822

Subject: x

embedded
--a
Content-Type: multipart/alternative; boundary=b

--b
Content-Type: text/html

<b>shown</b>
--b--
--a--
"""


def test_the_first_text_part_that_is_no_attachment_is_taken() -> None:
    data = MULTI.encode()
    assert preview(data, scan(data)) == "shown"
    data = MULTI.replace("text/html", "image/gif").encode()
    assert preview(data, scan(data)) == "embedded"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>one<br>two</p>three", "one two three"),
        ("a<b>b</b>c", "abc"),
        ("<html><head><title>t</title><style>x{}</style></head><body>shown", "shown"),
        ("a<script>if (a<b) {}</script >b", "a b"),
        ("a<!-- <p>hidden --> b", "a b"),
        ("1 &lt; 2 &amp;&nbsp;&eacute; &#8364; &bogus;", "1 < 2 & é € &bogus;"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("1 < 2 <3", "1 < 2 <3"),
        ("a <p unclosed", "a"),
        ("a <!-- unclosed", "a"),
        ("a <style> unclosed", "a"),
        ("<!DOCTYPE html><?xml x?>a", "a"),
    ],
)
def test_html(html: str, expected: str) -> None:
    assert readable(strip_html(html)) == expected


def test_what_does_not_print_is_left_out() -> None:
    assert readable("a\0b\u202ec\u200b\ufeff\x1b[1md") == "abc[1md"
    assert readable("\U0001f469\u200d\U0001f4bb") == "\U0001f469\u200d\U0001f4bb"


@pytest.mark.parametrize(
    "junk", ["<", "<a", "<a>", "</", "<!--", "<script>", "<div>", "&", "&#", "<style></", "<head></h"]
)
def test_long_hostile_html_ends(junk: str) -> None:
    assert len(of("Content-Type: text/html", junk * 30_000)) <= MAX_CHARACTERS


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<", ">", "a", "/", "!--", "-->", "script", "&amp;", "\0", " ", "<b>", "style"])
    ).map("".join)
    | st.text(),
    st.sampled_from(["text/plain", "text/html"]),
    st.sampled_from(["7bit", "base64", "quoted-printable"]),
    st.sampled_from(["utf-8", "utf-16", "x", "utf-7"]),
)
def test_any_text_gives_a_short_printable_preview(text: str, kind: str, encoding: str, charset: str) -> None:
    header = f"Content-Type: {kind}; charset={charset}\nContent-Transfer-Encoding: {encoding}"
    shown = of(header, text.encode("utf-8", "replace"))
    assert len(shown) <= MAX_CHARACTERS
    assert shown.replace("\u200d", "").isprintable()
