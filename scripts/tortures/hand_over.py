"""A crowd of checking clients (tests/support/crowd.py) through reloads, kills and upgrades; and thousands that idle.

Every client compares what it was told with what the server says after each event. `reloads` and `upgrades` may cost
nobody anything; `survive` may cost those whose reply was under way, and never a wrong number.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tortures.house import Server, progress, report, running_server
from wd_trio.ops import admin, control
from wd_trio.secret import Secret

sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))

from crowd import Account, Crowd, Places, subjects, summary

A_USER: int = 40
"""Connections of one account: below `connections_per_user`."""

Event = Callable[[Server, random.Random], Awaitable[None]]


async def reload(server: Server, _chance: random.Random) -> None:
    answer = await trio.to_thread.run_sync(control.request, server.config, "reload")
    if not answer["ok"]:
        raise SystemExit(answer)


async def upgrade(server: Server, _chance: random.Random) -> None:
    came = await trio.to_thread.run_sync(control.upgrade, server.config)
    if not came.ok:
        raise SystemExit(came.faults)


async def kill(server: Server, chance: random.Random) -> None:
    """Kill a worker, as soon as another serves beside it."""
    ready = await trio.to_thread.run_sync(_two_ready, server)
    await trio.sleep(chance.uniform(0, 0.3))
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(ready), signal.SIGKILL)


def _two_ready(server: Server) -> list[int]:
    """The workers that serve, once there are two at least."""
    while len(ready := server.workers("ready")) < 2:
        time.sleep(0.05)
    return ready


def hand_over(arguments: argparse.Namespace, event: Event) -> int:
    sizes = {
        "idlers": arguments.imap // 2,
        "readers": arguments.imap - arguments.imap // 2 - arguments.talkers,
        "talkers": arguments.talkers,
        "droppers": arguments.pop3,
        "senders": arguments.senders,
        "sweepers": arguments.sweepers,
    }
    accounts = max(sum(sizes.values()) // A_USER, arguments.pop3 + arguments.sweepers + 1, 10)
    with running_server(arguments.workers, arguments.engine) as server:
        users = [
            Account(f"crowd{number}", f"crowd{number}@example.test", "crowd-password")
            for number in range(accounts)
        ]
        with progress() as bar:
            for user in bar.track(users, description="Making accounts"):
                admin.add_user(server.config, user.username, Secret(user.password), address=user.address)
        places = Places(server.imap, server.pop3, server.lmtp)
        crowd = Crowd(places, users, seed=arguments.seed, swept=arguments.sweepers)
        begun = time.monotonic()
        stored = trio.run(_live, server, crowd, sizes, event, arguments)
        missing = set(crowd.tally.acknowledged) - set(stored)
        lost = sum(count for kind, count in crowd.tally.lost.items() if kind not in ("senders", "sweepers"))
        quiet = crowd.tally.lost["idlers"] + crowd.tally.lost["readers"]
        of = (sizes["idlers"] + sizes["readers"]) * arguments.count
        report(
            f"{event.__name__}, {arguments.count} times",
            {
                "clients": str(sizes),
                "seconds": time.monotonic() - begun,
                **summary(crowd.tally),
                "quiet connections lost": f"{quiet} of {of} ({100 * quiet / max(of, 1):.2f} %)",
                "acknowledged and not there": len(missing),
            },
        )
        wrong = bool(crowd.tally.wrong) or bool(missing)
        return 1 if wrong or (event is not kill and lost) else 0


async def _live(
    server: Server, crowd: Crowd, sizes: dict[str, int], event: Event, arguments: argparse.Namespace
) -> list[str]:
    chance = random.Random(arguments.seed)
    wire = await crowd.open_lmtp()
    for number, account in enumerate(crowd.accounts * 3):
        await crowd.deliver(wire, account.address, f"first {number}")
    async with trio.open_nursery() as nursery:
        with progress() as bar:
            task = bar.add_task("Clients come", total=None)
            await crowd.gather(nursery, **sizes)
            await crowd.check()
            bar.update(task, description=event.__name__.capitalize(), total=arguments.count)
            for _ in range(arguments.count):
                await event(server, chance)
                await crowd.check()
                bar.advance(task)
        crowd.stop()
        await crowd.check()
        nursery.cancel_scope.cancel()
    found: list[str] = []
    for account in crowd.accounts:
        found += await subjects(crowd.places, account)
    return found
