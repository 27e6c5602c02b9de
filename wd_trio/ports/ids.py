"""Ids: ObjectIds (4 bytes of time, 5 of process, 3 of counter) as 24 hex digits, the same in both engines."""

from __future__ import annotations

import itertools
import os
import time

_process = os.urandom(5).hex()
_counter = itertools.count(int.from_bytes(os.urandom(3), "big"))


def new_id() -> str:
    """A fresh id: 24 lower-case hex digits, roughly in order of time, unique over processes and machines."""
    return f"{int(time.time()) & 0xFFFFFFFF:08x}{_process}{next(_counter) & 0xFFFFFF:06x}"
