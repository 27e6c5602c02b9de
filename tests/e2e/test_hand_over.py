"""Nobody is disconnected: a crowd of checking clients lives through reloads and through workers killed under it.

Small sizes here; scripts/torture has the full ones. A reload may cost nobody anything. A kill may cost the few whose
reply or command was under way, and never anybody a wrong number.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from crowd import Account, Crowd, Places, subjects, summary
from served import Served

RELOADS = 3
KILLS = 6
ACCOUNTS = 8


@dataclass
class House:
    server: Served
    crowd: Crowd


@pytest.fixture
def house(start_server: Callable[..., Served]) -> House:
    """A server of three workers, and a crowd before it."""
    server = start_server(workers=3)
    users = [server.add_user() for _ in range(ACCOUNTS)]
    places = Places(
        (server.imap.host, server.imap.port),
        (server.pop3.host, server.pop3.port),
        (server.lmtp.host, server.lmtp.port),
    )
    accounts = [Account(user.username, user.address, user.password) for user in users]
    return House(server, Crowd(places, accounts))


async def fill(crowd: Crowd) -> None:
    """Some messages for everybody."""
    wire = await crowd.open_lmtp()
    for number, account in enumerate(crowd.accounts * 4):
        await crowd.deliver(wire, account.address, f"first {number}")
    wire.close()


async def stored(crowd: Crowd) -> list[str]:
    found: list[str] = []
    for account in crowd.accounts:
        found += await subjects(crowd.places, account)
    return found


async def test_a_reload_disconnects_nobody(house: House) -> None:
    server, crowd = house.server, house.crowd
    await fill(crowd)
    async with trio.open_nursery() as nursery:
        await crowd.gather(nursery, idlers=24, readers=24, talkers=3, droppers=4, senders=2)
        await crowd.check()
        for _ in range(RELOADS):
            answer = await trio.to_thread.run_sync(server.ask, "reload")
            assert answer["ok"], answer
            await crowd.check()
        crowd.stop()
        await crowd.check()
        nursery.cancel_scope.cancel()
    about = summary(crowd.tally)
    assert not crowd.tally.wrong, about
    assert not crowd.tally.lost, about
    assert not crowd.tally.refused, about
    assert set(crowd.tally.acknowledged) <= set(await stored(crowd))
    assert server.metric('wildduck_connections_moved_total{cause="rolled",protocol="imap"}') >= 48


async def test_a_killed_worker_s_connections_go_on(house: House) -> None:
    server, crowd = house.server, house.crowd
    chance = random.Random(1)
    await fill(crowd)
    async with trio.open_nursery() as nursery:
        await crowd.gather(nursery, idlers=30, readers=30, droppers=3, senders=2, sweepers=1)
        await crowd.check()
        for number in range(KILLS):
            pids = await trio.to_thread.run_sync(server.worker_pids)
            os.kill(chance.choice(pids), signal.SIGKILL)
            await crowd.check()
            await trio.to_thread.run_sync(
                lambda wanted=number + 1: server.log.wait("worker ready", count=3 + wanted)
            )
        crowd.stop()
        await crowd.check()
        nursery.cancel_scope.cancel()
    about = summary(crowd.tally)
    assert not crowd.tally.wrong, about
    quiet = crowd.tally.lost["idlers"] + crowd.tally.lost["readers"]
    assert quiet <= KILLS, about  # those who were being told something at that moment
    assert server.metric('wildduck_connections_moved_total{cause="died",protocol="imap"}') >= 20 * KILLS / 2
