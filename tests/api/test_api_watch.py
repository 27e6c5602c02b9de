"""`wd-trio watch`: lines on the terminal, from a real server, connections lost and taken up again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from updates_house import SILENCE_S, House, open_house

from wd_trio.cli import watch
from wd_trio.errors import Denied, Invalid, NotFound
from wd_trio.secret import Secret


@pytest.fixture
async def house(tmp_path: Any) -> AsyncIterator[House]:
    async with open_house(tmp_path) as made:
        yield made


class Screen:
    """What was printed so far, in lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    async def wait(self, text: str, *, err: bool = False) -> None:
        with trio.fail_after(SILENCE_S):
            while text not in (self.err if err else self.out):
                captured = self._capsys.readouterr()
                self.out += captured.out
                self.err += captured.err
                await trio.sleep(0.002)


def watcher_of(house: House, token: str | None) -> watch.Watcher:
    api = watch.Api("127.0.0.1", house.port, "", Secret(token or ""))
    return watch.Watcher(api, house.user, {house.inbox: "INBOX"}, pause_s=0.001)


async def test_lines_and_a_connection_that_is_lost(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(capsys)
    watcher = watcher_of(house, house.caller.token)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        with trio.fail_after(SILENCE_S):
            while not watcher.position:
                await trio.sleep(0.001)
        await house.deliver()
        await screen.wait("EXISTS\tINBOX\t1\nCOUNTERS\tINBOX\t1 messages\t1 unseen\n")
        for feeds in house.world.api.updates._feeds.values():
            for feed in feeds:
                feed.end()
        await screen.wait("again in", err=True)
        await house.see(1)
        await house.deliver()
        await screen.wait("FETCH\tINBOX\t1\t\\Seen\n")
        await screen.wait("EXISTS\tINBOX\t2\n")
        nursery.cancel_scope.cancel()
    assert screen.out.count("EXISTS\tINBOX\t1\n") == 1


@pytest.mark.parametrize("token", ["0" * 40, None])
async def test_a_token_that_is_refused_ends_it(house: House, token: str | None) -> None:
    with trio.fail_after(SILENCE_S), pytest.raises(Denied):
        await watcher_of(house, token).run()


async def test_the_names_of_things(house: House) -> None:
    api = watch.Api("127.0.0.1", house.port, "", Secret(house.world.root.token or ""))
    found = await trio.to_thread.run_sync(api.get, "/users/resolve/alice")
    assert found["id"] == house.user
    with pytest.raises(NotFound):
        await trio.to_thread.run_sync(api.get, "/users/resolve/nobody")


def test_lines_of_events(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = watch.Watcher(watch.Api("h", 1, "", Secret("")), "u")
    for event in (
        {"command": "POSITION", "id": "p1"},
        {"command": "CREATE", "mailbox": "m", "path": "A\x1b[2J", "id": "p2"},
        {"command": "RENAME", "mailbox": "m", "path": "B"},
        {"command": "EXPUNGE", "mailbox": "m", "uid": 7, "modseq": 9},
        {"command": "DELETE", "mailbox": "m"},
        {"command": "RESYNC"},
        {"command": "IDLING"},
    ):
        watcher.take(event)
    assert capsys.readouterr().out.split("\n") == [
        "CREATE\tA?[2J",
        "RENAME\tA?[2J\tB",
        "EXPUNGE\tB\t7",
        "DELETE\tB",
        "RESYNC",
        "",
    ]
    assert watcher.position == "p2"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://h", ("h", 80, "")),
        ("http://h:81/api/", ("h", 81, "/api")),
        ("http://[::1]:8080", ("::1", 8080, "")),
    ],
)
def test_urls(url: str, place: tuple[str, int, str]) -> None:
    assert watch._place(url) == place


@pytest.mark.parametrize("url", ["h:80", "https://h", "http://", "http://h:x", "unix:/x"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(Invalid):
        watch._place(url)


def test_the_default_url() -> None:
    assert watch._default_url(("unix:/x", "0.0.0.0:8080")) == "http://127.0.0.1:8080"
    assert watch._default_url(("[::]:81",)) == "http://[::1]:81"
    with pytest.raises(Invalid):
        watch._default_url(("unix:/x",))
