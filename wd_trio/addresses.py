"""Places that the configuration names: listening addresses and the store's file.

One small grammar each, so that the loader can judge every address and the supervisor can bind it without
reading the text twice: `host:port`, `[ipv6]:port` or `unix:/path`; and `sqlite:PATH`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wd_trio.errors import Invalid

UNIX_PATH_BYTES: Final = 107
"""The longest path that fits sockaddr_un with its closing NUL (Linux)."""

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_FORMS: Final = "expected host:port, [ipv6]:port or unix:/path"


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address: a Unix socket where `path` is set, else TCP; port 0 lets the kernel choose."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen:
    """The address that `text` names. Invalid (with the reason) when it is none."""
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise Invalid(_FORMS, what="address")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise Invalid("the port is not a number from 0 to 65535", what="address")
    if host.startswith("[") and host.endswith("]"):
        return Listen(_ipv6(host[1:-1]), int(port))
    if not _HOST_NAME.fullmatch(host):
        raise Invalid(_FORMS, what="address")
    return Listen(host, int(port))


def _unix(path: str) -> Listen:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise Invalid("unix: needs the absolute path of a socket file", what="address")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise Invalid(f"a Unix socket's path has at most {UNIX_PATH_BYTES} bytes", what="address")
    return Listen(path=path)


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise Invalid("the brackets hold no IPv6 address", what="address") from None


def is_cluster(url: str) -> bool:
    """Whether a store's URL names the cluster engine (MongoDB, with Redis beside it)."""
    return url.startswith(("mongodb://", "mongodb+srv://"))


def sqlite_path(url: str) -> Path:
    """The file that a `sqlite:PATH` store URL names, as given. Invalid for any other URL."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite":
        raise Invalid("expected sqlite:PATH or mongodb://…", what="url")
    if not path or path.startswith((":", "//")) or path.endswith("/") or "\0" in path:
        raise Invalid("sqlite: needs the path of a file on a local disk", what="url")
    return Path(path)
