"""GET /openapi.json: OpenAPI 3.1, generated from the routes and their schemas.

A request's fields are split by where they come from: those in the path's braces, and the others in the query of GET
and DELETE or the JSON body of POST and PUT. (The server merges all three, so either place is understood.)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from wd_trio.api.errors import Failure
from wd_trio.api.routing import Route

REF: Final = "#/components/schemas/{name}"
_BODIED: Final = ("POST", "PUT", "PATCH")
_FAILURES: Final = {
    "400": "The input is not valid; every fault is in `details`",
    "403": "No valid token, or not enough privileges",
    "404": "It does not exist",
    "429": "Too much for now; see Retry-After",
    "503": "An engine is down or slow",
}


def document(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    shown = list(routes)
    types: list[type] = [Failure]
    for route in shown:
        types += [each for each in (route.request, route.response) if each is not None and each not in types]
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        method = "get" if route.is_websocket else route.method.lower()
        paths.setdefault(route.path, {})[method] = _operation(route, components)
    requests = {each.request.__name__ for each in shown}
    return {
        "openapi": "3.1.0",
        "info": {"title": "wd-trio", "version": version},
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in requests},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Access-Token"},
                "query": {"type": "apiKey", "in": "query", "name": "accessToken"},
            },
        },
        "security": [{"bearer": []}, {"header": []}, {"query": []}],
    }


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    schema = components[route.request.__name__]
    required = set(schema.get("required", ()))
    in_path = _path_names(route.path)
    names = [name for name in schema["properties"] if name not in in_path]
    bodied = route.method in _BODIED
    parameters = [_parameter(name, "path", schema, required=True) for name in in_path]
    if not bodied or route.raw:
        parameters += [
            _parameter(name, "query", schema, required=name in required and not bodied) for name in names
        ]
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "tags": [route.tag],
        "summary": summary(route),
        "parameters": parameters,
        "responses": _responses(route),
    }
    if bodied:
        operation["requestBody"] = _body(route, schema, names, required)
    return operation


def _body(route: Route, schema: dict[str, Any], names: list[str], required: set[str]) -> dict[str, Any]:
    needed = [name for name in names if name in required]
    body: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema["properties"][name] for name in names},
        "additionalProperties": False,
    }
    if needed:
        body["required"] = needed
    content: dict[str, Any] = {"application/json": {"schema": body}}
    for media in route.raw:
        content[media] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": bool(needed) and not route.raw, "content": content}


def _responses(route: Route) -> dict[str, Any]:
    if route.is_websocket:
        good: dict[str, Any] = {"101": {"description": "A WebSocket"}}
    elif route.response is None:
        good = {"200": {"description": "Done", "content": {route.media: {"schema": {"type": "string"}}}}}
    else:
        reference = {"$ref": REF.format(name=route.response.__name__)}
        good = {"200": {"description": "Done", "content": {route.media: {"schema": reference}}}}
    failure = {"application/json": {"schema": {"$ref": REF.format(name=Failure.__name__)}}}
    return good | {status: {"description": text, "content": failure} for status, text in _FAILURES.items()}


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    about = dict(schema["properties"][name])
    parameter: dict[str, Any] = {"name": name, "in": place, "required": required}
    if text := about.pop("description", ""):
        parameter["description"] = text
    return parameter | {"schema": about}


def _path_names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def summary(route: Route) -> str:
    """What a route does: the first line of its handler's docstring."""
    return (inspect.getdoc(route.handler) or "").partition("\n")[0]
