"""Log-in over the real engine. The failure delay runs on the jumping clock; argon2 runs are counted by crossings."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import trio
from accounts import MEMORY_KIB, TIME_COST, Accounts, open_accounts
from trio.testing import MockClock

from wd_trio import errors, telemetry
from wd_trio.ports.documents import Delete
from wd_trio.ports.gateway import HASH, in_lane
from wd_trio.secret import Secret
from wd_trio.service.auth import Auth, AuthOptions, Login, _network_of
from wd_trio.service.credentials import Hasher, Verified
from wd_trio.service.users import USERS, UserOptions

PASSWORD = Secret("correct horse")
RIGHT = PASSWORD.reveal()
HELD_S = 30.0  # never reached unless a test has failed


async def test_by_username_and_by_every_address(tmp_path: Path) -> None:
    async with open_accounts(tmp_path, users=UserOptions(default_quota_bytes=7)) as house:
        ann = await house.users.create("ann", PASSWORD, address="ann@x.org")
        await house.users.add_address(ann.id, "other@x.org")
        expected = Login(ann.id, "ann", "ann@x.org", 7)
        for name in ("ann", "ANN", "ann@x.org", "Other@X.org"):
            assert await house.log_in(name, RIGHT) == expected


async def test_a_right_password_costs_no_write_and_one_look_up(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        lanes = ("store.read", "store.write", "state.read", "state.write", "hash")
        before = [house.crossings(lane) for lane in lanes]
        await house.log_in("ann", RIGHT)
        assert [house.crossings(lane) - count for lane, count in zip(lanes, before, strict=True)] == [
            1,
            0,
            1,
            0,
            1,
        ]
        await house.log_in("ann", RIGHT)
        assert [house.crossings(lane) - count for lane, count in zip(lanes, before, strict=True)] == [
            2,
            0,
            2,
            0,
            1,
        ]


async def test_failures_look_alike(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        await house.users.create("nopassword", None)
        blocked = await house.users.create("blocked", PASSWORD)
        await house.users.set_disabled(blocked.id, True)
        for name, password in [
            ("ann", "wrong"),
            ("nobody", RIGHT),
            ("nobody@x.org", RIGHT),
            ("no@such@address", RIGHT),
            ("nopassword", RIGHT),
            ("blocked", RIGHT),
            ("blocked", RIGHT),  # no cheaper for having been right
        ]:
            hashes, started = house.crossings("hash"), trio.current_time()
            with pytest.raises(errors.Denied, match="wrong credentials"):
                await house.log_in(name, password)
            assert house.crossings("hash") - hashes == 1, name
            assert trio.current_time() - started == pytest.approx(1.0), name


async def test_who_logged_in_before_being_disabled_costs_argon2_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        await house.log_in("ann", RIGHT)
        await house.users.set_disabled(ann.id, True)
        before = house.crossings("hash")
        with pytest.raises(errors.Denied):
            await house.log_in("ann", RIGHT)
        assert house.crossings("hash") - before == 1


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ann", ""),
        ("ann", RIGHT + "\0"),
        ("ann", "x" * 1025),
        ("ann", "\udcff"),
        ("ann\0", RIGHT),
        ("a" * 1025, RIGHT),
        ("\udcff", RIGHT),
        ("", RIGHT),
    ],
)
async def test_the_impossible_is_denied_cheaply(
    tmp_path: Path, name: str, password: str, autojump_clock: MockClock
) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        before = house.gateway.statistics().crossings
        with pytest.raises(errors.Denied):
            await house.log_in(name, password)
        assert house.gateway.statistics().crossings == before


@pytest.mark.parametrize(
    "name", ['{"$ne": 1}', "ann' OR 1=1 --", "%s%n", "a" * 1000, "\u017f", "ann@[::1]", "@"]
)
async def test_hostile_names_are_denied(tmp_path: Path, name: str, autojump_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        with pytest.raises(errors.Denied):
            await house.log_in(name, RIGHT)


async def test_too_many_failures_of_a_user_are_limited_before_hashing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    options = AuthOptions(failed_logins_per_user=3, failed_logins_per_ip=0)
    async with open_accounts(tmp_path, auth=options) as house:
        await house.users.create("ann", PASSWORD, address="ann@x.org")
        await house.users.create("bob", PASSWORD)
        for name in ("ann", "ANN", "ann@x.org"):  # all the same user
            with pytest.raises(errors.Denied):
                await house.log_in(name, "wrong")
        hashes = house.crossings("hash")
        for password in ("wrong", RIGHT):
            with pytest.raises(errors.Limited):
                await house.log_in("ann", password)
        with pytest.raises(errors.Limited):  # another worker counts the same
            await house.log_in("ann", RIGHT, auth=house.other_auth(options))
        assert house.crossings("hash") == hashes
        await house.log_in("ann", RIGHT, ip="192.0.2.2")
        await house.log_in("bob", RIGHT)
        house.clock.now += 600
        await house.log_in("ann", RIGHT)


async def test_too_many_failures_of_an_address_are_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    options = AuthOptions(failed_logins_per_user=0, failed_logins_per_ip=3)
    async with open_accounts(tmp_path, auth=options) as house:
        await house.users.create("ann", PASSWORD)
        for number, ip in enumerate(("2001:db8::1", "2001:db8::2", "2001:db8::ffff:1")):
            with pytest.raises(errors.Denied):
                await house.log_in(f"user{number}", "wrong", ip=ip)
        with pytest.raises(errors.Limited):
            await house.log_in("ann", RIGHT, ip="2001:db8::3")
        await house.log_in("ann", RIGHT, ip="2001:db8:0:1::3")


async def test_names_that_nobody_has_are_limited_like_users(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    options = AuthOptions(failed_logins_per_user=2, failed_logins_per_ip=0)
    async with open_accounts(tmp_path, auth=options) as house:
        for name in ("nobody", "Nobody"):
            with pytest.raises(errors.Denied):
                await house.log_in(name, "wrong")
        with pytest.raises(errors.Limited):
            await house.log_in("nobody", "wrong")


async def test_success_forgives_the_user_but_not_the_address(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    options = AuthOptions(failed_logins_per_user=2, failed_logins_per_ip=4)
    async with open_accounts(tmp_path, auth=options) as house:
        await house.users.create("ann", PASSWORD)
        for _ in range(3):
            with pytest.raises(errors.Denied):
                await house.log_in("ann", "wrong")
            await house.log_in("ann", RIGHT)
        with pytest.raises(errors.Denied):
            await house.log_in("ann", "wrong")
        with pytest.raises(errors.Limited):
            await house.log_in("ann", RIGHT)


class HeldHasher(Hasher):
    """argon2 behind a gate: `begun` counts verifications inside, `gate` lets them go on."""

    def __init__(self) -> None:
        super().__init__(time_cost=TIME_COST, memory_kib=MEMORY_KIB)
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()

    @in_lane(HASH)
    def verify(self, password_hash: str, password: Secret) -> Verified:
        self.begun.release()
        assert self.gate.wait(HELD_S), "the test did not let argon2 go on"
        return super().verify(password_hash, password)

    async def wait_begun(self) -> None:
        await trio.to_thread.run_sync(self.begun.acquire)


class Attempts:
    """Log-ins at the same time; `results` brings what became of each, as it comes."""

    def __init__(self, house: Accounts, auth: Auth) -> None:
        self._house = house
        self._auth = auth
        self._send, self._results = trio.open_memory_channel[str](100)

    async def log_in(self, name: str, password: str) -> None:
        try:
            await self._house.log_in(name, password, auth=self._auth)
        except errors.WdError as error:
            self._send.send_nowait(type(error).__name__)
        else:
            self._send.send_nowait("ok")

    async def results(self, count: int) -> list[str]:
        return [await self._results.receive() for _ in range(count)]


async def test_a_burst_of_guesses_gains_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    options = AuthOptions(failed_logins_per_user=3, failed_logins_per_ip=0)
    hasher = HeldHasher()
    async with open_accounts(tmp_path) as house, trio.open_nursery() as nursery:
        await house.users.create("ann", PASSWORD)
        before = house.crossings("hash")
        attempts = Attempts(house, house.other_auth(options, hasher))
        for number in range(30):
            nursery.start_soon(attempts.log_in, "ann", f"guess {number}")
        assert set(await attempts.results(27)) == {"Limited"}
        hasher.gate.set()
        assert await attempts.results(3) == ["Denied"] * 3
        assert house.crossings("hash") - before == 3


@pytest.mark.parametrize(("password", "result"), [(RIGHT, "ok"), ("wrong", "Denied")])
async def test_log_ins_of_the_same_credentials_share_one_argon2(
    tmp_path: Path, password: str, result: str, autojump_clock: MockClock
) -> None:
    hasher = HeldHasher()
    async with open_accounts(tmp_path) as house, trio.open_nursery() as nursery:
        await house.users.create("ann", PASSWORD, address="ann@x.org")
        before = house.crossings("hash")
        attempts = Attempts(house, house.other_auth(AuthOptions(), hasher))
        for name in ("ann", "ann@x.org") * 5:
            nursery.start_soon(attempts.log_in, name, password)
        await hasher.wait_begun()
        await wait_crossings(house, "state.read", 10)
        hasher.gate.set()
        assert await attempts.results(10) == [result] * 10
        assert house.crossings("hash") - before == 1


async def test_when_the_leader_is_cancelled_another_takes_over(tmp_path: Path) -> None:
    hasher = HeldHasher()
    async with open_accounts(tmp_path) as house, trio.open_nursery() as nursery:
        await house.users.create("ann", PASSWORD)
        attempts = Attempts(house, house.other_auth(AuthOptions(failure_delay_s=0.0), hasher))
        for name in ("x", "y"):  # both threads of the lane are busy
            nursery.start_soon(attempts.log_in, name, RIGHT)
            await hasher.wait_begun()
        with trio.CancelScope() as leader:
            nursery.start_soon(cancel_with_follower, leader, house, attempts, nursery)
            await attempts.log_in("ann", RIGHT)
        assert leader.cancelled_caught
        hasher.gate.set()
        assert sorted(await attempts.results(3)) == ["Denied", "Denied", "ok"]


async def cancel_with_follower(
    leader: trio.CancelScope, house: Accounts, attempts: Attempts, nursery: trio.Nursery
) -> None:
    """Cancel the leader once it waits for argon2 and somebody else waits for the leader."""
    while waiting_in(house, "hash") < 1:
        await trio.lowlevel.checkpoint()
    nursery.start_soon(attempts.log_in, "ann", RIGHT)
    await wait_crossings(house, "state.read", 4)
    leader.cancel()


async def wait_crossings(house: Accounts, lane: str, count: int) -> None:
    """Until that many calls have come back and their callers have taken their next step."""
    while house.crossings(lane) < count:
        await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


def waiting_in(house: Accounts, lane: str) -> int:
    return next(each.waiting for each in house.gateway.statistics().lanes if each.name == lane)


async def test_too_many_waiting_passwords_are_unavailable(tmp_path: Path, autojump_clock: MockClock) -> None:
    hasher = HeldHasher()
    async with open_accounts(tmp_path) as house, trio.open_nursery() as nursery:
        await house.users.create("ann", PASSWORD)
        attempts = Attempts(house, house.other_auth(AuthOptions(hash_waiting=4), hasher))
        for number in range(7):
            nursery.start_soon(attempts.log_in, f"user{number}", RIGHT)
        assert await attempts.results(3) == ["Unavailable"] * 3
        hasher.gate.set()
        assert await attempts.results(4) == ["Denied"] * 4
        await house.log_in("ann", RIGHT)


async def test_followers_of_an_overloaded_lane_are_unavailable_too(tmp_path: Path) -> None:
    class Exhausted(HeldHasher):
        @in_lane(HASH)
        def verify(self, password_hash: str, password: Secret) -> Verified:
            super().verify(password_hash, password)
            raise errors.Unavailable("no memory", what="hash")

    hasher = Exhausted()
    async with open_accounts(tmp_path) as house, trio.open_nursery() as nursery:
        await house.users.create("ann", PASSWORD)
        before = house.crossings("hash")
        attempts = Attempts(house, house.other_auth(AuthOptions(), hasher))
        for _ in range(3):
            nursery.start_soon(attempts.log_in, "ann", RIGHT)
        await wait_crossings(house, "state.read", 3)
        hasher.gate.set()
        assert await attempts.results(3) == ["Unavailable"] * 3
        assert house.crossings("hash") - before == 1


async def test_a_new_password_ends_the_old_one_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        await house.log_in("ann", RIGHT)
        await house.users.set_password(ann.id, Secret("new"))
        with pytest.raises(errors.Denied):
            await house.log_in("ann", RIGHT)
        assert (await house.log_in("ann", "new")).user_id == ann.id


async def test_the_cache_never_serves_another_user(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        await house.users.create("bob", Secret("bobs"))
        await house.log_in("ann", RIGHT)
        with pytest.raises(errors.Denied):
            await house.log_in("bob", RIGHT)


async def test_a_verification_is_remembered_for_five_minutes(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", PASSWORD)
        before = house.crossings("hash")
        for jump_s, hashes in ((0, 1), (299, 1), (1, 2), (299, 2)):
            mock_clock.jump(jump_s)
            await house.log_in("ann", RIGHT)
            assert house.crossings("hash") - before == hashes


async def test_changed_parameters_renew_the_stored_hash(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        harder = Hasher(time_cost=TIME_COST + 1, memory_kib=MEMORY_KIB)
        auth = house.other_auth(AuthOptions(), harder)
        await house.log_in("ann", RIGHT, auth=auth)
        renewed = await house.users.get(ann.id)
        assert renewed.password_hash != ann.password_hash
        assert harder.verify(renewed.password_hash, PASSWORD) == Verified(True)
        hashes = house.crossings("hash")
        await house.log_in("ann", RIGHT, auth=auth)
        assert house.crossings("hash") == hashes


async def test_a_renewed_hash_never_overwrites_a_new_password(tmp_path: Path) -> None:
    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        await house.users.set_password(ann.id, Secret("new"))
        assert not await house.users.replace_hash(ann, "$argon2id$old")
        assert (await house.users.get(ann.id)).password_hash != "$argon2id$old"


async def test_a_log_in_does_not_fail_with_the_renewal_of_its_hash(tmp_path: Path) -> None:
    class Deleting(Hasher):
        @in_lane(HASH)
        def verify(self, password_hash: str, password: Secret) -> Verified:
            verified = super().verify(password_hash, password)
            house.documents.apply([Delete(USERS, ann.id)])
            return verified

    async with open_accounts(tmp_path) as house:
        ann = await house.users.create("ann", PASSWORD)
        auth = house.other_auth(AuthOptions(), Deleting(time_cost=TIME_COST + 1, memory_kib=MEMORY_KIB))
        assert (await house.log_in("ann", RIGHT, auth=auth)).user_id == ann.id


async def test_results_are_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    def count(result: str) -> float:
        return float(telemetry.logins_total.labels("imap", result)._value.get())

    options = AuthOptions(failed_logins_per_user=1)
    async with open_accounts(tmp_path, auth=options) as house:
        await house.users.create("ann", PASSWORD)
        before = [count(result) for result in ("ok", "denied", "limited")]
        await house.log_in("ann", RIGHT)
        for error in (errors.Denied, errors.Limited):
            with pytest.raises(error):
                await house.log_in("ann", "wrong")
        after = [count(result) for result in ("ok", "denied", "limited")]
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 1, 1]


async def test_no_password_stays_in_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_accounts(tmp_path) as house:
        await house.users.create("ann", Secret("kept by nobody"))
        await house.log_in("ann", "kept by nobody")
        with pytest.raises(errors.Denied):
            await house.log_in("ann", "nor this one")
        gc.collect()
        alive = {each.reveal() for each in gc.get_objects() if isinstance(each, Secret)}
        assert RIGHT in alive
        assert not alive & {"kept by nobody", "nor this one"}


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:/run/socket", "unix:/run/socket"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_networks_of_peers(peer: str, network: str) -> None:
    assert _network_of(peer) == network
