"""Log-in: who somebody is, at what price, and how often they may be wrong.

A log-in is one crossing to find the user, one to read its strikes, and argon2 in the lane HASH unless the very
same credentials were verified in the last minutes (credentials.py). Log-ins of the same credentials that come
while argon2 runs wait for its verdict. A right password costs no write.

A wrong password, an unknown user, a disabled one and one without a password look alike: same work, same delay,
errors.Denied. Each is a strike against the client's address (for IPv6 its /64) and against the user seen from
there; passwords being tried at this moment count as strikes against the latter, so that a burst gains nothing.
Names that nobody has are struck like those of users, or the limit would tell them apart.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn

import structlog
import trio

from wd_trio import errors, telemetry
from wd_trio.ports.gateway import Gateway, reads, writes
from wd_trio.ports.limits import Limits
from wd_trio.secret import Secret
from wd_trio.service.credentials import Hasher, VerifiedCache, is_plausible
from wd_trio.service.users import User, Users

PEER_CHARACTERS: Final = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOptions:
    """`hash_waiting` counts passwords that are being verified or wait for it. A limit of 0 is none."""

    failure_delay_s: float = 1.0
    failed_logins_per_ip: int = 50
    failed_logins_per_user: int = 20
    failure_window_s: float = 600.0
    hash_waiting: int = 200
    cache_lives_s: float = 300.0
    cache_entries: int = 10_000


@dataclass(frozen=True, slots=True)
class Login:
    """Who logged in; `quota_bytes` is the limit that counts, None for none; `auth_version` the credentials'."""

    user_id: str
    username: str
    address: str
    quota_bytes: int | None
    auth_version: int = 1


class _Keys(NamedTuple):
    """The keys of the strikes of one log-in."""

    ip: str
    user: str


class _Strikes(NamedTuple):
    ip: int
    user: int


@dataclass(slots=True)
class _Flight:
    """A verification under way. Landed without a verdict: its leader was cancelled, unless `unavailable`."""

    landed: trio.Event = field(default_factory=trio.Event)
    matches: bool | None = None
    unavailable: bool = False


class Auth:
    def __init__(
        self,
        *,
        gateway: Gateway,
        users: Users,
        limits: Limits,
        hasher: Hasher,
        options: AuthOptions | None = None,
    ) -> None:
        self._gateway = gateway
        self._users = users
        self._limits = limits
        self._hasher = hasher
        self._options = options or AuthOptions()
        self._cache = VerifiedCache(lives_s=self._options.cache_lives_s, most=self._options.cache_entries)
        self._flights: dict[bytes, _Flight] = {}
        self._guesses: Counter[str] = Counter()

    async def login(self, *, username: str, password: Secret, peer_ip: str, protocol: str) -> Login:
        """Who this is. `username` is a username or any address of a user; `protocol` a label for the counters.

        Denied when the credentials are not right, Limited after too many that were not; both come after
        `failure_delay_s`. Unavailable when an engine is down or too many passwords wait to be verified.
        """
        result = "cancelled"
        try:
            login = await self._login(username, password, peer_ip)
            result = "ok"
        except errors.WdError as error:
            result = _result_of(error)
            raise
        finally:
            telemetry.logins_total.labels(protocol, result).inc()
        return login

    async def _login(self, username: str, password: Secret, peer_ip: str) -> Login:
        if not (is_plausible(password) and _is_plausible_name(username)):
            await self._fail(errors.Denied("not a possible log-in"))
        user = await self._users.by_login(username)
        keys = _keys(user, username, peer_ip)
        strikes = await self._gateway.run(_strikes, self._limits, keys)
        if self._too_many(strikes):
            await self._fail(errors.Limited("too many failed log-ins", what="login"))
        matches = await self._verify(user, username, password, keys, strikes)
        if user is None or not user.may_log_in or not matches:
            await self._gateway.run(_strike, self._limits, keys, self._options.failure_window_s)
            await self._fail(errors.Denied("wrong credentials"))
        if strikes.user:
            await self._gateway.run(self._limits.forgive, keys.user)
        return Login(user.id, user.username, user.address, self._users.quota_of(user), user.auth_version)

    async def _verify(
        self, user: User | None, username: str, password: Secret, keys: _Keys, strikes: _Strikes
    ) -> bool:
        """Does the password match the user's? From the cache, from a verification under way, or by argon2."""
        who = f"id:{user.id}" if user else f"name:{username}"
        password_hash = user.login_hash if user else ""
        key = self._cache.key(who, password_hash, password)
        while True:
            if self._cache.knows(key):
                return True
            flight = self._flights.get(key)
            if flight is None:
                guesses = self._guesses[keys.user]
                if self._too_many(strikes._replace(user=strikes.user + guesses)):
                    await self._fail(errors.Limited("too many log-ins at once", what="login"))
                return await self._lead(key, user, password, keys.user)
            await flight.landed.wait()
            if flight.matches is not None:
                return flight.matches
            if flight.unavailable:
                raise errors.Unavailable("argon2 is overloaded", what="hash")

    async def _lead(self, key: bytes, user: User | None, password: Secret, guess: str) -> bool:
        """Verify by argon2, for everybody who waits for the same."""
        if len(self._flights) >= self._options.hash_waiting:
            raise errors.Unavailable("too many passwords wait to be verified", what="hash")
        flight = self._flights[key] = _Flight()
        self._guesses[guess] += 1
        try:
            password_hash = user.login_hash if user else ""
            verified = await self._gateway.run(self._hasher.verify, password_hash, password)
            flight.matches = verified.matches
            if verified.matches:
                self._cache.add(key)
        except errors.Unavailable:
            flight.unavailable = True
            raise
        finally:
            del self._flights[key]
            self._guesses[guess] -= 1
            if not self._guesses[guess]:
                del self._guesses[guess]
            flight.landed.set()
        if user is not None and verified.new_hash is not None:
            await self._renew_hash(user, password, verified.new_hash)
        return verified.matches

    async def _renew_hash(self, user: User, password: Secret, new_hash: str) -> None:
        """Store the hash with today's parameters. A log-in does not fail with it: the next one tries again."""
        try:
            replaced = await self._users.replace_hash(user, new_hash)
        except errors.WdError as error:
            log.warning("password hash not renewed", user=user.id, error=str(error))
            return
        if replaced:
            self._cache.add(self._cache.key(f"id:{user.id}", new_hash, password))

    def _too_many(self, strikes: _Strikes) -> bool:
        per_ip, per_user = self._options.failed_logins_per_ip, self._options.failed_logins_per_user
        return bool((per_ip and strikes.ip >= per_ip) or (per_user and strikes.user >= per_user))

    async def _fail(self, error: errors.WdError) -> NoReturn:
        await trio.sleep(self._options.failure_delay_s)
        raise error


@reads("state")
def _strikes(limits: Limits, keys: _Keys) -> _Strikes:
    return _Strikes(limits.strikes(keys.ip), limits.strikes(keys.user))


@writes("state")
def _strike(limits: Limits, keys: _Keys, window_s: float) -> None:
    for key in keys:
        limits.strike(key, window_s=window_s)


def _keys(user: User | None, username: str, peer_ip: str) -> _Keys:
    network = _network_of(peer_ip)
    # A digest, because the name is whatever the client sent.
    who = user.id if user else hashlib.sha256(username.lower().encode()).hexdigest()[:24]
    return _Keys(f"login:ip:{network}", f"login:user:{who}:{network}")


def _network_of(peer_ip: str) -> str:
    """What an attacker cannot change cheaply: an IPv4 address, an IPv6 /64; other names of peers as they are."""
    try:
        address = ipaddress.ip_address(peer_ip)
    except ValueError:
        return peer_ip[:PEER_CHARACTERS]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


def _is_plausible_name(username: str) -> bool:
    return is_plausible(Secret(username))  # the same bounds: no NUL, Unicode, 1 to 1,024 bytes


def _result_of(error: errors.WdError) -> str:
    if isinstance(error, errors.Denied):
        return "denied"
    return "limited" if isinstance(error, errors.Limited) else "unavailable"
