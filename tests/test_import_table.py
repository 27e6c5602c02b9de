"""The walls of the house: who may import whom. One table; every module of the package is held against it.

A layer is a top-level module or package of wd_trio. The table names, for each, the layers and the outside
packages it may import; the standard library is open to all except what `STDLIB_WALLS` keeps apart. Imports
inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wd_trio"

EVERYWHERE = {"mail", "errors", "secret", "wd_trio"}  # "wd_trio" itself: the version only
CONFIG = {"config", "config_load", "addresses"}

LAYERS: dict[str, set[str]] = {
    "wd_trio": set(),
    "errors": set(),
    "secret": set(),
    "telemetry": set(),
    "addresses": {"errors"},
    "config": {"secret"},
    "config_load": {"errors", "secret", *CONFIG},
    "mail": {"mail", "errors"},
    "proto": {"proto", "mail", "errors", "secret"},
    "ports": {"ports", "mail", "errors"},
    "adapters": {"adapters", "ports", "telemetry", *EVERYWHERE},
    "service": {"service", "ports", "telemetry", *EVERYWHERE},
    "servers": {"servers", "proto", "service", "telemetry", *EVERYWHERE},
    "api": {"api", "service", "telemetry", *EVERYWHERE},
    # proto: only its Options, which boot fills like every package's
    "ops": {
        "ops",
        "proto",
        "servers",
        "api",
        "adapters",
        "service",
        "ports",
        "telemetry",
        *CONFIG,
        *EVERYWHERE,
    },
    "cli": {"cli", "ops", "errors", "secret", "wd_trio", *CONFIG},
    "__main__": {"cli"},
}
OUTSIDE: dict[str, set[str]] = {
    "telemetry": {"prometheus_client"},
    "config_load": {"msgspec"},
    "mail": {"msgspec", "zstandard"},
    "proto": set(),
    "ports": set(),
    "adapters": {"bson", "msgspec", "prometheus_client", "pymongo", "redis", "structlog", "trio"},
    "service": {"argon2", "msgspec", "prometheus_client", "structlog", "trio"},
    "servers": {"msgspec", "prometheus_client", "structlog", "trio"},
    "api": {"hypercorn", "msgspec", "quart", "quart_trio", "structlog", "trio", "werkzeug"},
    "ops": {"h11", "hypercorn", "msgspec", "prometheus_client", "structlog", "trio"},
    "cli": {"rich", "trio", "trio_websocket"},
}
STDLIB_WALLS: dict[str, set[str]] = {
    "sqlite3": {"adapters"},
    "asyncio": set(),
    "multiprocessing": set(),
    "socket": {"adapters", "servers", "ops", "cli"},
    "ssl": {"servers", "ops"},
    "time": {layer for layer in LAYERS if layer not in ("mail", "proto")},
    "random": {layer for layer in LAYERS if layer not in ("mail", "proto")},
}
ENGINES = {"sqlite", "mongo_redis"}  # adapters that never import each other

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(dotted: str) -> str:
    """The layer of a name inside the package: wd_trio.mail.model → mail; wd_trio.__version__ → wd_trio."""
    first = [*dotted.split("."), ""][1]
    is_module = (
        first in LAYERS or (PACKAGE / first / "__init__.py").exists() or (PACKAGE / f"{first}.py").exists()
    )
    return first if first and is_module else "wd_trio"


def dotted_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """The absolute dotted names that a module imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults_of(dotted: str, imported: str) -> str | None:
    """Why module `dotted` may not import `imported`; None when it may."""
    layer, top = layer_of(dotted), imported.partition(".")[0]
    if top == "wd_trio":
        target = layer_of(imported)
        if target not in LAYERS[layer]:
            return f"{layer} may not import {target}"
        here, there = dotted.split("."), imported.split(".")
        if layer == target == "adapters" and len(here) > 2 and len(there) > 2:
            engines = {here[2], there[2]} & ENGINES
            if len(engines) == 2:
                return "one engine imports the other"
        return None
    if top in sys.stdlib_module_names:
        allowed = STDLIB_WALLS.get(top)
        return None if allowed is None or layer in allowed else f"{layer} may not import {top}"
    return None if top in OUTSIDE.get(layer, set()) else f"{layer} may not import {top}"


@pytest.mark.parametrize("path", MODULES, ids=[dotted_name(path) for path in MODULES])
def test_module_keeps_to_its_layer(path: Path) -> None:
    dotted = dotted_name(path)
    assert layer_of(dotted) in LAYERS, f"{dotted} is in no layer of the table"
    faults = {fault for imported in imports_of(path) if (fault := faults_of(dotted, imported))}
    assert not faults


@pytest.mark.parametrize(
    ("dotted", "imported", "allowed"),
    [
        ("wd_trio.mail.model", "trio", False),
        ("wd_trio.mail.model", "wd_trio.telemetry.REGISTRY", False),
        ("wd_trio.mail.model", "wd_trio.errors.Invalid", True),
        ("wd_trio.proto.imap.parse", "socket", False),
        ("wd_trio.ports.mail", "trio", False),
        ("wd_trio.service.users", "sqlite3", False),
        ("wd_trio.service.users", "wd_trio.adapters.bridge.Gateway", False),
        ("wd_trio.adapters.sqlite.store", "wd_trio.adapters.mongo_redis.store", False),
        ("wd_trio.adapters.sqlite.store", "sqlite3", True),
        ("wd_trio.api.app", "wd_trio.ops.health", False),
        ("wd_trio.cli", "wd_trio.adapters.sqlite.backup", False),
        ("wd_trio.cli", "wd_trio.ops.admin", True),
    ],
)
def test_the_table_itself(dotted: str, imported: str, allowed: bool) -> None:
    assert (faults_of(dotted, imported) is None) is allowed


def test_engines_are_the_only_drivers() -> None:
    for driver in ("bson", "pymongo", "redis"):
        assert {layer for layer, packages in OUTSIDE.items() if driver in packages} == {"adapters"}
    assert STDLIB_WALLS["sqlite3"] == {"adapters"}
