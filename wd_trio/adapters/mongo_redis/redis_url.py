"""Where Redis is, from one URL.

    redis://[user:password@]host[:port][/database]                 one server
    redis+sentinel://[…@]sentinel[:port],…/service[/database]      the primary that Sentinels name
    redis+cluster://[…@]host[:port],…                              a cluster, by any of its nodes

`rediss` in place of `redis` means TLS. Options follow a "?": `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths),
`ssl_cert_reqs` (required, optional or none), `ssl_check_hostname` (yes or no), and for Sentinels that ask for it
`sentinel_username` and `sentinel_password`. Account and options are percent-encoded. What a URL says wrongly is told
without the URL: it holds a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from wd_trio.errors import Invalid

Node: TypeAlias = tuple[str, int]

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_KINDS: Final[dict[str, Literal["single", "sentinel", "cluster"]]] = {
    "": "single",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
_PATHS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CERT_REQS: Final = ("required", "optional", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A URL's meaning. `settings` and `sentinel_settings` are keywords for the driver's connections, secrets among
    them, to Redis and to the Sentinels."""

    kind: Literal["single", "sentinel", "cluster"]
    nodes: tuple[Node, ...]
    tls: bool
    service: str = ""
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_settings: dict[str, Any] = field(default_factory=dict, repr=False)


def parse_redis_url(url: str) -> RedisAddress:
    """What a URL says. Invalid (what="redis"), without the URL in its text."""
    scheme, mark, rest = url.partition("://")
    base, _, suffix = scheme.partition("+")
    if not mark or base not in ("redis", "rediss") or suffix not in _KINDS:
        raise _invalid("begins with redis://, redis+sentinel:// or redis+cluster://, or the same with rediss")
    kind, tls = _KINDS[suffix], base == "rediss"
    rest, _, query = rest.partition("?")
    place, _, path = rest.partition("/")
    account, _, hosts = place.rpartition("@")
    port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    nodes = tuple(_node(text, port) for text in hosts.split(","))
    if kind == "single" and len(nodes) > 1:
        raise _invalid("names one server; more belong to redis+sentinel:// or redis+cluster://")
    options = dict(parse_qsl(query, keep_blank_values=True))
    username, _, password = account.partition(":")
    settings: dict[str, Any] = {"db": 0} | _account(unquote(username), unquote(password))
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise _invalid("of Sentinels ends with /<name of the service>")
    if path:
        if kind == "cluster" or not path.isascii() or not path.isdigit():
            raise _invalid("has a number as its database, and a cluster has none")
        settings["db"] = int(path)
    sentinel_settings = _account(options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
    security = _tls_settings(options) if tls else {}
    if options:
        raise _invalid(f"has unknown options: {', '.join(sorted(options))}")
    return RedisAddress(
        kind=kind,
        nodes=nodes,
        tls=tls,
        service=service,
        settings=settings | security,
        sentinel_settings=sentinel_settings | security,
    )


def _account(username: str, password: str) -> dict[str, Any]:
    account = {"username": username or None, "password": password or None}
    return {name: value for name, value in account.items() if value is not None}


def _node(text: str, port: int) -> Node:
    host, colon, digits = text.rpartition(":")
    if not colon or digits.endswith("]"):
        host, digits = text, str(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
        raise _invalid("names each server as host or host:port")
    return host, int(digits)


def _tls_settings(options: dict[str, str]) -> dict[str, Any]:
    """Takes what is TLS's out of `options`. The defaults are the strict ones, whatever the driver's are."""
    required = options.pop("ssl_cert_reqs", "required")
    check = options.pop("ssl_check_hostname", "no" if required == "none" else "yes")
    if required not in _CERT_REQS or check not in ("yes", "no"):
        raise _invalid("has ssl_cert_reqs=required, optional or none, and ssl_check_hostname=yes or no")
    paths = {name: options.pop(name) for name in _PATHS if name in options}
    return {"ssl_cert_reqs": required, "ssl_check_hostname": check == "yes"} | paths


def _invalid(fault: str) -> Invalid:
    return Invalid(f"a URL of Redis {fault}", what="redis")
