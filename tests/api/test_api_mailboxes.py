"""The API's mailboxes, over real services."""

from __future__ import annotations

import pytest
from api_world import NOBODY, ApiWorld, Caller

from wd_trio.service import mailboxes


async def paths(caller: Caller, user: str) -> dict[str, str]:
    listing = await caller.get(f"/users/{user}/mailboxes")
    return {each["path"]: each["id"] for each in listing["results"]}


async def test_the_default_mailboxes(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    results = (await alice.get(f"/users/{user}/mailboxes"))["results"]
    assert [(each["path"], each["specialUse"]) for each in results] == [
        ("INBOX", None),
        ("Drafts", "\\Drafts"),
        ("Junk", "\\Junk"),
        ("Sent Mail", "\\Sent"),
        ("Trash", "\\Trash"),
    ]
    inbox = results[0]
    assert (inbox["name"], inbox["subscribed"], inbox["hidden"]) == ("INBOX", True, False)
    assert inbox["modifyIndex"] >= 1
    assert not {"total", "unseen", "size"} & inbox.keys()


async def test_counters_and_sizes_where_asked_for(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    counted = (await alice.get(f"/users/{user}/mailboxes", counters="yes"))["results"][0]
    assert (counted["total"], counted["unseen"], "size" in counted) == (0, 0, False)
    sized = (await alice.get(f"/users/{user}/mailboxes", sizes="1"))["results"][0]
    assert (sized["size"], "total" in sized) == (0, False)
    special = (await alice.get(f"/users/{user}/mailboxes", specialUse="true"))["results"]
    assert "INBOX" not in [each["path"] for each in special]
    assert len(special) == 4


async def test_a_listing_is_one_crossing(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    await paths(alice, user)
    before = world.crossings()
    await paths(alice, user)
    assert world.crossings() == before + 1


async def test_a_user_who_is_not_there_gets_no_mailboxes(world: ApiWorld) -> None:
    assert await world.root.refused("GET", f"/users/{NOBODY}/mailboxes") == (404, "UserNotFound")
    assert await world.root.refused("POST", f"/users/{NOBODY}/mailboxes", {"path": "x"}) == (
        404,
        "UserNotFound",
    )
    assert world.services.store.list_mailboxes(NOBODY) == []


async def test_making_showing_renaming_and_removing(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    answered = await alice.call("POST", f"/users/{user}/mailboxes", {"path": "Lists/Trio"})
    made = answered.json["id"]
    shown = await alice.get(f"/users/{user}/mailboxes/{made}")
    assert (shown["path"], shown["name"], shown["specialUse"]) == ("Lists/Trio", "Trio", None)
    assert (shown["total"], shown["unseen"], shown["size"], shown["subscribed"]) == (0, 0, 0, True)
    assert await alice.get(f"/users/{user}/mailboxes/resolve?path=Lists/Trio") == shown
    renamed = await alice.call("PUT", f"/users/{user}/mailboxes/{made}", {"path": "Old/Trio"})
    assert renamed.json == {"success": True}
    moved = await alice.get(f"/users/me/mailboxes/{made}")
    assert (moved["path"], moved["subscribed"]) == ("Old/Trio", True)
    await alice.put(f"/users/{user}/mailboxes/{made}", subscribed=False)
    assert (await alice.get(f"/users/{user}/mailboxes/{made}"))["subscribed"] is False
    await alice.delete(f"/users/{user}/mailboxes/{made}")
    assert await alice.refused("GET", f"/users/{user}/mailboxes/{made}") == (404, "NoSuchMailbox")


async def test_what_cannot_be_done_with_mailboxes(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    mailboxes = await paths(alice, user)
    base = f"/users/{user}/mailboxes"
    assert await alice.refused("POST", base, {"path": "Trash"}) == (400, "MailboxExistsError")
    assert await alice.refused("POST", base, {"path": "a//b"}) == (400, "InputValidationError")
    assert await alice.refused("POST", base, {}) == (400, "InputValidationError")
    assert await alice.refused("POST", base, {"path": "x", "retention": 5}) == (400, "InputValidationError")
    inbox = f"{base}/{mailboxes['INBOX']}"
    assert await alice.refused("DELETE", inbox) == (403, "DisallowedMailboxMethod")
    assert await alice.refused("PUT", inbox, {"path": "Other"}) == (403, "DisallowedMailboxMethod")
    assert await alice.refused("PUT", inbox, {}) == (400, "InputValidationError")
    junk = f"{base}/{mailboxes['Junk']}"
    assert await alice.refused("PUT", junk, {"path": "Trash"}) == (400, "MailboxExistsError")
    assert await alice.refused("PUT", junk, {"path": "Junk/Below"}) == (400, "InputValidationError")
    assert await alice.refused("GET", f"{base}/{NOBODY}") == (404, "NoSuchMailbox")
    assert await alice.refused("GET", f"{base}/nothing") == (400, "InputValidationError")
    assert await alice.refused("GET", f"{base}/resolve?path=None") == (404, "NoSuchMailbox")
    assert await paths(alice, user) == mailboxes


async def test_a_new_name_and_a_subscription_at_once(world: ApiWorld) -> None:
    user, alice = await world.user("alice")
    base = f"/users/{user}/mailboxes"
    trash = f"{base}/{(await paths(alice, user))['Trash']}"

    async def subscribed() -> set[str]:
        return set(await world.services.mailboxes.subscriptions(user))

    await alice.call("PUT", trash, {"path": "Bin", "subscribed": False})
    assert not {"Trash", "Bin"} & await subscribed()
    await alice.call("PUT", trash, {"path": "Old"})
    assert not {"Trash", "Bin", "Old"} & await subscribed(), "what was not subscribed does not become so"
    await alice.call("PUT", trash, {"path": "New", "subscribed": True})
    assert "New" in await subscribed()
    await alice.call("PUT", trash, {"path": "Trash"})
    assert await subscribed() & {"Trash", "New", "Old"} == {"Trash"}


async def test_no_mailbox_or_name_beyond_the_limit(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    user, alice = await world.user("alice")
    base = f"/users/{user}/mailboxes"
    trash = f"{base}/{(await paths(alice, user))['Trash']}"
    monkeypatch.setattr(mailboxes, "MAX_MAILBOXES", 5)
    refused = 429, "RateLimitedError"
    assert await alice.refused("POST", base, {"path": "Sixth"}) == refused
    await alice.call("PUT", trash, {"subscribed": True})  # it is so already
    await alice.call("PUT", trash, {"subscribed": False})
    await world.services.mailboxes.subscribe(user, "another name", subscribed=True)
    assert await alice.refused("PUT", trash, {"path": "Bin", "subscribed": True}) == refused
    assert "Trash" in await paths(alice, user), "nothing was done"


async def test_nobody_reaches_anothers_mailboxes(world: ApiWorld) -> None:
    alice, _ = await world.user("alice")
    mallory, thief = await world.user("mallory")
    inbox = (await paths(world.root, alice))["INBOX"]
    for method, path, json in [
        ("GET", "", None),
        ("POST", "", {"path": "x"}),
        ("GET", f"/{inbox}", None),
        ("PUT", f"/{inbox}", {"subscribed": False}),
        ("DELETE", f"/{inbox}", None),
    ]:
        whole = f"/users/{alice}/mailboxes{path}"
        assert await thief.refused(method, whole, json) == (403, "MissingPrivileges")
        assert await world.caller(None).refused(method, whole, json) == (403, "InvalidToken")
        if path:  # by its id under the thief's own name
            own = f"/users/{mallory}/mailboxes{path}"
            assert await thief.refused(method, own, json) == (404, "NoSuchMailbox")
            assert await world.root.refused(method, own, json) == (404, "NoSuchMailbox")
