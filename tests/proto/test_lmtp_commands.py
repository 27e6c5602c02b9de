"""The grammar of single lines: what parses to what, and what is refused with which code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.lmtp.commands import (
    Command,
    Data,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Refused,
    Rset,
    Vrfy,
    parse,
)

GOOD: list[tuple[bytes, Command]] = [
    (b"LHLO mx.example.com", Lhlo("mx.example.com")),
    (b"lhlo [192.0.2.1]", Lhlo("[192.0.2.1]")),
    (b"LHLO [IPv6:2001:db8::1]  ", Lhlo("[IPv6:2001:db8::1]")),
    (b"LHLO win_box", Lhlo("win_box")),
    (b"MAIL FROM:<>", Mail("")),
    (b"MAIL FROM:<> SIZE=0", Mail("")),
    (b"mail from:<a@b.example>", Mail("a@b.example")),
    (b"MAIL FROM: <a@b.example>", Mail("a@b.example")),
    (b"MAIL FROM:<a@b.example> SIZE=1234 BODY=8bitmime", Mail("a@b.example", 1234, "8BITMIME")),
    (b"MAIL FROM:<a@b.example> BODY=7BIT ", Mail("a@b.example")),
    ("MAIL FROM:<ä@bücher.example> SMTPUTF8".encode(), Mail("ä@bücher.example", smtputf8=True)),
    (b"MAIL FROM:<SRS0=x=y=example.com=user@relay.example>", Mail("SRS0=x=y=example.com=user@relay.example")),
    (b"MAIL FROM:<@relay.example,@other.example:joe@b.example>", Mail("joe@b.example")),
    (b"MAIL FROM:<MAILER-DAEMON>", Mail("MAILER-DAEMON")),
    (b'MAIL FROM:<"a>b"@c.example> SIZE=7', Mail('"a>b"@c.example', 7)),
    (b"RCPT TO:<user+tag@example.com>", Rcpt("user+tag@example.com")),
    (b"RCPT TO:<user@[192.0.2.7]>", Rcpt("user@[192.0.2.7]")),
    (b"rcpt to:<Postmaster>", Rcpt("Postmaster")),
    (b'RCPT TO:<"plain"@example.com>', Rcpt("plain@example.com")),
    (b'RCPT TO:<"pl\\ain"@example.com>', Rcpt("plain@example.com")),
    (b'RCPT TO:<"two words"@example.com>', Rcpt('"two words"@example.com')),
    (b'RCPT TO:<"q\\"q"@example.com>', Rcpt('"q\\"q"@example.com')),
    (b'RCPT TO:<""@example.com>', Rcpt('""@example.com')),
    (b"RCPT TO:<a..b.@example.com>", Rcpt("a..b.@example.com")),
    (b"DATA", Data()),
    (b"data  ", Data()),
    (b"RSET", Rset()),
    (b"NOOP", Noop()),
    (b"NOOP whatever <> you like", Noop()),
    (b"VRFY someone", Vrfy()),
    (b"HELP", Help()),
    (b"HELP mail", Help()),
    (b"QUIT", Quit()),
]

BAD: list[tuple[bytes, int, str]] = [
    (b"", 500, "5.5.1"),
    (b" NOOP", 500, "5.5.1"),
    (b"NOOPE", 500, "5.5.1"),
    (b"\xff\xfe", 500, "5.5.1"),
    (b"LHLO", 501, "5.5.4"),
    (b"LHLO a b", 501, "5.5.4"),
    (b"LHLO (a)", 501, "5.5.4"),
    (b"LHLO " + b"a" * 256, 501, "5.5.4"),
    (b"LHLO a\x00b", 501, "5.5.2"),
    (b"LHLO \xff", 501, "5.5.2"),
    (b"NOOP \r", 501, "5.5.2"),
    (b"MAIL", 501, "5.5.4"),
    (b"MAIL TO:<a@b>", 501, "5.5.4"),
    (b"MAIL FROM:a@b.example", 501, "5.1.7"),
    (b"MAIL FROM:<a@b", 501, "5.1.7"),
    (b"MAIL FROM:<a@b>SIZE=1", 501, "5.5.4"),
    (b"MAIL FROM:<a b@c>", 501, "5.1.7"),
    (b"MAIL FROM:<a@b> SIZE=x", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> SIZE=-1", 501, "5.5.4"),
    ("MAIL FROM:<a@b> SIZE=²".encode(), 501, "5.5.4"),
    (b"MAIL FROM:<a@b> SIZE=" + b"9" * 21, 501, "5.5.4"),
    (b"MAIL FROM:<a@b> SIZE", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> SIZE=1 SIZE=2", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> BODY=BINARYMIME", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> SMTPUTF8=yes", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> RET=HDRS", 555, "5.5.4"),
    (b"MAIL FROM:<a@b> =x", 501, "5.5.4"),
    (b"MAIL FROM:<a@b> X=a=b", 501, "5.5.4"),
    ("MAIL FROM:<ä@b.example>".encode(), 553, "5.6.7"),
    (b"MAIL FROM:<" + b"a" * 520 + b"@b.example>", 501, "5.1.7"),
    (b"RCPT TO:<>", 501, "5.1.3"),
    (b"RCPT TO:<user>", 501, "5.1.3"),
    (b"RCPT TO:<undisclosed:;>", 501, "5.1.3"),
    (b"RCPT TO:<a@b,c@d>", 501, "5.1.3"),
    (b"RCPT TO:<a@b@c>", 501, "5.1.3"),
    (b'RCPT TO:<"a@b>', 501, "5.1.3"),
    (b'RCPT TO:<"a\\"@b>', 501, "5.1.3"),
    (b"RCPT TO:<a@-b>", 501, "5.1.3"),
    (b"RCPT TO:<a@b..c>", 501, "5.1.3"),
    (b"RCPT TO:<a@b> NOTIFY=NEVER", 555, "5.5.4"),
    (b"DATA now", 501, "5.5.4"),
    (b"RSET x", 501, "5.5.4"),
    (b"QUIT x", 501, "5.5.4"),
    (b"VRFY", 501, "5.5.4"),
]


@pytest.mark.parametrize(("line", "command"), GOOD)
def test_good_lines(line: bytes, command: Command) -> None:
    name, parsed = parse(line)
    assert parsed == command
    assert name == line.split(b" ")[0].upper().decode()


@pytest.mark.parametrize(("line", "code", "enhanced"), BAD)
def test_bad_lines(line: bytes, code: int, enhanced: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(line)
    assert (caught.value.code, caught.value.enhanced) == (code, enhanced)


@given(
    st.sampled_from([b"MAIL FROM:", b"RCPT TO:", b"LHLO ", b"VRFY ", b""]),
    st.binary(max_size=200)
    | st.text(alphabet='<>@:,."\\[] =aé\x00', max_size=200).map(lambda t: t.encode("utf-8")),
)
def test_any_bytes_parse_or_are_refused(head: bytes, rest: bytes) -> None:
    outcome: Command | Refused
    try:
        _, outcome = parse(head + rest)
    except Refused as refused:
        outcome = refused
    if isinstance(outcome, Refused):
        assert 500 <= outcome.code < 600
        assert outcome.enhanced.startswith("5.")
        assert outcome.text.isascii()
        return
    address = getattr(outcome, "address", getattr(outcome, "sender", ""))
    assert not set(address) & set("\r\n\x00")


def test_hostile_paths_take_one_pass() -> None:
    """Long lines that nearly match: were the expressions able to backtrack, this would not end."""
    for inner in (b"a." * 1000, b'"' + b"\\\\" * 1000, b"@a," * 600, b"a@" + b"b." * 900, b"<" * 2000):
        with pytest.raises(Refused):
            parse(b"RCPT TO:<" + inner)
