"""ENVELOPE and BODYSTRUCTURE: exact renderings, and the grammar's shape for any input."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imap_syntax import Value, parse
from mail_samples import BY_HAND, generated
from test_mime_scan import MIMEISH

from wd_trio.mail import addresslist
from wd_trio.mail.bodystructure import render_bodystructure
from wd_trio.mail.envelope import render_envelope
from wd_trio.mail.mime import scan


def addresses(value: str | bytes) -> list[tuple[str | None, ...]]:
    data = value.encode() if isinstance(value, str) else value
    return [
        tuple(None if word is None else word.decode("utf-8", "replace") for word in a)
        for a in addresslist.parse(data)
    ]


NONE = (None, None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b", [(None, None, "a", "b")]),
        ("<a@b>", [(None, None, "a", "b")]),
        ("A B <a@b>", [("A B", None, "a", "b")]),
        ("A  B\t<a@b> , c@d", [("A B", None, "a", "b"), (None, None, "c", "d")]),
        ('"A, \\"B\\"" <a@b>', [('A, "B"', None, "a", "b")]),
        ('"A" "B" c <a@b>', [("A B c", None, "a", "b")]),
        ("=?utf-8?q?=C3=A9?= <a@b>", [("=?utf-8?q?=C3=A9?=", None, "a", "b")]),
        ("a@b (Ann (of \\) Green) Gables)", [("Ann (of ) Green) Gables", None, "a", "b")]),
        ("(note) a@b", [("note", None, "a", "b")]),
        ("A (note) <a@b>", [("A", None, "a", "b")]),
        ('"x y"@b', [(None, None, "x y", "b")]),
        ('N <"x\\"y"@b>', [("N", None, 'x"y', "b")]),
        ("a . b @ c . d", [(None, None, "a.b", "c.d")]),
        ("a@[192.0.2.1]", [(None, None, "a", "[192.0.2.1]")]),
        ("N <@r1,@r2:a@b>", [("N", "@r1,@r2", "a", "b")]),
        ("<@r1:a@b>, c@d", [(None, "@r1", "a", "b"), (None, None, "c", "d")]),
        ("g: a@b, N <c@d>;", [(None, None, "g", None), (None, None, "a", "b"), ("N", None, "c", "d"), NONE]),
        ("undisclosed-recipients:;", [(None, None, "undisclosed-recipients", None), NONE]),
        (
            "g:; , h: a@b",
            [(None, None, "g", None), NONE, (None, None, "h", None), (None, None, "a", "b"), NONE],
        ),
        ('"a group": x@y;', [(None, None, "a group", None), (None, None, "x", "y"), NONE]),
        ("root", [(None, None, "root", "MISSING_DOMAIN")]),
        ("John Doe", [("John Doe", None, "MISSING_MAILBOX", "MISSING_DOMAIN")]),
        ("John <>", [("John", None, "MISSING_MAILBOX", "MISSING_DOMAIN")]),
        ("John <john>", [("John", None, "john", "MISSING_DOMAIN")]),
        ("@b", [(None, None, "MISSING_MAILBOX", "b")]),
        ("a@b, , ,c@d,", [(None, None, "a", "b"), (None, None, "c", "d")]),
        ("Jörg <j@ö.example>", [("Jörg", None, "j", "ö.example")]),
        ("", []),
        (" , ;", []),
        ("(only a comment", [("only a comment", None, "MISSING_MAILBOX", "MISSING_DOMAIN")]),
        ("(ends in \\", [("ends in \\", None, "MISSING_MAILBOX", "MISSING_DOMAIN")]),
        ('"unclosed <a@b>', [("unclosed <a@b>", None, "MISSING_MAILBOX", "MISSING_DOMAIN")]),
    ],
)
def test_address_lists(text: str, expected: list[tuple[str | None, ...]]) -> None:
    assert addresses(text) == expected


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text('abc .,"\\(<é', max_size=8).map(str.strip).filter(lambda n: "  " not in n),
            st.text("abc.", min_size=1, max_size=6),
            st.text("xyz.-", min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_lists_that_the_email_package_writes_are_read_back(items: list[tuple[str, str, str]]) -> None:
    written = ", ".join(
        email.utils.formataddr((name, f"{local}@{domain}"))
        if name.isascii()
        else f'"{escape(name)}" <{local}@{domain}>'
        for name, local, domain in items
    )
    assert addresses(written) == [(name or None, None, local, domain) for name, local, domain in items]


def escape(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize(
    "hostile", [b"a,", b"(", b'"', b"<", b"a:;", b"@", b"\\", b"<@a,", b"(\\", b'"\\', b" ", b"a@b ", b"."]
)
def test_long_hostile_lists_are_cut(hostile: bytes) -> None:
    found = addresslist.parse(hostile * 500_000)
    assert len(found) <= addresslist.MAX_ADDRESSES + 2
    assert all(word is None or len(word) <= addresslist.MAX_WORD_BYTES for item in found for word in item)


def test_an_envelope() -> None:
    fields = {
        b"date": b"Mon, 1 Jan 2024 10:00:00 +0000",
        b"subject": b'say "hi" \\ bye',
        b"from": b"A <a@b>",
        b"to": b"c@d, e@f",
        b"reply-to": b"",
        b"in-reply-to": b"",
        b"message-id": b"<1@x>",
    }
    assert render_envelope(fields, False) == (
        b'("Mon, 1 Jan 2024 10:00:00 +0000" "say \\"hi\\" \\\\ bye" (("A" NIL "a" "b")) (("A" NIL "a" "b"))'
        b' (("A" NIL "a" "b")) ((NIL NIL "c" "d")(NIL NIL "e" "f")) NIL NIL "" "<1@x>")'
    )


def test_an_envelope_of_nothing() -> None:
    assert render_envelope({}, False) == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"


def test_8_bit_values_are_literals_or_quoted_utf8() -> None:
    fields = {b"subject": "é".encode() + b'"', b"from": b"\xff <a@b>", b"message-id": b"a\0b\rc\nd"}
    assert render_envelope(fields, False).startswith(b'(NIL {3}\r\n\xc3\xa9" (({1}\r\n\xff NIL "a" "b"))')
    assert render_envelope(fields, True).startswith(b'(NIL "\xc3\xa9\\"" (("\xef\xbf\xbd" NIL "a" "b"))')
    assert render_envelope(fields, False).endswith(b'"ab c d")')


def structure(text: str, *, extended: bool = True, utf8: bool = False) -> bytes:
    return render_bodystructure(scan(text.replace("\n", "\r\n").encode()), extended, utf8)


def test_the_structure_of_a_message_without_mime_fields() -> None:
    assert structure("Subject: x\n\nabc\n") == (
        b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 1 NIL NIL NIL NIL)'
    )
    assert structure("Subject: x\n\nabc\n", extended=False) == (
        b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 1)'
    )


MIXED = """Content-Type: multipart/mixed; boundary=a
Content-Language: en

--a
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<p>
--a
Content-Type: application/pdf; name="r \\"1\\".pdf"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename*0*=utf-8''%C3%A9; filename*1=.pdf
Content-ID: <p@x>
Content-Description: a report
Content-MD5: abc
Content-Location: there

QUJD
--a
Content-Type: message/rfc822

Subject: inner

hello
--a--
"""


def test_the_structure_of_a_multipart() -> None:
    pdf = b'"application" "pdf" ("name" "r \\"1\\".pdf") "<p@x>" "a report" "base64" 4'
    inner = b'(NIL "inner" NIL NIL NIL NIL NIL NIL NIL NIL)'
    assert structure(MIXED) == (
        b'(("text" "html" ("charset" "utf-8") NIL NIL "quoted-printable" 3 0 NIL NIL NIL NIL)'
        b"(" + pdf + b' "abc" ("attachment" ("filename*" "utf-8\'\'%C3%A9.pdf")) NIL "there")'
        b'("message" "rfc822" NIL NIL NIL "7bit" 23 ' + inner + b" "
        b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0 NIL NIL NIL NIL) 2 NIL NIL NIL NIL)'
        b' "mixed" ("boundary" "a") NIL ("en") NIL)'
    )
    assert structure(MIXED, extended=False) == (
        b'(("text" "html" ("charset" "utf-8") NIL NIL "quoted-printable" 3 0)'
        b"(" + pdf + b")"
        b'("message" "rfc822" NIL NIL NIL "7bit" 23 ' + inner + b" "
        b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0) 2) "mixed")'
    )


def test_message_global_shows_its_inside_under_utf8_only() -> None:
    text = "Content-Type: message/global\n\nSubject: ü\n\nx"
    assert structure(text) == b'("message" "global" NIL NIL NIL "7bit" 16 NIL NIL NIL NIL)'
    assert b'"\xc3\xbc" NIL' in structure(text, utf8=True)


# The grammar's shapes (RFC 3501 §9).


def assert_string(value: Value) -> None:
    assert isinstance(value, bytes)


def assert_nstring(value: Value) -> None:
    assert value is None or isinstance(value, bytes)


def assert_envelope(value: Value) -> None:
    assert isinstance(value, list)
    assert len(value) == 10
    for place, item in enumerate(value):
        if place not in range(2, 8):
            assert_nstring(item)
        elif item is not None:
            assert isinstance(item, list)
            for address in item:
                assert isinstance(address, list)
                assert len(address) == 4
                for word in address:
                    assert_nstring(word)


def assert_params(value: Value) -> None:
    assert value is None or (isinstance(value, list) and len(value) % 2 == 0)
    for word in value or ():
        assert_string(word)


def assert_extension(values: list[Value]) -> None:
    disposition, language, location = values
    if disposition is not None:
        assert isinstance(disposition, list)
        assert_string(disposition[0])
        assert_params(disposition[1])
    for tag in language or ():
        assert_string(tag)
    assert_nstring(location)


def assert_body(value: Value, extended: bool, utf8: bool) -> None:
    assert isinstance(value, list)
    if isinstance(value[0], list):
        children = 0
        while isinstance(value[children], list):
            assert_body(value[children], extended, utf8)
            children += 1
        assert_string(value[children])
        rest = value[children + 1 :]
        if extended:
            assert_params(rest[0])
            assert_extension(rest[1:])
        else:
            assert not rest
        return
    kind, subtype, params, ident, description, encoding, size, *rest = value
    assert_string(subtype)
    assert_params(params)
    assert_nstring(ident)
    assert_nstring(description)
    assert_string(encoding)
    assert isinstance(size, int)
    if kind == b"text":
        assert isinstance(rest.pop(0), int)
    elif kind == b"message" and (subtype == b"rfc822" or (utf8 and subtype == b"global")):
        assert_envelope(rest.pop(0))
        assert_body(rest.pop(0), extended, utf8)
        assert isinstance(rest.pop(0), int)
    if extended:
        assert_nstring(rest.pop(0))
        assert_extension(rest)
    else:
        assert not rest


def check_renderings(data: bytes) -> None:
    root = scan(data)
    for utf8 in (False, True):
        envelope = render_envelope(root.fields or {}, utf8)
        assert_envelope(parse(envelope))
        for extended in (False, True):
            rendered = render_bodystructure(root, extended, utf8)
            assert_body(parse(rendered), extended, utf8)
            if utf8:
                rendered.decode()
        if utf8:
            envelope.decode()
            assert b"}\r\n" not in envelope


@pytest.mark.parametrize("data", [*BY_HAND.values(), *generated(60)])
def test_renderings_of_the_samples_keep_to_the_grammar(data: bytes) -> None:
    check_renderings(data)


FIELDS = st.tuples(
    st.sampled_from(
        [b"From", b"To", b"Subject", b"Content-Type", b"Content-ID", b"Content-Disposition", b"Date"]
    ),
    st.binary(max_size=20)
    | st.text("ab@<>,;:\"\\() =*'%\n\t", max_size=25).map(str.encode)
    | st.sampled_from([b"text/plain; a*0*=x; a*2=y", b"message/rfc822", b'attachment; x="\xff\r"']),
).map(lambda pair: pair[0] + b": " + pair[1] + b"\r\n")


@settings(max_examples=300, deadline=None)
@given(MIMEISH | st.lists(FIELDS, max_size=6).map(b"".join))
def test_renderings_of_any_bytes_keep_to_the_grammar(data: bytes) -> None:
    check_renderings(data)
