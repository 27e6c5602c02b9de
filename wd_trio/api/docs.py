"""docs/api.md, generated from the routes and their schemas: `python -m wd_trio.api.docs > docs/api.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from wd_trio.api.app import all_routes
from wd_trio.api.auth import ROOT
from wd_trio.api.openapi import REF, summary
from wd_trio.api.routing import Route

_OPENING: Final = """\
# The HTTP API

Generated from the schemas by `python -m wd_trio.api.docs`; a test compares. The same, for programs: `GET
/openapi.json`; for browsers, with a search: `GET /docs?accessToken=…`.

The calls, shapes and codes are WildDuck's. Parameters come in the path, the query or a JSON body (`Content-Type:
application/json`), merged; ids are 24 hex digits; times are ISO 8601 in UTC. Only what is listed here is understood:
any other key is a fault, and a request with faults is answered 400 with all of them:

    {"error": "The input is not valid", "code": "InputValidationError", "details": {"username": "is required"}}

Every answer that is not 2xx has this shape. Everything but `/health`, `/health/live` and `/metrics` needs a token:
`Authorization: Bearer …`, `X-Access-Token: …` or `?accessToken=…`, else 403 `InvalidToken`. Root's token is
`[api] access_token` of the configuration, or the one that `wd-trio serve --demo` prints; a user's comes from `POST
/authenticate` with `"token": true`, reaches that user only (`me` is short for its id), and ends after 14 days without
use, after 180 days, or with a new password. A user's token may make `[api] requests_per_s` calls a second in each
worker (50; ten seconds' worth at once), one of root's `root_requests_per_s` (0: any number); beyond, 429
`RateLimitedError` with `Retry-After`. Pages of other origins may call when `[api] cors_origins` lists theirs.

`limit`, `next`, `previous` and `page` turn the pages of lists; a cursor that leads nowhere is `false`.
"""


def markdown(routes: Iterable[Route]) -> str:
    """docs/api.md."""
    shown = list(routes)
    _, components = msgspec.json.schema_components(
        [each.request for each in shown] + [each.response for each in shown if each.response is not None],
        ref_template=REF,
    )
    lines = [_OPENING]
    tag = ""
    for route in shown:
        if route.tag != tag:
            tag = route.tag
            lines += [f"## {tag}", ""]
        lines += _section(route, components)
    return "\n".join(lines).rstrip() + "\n"


def _section(route: Route, components: dict[str, Any]) -> Iterator[str]:
    method = "GET (WebSocket)" if route.is_websocket else route.method
    yield f"### {method} {route.path}"
    yield ""
    who = "Root's only." if route.access == ROOT else "Root's and users' tokens."
    yield f"{summary(route)}. {who}"
    yield ""
    schema = components[route.request.__name__]
    rows = [
        f"| `{name}` | {_kind(about, components)} | {_note(name, about, schema)} |"
        for name, about in schema["properties"].items()
        if name not in ("sess", "ip")
    ]
    if rows:
        yield from ("| parameter | type | |", "|---|---|---|", *rows, "")
    if route.raw:
        yield from (f"Or the body as {', '.join(f'`{each}`' for each in route.raw)}.", "")
    if route.response is None:
        if route.media:
            yield from (f"Answers with `{route.media}`.", "")
        return
    names = components[route.response.__name__]["properties"]
    yield f"Answers with {', '.join(f'`{name}` ({_kind(about, components)})' for name, about in names.items())}."
    yield ""


def _note(name: str, about: dict[str, Any], schema: dict[str, Any]) -> str:
    default = about.get("default")
    needed = "required" if name in schema.get("required", ()) else ""
    if default not in (None, "", False):
        needed = f"default {msgspec.json.encode(default).decode()}"
    told = [each.get("description", "") for each in (about, *about.get("anyOf", ()))]
    return "; ".join(filter(None, (needed, *told)))


def _kind(about: dict[str, Any], components: dict[str, Any]) -> str:
    if "anyOf" in about:
        kinds = [_kind(each, components) for each in about["anyOf"]]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "$ref" in about:
        names = components[about["$ref"].rpartition("/")[2]]["properties"]
        return "{" + ", ".join(f"`{name}` {_kind(each, components)}" for name, each in names.items()) + "}"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "prefixItems" in about:
        return "[" + ", ".join(_kind(each, components) for each in about["prefixItems"]) + "]"
    if about.get("type") == "array":
        return f"list of {_kind(about.get('items', {}), components)}"
    kind = str(about.get("format") or about.get("type") or "any")
    bounds = [
        f"{word} {about[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in about
    ]
    return " ".join([kind, *bounds])


if __name__ == "__main__":
    print(markdown(all_routes()), end="")
