"""What the API is composed of: ops/boot fills these in, the blueprints use them."""

from __future__ import annotations

from dataclasses import dataclass, field

from wd_trio.api.limits import Buckets
from wd_trio.secret import Secret
from wd_trio.service.auth import Auth
from wd_trio.service.changes import ChangeHub
from wd_trio.service.changing import Changing
from wd_trio.service.directory import Directory
from wd_trio.service.mailboxes import Mailboxes
from wd_trio.service.messages import Messages
from wd_trio.service.reading import Reading
from wd_trio.service.sessions import Sessions
from wd_trio.service.tokens import Tokens
from wd_trio.service.updates import Updates
from wd_trio.service.users import Users


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """`access_token` is root's, "" for none; without `access_control` every call is root's. `body_bytes` bounds the
    JSON of a request, `message_bytes` an uploaded message. A user's token may call `requests_per_s` times a second in
    each worker, one of root's `root_requests_per_s` times, 0 for any number; `burst_s` seconds' worth of it at once.
    Pages of `cors_origins` may read answers."""

    access_token: Secret = field(default_factory=lambda: Secret(""))
    access_control: bool = True
    body_bytes: int = 1 << 20
    message_bytes: int = 64 << 20
    request_s: float = 6.0
    body_s: float = 30.0
    requests_per_s: float = 50.0
    root_requests_per_s: float = 0.0
    burst_s: float = 10.0
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    users: Users
    auth: Auth
    directory: Directory
    tokens: Tokens
    sessions: Sessions
    mailboxes: Mailboxes
    messages: Messages
    reading: Reading
    changing: Changing
    updates: Updates
    hub: ChangeHub
    options: ApiOptions = field(default_factory=ApiOptions)
    buckets: Buckets = field(default_factory=Buckets)
