from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from accounts import Accounts, open_accounts

from wd_trio import errors
from wd_trio.mail.model import DEFAULT_MAILBOXES, SEEN, Content, NewMessage
from wd_trio.ports.documents import Delete, Document, Operation, Update
from wd_trio.ports.gateway import writes
from wd_trio.secret import Secret
from wd_trio.service.recipients import Recipient
from wd_trio.service.users import USERS, UserOptions, change_user, checked_username

PASSWORD = Secret("correct horse")


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("john", "john"),
        ("John.Doe", "john.doe"),
        ("a-b_c=d:e.f", "a-b_c=d:e.f"),
        ("  demo@LocalHost ", "demo@localhost"),
        ("j@sub.example.org", "j@sub.example.org"),
        ("7", "7"),
        ("x" * 128, "x" * 128),
    ],
)
def test_usernames_are_stored_in_lower_case(written: str, stored: str) -> None:
    assert checked_username(written) == stored


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "@example.org",
        ".john",
        "john.",
        "jo..hn",
        "john doe",
        "john+tag",
        "jöhn",
        "john@",
        "john@exa mple",
        "john@a@b",
        "john@a..b",
        "john\n",
        "john\0",
        '{"$ne": 1}',
        "../john",
        "x" * 129,
        "a." * 50_000,
    ],
)
def test_other_usernames_are_invalid(written: str) -> None:
    if written == "john\n":
        assert checked_username(written) == "john"  # white space around it is not part of it
        return
    with pytest.raises(errors.Invalid) as caught:
        checked_username(written)
    assert caught.value.what == "username"


async def test_create_makes_user_address_and_mailboxes(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        user = await house.users.create(
            "Ann", PASSWORD, address="Ann@Example.ORG", name="Ann É", quota_bytes=5
        )
        assert user == await house.users.get(user.id)
        assert user == await house.users.by_username("ANN")
        assert (user.username, user.name, user.address) == ("ann", "Ann É", "ann@example.org")
        assert (user.quota_bytes, user.disabled, user.version) == (5, False, 1)
        assert user.password_hash.startswith("$argon2id$")
        assert user.password_hash not in repr(user)
        paths = {mailbox.path for mailbox in house.store.list_mailboxes(user.id)}
        assert paths == {spec.path for spec in DEFAULT_MAILBOXES}
        assert [each.address for each in await house.users.addresses(user.id)] == ["ann@example.org"]


async def test_a_username_that_is_an_address_is_one_of_its_users_addresses(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        demo = await house.users.create("demo@localhost", PASSWORD)
        assert demo.address == "demo@localhost"
        both = await house.users.create("b@example.org", PASSWORD, address="main@example.org")
        assert both.address == "main@example.org"
        assert {each.address for each in await house.users.addresses(both.id)} == {
            "b@example.org",
            "main@example.org",
        }
        with pytest.raises(errors.Conflict):
            await house.users.add_address(demo.id, "B@example.org")
        with pytest.raises(errors.Conflict):
            await house.users.create("main@example.org", PASSWORD)


@pytest.mark.parametrize("again", [{"username": "ann"}, {"address": "ann@x.org"}])
async def test_what_is_taken_conflicts_and_leaves_nothing(tmp_path: Path, again: dict[str, str]) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD, address="ann@x.org")
        fresh = {"username": "bob", "address": "bob@x.org"} | again
        with pytest.raises(errors.Conflict) as caught:
            await house.users.create(fresh["username"], None, address=fresh["address"])
        assert caught.value.what == next(iter(again))
        bob = await house.users.create("bob", None, address="bob@x.org")
        assert bob.password_hash == ""


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"username": "no spaces"}, "username"),
        ({"address": "nobody"}, "address"),
        ({"name": "a\r\nb"}, "name"),
        ({"name": "\udcff"}, "name"),
        ({"name": "n" * 257}, "name"),
        ({"quota_bytes": -1}, "quota"),
        ({"password": Secret("")}, "password"),
        ({"password": Secret("nul\0")}, "password"),
        ({"password": Secret("é" * 513)}, "password"),
        ({"password": Secret("\udcff")}, "password"),
    ],
)
async def test_invalid_input_names_its_field(tmp_path: Path, arguments: dict[str, object], what: str) -> None:
    async with open_accounts(tmp_path) as house:
        with pytest.raises(errors.Invalid) as caught:
            await house.users.create(**({"username": "ann", "password": PASSWORD} | arguments))  # type: ignore[arg-type]
        assert caught.value.what == what
        assert (await house.users.page())[2] == 0


async def test_unknown_users_are_not_found(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        users = house.users
        nobody = "0" * 24
        for attempt in (
            users.get(nobody),
            users.by_username("nobody"),
            users.set_password(nobody, PASSWORD),
            users.set_quota(nobody, 1),
            users.set_disabled(nobody, True),
            users.add_address(nobody, "a@b"),
            users.delete(nobody),
            users.delete_address("a@b"),
            users.resolve("a@b"),
        ):
            with pytest.raises(errors.NotFound):
                await attempt
        assert await users.addresses(nobody) == []


async def test_pages_of_users(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        for name in ("bob", "ann", "anna", "carl", "annabel"):
            await house.users.create(name, None)
        first, after, total = await house.users.page("Ann", limit=2)
        assert ([user.username for user in first], total) == (["ann", "anna"], 3)
        second, after, total = await house.users.page("Ann", after, limit=2)
        assert ([user.username for user in second], after, total) == (["annabel"], None, 3)


async def test_changes_are_kept(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        await house.users.set_quota(ann.id, 100)
        await house.users.set_disabled(ann.id, True)
        await house.users.set_password(ann.id, Secret("another"))
        changed = await house.users.get(ann.id)
        assert (changed.quota_bytes, changed.disabled, changed.version) == (100, True, 4)
        assert changed.password_hash != ann.password_hash
        assert house.hasher.verify(changed.password_hash, Secret("another")).matches


async def test_concurrent_changes_of_one_user_all_arrive(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(house.users.add_address, ann.id, f"a{number}@x.org")
            nursery.start_soon(house.users.set_quota, ann.id, 7)
        after = await house.users.get(ann.id)
        assert (after.version, after.quota_bytes) == (22, 7)
        addresses = {each.address for each in await house.users.addresses(ann.id)}
        assert addresses == {f"a{number}@x.org" for number in range(20)}
        assert after.address in addresses


def change_meanwhile(house: Accounts, times: int) -> None:
    """`change_user` loses the race `times` times, and then wins."""
    left = [times]

    def plan(document: Document) -> Sequence[Operation]:
        if left[0]:
            left[0] -= 1
            house.documents.apply([Update(USERS, document.id, document.version, document.data)])
        return [Update(USERS, document.id, document.version, {**document.data, "quota": 9})]

    (ann,) = house.documents.find(USERS, "username", "ann")
    change_user(house.documents, ann.id, plan)


async def test_a_lost_race_is_run_again_some_times(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None)
        await house.gateway.run(writes("store")(lambda: change_meanwhile(house, 4)))
        assert (await house.users.get(ann.id)).quota_bytes == 9
        with pytest.raises(errors.Conflict) as caught:
            await house.gateway.run(writes("store")(lambda: change_meanwhile(house, 5)))
        assert caught.value.what == "version"


async def test_a_user_who_goes_during_a_change_is_not_found(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None)

        def plan(document: Document) -> Sequence[Operation]:
            house.documents.apply([Delete(USERS, ann.id)])
            return [Update(USERS, document.id, document.version, document.data)]

        with pytest.raises(errors.NotFound):
            change_user(house.documents, ann.id, plan)


async def test_delete_takes_addresses_and_mail_along(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD, address="ann@x.org")
        bob = await house.users.create("bob", PASSWORD, address="bob@x.org")
        await house.users.add_address(ann.id, "more@x.org")
        for user in (ann, bob):
            house.store.append(user.id, "INBOX", [NewMessage(tiny_content(), 1, SEEN)])
        await house.users.delete(ann.id)
        with pytest.raises(errors.NotFound):
            await house.users.get(ann.id)
        for address in ("ann@x.org", "more@x.org"):
            with pytest.raises(errors.NotFound):
                await house.users.resolve(address)
        assert house.store.usage(ann.id).messages == 0
        assert house.store.list_mailboxes(ann.id) == []
        assert house.store.usage(bob.id).messages == 1
        await house.users.create("ann", PASSWORD, address="more@x.org")


async def test_deleting_again_finishes_what_was_interrupted(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        house.documents.apply([Delete(USERS, ann.id)])  # the process died here
        with pytest.raises(errors.NotFound):
            await house.users.delete(ann.id)
        assert house.store.list_mailboxes(ann.id) == []


async def test_addresses_come_and_go(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None)
        added = await house.users.add_address(ann.id, "First@X.org")
        assert (await house.users.get(ann.id)).address == "first@x.org"
        await house.users.add_address(ann.id, "second@x.org")
        assert (await house.users.get(ann.id)).address == "first@x.org"
        assert added in await house.users.addresses(ann.id)
        for _ in range(2):
            with pytest.raises(errors.Conflict) as caught:
                await house.users.add_address(ann.id, "second@x.org")
            assert caught.value.what == "address"
        await house.users.delete_address("SECOND@x.org")
        assert [each.address for each in await house.users.addresses(ann.id)] == ["first@x.org"]
        with pytest.raises(errors.Denied):
            await house.users.delete_address("first@x.org")


async def test_a_usernames_address_stays(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann@x.org", None, address="main@x.org")
        with pytest.raises(errors.Denied):
            await house.users.delete_address("ann@x.org")


async def test_addresses_of_a_user_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wd_trio.service.users.ADDRESSES_OF_A_USER", 2)
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None)
        await house.users.add_address(ann.id, "a@x.org")
        await house.users.add_address(ann.id, "b@x.org")
        with pytest.raises(errors.Limited):
            await house.users.add_address(ann.id, "c@x.org")


async def test_resolve_finds_the_user_behind_every_spelling(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None, address="ann@x.org")
        tagged = await house.users.create("tagged", None, address="ann+work@x.org")
        expected = Recipient(ann.id, "ann", "ann@x.org", None)
        for spelling in ("ann@x.org", "ANN@X.ORG", "Ann+lists@x.org", "ann+a+b@x.org"):
            before = house.crossings("store.read")
            assert await house.users.resolve(spelling) == expected
            assert house.crossings("store.read") - before == 1
        assert (await house.users.resolve("ann+work@x.org")).user_id == tagged.id
        for unknown in ("nn@x.org", "ann@y.org", "anna+ann@x.org"):
            with pytest.raises(errors.NotFound):
                await house.users.resolve(unknown)
        with pytest.raises(errors.Invalid):
            await house.users.resolve("ann")


async def test_a_disabled_user_receives_nothing(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", None, address="ann@x.org")
        await house.users.set_disabled(ann.id, True)
        with pytest.raises(errors.Denied):
            await house.users.resolve("ann@x.org")


@pytest.mark.parametrize(
    ("default", "own", "counts"),
    [(0, None, None), (0, 5, 5), (9, None, 9), (9, 5, 5), (9, 0, None)],
)
async def test_the_quota_that_counts(
    tmp_path: Path, default: int, own: int | None, counts: int | None
) -> None:
    async with open_accounts(tmp_path, users=UserOptions(default_quota_bytes=default)) as house:
        await house.users.create("ann", None, address="ann@x.org", quota_bytes=own)
        assert (await house.users.resolve("ann@x.org")).quota_bytes == counts


def tiny_content() -> Content:
    raw = b"Subject: x\r\n\r\n"
    return Content(
        size=len(raw),
        header=raw,
        envelope=b"()",
        envelope_utf8=None,
        bodystructure=b"()",
        bodystructure_utf8=None,
        body=b"()",
        parts=b"",
        preview="",
        rope=raw,
    )
