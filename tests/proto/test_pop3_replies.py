"""Replies and bodies: capabilities, response codes, dot-stuffing over any cut, lines for TOP."""

import itertools
import re
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.pop3 import replies
from wd_trio.proto.pop3.replies import DotStuffer, capabilities, cut_lines, mechanisms

CODES = {b"AUTH", b"IN-USE", b"SYS/TEMP", b"SYS/PERM"}


def test_fixed_replies_are_one_line_with_known_codes() -> None:
    fixed = {name: value for name, value in vars(replies).items() if name.isupper()}
    assert len(fixed) > 20
    for name, value in fixed.items():
        if name in ("END", "CHALLENGE"):
            continue
        found = re.fullmatch(rb"(\+OK|-ERR)(?: \[([A-Z/-]+)\])? [^\[\x00-\x1f\x7f-\xff]+\r\n", value)
        assert found, name
        assert found[2] is None or found[2] in CODES, name
        assert len(value) <= 512, name  # RFC 1939 §3


def test_the_greeting_offers_no_apop() -> None:
    assert replies.greeting("mail.example") == b"+OK mail.example ready\r\n"
    assert b"<" not in replies.greeting("mail.example")


def test_capabilities() -> None:
    lines = capabilities(passwords=True).split(b"\r\n")
    assert lines == [
        b"+OK Capabilities follow",
        b"TOP",
        b"UIDL",
        b"USER",
        b"SASL PLAIN",
        b"RESP-CODES",
        b"AUTH-RESP-CODE",
        b"PIPELINING",
        b"EXPIRE NEVER",
        b"IMPLEMENTATION wd-trio",
        b".",
        b"",
    ]
    hidden = capabilities(passwords=False).split(b"\r\n")
    assert [line for line in lines if line not in hidden] == [b"USER", b"SASL PLAIN"]
    assert mechanisms(passwords=False) == b"+OK Mechanisms follow\r\n.\r\n"


def stuffed(*pieces: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join([*map(stuffer.feed, pieces), stuffer.end()])


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r", b"a\r\r\n.\r\n"),
        (b"a\n", b"a\n\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..", b"...\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n..b\r\n", b"a\r\n...b\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
        (b"\n", b"\n\r\n.\r\n"),
        (b"\r", b"\r\r\n.\r\n"),
        (b"a\n.\r\nSTAT", b"a\n..\r\nSTAT\r\n.\r\n"),
        (b"a\n.\nb", b"a\n..\nb\r\n.\r\n"),
        (b"a\r.\rb", b"a\r.\rb\r\n.\r\n"),
        (b"\x00.\xff\r\n", b"\x00.\xff\r\n.\r\n"),
    ],
)
def test_bodies_and_their_ends(body: bytes, sent: bytes) -> None:
    assert stuffed(body) == sent
    for cut in range(len(body) + 1):
        assert stuffed(body[:cut], body[cut:]) == sent
    assert stuffed(*[body[i : i + 1] for i in range(len(body))]) == sent


BODIES = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"..", b"a", b"\r\n.\r\n", b"\xff"])).map(
    b"".join
)


def read_by_lf(sent: bytes) -> tuple[bytes, bytes]:
    """A body as most clients read it: lines end at LF, a lone dot is the end; and what follows."""
    file = BytesIO(sent)
    lines = []
    while (line := file.readline()).rstrip(b"\r\n") != b".":
        assert line, "no end"
        lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines), file.read()


@given(BODIES, st.lists(st.integers(min_value=0, max_value=100), max_size=5))
def test_any_body_in_any_pieces_comes_back(body: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    sent = stuffed(*[body[start:stop] for start, stop in itertools.pairwise(at)])
    assert sent == stuffed(body)
    assert sent.endswith(b"\r\n.\r\n") or sent == b".\r\n"
    added = b"" if body.endswith(b"\r\n") or not body else b"\r\n"
    assert read_by_lf(sent + b"+OK next\r\n") == (body + added, b"+OK next\r\n")
    assert (b"\r\n" + sent).index(b"\r\n.\r\n") == len(sent) - 3, "a strict reader finds the same end"


@pytest.mark.parametrize(
    ("data", "most", "cut"),
    [
        (b"a\r\nb\r\nc", 0, (b"", 0)),
        (b"a\r\nb\r\nc", 1, (b"a\r\n", 0)),
        (b"a\r\nb\r\nc", 2, (b"a\r\nb\r\n", 0)),
        (b"a\r\nb\r\nc", 3, (b"a\r\nb\r\nc", 1)),
        (b"a\r\nb\r\nc", 10**30, (b"a\r\nb\r\nc", 10**30 - 2)),
        (b"\n\n\n", 2, (b"\n\n", 0)),
        (b"", 2, (b"", 2)),
        (b"abc", 1, (b"abc", 1)),
    ],
)
def test_lines_for_top(data: bytes, most: int, cut: tuple[bytes, int]) -> None:
    assert cut_lines(data, most) == cut


@given(BODIES, st.integers(min_value=0, max_value=9), st.integers(min_value=0, max_value=60))
def test_lines_in_two_pieces(body: bytes, most: int, at: int) -> None:
    first, left = cut_lines(body[:at], most)
    second = cut_lines(body[at:], left)[0] if left else b""
    assert first + second == cut_lines(body, most)[0]
    assert first + second == b"".join(BytesIO(body).readlines()[:most])
