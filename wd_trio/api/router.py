"""Which endpoint a path leads to: a tree of path segments, literal ones before parameters.

A path is cut before it is decoded, so that an encoded slash stays within its segment (RFC 3986 §2.2). Empty segments
match nothing: `/users/` is not `/users`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("literals", "parameter", "targets")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.targets: dict[
            str, tuple[tuple[str, ...], T]
        ] = {}  # by method: the parameters' names, the target


class Found(Generic[T]):
    """What stands at a path: targets by method, and the values of its parameters in order."""

    __slots__ = ("_targets", "_values")

    def __init__(self, targets: Mapping[str, tuple[tuple[str, ...], T]], values: tuple[str, ...]) -> None:
        self._targets = targets
        self._values = values

    @property
    def methods(self) -> list[str]:
        """What may be done with it; GET means HEAD as well."""
        return sorted({*self._targets, *(["HEAD"] if "GET" in self._targets else [])})

    def target(self, method: str) -> tuple[T, dict[str, str]] | None:
        """The target of a method and the path's parameters by name."""
        found = self._targets.get("GET" if method == "HEAD" else method)
        if found is None:
            return None
        names, target = found
        return target, dict(zip(names, self._values, strict=True))


class Router(Generic[T]):
    """The tree."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, path: str, target: T) -> None:
        """`path` has its parameters in braces, each a whole segment."""
        node = self._root
        names: list[str] = []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.targets[method] = tuple(names), target

    def find(self, raw_path: bytes) -> Found[T] | None:
        """What stands at a path as it came over the wire, percent-encoded; None when nothing does."""
        text = raw_path.decode("latin-1")
        if "://" in text:  # the absolute form, which servers have to understand (RFC 9112 §3.2.2)
            text = "/" + text.partition("://")[2].partition("/")[2]
        segments = text.split("/")
        if segments[0]:
            return None
        if "%" in text:
            segments = [unquote(segment) for segment in segments]
        return _walk(self._root, segments, 1, ())


def _walk(node: _Node[T], segments: list[str], place: int, values: tuple[str, ...]) -> Found[T] | None:
    if place == len(segments):
        return Found(node.targets, values) if node.targets else None
    segment = segments[place]
    literal = node.literals.get(segment)
    if literal is not None:
        found = _walk(literal, segments, place + 1, values)
        if found is not None:
            return found
    if node.parameter is None or not segment:
        return None
    return _walk(node.parameter, segments, place + 1, (*values, segment))
