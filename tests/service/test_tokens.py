"""Tokens: how long they live, what ends them, and what is remembered of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from accounts import Accounts, open_accounts

from wd_trio.adapters.sqlite.bus import LocalBus
from wd_trio.errors import Denied, NotFound
from wd_trio.ports.documents import Document, Update
from wd_trio.ports.ids import new_id
from wd_trio.secret import Secret, random_token
from wd_trio.service.changes import ChangeHub
from wd_trio.service.tokens import TOKENS_OF_A_USER, TokenOptions, Tokens
from wd_trio.service.users import TOKENS, UserChange

DAY_S = 86_400.0


@dataclass
class House:
    accounts: Accounts
    tokens: Tokens

    def other(self, **options: Any) -> Tokens:
        """Another worker's, on a bus of its own."""
        return make(self.accounts, **options)

    async def documents(self, user_id: str) -> list[Document]:
        return await self.accounts.gateway.run(
            self.accounts.documents.find, TOKENS, "user", user_id, limit=1000
        )


def make(accounts: Accounts, **options: Any) -> Tokens:
    return Tokens(
        gateway=accounts.gateway,
        documents=accounts.documents,
        hub=ChangeHub(LocalBus()),
        options=TokenOptions(clock=accounts.clock, **options),
    )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_accounts(tmp_path) as accounts:
        yield House(accounts, make(accounts))


async def issue(house: House, name: str = "ann") -> tuple[str, Secret]:
    user = await house.accounts.users.create(name, Secret("pw"))
    return user.id, await house.tokens.issue(user.id, user.auth_version)


async def test_a_token_says_whose_it_is(house: House) -> None:
    ann, token = await issue(house)
    verified = await house.tokens.verify(token)
    assert (verified.role, verified.user_id) == ("user", ann)
    root = await house.tokens.verify(await house.tokens.issue_root())
    assert (root.role, root.user_id) == ("root", None)
    assert await house.tokens.has_root()


@pytest.mark.parametrize("text", ["", "x", "g" * 40, "A" * 40, "a" * 39, "a" * 41, "a" * 40 + "\n"])
async def test_what_is_no_token_costs_no_crossing(house: House, text: str) -> None:
    with pytest.raises(Denied):
        await house.tokens.verify(Secret(text))
    assert house.accounts.crossings("store.read") == 0


async def test_unknown_tokens(house: House) -> None:
    assert not await house.tokens.has_root()
    with pytest.raises(Denied):
        await house.tokens.verify(Secret(random_token()))
    with pytest.raises(NotFound):
        await house.tokens.issue(new_id(), 1)


async def test_a_token_ends_without_use_and_lives_with_it(house: House) -> None:
    clock = house.accounts.clock
    _, used = await issue(house, "ann")
    _, idle = await issue(house, "ben")
    for _ in range(3):
        clock.now += 6 * DAY_S
        await house.other().verify(used)
    with pytest.raises(Denied):
        await house.other().verify(idle)
    born = clock.now - 18 * DAY_S
    while clock.now < born + 175 * DAY_S:
        clock.now += 10 * DAY_S
        if clock.now < born + 180 * DAY_S:
            await house.other().verify(used)
    clock.now = born + 180 * DAY_S
    with pytest.raises(Denied):
        await house.other().verify(used)


async def test_the_end_is_exact(house: House) -> None:
    _, token = await issue(house)
    begun = house.accounts.clock.now
    house.accounts.clock.now = begun + 14 * DAY_S
    with pytest.raises(Denied):
        await house.other().verify(token)
    house.accounts.clock.now = begun + 14 * DAY_S - 1
    await house.other().verify(token)


async def test_uses_are_written_once_an_hour(house: House) -> None:
    _, token = await issue(house)
    await house.other().verify(token)
    before = house.accounts.crossings("store.write")
    for minutes in (10, 30, 59, 61, 70, 119):
        house.accounts.clock.now = 1_700_000_000.0 + minutes * 60
        await house.other().verify(token)
    assert house.accounts.crossings("store.write") == before + 1


async def test_verdicts_are_remembered_for_seconds(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    ann, token = await issue(house)
    reads = house.accounts.crossings("store.read")
    for _ in range(5):
        await house.tokens.verify(token)
    assert house.accounts.crossings("store.read") == reads + 1
    await house.accounts.users.set_password(ann, Secret("new"))  # by a process whose hints do not come here
    await house.tokens.verify(token)
    await trio.sleep(5.1)
    with pytest.raises(Denied):
        await house.tokens.verify(token)


async def test_a_hint_makes_them_forget(house: House) -> None:
    ann, anns = await issue(house, "ann")
    _, bens = await issue(house, "ben")
    await house.tokens.verify(anns)
    await house.tokens.verify(bens)
    await house.accounts.users.set_password(ann, Secret("new"))
    house.tokens.forget(ann)
    with pytest.raises(Denied):
        await house.tokens.verify(anns)
    reads = house.accounts.crossings("store.read")
    await house.tokens.verify(bens)
    assert house.accounts.crossings("store.read") == reads


async def test_a_verdict_older_than_a_hint_is_not_remembered(house: House) -> None:
    """The token is read, then the password changes and the hint comes, then the verdict arrives."""
    ann, token = await issue(house)
    gateway = house.accounts.gateway

    class Slow:
        async def run(self, call: Any, /, *args: Any, **kwargs: Any) -> Any:
            outcome = await gateway.run(call, *args, **kwargs)
            if not changed:
                changed.append(True)
                await house.accounts.users.set_password(ann, Secret("new"))
                tokens.forget(ann)
            return outcome

    changed: list[bool] = []
    tokens = Tokens(
        gateway=Slow(),
        documents=house.accounts.documents,
        hub=ChangeHub(LocalBus()),
        options=TokenOptions(clock=house.accounts.clock),
    )
    await tokens.verify(token)
    with pytest.raises(Denied):
        await tokens.verify(token)


async def test_memory_is_bounded(house: House) -> None:
    tokens = house.other(remembered=3)
    for n in range(6):
        await tokens.verify((await issue(house, f"user{n}"))[1])
    assert len(tokens._known) == 3


@pytest.mark.parametrize(
    "change",
    [UserChange(password=Secret("new")), UserChange(disabled=True), UserChange(suspended=True), None],
    ids=["password", "disabled", "suspended", "deleted"],
)
async def test_what_ends_a_users_tokens(house: House, change: UserChange | None) -> None:
    ann, token = await issue(house)
    if change is None:
        await house.accounts.users.delete(ann)
        assert await house.documents(ann) == []
    else:
        await house.accounts.users.update(ann, change)
    with pytest.raises(Denied):
        await house.tokens.verify(token)


async def test_a_name_or_a_renewed_hash_ends_no_token(house: House) -> None:
    ann, token = await issue(house)
    await house.accounts.users.update(ann, UserChange(name="Ann", quota_bytes=7, disabled=False))
    user = await house.accounts.users.get(ann)
    assert await house.accounts.users.replace_hash(user, user.password_hash + "x")
    assert (await house.tokens.verify(token)).user_id == ann


async def test_credentials_that_changed_meanwhile_give_no_token_that_counts(house: House) -> None:
    ann, _ = await issue(house)
    login = await house.accounts.log_in("ann", "pw")
    await house.accounts.users.set_password(ann, Secret("new"))
    token = await house.tokens.issue(login.user_id, login.auth_version)
    with pytest.raises(Denied):
        await house.tokens.verify(token)


async def test_revoking(house: House) -> None:
    ann, token = await issue(house)
    second = await house.tokens.issue(ann, 1)
    verified = await house.tokens.verify(token)
    await house.tokens.revoke(verified)
    await house.tokens.revoke(verified)
    with pytest.raises(Denied):
        await house.tokens.verify(token)
    await house.tokens.verify(second)


async def test_a_user_has_a_hundred_at_most(house: House) -> None:
    ann, first = await issue(house)
    house.accounts.clock.now += 1
    second = await house.tokens.issue(ann, 1)
    for _ in range(TOKENS_OF_A_USER - 1):
        house.accounts.clock.now += 1
        last = await house.tokens.issue(ann, 1)
    assert len(await house.documents(ann)) == TOKENS_OF_A_USER
    with pytest.raises(Denied):
        await house.tokens.verify(first)
    await house.tokens.verify(second)
    await house.tokens.verify(last)
    house.accounts.clock.now += 15 * DAY_S
    await house.tokens.issue(ann, 1)
    assert len(await house.documents(ann)) == 1


async def test_a_token_of_an_unknown_role_is_none(house: House) -> None:
    ann, token = await issue(house)
    (document,) = await house.documents(ann)
    changed = Update(TOKENS, document.id, document.version, {**document.data, "role": "emperor"})
    await house.accounts.gateway.run(house.accounts.documents.apply, [changed])
    with pytest.raises(Denied):
        await house.tokens.verify(token)
