"""The API's updates as Server-Sent Events and as a WebSocket, over real services and the real HTTP server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from api_world import NOBODY
from trio_websocket import ConnectionClosed, WebSocketConnection
from updates_house import SILENCE_S, House, open_house

from wd_trio.api.blueprints import updates as blueprint
from wd_trio.ports.documents import Delete
from wd_trio.service.users import TOKENS


@pytest.fixture
async def house(tmp_path: Any) -> AsyncIterator[House]:
    async with open_house(tmp_path) as made:
        yield made


async def message(connection: WebSocketConnection) -> Any:
    with trio.fail_after(SILENCE_S):
        return json.loads(await connection.get_message())


async def told_or_closed(connection: WebSocketConnection) -> str:
    """The next command, or with which code the server has closed."""
    try:
        return str((await message(connection))["command"])
    except ConnectionClosed as error:
        return f"closed {error.reason.code}"


async def test_server_sent_events(house: House) -> None:
    async with house.listen() as stream:
        begun = await stream.begin()
        assert b"content-type: text/event-stream" in stream.head.lower()
        uid = await house.deliver()
        exists = await stream.event()
        assert (exists["command"], exists["mailbox"], exists["uid"]) == ("EXISTS", house.inbox, uid)
        assert stream.last_id == begun
        counters = await stream.event()
        assert counters == {"command": "COUNTERS", "mailbox": house.inbox, "total": 1, "unseen": 1}
        assert stream.last_id != begun


async def test_the_same_as_a_websocket(house: House) -> None:
    async with house.follow() as connection:
        first = await message(connection)
        assert (first["command"], set(first)) == ("POSITION", {"command", "id"})
        uid = await house.deliver()
        exists, counters = await message(connection), await message(connection)
        assert (exists["command"], exists["uid"], "id" in exists) == ("EXISTS", uid, False)
        assert (counters["command"], counters["total"]) == ("COUNTERS", 1)
        await connection.send_message("nobody heeds this")
        await house.see(uid)
        assert (await message(connection))["flags"] == ["\\Seen"]
        assert (await message(connection))["unseen"] == 0


async def test_going_on_after_the_last_id(house: House) -> None:
    async with house.listen() as stream:
        position = await stream.begin()
    uid = await house.deliver()
    async with house.listen(position) as stream:
        assert (await stream.event())["uid"] == uid
        assert (await stream.event())["command"] == "COUNTERS"
        position = stream.last_id
    second = await house.deliver()
    async with house.follow(position) as connection:  # the two go on from each other's positions
        assert (await message(connection))["uid"] == second
    answered = await house.caller.call(
        "GET", f"/users/{house.user}/updates", query={"lastEventId": "x" * 9000}
    )
    assert (answered.status, set(answered.json["details"])) == (400, {"lastEventId"})


async def test_an_id_of_somebody_elses(house: House) -> None:
    async with house.follow("nonsense") as connection:
        assert (await message(connection))["command"] == "RESYNC"


async def test_whose_updates(house: House) -> None:
    _, thief = await house.world.user("mallory")
    path = f"/users/{house.user}/updates"
    assert await thief.refused("GET", path) == (403, "MissingPrivileges")
    assert await house.world.caller(None).refused("GET", path) == (403, "InvalidToken")
    assert await house.world.root.refused("GET", f"/users/{NOBODY}/updates") == (404, "UserNotFound")
    for token in (thief.token, "0" * 40):
        assert await house.refused(token) == 403


async def test_the_streams_of_a_user_are_bounded(tmp_path: Any) -> None:
    async with open_house(tmp_path, feeds_of_a_user=1) as house, house.follow() as connection:
        await message(connection)
        assert await house.refused(house.caller.token) == 429


async def test_signs_of_life_and_the_end_of_a_silent_stream(tmp_path: Any) -> None:
    async with open_house(tmp_path, keep_alive_s=0.01, idle_s=0.05) as house, house.listen() as stream:
        await stream.begin()
        blocks = []
        while (block := await stream.block()) is not None:
            blocks.append(block)
        assert blocks
        assert all(block == [": idling"] for block in blocks)
        async with house.follow() as connection:
            commands = [await told_or_closed(connection)]
            while not commands[-1].startswith("closed"):
                commands.append(await told_or_closed(connection))
        assert (commands[0], set(commands[1:-1]), commands[-1]) == ("POSITION", {"IDLING"}, "closed 1001")


async def _until_none_is_open(house: House) -> None:
    while house.world.api.updates._feeds or house.world.services.hub._by_user:
        await trio.sleep(0.001)


async def test_a_client_that_goes_leaves_nothing(house: House) -> None:
    async with house.listen() as stream:
        await stream.begin()
        async with house.follow() as connection:
            await message(connection)
            assert len(house.world.api.updates._feeds[house.user]) == 2
    await house.deliver()
    with trio.fail_after(SILENCE_S):
        await _until_none_is_open(house)


async def _new_password(house: House) -> None:
    await house.world.root.put(f"/users/{house.user}", password="another")


async def _leave(house: House) -> None:
    house.world.api.updates.end_all()


@pytest.mark.parametrize("happens", [_new_password, _leave])
async def test_streams_end_politely(house: House, happens: Callable[[House], Awaitable[None]]) -> None:
    async with house.listen() as stream:
        await stream.begin()
        async with house.follow() as connection:
            await message(connection)
            await happens(house)
            assert await stream.block() is None
            assert await told_or_closed(connection) == "closed 1001"
    await _until_none_is_open(house)


async def test_a_client_that_does_not_read_is_not_read_for(house: House) -> None:
    """Its events stay in the store: the server holds no more than what the sockets take."""
    async with house.listen() as stream:
        await stream.begin()
        async with house.follow() as connection:
            await message(connection)
            for _ in range(30):
                await house.deliver()
            told = set()
            while len(told) < 30:
                event = await message(connection)
                if event["command"] == "EXISTS":
                    told.add(event["uid"])
        heard = set()
        while len(heard) < 30:
            event = await stream.event()
            if event["command"] == "EXISTS":
                heard.add(event["uid"])
        assert told == heard


async def test_a_token_that_ends_ends_its_streams(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody told this process: it asks now and then."""
    monkeypatch.setattr(blueprint, "VERIFY_S", 0.0)
    async with house.listen() as stream, house.follow() as connection:
        await stream.begin()
        await message(connection)
        await house.deliver()
        assert (await stream.event())["command"] == "EXISTS"
        assert (await message(connection))["command"] == "EXISTS"
        documents = house.world.services.documents
        (token,) = documents.find(TOKENS, "user", house.user)
        documents.apply([Delete(TOKENS, token.id)])
        house.world.services.tokens._known.clear()
        await house.deliver()
        while await stream.block() is not None:
            pass
        while (told := await told_or_closed(connection)) != "closed 1001":
            assert told == "COUNTERS"
    await _until_none_is_open(house)


async def test_revoking_a_token_ends_its_streams(house: House) -> None:
    async with house.listen() as stream:
        await stream.begin()
        await house.caller.delete("/authenticate")
        assert await stream.block() is None


async def test_who_only_asks_for_the_head_opens_nothing(house: House) -> None:
    answered = await house.caller.call("HEAD", f"/users/{house.user}/updates")
    assert (answered.status, answered.headers["Content-Type"]) == (200, "text/event-stream")
    assert not house.world.api.updates._feeds
