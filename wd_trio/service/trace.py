"""The trace headers that a delivery puts before a message (RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3).

Everything a peer chose is cleaned first: a value can break neither out of its line nor out of its clause. Lines
are folded under 78 columns between clauses; a clause of its own that is longer stands on its own line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

from wd_trio.ports.ids import new_id

MAX_COLUMNS: Final = 78
_FOLD: Final = "\r\n\t"
_TAB_COLUMNS: Final = 8
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f-\x9f()<>;\u2028\u2029]")
_UNSAFE_IN_ADDRESS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f<>\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Where a message came from. `id` names the transaction in replies, logs and Received; `ip` is "unix" for
    Unix sockets."""

    lhlo: str
    ip: str
    secure: bool = False
    utf8: bool = False
    id: str = field(default_factory=new_id)


def trace_headers(*, sender: str, recipient: str, hostname: str, trace: Trace, date: float) -> bytes:
    """Return-Path, Delivered-To and Received for one recipient, each line ending in CRLF. `date` is in seconds
    since the epoch; `sender` is "" for the null path."""
    recipient = _UNSAFE_IN_ADDRESS.sub("?", recipient)
    protocol = ("UTF8LMTP" if trace.utf8 else "LMTP") + ("S" if trace.secure else "")
    received = _folded(
        (
            f"Received: from {_clean(trace.lhlo)}",
            _origin(trace.ip),
            f"by {_clean(hostname)}",
            f"with {protocol}",
            f"id {_clean(trace.id)}",
            f"for <{recipient}>;",
            f"{formatdate(date)[:-5]}+0000",
        )
    )
    path = _UNSAFE_IN_ADDRESS.sub("?", sender)
    return f"Return-Path: <{path}>\r\nDelivered-To: {recipient}\r\n{received}\r\n".encode("utf-8", "replace")


def _origin(ip: str) -> str:
    ip = _clean(ip)
    if ip == "unix":
        return "(unix socket)"
    return f"([IPv6:{ip}])" if ":" in ip else f"([{ip}])"


def _clean(text: str) -> str:
    return _UNSAFE.sub("?", text) or "unknown"


def _folded(clauses: Iterable[str]) -> str:
    text = ""
    columns = 0
    for clause in clauses:
        if text and columns + 1 + len(clause) > MAX_COLUMNS:
            text += _FOLD + clause
            columns = _TAB_COLUMNS + len(clause)
        else:
            text += f" {clause}" if text else clause
            columns = len(text) if columns == 0 else columns + 1 + len(clause)
    return text
