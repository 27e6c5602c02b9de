"""The outbox: replies held until their marks are written, and taken back when they cannot be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wd_trio.servers.pop3.outbox import Outbox

NO = b"-ERR no\r\n"


def test_what_is_not_held_stays() -> None:
    out = Outbox(b"+OK hello\r\n")
    out.add(b"+OK 1\r\n")
    out.take_back(NO)
    assert out.take() == b"+OK hello\r\n+OK 1\r\n"
    assert len(out) == 0


def test_held_replies_are_replaced_one_for_one_and_the_open_one_dropped() -> None:
    out = Outbox()
    out.add(b"+OK before\r\n")
    out.begin()
    out.hold()
    out.write(b"+OK marked\r\n")
    out.end()
    out.add(b"+OK 2 messages\r\n1 1\r\n2 2\r\n.\r\n")
    out.begin()
    out.write(b"+OK a long")
    out.take_back(NO)
    assert out.restart()
    out.write(b"-ERR open\r\n")
    out.end()
    out.add(b"+OK after\r\n")
    out.take_back(NO)
    assert out.take() == b"+OK before\r\n" + NO * 2 + b"-ERR open\r\n+OK after\r\n"


def test_a_reply_that_is_partly_gone_cannot_be_started_anew() -> None:
    out = Outbox()
    out.begin()
    out.write(b"+OK 1000 oct")
    assert out.restart()
    out.write(b"+OK 2000 oct")
    assert out.take() == b"+OK 2000 oct"
    out.write(b"ets\r\n")
    assert not out.restart()
    out.end()
    assert out.take() == b"ets\r\n"


STEPS = st.lists(st.sampled_from(["plain", "mark", "take", "fail"]))


@given(STEPS)
def test_every_command_is_answered_once(steps: list[str]) -> None:
    out, sent = Outbox(), b""
    count, held = 0, False
    for step in steps:
        if step == "take":
            sent += out.take()
            held = False
        elif step == "fail":
            out.take_back(NO)
            held = False
        else:
            count += 1
            out.begin()
            if step == "mark":
                out.hold()
                held = True
            out.write(b"+OK %d\r\n" % count)
            out.end()
    sent += out.take()
    lines = sent.splitlines(keepends=True)
    assert len(lines) == count
    assert all(line in (NO, b"+OK %d\r\n" % number) for number, line in enumerate(lines, 1))
    assert not held or lines[-1] != NO
