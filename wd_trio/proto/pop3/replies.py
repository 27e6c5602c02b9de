"""POP3 replies as bytes (RFC 1939 §3, response codes per RFC 2449 §8 and RFC 3206), and bodies dot-stuffed.

Texts are fixed; what a peer sent never comes back in a reply. No text begins with "[" but for its code, and the
greeting has no "<": it would offer APOP.

Bodies go out as they are stored. A dot is stuffed after every LF, not only after CRLF: nearly every client takes a
bare LF for the end of a line, and a stored `LF . CRLF` would end the message for it and make the rest look like
replies of this server. After the last octet CRLF is made sure of, or the final dot would stand alone for nobody.
"""

from __future__ import annotations

from typing import Final


def ok(text: str) -> bytes:
    """A positive reply. `text` is ours: printable ASCII."""
    return f"+OK {text}\r\n".encode("ascii", "replace")


def err(text: str, code: str = "") -> bytes:
    """A negative reply, with a response code where one fits ("SYS/TEMP")."""
    return (f"-ERR [{code}] {text}\r\n" if code else f"-ERR {text}\r\n").encode("ascii")


def greeting(hostname: str) -> bytes:
    return ok(f"{hostname} ready")


def capabilities(*, passwords: bool, stls: bool = False) -> bytes:
    """The answer to CAPA, the same before and after log-in but for STLS (RFC 2449 §5). USER and SASL are offered
    where `passwords`
    may be sent, STLS where TLS may begin."""
    names = [
        "TOP",
        "UIDL",
        *(["USER", "SASL PLAIN"] if passwords else []),
        *(["STLS"] if stls else []),
        "RESP-CODES",
        "AUTH-RESP-CODE",
        "PIPELINING",
        "EXPIRE NEVER",
        "IMPLEMENTATION wd-trio",
    ]
    return "".join(f"{line}\r\n" for line in ("+OK Capabilities follow", *names, ".")).encode("ascii")


def mechanisms(*, passwords: bool) -> bytes:
    """The answer to AUTH without an argument."""
    return b"+OK Mechanisms follow\r\n" + (b"PLAIN\r\n" if passwords else b"") + END


END: Final = b".\r\n"
CHALLENGE: Final = b"+ \r\n"

BEGIN_TLS: Final = ok("Begin TLS now")
NAME_TAKEN: Final = ok("Now the password")
LOGGED_IN: Final = ok("Logged in")
MARKED: Final = ok("Marked to be deleted")
RESET: Final = ok("No message is marked")
NOTHING_DONE: Final = ok("Nothing done")
BYE: Final = ok("Bye")
TOP_FOLLOWS: Final = ok("Top of the message follows")

NO_MESSAGE: Final = err("No such message")
MARKED_ALREADY: Final = err("The message is marked to be deleted")
GONE: Final = err("The message is gone")
NOT_REMOVED: Final = err("Some messages were not removed, try again later", "SYS/TEMP")
DRAINING: Final = err("The server is going down, connect again", "SYS/TEMP")
INTERRUPTED: Final = err("Trouble on our side, try that again", "SYS/TEMP")
LOST: Final = err("The session cannot go on, connect again", "SYS/TEMP")
KICKED: Final = err("The session was ended")

NOT_IN_CLEAR: Final = err("Nothing may follow STLS in clear")
NEEDS_TLS: Final = err("TLS is required before passwords are sent", "AUTH")
NOT_FOR_OTHERS: Final = err("Acting for other users is not offered", "AUTH")
BAD_RESPONSE: Final = err("Malformed response")
CANCELLED: Final = err("Authentication cancelled")
NO_MECHANISM: Final = err("Unsupported mechanism")

LINE_TOO_LONG: Final = err("Line too long")
NOT_OFFERED: Final = err("Not offered")
NOT_POP3: Final = err("This is a POP3 server")
TOO_MANY_ERRORS: Final = err("Too many errors")


class DotStuffer:
    """Makes one multi-line body of stored octets that come in pieces; pieces may be cut anywhere."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the last octets that went out: the reply's first line

    def feed(self, data: bytes) -> bytes:
        """The next piece as it goes out."""
        if not data:
            return b""
        stuffed = data.replace(b"\n.", b"\n..")
        if data.startswith(b".") and self._tail.endswith(b"\n"):
            stuffed = b"." + stuffed
        self._tail = data[-2:] if len(data) > 1 else self._tail[-1:] + data
        return stuffed

    def end(self) -> bytes:
        """What ends the body: the final dot, on a line of its own whatever came before."""
        return END if self._tail == b"\r\n" else b"\r\n" + END


def cut_lines(data: bytes, most: int) -> tuple[bytes, int]:
    """`data` up to the end of its line number `most`, and how many lines are left to be had after it. A line ends at
    its LF, as for DotStuffer."""
    count = data.count(b"\n")
    if count < most:
        return data, most - count
    stop = 0
    for _ in range(most):
        stop = data.index(b"\n", stop) + 1
    return data[:stop], 0
