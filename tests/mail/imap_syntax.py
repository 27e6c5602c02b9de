"""A strict little reader of what FETCH sends: parenthesised lists of strings, numbers and NIL."""

from __future__ import annotations

from typing import TypeAlias

Value: TypeAlias = "int | bytes | list[Value] | None"


def parse(data: bytes) -> Value:
    """One value and nothing after it; AssertionError on anything that RFC 3501's grammar forbids."""
    value, end = _value(data, 0)
    assert end == len(data), data[end : end + 40]
    return value


def _value(data: bytes, at: int) -> tuple[Value, int]:
    first = data[at : at + 1]
    if first == b"(":
        return _list(data, at + 1)
    if first == b'"':
        return _quoted(data, at + 1)
    if first == b"{":
        end = data.index(b"}\r\n", at)
        size = int(data[at + 1 : end])
        stop = end + 3 + size
        assert stop <= len(data)
        literal = data[end + 3 : stop]
        assert b"\0" not in literal
        return literal, stop
    if data[at : at + 3] == b"NIL":
        return None, at + 3
    end = at
    while data[end : end + 1].isdigit():
        end += 1
    assert end > at, data[at : at + 40]
    return int(data[at:end]), end


def _list(data: bytes, at: int) -> tuple[Value, int]:
    values: list[Value] = []
    while data[at : at + 1] != b")":
        if values and data[at : at + 1] == b" ":
            at += 1
        elif values:
            # Only lists stand side by side without a space (1*address, 1*body).
            assert isinstance(values[-1], list), data[at : at + 40]
            assert data[at : at + 1] == b"(", data[at : at + 40]
        value, at = _value(data, at)
        values.append(value)
    assert values, "an empty list is never allowed here"
    return values, at + 1


def _quoted(data: bytes, at: int) -> tuple[bytes, int]:
    out = bytearray()
    while True:
        byte = data[at : at + 1]
        assert byte, "a quoted string that never ends"
        assert byte not in (b"\r", b"\n", b"\0")
        if byte == b'"':
            return bytes(out), at + 1
        if byte == b"\\":
            at += 1
            byte = data[at : at + 1]
            assert byte in (b"\\", b'"')
        out += byte
        at += 1
