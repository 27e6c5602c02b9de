"""The API as it describes itself: /openapi.json is valid and whole, docs/api.md is what the schemas say."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from api_world import ApiWorld

from wd_trio.api.app import all_routes, description
from wd_trio.api.docs import markdown
from wd_trio.api.page import page

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
OPERATIONS = [
    (path, method, operation)
    for path, methods in description()["paths"].items()
    for method, operation in methods.items()
]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def test_the_page_is_what_the_schemas_say() -> None:
    said = markdown(all_routes())
    assert PAGE.read_text("utf-8") == said, "write it anew: python -m wd_trio.api.docs > docs/api.md"


async def test_the_document_is_served(world: ApiWorld) -> None:
    answered = await world.root.call("GET", "/openapi.json")
    assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
    assert answered.json == description()


def test_every_reference_leads_somewhere() -> None:
    document = description()
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_every_route_is_described_once() -> None:
    assert len(OPERATIONS) == len(all_routes())
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_names_of_schemas_are_unique() -> None:
    """Two schemas of one name would be one in the document."""
    types = {each for route in all_routes() for each in (route.request, route.response) if each is not None}
    names = [each.__name__ for each in types]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("path", "method", "operation"), OPERATIONS, ids=[f"{method} {path}" for path, method, _ in OPERATIONS]
)
def test_operations_are_whole(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
    assert in_path == re.findall(r"\{(\w+)\}", path)
    assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")
    assert ("requestBody" in operation) == (method in ("post", "put"))
    assert {"400", "403", "404", "429", "503"} <= set(operation["responses"])
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is False
        assert not set(in_path) & set(schema["properties"])
        assert set(schema.get("required", ())) <= set(schema["properties"])


async def test_what_the_document_requires_is_required(world: ApiWorld) -> None:
    for path, method, operation in OPERATIONS:
        if method != "post" or operation["requestBody"]["content"].keys() != {"application/json"}:
            continue
        required = operation["requestBody"]["content"]["application/json"]["schema"].get("required", [])
        if not required:
            continue
        filled = re.sub(r"\{\w+\}", "f" * 24, path)
        answered = await world.root.call("POST", filled, {})
        assert (answered.status, set(answered.json["details"])) == (400, set(required)), path


# -- the page


class Page(HTMLParser):
    """What stands in the page: tags with their attributes, ids, links, and whether tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


async def test_the_page_is_served_and_asks_nobody_else(world: ApiWorld) -> None:
    _, anns = await world.user("ann")
    answered = await anns.call("GET", "/docs")
    assert (answered.status, answered.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    shown = Page(answered.body.decode())
    assert not shown.open
    assert not shown.all("src")
    assert all(link.startswith("#") for link in shown.all("href"))
    policy = answered.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", answered.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    assert answered.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_shows_every_operation() -> None:
    body = page(description()).body
    assert isinstance(body, bytes)
    shown = Page(body.decode())
    ids = shown.all("id")
    assert len(set(ids)) == len(ids)
    assert set(shown.all("href")) == {f"#{operation['operationId']}" for _, _, operation in OPERATIONS}
    assert {link.removeprefix("#") for link in shown.all("href")} <= set(ids)
    for path, _, operation in OPERATIONS:
        assert path in shown.text
        assert f"{operation['summary']}." in shown.text
        for parameter in operation["parameters"]:
            assert parameter["name"] in shown.text or parameter["name"] in ("sess", "ip")


def test_what_the_document_says_is_no_markup() -> None:
    document = description()
    document["info"]["title"] = "<script>alert(1)</script>"
    document["paths"]["/users"]["get"]["summary"] = '"><img src=x>'
    body = page(document).body
    assert isinstance(body, bytes)
    assert not [tag for tag, _ in Page(body.decode()).tags if tag == "img"]
    assert b"<script>alert" not in body
