"""One schema for each request and response: it validates, renders, and describes itself.

How a route is made (blueprints/users.py is the example):

    routes = Routes("Users")                               # routing.py; one for each blueprint

    class GetUser(Request, frozen=True):                   # path, query and body, all in one
        user: Id

    class UserShown(Answer, frozen=True):                  # {"success": true, …}, camelCase by itself
        id: str

    @routes.route("GET", "/users/{user}", request=GetUser, response=UserShown, access=OWN)
    async def get_user(request: GetUser, caller: Caller, services: ApiServices) -> UserShown: ...

- The keys of path, query and JSON body are merged before validation, as WildDuck does; the path wins over the query,
  the query over the body. Unknown keys are faults, and all faults are told at once (`Faults`, status 400).
- Texts become what the field wants: "20" a number, Y/yes/on/1/true (and their opposites) a boolean, one text a list
  of one. Empty query parameters count as absent. None means absent too, so optional fields are `T | None = None`.
- Not inherited by msgspec: `frozen=True` stands at each class, and `kw_only=True` at bases with defaults.
- A path parameter `{user}` may be `me` with a user's token. With access=OWN, such a token reaches its own user only.
- Errors are raised as domain errors (wd_trio.errors, `Faults` for one field); api/errors.py makes the answers.
- Lists: `Paging` as the request's base, `Listing` as the answer's; `encode_cursor` makes the opaque cursors,
  `decode_cursor` reads them. What stands in a cursor is the blueprint's own; another's cursor is a fault.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, Union, get_args, get_origin

import msgspec

from wd_trio.api.fields import PAGE_DEFAULT, Cursor, Limit, PageNumber, Text
from wd_trio.errors import Invalid

R = TypeVar("R", bound="Request")

_TRUE: Final = frozenset({"y", "yes", "on", "1", "true"})
_FALSE: Final = frozenset({"n", "no", "off", "0", "false"})
FAULT_CHARACTERS: Final = 300
FAULTS: Final = 100


class Faults(Invalid):
    """What is wrong with a request: a text for each field."""

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name} {text}" for name, text in details.items()), what="request")
        self.details = dict(details)


class Request(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The base of all requests. `sess` and `ip` tell which session and address of a caller's own client this is."""

    sess: Text | None = None
    ip: Text | None = None


class Item(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The base of what stands inside answers and, without unknown-key checks, inside requests."""


class Answer(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The base of all answers."""

    success: bool = True


class Done(Answer, kw_only=True, frozen=True):
    """It was done; there is no more to tell."""


class Created(Answer, kw_only=True, frozen=True):
    """It was made, under this id."""

    id: str


class Paging(Request, kw_only=True, frozen=True):
    limit: Limit = PAGE_DEFAULT
    page: PageNumber = 1
    next: Cursor | None = None
    previous: Cursor | None = None


class Listing(Answer, kw_only=True, frozen=True):
    """One page; a cursor that leads nowhere is false. Add `results: list[…]`."""

    total: int
    page: int
    previous_cursor: str | bool = False
    next_cursor: str | bool = False


class _Field:
    """How one field is read."""

    __slots__ = ("is_bool", "is_list", "required", "type")

    def __init__(self, field: msgspec.structs.FieldInfo) -> None:
        self.type = field.type
        self.required = field.required
        kinds = _kinds(field.type)
        self.is_bool = bool in kinds
        self.is_list = bool(kinds & {list, tuple, set, frozenset})


class Reader(Generic[R]):
    """Makes requests of one type out of merged parameters; what can be known of the type is found out once."""

    def __init__(self, request: type[R]) -> None:
        self._request = request
        self._fields = {field.encode_name: _Field(field) for field in msgspec.structs.fields(request)}
        self._bools = [name for name, field in self._fields.items() if field.is_bool]
        self._lists = [name for name, field in self._fields.items() if field.is_list]

    def read(self, given: dict[str, Any]) -> R:
        """The request; Faults with everything that is wrong. `given` is taken over."""
        for name in self._bools:
            if name in given:
                given[name] = _boolean(given[name])
        for name in self._lists:
            if isinstance(given.get(name), str):
                given[name] = [given[name]]
        try:
            return msgspec.convert(given, self._request, strict=False)
        except msgspec.ValidationError as error:
            raise Faults(self._faults(given) or {"request": str(error)[:FAULT_CHARACTERS]}) from None

    def _faults(self, given: Mapping[str, Any]) -> dict[str, str]:
        faults: dict[str, str] = {}
        for name, field in self._fields.items():
            if name not in given:
                if field.required:
                    faults[name] = "is required"
                continue
            try:
                msgspec.convert(given[name], field.type, strict=False)
            except msgspec.ValidationError as error:
                text, _, path = str(error).partition(" - at `$")
                faults[name + path.removesuffix("`")] = text[:FAULT_CHARACTERS]
        for name in given:
            if name not in self._fields and len(faults) < FAULTS:
                faults[name[:FAULT_CHARACTERS]] = "is not allowed"
        return faults


def _kinds(type_: Any) -> set[Any]:
    """The types that a field's value may have, without constraints and unions around them."""
    origin = get_origin(type_)
    if origin is Annotated:
        return _kinds(get_args(type_)[0])
    if origin in (Union, UnionType):
        return set().union(*(_kinds(each) for each in get_args(type_)))
    return {origin or type_}


def _boolean(value: Any) -> Any:
    if isinstance(value, str):
        word = value.lower()
        return True if word in _TRUE else False if word in _FALSE else value
    return value


def encode_cursor(position: Any) -> str:
    """An opaque cursor: any JSON value, as base64url."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


T = TypeVar("T")


def decode_cursor(cursor: str, name: str, type_: type[T]) -> T:
    """What stands in a cursor that `encode_cursor` made; `name` is the field it came in. Faults."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=type_)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise Faults({name: "is no cursor of ours"}) from error
