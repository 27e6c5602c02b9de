"""GET /docs: the OpenAPI document as a page to read, complete in itself.

Made of the same document as /openapi.json, so it can say nothing else. No other origin is asked for anything: the
style and the script stand in the page, and its policy allows those two by their hashes and nothing besides. The
search only hides what does not match; without the script everything is there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from wd_trio.api.asgi import Reply

MEDIA: Final = "text/html; charset=utf-8"
_AUDIT_ONLY: Final = ("sess", "ip")
_CODE: Final = re.compile("`([^`]*)`")
_METHODS: Final = ("get", "post", "put", "delete")

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5c6675;--line:#dde2e9;--back:#fff;--panel:#f6f7f9;--link:#1b5fbf;
--get:#14723f;--post:#1b5fbf;--put:#8a5a00;--delete:#b3261e;--ws:#6b3fa0}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ec;--soft:#9aa4b2;--line:#323a46;--back:#14181e;--panel:#1b2129;
--link:#7db2ff;--get:#5fce92;--post:#7db2ff;--put:#e2b04a;--delete:#ff8a80;--ws:#c3a1f2}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);display:grid;
grid-template-columns:20rem minmax(0,1fr)}
code,.path{font:.9em/1.4 ui-monospace,monospace}
a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem 1rem;background:var(--panel);
border-right:1px solid var(--line)}
nav h2{font-size:.75rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:1.25rem 0 .25rem}
nav a{display:flex;gap:.5rem;align-items:baseline;padding:.15rem 0;color:var(--ink);overflow-wrap:anywhere}
nav .method{flex:0 0 3.4rem;font-size:.65rem}
input{width:100%;padding:.5rem .6rem;font:inherit;color:inherit;background:var(--back);border:1px solid var(--line);
border-radius:6px}
main{padding:2rem clamp(1rem,4vw,3rem) 6rem;max-width:62rem}
h1{margin:0 0 .5rem;font-size:1.75rem}
h2.tag{margin:3rem 0 0;padding-bottom:.3rem;border-bottom:2px solid var(--line)}
section{padding:1.5rem 0;border-bottom:1px solid var(--line)}
section h3{margin:0 0 .25rem;font-size:1rem;font-weight:600;overflow-wrap:anywhere}
section h4{margin:1rem 0 .25rem;font-size:.8rem;color:var(--soft);font-weight:600}
p{margin:.25rem 0 .75rem}
.method{display:inline-block;min-width:3.6rem;font:700 .75rem ui-monospace,monospace}
.get{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}.delete{color:var(--delete)}.ws{color:var(--ws)}
table{width:100%;border-collapse:collapse;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.35rem .75rem .35rem 0;border-top:1px solid var(--line)}
th{font-weight:600;color:var(--soft);font-size:.75rem;border-top:0}
td:first-child{width:12rem}
td:nth-child(2){width:13rem}
td.wide{width:auto}
table+table{margin-top:1rem}
.soft{color:var(--soft)}
[hidden]{display:none}
@media(max-width:48rem){body{display:block}nav{position:static;height:auto;max-height:40vh;border-right:0;
border-bottom:1px solid var(--line)}td{width:auto!important}}
"""
_SCRIPT: Final = """
const box = document.querySelector("input");
const found = [...document.querySelectorAll("[data-text]")];
const groups = [...document.querySelectorAll("[data-group]")];
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const each of found) each.hidden = !words.every(word => each.dataset.text.includes(word));
  for (const group of groups) group.hidden = !group.querySelector("[data-text]:not([hidden])");
});
document.addEventListener("keydown", event => {
  if (event.key === "/" && document.activeElement !== box) { event.preventDefault(); box.focus(); }
});
"""


def page(document: Mapping[str, Any]) -> Reply:
    """An OpenAPI document as a page."""
    headers = (
        (b"cache-control", b"no-store"),
        (b"content-security-policy", _policy().encode()),
        (b"referrer-policy", b"no-referrer"),  # the address may hold a token
        (b"x-content-type-options", b"nosniff"),
    )
    return Reply("".join(_html(document)).encode(), media=MEDIA, headers=headers)


def _policy() -> str:
    return (
        f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _html(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    by_tag: dict[str, list[_Operation]] = {}
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            by_tag.setdefault(about["tags"][0], []).append(_Operation(method, path, about, document))
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}: the HTTP API</title><style>{_STYLE}</style></head><body>"
    yield '<nav aria-label="Operations"><input type="search" placeholder="Search ( / )" aria-label="Search">'
    for tag, operations in by_tag.items():
        yield f"<div data-group><h2>{escape(tag)}</h2>"
        for each in operations:
            yield f'<a href="#{each.id}" data-text="{each.text}">{each.mark}'
            yield f"<span>{escape(each.summary)}</span></a>"
        yield "</div>"
    yield f"</nav><main><h1>{title}</h1>"
    yield "<p>Every call but the probes wants a token: <code>Authorization: Bearer …</code>,"
    yield " <code>X-Access-Token: …</code> or <code>?accessToken=…</code>. Parameters come in the path, the query or"
    yield " a JSON body; any other key is a fault. For programs: <code>GET /openapi.json</code>.</p>"
    for tag, operations in by_tag.items():
        yield f'<div data-group><h2 class="tag">{escape(tag)}</h2>'
        for each in operations:
            yield from each.html()
        yield "</div>"
    yield from _failures(document)
    yield f"</main><script>{_SCRIPT}</script></body></html>"


class _Operation:
    """One operation as it is shown."""

    def __init__(self, method: str, path: str, about: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        self._path = path
        self._about = about
        self._schemas = document["components"]["schemas"]
        self.id = escape(about["operationId"])
        self.summary: str = about["summary"]
        is_websocket = "101" in about["responses"]
        word, kind = ("WS", "ws") if is_websocket else (method.upper(), method)
        self.mark = f'<span class="method {kind if kind in (*_METHODS, "ws") else ""}">{word}</span>'
        self.text = escape(f"{word} {path} {self.summary} {about['tags'][0]}".lower())

    def html(self) -> Iterator[str]:
        yield f'<section id="{self.id}" data-text="{self.text}">'
        yield f'<h3>{self.mark} <a class="path" href="#{self.id}">{escape(self._path)}</a></h3>'
        yield f"<p>{escape(self.summary)}.</p>"
        parameters = [each for each in self._about["parameters"] if each["name"] not in _AUDIT_ONLY]
        content = self._about.get("requestBody", {}).get("content", {})
        rows = [
            (each["name"], each["in"], each["schema"], each["required"], each.get("description", ""))
            for each in parameters
        ]
        for media, body in content.items():
            rows += self._body_rows(media, body["schema"], {each["name"] for each in parameters})
        yield from self._table(rows)
        raw = [
            f"<code>{escape(media)}</code>"
            for media, body in content.items()
            if "properties" not in body["schema"]
        ]
        if raw:
            yield f"<p>Or the body as {', '.join(raw)}.</p>"
        yield from self._answer()
        yield "</section>"

    def _body_rows(self, media: str, schema: Mapping[str, Any], shown: set[str]) -> Iterator[tuple[Any, ...]]:
        required = schema.get("required", ())
        for name, about in schema.get("properties", {}).items():
            if name not in _AUDIT_ONLY and name not in shown:
                yield name, "body", about, name in required, ""

    def _answer(self) -> Iterator[str]:
        good: Mapping[str, Any] = next(iter(self._about["responses"].values()))
        for media, body in good.get("content", {}).items():
            properties = self._resolved(body["schema"]).get("properties")
            if properties is None:
                yield f"<p>Answers with <code>{escape(media)}</code>.</p>"
                return
            yield "<table><tr><th>answer</th><th>type</th></tr>"
            for name, about in properties.items():
                kind = self._kind(about)
                yield f'<tr><td><code>{escape(name)}</code></td><td class="wide">{kind}</td></tr>'
            yield "</table>"

    def _table(self, rows: list[tuple[Any, ...]]) -> Iterator[str]:
        if not rows:
            return
        yield "<table><tr><th>parameter</th><th>type</th><th></th></tr>"
        for name, place, schema, required, description in rows:
            notes = [word for word in (place, "required" if required else "") if word]
            default = schema.get("default")
            if default not in (None, "", False):
                notes.append(f"default {default}")
            told = [
                description,
                *(each.get("description", "") for each in (schema, *schema.get("anyOf", ()))),
            ]
            text = _CODE.sub(
                r"<code>\1</code>", " ".join(dict.fromkeys(escape(each) for each in told if each))
            )
            yield f"<tr><td><code>{escape(name)}</code></td><td>{self._kind(schema)}</td>"
            yield f'<td><span class="soft">{escape(", ".join(notes))}</span> {text}</td></tr>'
        yield "</table>"

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        return schema

    def _kind(self, schema: Mapping[str, Any]) -> str:
        """A type in words and HTML."""
        if "anyOf" in schema:
            kinds = [self._kind(each) for each in schema["anyOf"]]
            return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
        if "$ref" in schema:
            fields = self._resolved(schema).get("properties", {})
            inner = ", ".join(
                f"<code>{escape(name)}</code> {self._kind(each)}" for name, each in fields.items()
            )
            return f"{{{inner}}}"
        if "enum" in schema:
            return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
        if "prefixItems" in schema:
            return "[" + ", ".join(self._kind(each) for each in schema["prefixItems"]) + "]"
        if schema.get("type") == "array":
            return f"list of {self._kind(schema.get('items', {}))}"
        kind = escape(str(schema.get("format") or schema.get("type") or "any"))
        bounds = [
            f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema
        ]
        return " ".join([kind, *bounds])


def _failures(document: Mapping[str, Any]) -> Iterator[str]:
    """What every operation may answer besides."""
    told: dict[str, str] = {}
    for methods in document["paths"].values():
        for about in methods.values():
            told |= {
                status: response["description"]
                for status, response in about["responses"].items()
                if status >= "400"
            }
    yield '<h2 class="tag" id="errors">Errors</h2><section>'
    yield "<p>Every answer that is not 2xx is <code>{error, code, details}</code>, details only where they help.</p>"
    yield "<table><tr><th>status</th><th></th></tr>"
    for status, text in sorted(told.items()):
        yield f"<tr><td><code>{status}</code></td><td>{escape(text)}</td></tr>"
    yield "</table></section>"
