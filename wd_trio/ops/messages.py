"""What the supervisor and its workers say to each other: one typed message for each datagram.

Every message is a msgspec struct, tagged, encoded as msgpack. `Boot` comes first and carries the protocol's
version, so that a worker of another version (a package upgraded under a running supervisor) refuses to serve
instead of guessing. Lists are cut into bounded pieces by their senders: no message passes MESSAGE_BYTES.
Secrets travel here and nowhere else: never on a command line, never in an environment.

An upgrade makes a supervisor of new code lead workers of old code until they are rolled, so for all but `Boot`: a
message's name and the meaning of its fields stay as they are; fields are only added, at the end and with defaults,
and readers pass over those they do not know. A new message may be added: who does not know it hears `Unknown` and
does nothing, so nothing may hang on its being understood. The same holds for what a supervisor leaves to its
successor (ops/succession.py). VERSION is for what `Boot` and a worker's start mean.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, get_args

import msgspec

from wd_trio.config import Config
from wd_trio.secret import Secret
from wd_trio.servers.slots import UNREAD_BYTES

VERSION: Final = 3
MESSAGE_BYTES: Final = 160_000
"""The longest datagram; below the kernel's default send buffer (208 KiB), which bounds a SEQPACKET message."""
MANY_SLOTS: Final = 2000
MANY_UNREAD_BYTES: Final = UNREAD_BYTES
MANY_DEAD: Final = 100
MANY_SAMPLES: Final = 300


class _Message(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """The base of every message: tagged with its class's name."""


class Boot(_Message, frozen=True):
    """Supervisor → worker, first of all: what to be. `slot` is the worker's place, counted from 1; `owner` the name
    under which it holds claims and sessions, which no worker had before; `dead` names workers that are gone, whose
    claims and sessions it ends before it is ready; `api_tls`: those of the API's descriptors on which TLS comes
    first."""

    version: int
    config: Config
    server: str
    slot: int
    owner: str
    dead: list[str] = []
    api_tls: list[int] = []


class Ready(_Message, frozen=True):
    """Worker → supervisor: every service is open and the API is being served; connections may come."""

    pid: int


class Failed(_Message, frozen=True):
    """Worker → supervisor: it cannot start, and why. Fatal for a server that was never ready."""

    reason: str


class Adopt(_Message, frozen=True):
    """Supervisor → worker, with as many descriptors as `slots`, in the same order: connections, by the numbers of
    their slots, which say everything about them. `unread`: what another worker had read from some and not dealt
    with."""

    batch: int
    slots: list[int]
    unread: dict[int, bytes] = {}


class Adopted(_Message, frozen=True):
    """Worker → supervisor: the batch is the worker's; or (`refused`) its descriptors did not all arrive, and
    the worker has closed those that did."""

    batch: int
    refused: bool = False


class Closed(_Message, frozen=True):
    """Worker → supervisor: these connections have ended."""

    slots: list[int]


class Moved(_Message, frozen=True):
    """Worker → supervisor: it has let go of these connections, for another worker to go on; `unread` is what it had
    read from some and not dealt with."""

    slots: list[int]
    unread: dict[int, bytes] = {}


class Upgrade(_Message, frozen=True):
    """Worker → supervisor: it has let go of a connection that is to go on behind the end of TLS (STARTTLS)."""

    slot: int


class Leaving(_Message, frozen=True):
    """Worker → supervisor: it lets go of every connection from now on, whoever told it to, and takes none."""


class Drain(_Message, frozen=True):
    """Supervisor → worker: let go of every connection, then exit. `stopping`: the whole server goes, so that health
    says `draining` and sessions end; else other workers go on with them."""

    deadline_s: float
    stopping: bool


class Ending(_Message, frozen=True):
    """Supervisor → worker: the server is about to go, so /health says `draining`; all else stays as it is."""


class Died(_Message, frozen=True):
    """Supervisor → worker: another worker is gone; end the claims and sessions that it held as `owner`."""

    owner: str


class Buried(_Message, frozen=True):
    """Worker → supervisor: what a dead worker held has been ended."""

    owner: str


class Ping(_Message, frozen=True):
    """Supervisor → worker: the heartbeat."""

    number: int


class Pong(_Message, frozen=True):
    """Worker → supervisor: the loop turns."""

    number: int


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with its samples: (sample name, sorted label pairs, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, tuple[tuple[str, str], ...], float]]


class AskSamples(_Message, frozen=True):
    """Supervisor → worker: answer with your samples, under this request's number."""

    request: int


class Samples(_Message, frozen=True):
    """Worker → supervisor: a part of its samples, which come after those of any earlier request. Request 0: unasked,
    its last ones before it exits."""

    request: int
    families: list[Family]
    last: bool


class AskMetrics(_Message, frozen=True):
    """Worker → supervisor: somebody asked this worker for the server's metrics."""

    request: int


class Metrics(_Message, frozen=True):
    """Supervisor → worker: a part of the server's metrics as text."""

    request: int
    text: str
    last: bool


class Unknown(_Message, frozen=True):
    """What is heard in place of a message that this version does not know. Never sent."""

    name: str = ""


ToWorker: TypeAlias = Boot | Adopt | Drain | Ending | Died | Ping | AskSamples | Metrics
ToSupervisor: TypeAlias = (
    Ready | Failed | Adopted | Closed | Moved | Upgrade | Leaving | Buried | Pong | Samples | AskMetrics
)
Message: TypeAlias = ToWorker | ToSupervisor | Unknown


def encode_other(value: object) -> Any:
    """msgspec's hook for our own types."""
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"a {type(value).__name__} cannot travel")


def decode_other(kind: type, value: Any) -> Any:
    """The way back."""
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError(f"a {kind.__name__} cannot travel")


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=encode_other)
_decoder: Final = msgspec.msgpack.Decoder(Message, dec_hook=decode_other)
_KNOWN: Final = frozenset(kind.__name__ for kind in get_args(Message))


class _Name(msgspec.Struct):
    type: str


_names: Final = msgspec.msgpack.Decoder(_Name)


def encode(message: Message) -> bytes:
    """The datagram of a message. ValueError when it is too long: its sender has to cut it up."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES:
        raise ValueError(f"{type(message).__name__}: {len(data)} bytes are too many for one datagram")
    return data


def decode(data: bytes) -> Message:
    """The message in a datagram, Unknown for one of another version. msgspec.DecodeError when it is no message."""
    try:
        message: Message = _decoder.decode(data)
    except msgspec.ValidationError:
        name = _names.decode(data).type
        if name in _KNOWN:
            raise
        return Unknown(name)
    return message
