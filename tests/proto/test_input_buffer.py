"""The input buffer against the plainest model of it: one bytes object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wd_trio.proto.buffer import InputBuffer

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.text("ab\r\n", max_size=8).map(str.encode)),
        st.tuples(st.sampled_from(["line", "take", "discard", "discard_line"]), st.integers(0, 12)),
    ),
    max_size=40,
)


@given(STEPS)
def test_like_one_bytes_object(steps: list[tuple[str, bytes | int]]) -> None:
    buffer = InputBuffer()
    model = b""
    for what, argument in steps:
        if isinstance(argument, bytes):
            buffer.feed(argument)
            model += argument
        elif what == "line":
            at = model.find(b"\n", 0, argument)
            expected = model[: at + 1] if at >= 0 else None
            assert buffer.take_line(argument) == expected
            model = model[at + 1 :] if at >= 0 else model
        elif what == "take":
            assert buffer.take(argument) == model[:argument]
            model = model[argument:]
        elif what == "discard":
            assert buffer.discard(argument) == len(model[:argument])
            model = model[argument:]
        else:
            line, end, model = model.partition(b"\n")
            dropped = line + end
            assert buffer.discard_line(argument) == (dropped[max(0, len(dropped) - argument) :], bool(end))
        assert len(buffer) == len(model)
    assert buffer.take(len(model)) == model
