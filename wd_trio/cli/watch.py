"""watch: follow what happens in a user's mailboxes, a line for each event, over the API's WebSocket.

A connection that is lost is made again, with growing pauses, and goes on after the last event that was printed, on
whatever server answers. The token is `[api] access_token` of the configuration, which WD_TRIO_API_ACCESS_TOKEN
overrides; secrets are never arguments.
"""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from wd_trio.addresses import parse_listen
from wd_trio.cli.terminal import Commands, complain, load_config
from wd_trio.errors import Denied, Invalid, NotFound, Unavailable, WdError
from wd_trio.secret import Secret

REQUEST_S: Final = 10.0
SILENCE_S: Final = 60.0
"""The server gives a sign of life every 15 s; one that is silent for so long is gone."""
PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_REFUSED: Final[Mapping[int, WdError]] = {
    400: Invalid("the server does not understand the request"),
    403: Denied("the server does not accept the token: see [api] access_token"),
    404: NotFound("there is no such user"),
}
E = TypeVar("E", bound=BaseException)
_QUIET: Final = frozenset({"IDLING", "POSITION"})


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    watch = commands.add_parser(
        "watch", parents=[common], help="print what happens in a user's mailboxes, as it happens"
    )
    watch.add_argument("user", metavar="USER", help="the user's name")
    watch.add_argument("--url", metavar="URL", help="the API's base URL (default: the first of [api] listen)")
    watch.set_defaults(run=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    host, port, base = _place(arguments.url or _default_url(config.api.listen))
    api = Api(host, port, base, config.api.access_token)
    user_id = api.get(f"/users/resolve/{urllib.parse.quote(arguments.user, safe='')}")["id"]
    watcher = Watcher(api, user_id)
    watcher.paths = {each["id"]: each["path"] for each in api.get(f"/users/{user_id}/mailboxes")["results"]}
    try:
        trio.run(watcher.run)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from None
    return 0


def _default_url(listen: tuple[str, ...]) -> str:
    for text in listen:
        address = parse_listen(text)
        if not address.is_unix:
            host = _ANY.get(address.host, address.host)
            return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"
    raise Invalid("api.listen names no TCP address: name the server with --url")


def _place(url: str) -> tuple[str, int, str]:
    """The host, the port and the base path of an http URL. Invalid."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise Invalid(f"{url} is no URL") from error
    if parts.scheme != "http" or not host:
        raise Invalid("the URL must begin with http://")
    return host, port, parts.path.rstrip("/")


@dataclass(frozen=True, slots=True)
class Api:
    """Where the API is, and with what one calls it."""

    host: str
    port: int
    base: str
    token: Secret

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.reveal()}"} if self.token else {}

    def get(self, path: str) -> Any:
        """The JSON of GET `path`. NotFound, Denied, Unavailable, OSError."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_S)
        try:
            connection.request("GET", self.base + path, headers=self.headers)
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return json.loads(body)
        except OSError as error:
            raise OSError(f"no answer from {self.host}:{self.port}: {error.strerror or error}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{self.host}:{self.port} does not answer as a wd-trio server does") from error
        finally:
            connection.close()
        raise _REFUSED.get(response.status) or Unavailable(f"the server answers {response.status}")


@dataclass(slots=True)
class Watcher:
    """Follows one user. `paths` names mailboxes by id, and is kept up by the events themselves."""

    api: Api
    user_id: str
    paths: dict[str, str] = field(default_factory=dict)
    position: str = ""
    pause_s: float = PAUSE_S

    async def run(self) -> None:
        """Print events for ever. NotFound, Denied, Invalid when the server refuses for good."""
        while True:
            try:
                reason = await self._follow()
            except OSError as error:
                reason = error.strerror or str(error)
            complain(f"{reason}; again in {self.pause_s:g} s")
            await trio.sleep(self.pause_s)
            self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    async def _follow(self) -> str:
        """One connection; why it ended."""
        resource = f"{self.api.base}/users/{self.user_id}/updates/ws"
        headers = {**self.api.headers, **({"Last-Event-ID": self.position} if self.position else {})}
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        reason, status = "", 0
        stream = await trio.open_tcp_stream(self.api.host, self.api.port)
        try:
            async with stream, trio.open_nursery() as nursery:
                connection = await wrap_client_stream(
                    nursery, stream, self.api.host, resource, extra_headers=sent
                )
                reason = await self._read(connection)
                nursery.cancel_scope.cancel()
        except* ConnectionRejected as group:
            status = _first(group).status_code
            reason = f"the server answers {status}"
        except* (HandshakeError, ConnectionClosed, OSError) as group:
            reason = str(_first(group)) or "the connection is lost"
        if status in _REFUSED:
            raise _REFUSED[status]
        return reason

    async def _read(self, connection: WebSocketConnection) -> str:
        """Take events until there are no more; why."""
        while True:
            with trio.move_on_after(SILENCE_S) as silent:
                try:
                    text = await connection.get_message()
                except ConnectionClosed:
                    return "the server has closed the connection"
            if silent.cancelled_caught:
                return "the server is silent"
            self.pause_s = PAUSE_S
            self.take(json.loads(text))

    def take(self, event: Mapping[str, Any]) -> None:
        """Print an event and remember where it stands."""
        if event["command"] not in _QUIET:
            print(self.line(event), flush=True)
        self.position = event.get("id", self.position)

    def line(self, event: Mapping[str, Any]) -> str:
        """An event as tab-separated words: what, in which mailbox, and what belongs to it."""
        command, mailbox = event["command"], event.get("mailbox", "")
        if command in ("CREATE", "RENAME"):
            before, self.paths[mailbox] = self.paths.get(mailbox, mailbox), event["path"]
            words = [event["path"]] if command == "CREATE" else [before, event["path"]]
        elif command == "DELETE":
            words = [self.paths.pop(mailbox, mailbox)]
        else:
            words = [self.paths.get(mailbox, mailbox)] if mailbox else []
        if command == "COUNTERS":
            words += [f"{event['total']} messages", f"{event['unseen']} unseen"]
        if "uid" in event:
            words.append(str(event["uid"]))
        words += [" ".join(event["flags"])] if event.get("flags") else []
        return "\t".join([command, *(_printable(word) for word in words)])


def _first(group: BaseExceptionGroup[E]) -> E:
    """An error of a group."""
    found: E | BaseExceptionGroup[E] = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _printable(text: str) -> str:
    """Names are strangers' words: none may move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
