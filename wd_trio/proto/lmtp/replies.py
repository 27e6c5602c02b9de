"""LMTP replies as bytes (RFC 5321 §4.2, enhanced codes per RFC 2034 and RFC 3463).

Texts are fixed; what a peer sent never comes back in a reply. Every reply but the greeting, LHLO's and 354
carries an enhanced code (RFC 2034 §4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final


def reply(code: int, enhanced: str, text: str) -> bytes:
    """One line with its enhanced code. `text` is ours: printable ASCII."""
    return f"{code} {enhanced} {text}\r\n".encode("ascii")


def multiline(code: int, lines: Sequence[str]) -> bytes:
    """A reply of one line or more without enhanced codes: `250-…`, the last `250 …`."""
    last = len(lines) - 1
    text = "".join(f"{code}{' ' if i == last else '-'}{line}\r\n" for i, line in enumerate(lines))
    return text.encode("ascii", "replace")


def greeting(hostname: str) -> bytes:
    return multiline(220, (f"{hostname} LMTP wd-trio",))


def capabilities(hostname: str, message_bytes: int, *, starttls: bool = False) -> bytes:
    """The answer to LHLO; STARTTLS is offered where TLS may begin."""
    names = ("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", f"SIZE {message_bytes}")
    return multiline(250, (hostname, *names, *(("STARTTLS",) if starttls else ())))


OK: Final = reply(250, "2.0.0", "OK")
SENDER_OK: Final = reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK: Final = reply(250, "2.1.5", "Recipient OK")
GO_AHEAD: Final = b"354 Send the message, end with <CRLF>.<CRLF>\r\n"
BYE: Final = reply(221, "2.0.0", "Bye")
BEGIN_TLS: Final = reply(220, "2.0.0", "Begin TLS now")
NOT_IN_CLEAR: Final = reply(554, "5.5.1", "Nothing may follow STARTTLS in clear")
CANNOT_VERIFY: Final = reply(252, "2.0.0", "RCPT will tell")
HELP: Final = reply(214, "2.0.0", "LHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT")

DRAINING: Final = reply(421, "4.3.2", "The server is going down, come back soon")
IDLE: Final = reply(421, "4.4.2", "Idle for too long")
TOO_MANY_ERRORS: Final = reply(421, "4.7.0", "Too many errors")
NOT_LMTP: Final = reply(421, "4.7.0", "This is an LMTP server")
TOO_MANY_RECIPIENTS: Final = reply(452, "4.5.3", "Too many recipients")
NEEDS_SMTPUTF8: Final = reply(553, "5.6.7", "Such an address needs SMTPUTF8")
TOO_BIG: Final = reply(552, "5.3.4", "The message is too big")

LINE_TOO_LONG: Final = reply(500, "5.5.2", "Line too long")
BAD_LINE_END: Final = reply(500, "5.5.2", "Lines end in CRLF")
SMTP_HELLO: Final = reply(500, "5.5.1", "This is LMTP: say LHLO")
NOT_IMPLEMENTED: Final = reply(502, "5.5.1", "Not implemented")
