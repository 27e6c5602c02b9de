"""Sessions of authenticated connections, as documents that live as long as somebody vouches for them.

A document is *live* while its own hour has not run out (every write begins it anew) and its server's lease has not.
Only live documents are found, listed and counted; the others wait for `sweep`. Times in a document are the
service's, in milliseconds; how long something lives is measured by the engine's clock alone.

A connection outranks its document: `update` writes one that is gone afresh, so that a sweep of a server that only
hung ends nothing for good. Who wants a session to end marks it (`doom`); its worker closes the connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from wd_trio.ports.documents import Json

TTL_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDocument:
    """One session: `id` is `sess_` and 32 hex digits; `user` the user's id; `selected` the id of the mailbox
    that is selected, "" for none; `capabilities` what the client was offered; `state` what a resume needs."""

    id: str
    user: str
    protocol: str
    server: str
    worker: str
    created: int
    last_activity: int
    ttl: int = TTL_S
    selected: str = ""
    capabilities: tuple[str, ...] = ()
    ip: str = ""
    user_agent: str = ""
    secure: bool = False
    state: Json = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The document in the names under which it is stored and shown."""
        return {
            "id": self.id,
            "user": self.user,
            "protocol": self.protocol,
            "server": self.server,
            "worker": self.worker,
            "created": self.created,
            "lastActivity": self.last_activity,
            "ttl": self.ttl,
            "selected": self.selected,
            "capabilities": list(self.capabilities),
            "metadata": {"ip": self.ip, "userAgent": self.user_agent, "secure": self.secure},
            "state": dict(self.state),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SessionDocument:
        """The document that `as_json` described."""
        about = data["metadata"]
        return cls(
            id=data["id"],
            user=data["user"],
            protocol=data["protocol"],
            server=data["server"],
            worker=data["worker"],
            created=data["created"],
            last_activity=data["lastActivity"],
            ttl=data["ttl"],
            selected=data["selected"],
            capabilities=tuple(data["capabilities"]),
            ip=about["ip"],
            user_agent=about["userAgent"],
            secure=about["secure"],
            state=data["state"],
        )


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions in order of id; `next` is the cursor of the following page, if any."""

    documents: tuple[SessionDocument, ...]
    next: str | None


class SessionStore(Protocol):
    def put(self, document: SessionDocument, *, most: int, lease_s: float) -> bool:
        """Add a document if its user has fewer than `most` live ones of its protocol; whether it was added.
        Its server has a lease of at least `lease_s` from now on: whoever begins a session is alive."""
        ...

    def update(self, documents: Sequence[SessionDocument]) -> None:
        """Write documents whole, whether they are still there or not, and begin their hour anew."""
        ...

    def touch(self, ids: Sequence[str]) -> set[str]:
        """Begin the hour of these sessions anew; those that are not there."""
        ...

    def move(self, ids: Sequence[str], server: str, worker: str) -> set[str]:
        """Give these sessions of a server to another of its workers, marks included, and begin their hour anew;
        those that are not there. From then on they end with that worker, and no more with the one before."""
        ...

    def get(self, id: str) -> SessionDocument | None:
        """The live session of that id."""
        ...

    def of_users(self, users: Sequence[str]) -> list[SessionDocument]:
        """The live sessions of these users, in order of creation."""
        ...

    def page(self, *, after: str | None = None, limit: int = 100) -> SessionPage:
        """A page of all live sessions."""
        ...

    def end(self, ids: Sequence[str]) -> None:
        """Remove these; those that are not there are no fault."""
        ...

    def end_owner(self, server: str, worker: str | None = None) -> list[SessionDocument]:
        """Remove all sessions of a worker that is gone (None: of its whole server); what they were."""
        ...

    def doom(self, ids: Sequence[str]) -> int:
        """Mark live sessions as to be ended by their workers; how many there were."""
        ...

    def doomed(self, server: str, worker: str) -> list[str]:
        """Those of a worker's sessions that are marked."""
        ...

    def lease(self, server: str, *, ttl_s: float) -> None:
        """Vouch for a server's sessions for that long from now on."""
        ...

    def sweep(self, *, limit: int) -> list[SessionDocument]:
        """Remove up to `limit` documents that are not live any more; what they were."""
        ...
