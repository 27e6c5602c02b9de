"""One server in one process, every protocol over one engine, with a meter for what each thing costs the engines."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import lmtp_sessions
import trio
from api_world import ROOT_TOKEN, Caller, _healthy, _metrics
from imap_world import Client, world_config
from pop3_world import Pop3Client
from trio.testing import wait_all_tasks_blocked

from wd_trio import telemetry
from wd_trio.api.app import create_app
from wd_trio.config import Api
from wd_trio.ops.boot import Services, api_services, open_services
from wd_trio.ops.hosts import Host, hosts
from wd_trio.secret import Secret
from wd_trio.servers.driver import peer_of
from wd_trio.servers.slots import Phase, Slots

LANES: Final = ("store", "state", "hash", "work")


TRIPS: Final = {"sqlite": "sqlite", "sqlite-state": "sqlite", "mongodb": "mongodb", "redis": "redis"}
"""The column for what is counted under each engine's name."""


class Cost(NamedTuple):
    """Crossings by lane (both of an engine's lanes together), and round trips to each server of an engine."""

    store: int = 0
    state: int = 0
    hash: int = 0
    work: int = 0
    sqlite: int = 0
    mongodb: int = 0
    redis: int = 0

    @property
    def trips(self) -> int:
        return self.sqlite + self.mongodb + self.redis

    def within(self, budget: Cost) -> bool:
        """Whether this is what the budget allows; it is in every column where it is no more."""
        return all(spent <= granted for spent, granted in zip(self, budget, strict=True))


@dataclass
class BudgetHouse:
    services: Services
    hosts: dict[str, Host]
    slots: Slots
    api: Caller
    measured: dict[str, Cost]
    """What was measured so far."""
    tasks: trio.Nursery
    sockets: list[socket.socket]
    """The clients' ends."""
    standing: int
    """The tasks that are there without any connection."""

    def connect(self, protocol: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.sockets.append(ours)
        slot = self.slots.at(len(self.sockets))
        slot.id, slot.protocol, slot.ip = slot.number, protocol, "127.0.0.1"
        slot.phase = Phase.ARRIVED
        self.hosts[protocol].adopt(theirs, peer_of(slot), slot=slot)
        return ours

    def imap(self) -> Client:
        return Client(self.connect("imap"))

    def pop3(self) -> Pop3Client:
        return Pop3Client(self.connect("pop3"))

    def lmtp(self) -> lmtp_sessions.Client:
        ours = self.connect("lmtp")
        ours.setblocking(False)
        return lmtp_sessions.Client(ours)

    def api_with(self, token: str) -> Caller:
        return Caller(self.api._app, token)

    async def user(self, name: str) -> str:
        """A new user's id."""
        made = await self.services.users.create(
            name, Secret(f"secret of {name}"), address=f"{name}@example.org"
        )
        return made.id

    async def wait_ended(self) -> None:
        """Wait until no connection is left, nor what its end has to do."""
        while len(self.tasks.child_tasks) > self.standing:
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def costs(self, what: str) -> AsyncIterator[None]:
        """Measure what happens in this block, for the protocol that `what` begins with. Whatever crosses meanwhile
        must be on the account of a command of some protocol."""
        protocol = what.partition(":")[0].lower()
        await wait_all_tasks_blocked()
        before = _crossings(), _command_crossings(), _round_trips()
        yield
        await wait_all_tasks_blocked()
        crossed, counted, trips = _crossings(), _command_crossings(), _round_trips()
        counted.subtract(before[1])
        by_lane = Counter[str]()
        lanes = Counter[str]()
        for (whose, lane), count in counted.items():
            by_lane[lane] += count
            if whose == protocol:
                lanes[lane.partition(".")[0]] += count
        assert +by_lane == crossed - before[0], f"{what}: a crossing is on nobody's account"
        assert set(+lanes) <= set(LANES), f"{what}: {lanes}"
        assert what not in self.measured
        trips.subtract(before[2])
        spent = Counter[str]()
        for (whose, engine), count in trips.items():
            if whose == protocol:
                spent[TRIPS[engine]] += count
        self.measured[what] = Cost(*(lanes[lane] for lane in LANES), **+spent)


@asynccontextmanager
async def open_budget_house(engine: str, folder: Path) -> AsyncIterator[BudgetHouse]:
    config = replace(
        world_config(engine, folder), api=Api(access_token=Secret(ROOT_TOKEN), access_control=True)
    )
    async with open_services(config, server="test", worker="test/1") as services:
        app = create_app(
            ready=_healthy, live=_healthy, metrics=_metrics, services=api_services(services, config)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(services.hub.run)
            slots = Slots.create(1000)
            makers = hosts(
                services, config, slots=slots, on_end=lambda slot: None, on_leave=lambda *left: None
            )
            made = {protocol: make(nursery) for protocol, make in makers.items()}
            house = BudgetHouse(
                services,
                made,
                slots,
                Caller(app, ROOT_TOKEN),
                {},
                nursery,
                [],
                len(nursery.child_tasks),
            )
            try:
                yield house
            finally:
                nursery.cancel_scope.cancel()
                for sock in house.sockets:
                    sock.close()
                slots.close()


def _crossings() -> Counter[str]:
    """By lane, whatever came of them."""
    found = Counter[str]()
    for metric in telemetry.crossings_total.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                found[sample.labels["lane"]] += int(sample.value)
    return found


def _command_crossings() -> Counter[tuple[str, str]]:
    """By protocol and lane, of all commands."""
    found = Counter[tuple[str, str]]()
    for metric in telemetry.command_crossings_total.collect():
        for sample in metric.samples:
            found[sample.labels["protocol"], sample.labels["lane"]] += int(sample.value)
    return found


def _round_trips() -> Counter[tuple[str, str]]:
    """By protocol and server of an engine, of all commands."""
    found = Counter[tuple[str, str]]()
    for metric in telemetry.round_trips_total.collect():
        for sample in metric.samples:
            found[sample.labels["protocol"], sample.labels["engine"]] += int(sample.value)
    return found
