"""ChangeHub: whom it has the bus follow, and whom a resync concerns."""

from __future__ import annotations

from wd_trio.adapters.sqlite.bus import LocalBus
from wd_trio.ports.bus import Hint
from wd_trio.service.changes import ChangeHub, Subscription


class FollowingBus(LocalBus):
    """Remembers what it was told to follow, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def follow(self, user_id: str) -> None:
        self.told.append(f"+{user_id}")

    def unfollow(self, user_id: str) -> None:
        self.told.append(f"-{user_id}")


def quiet() -> None:
    pass


def asked(subscription: Subscription) -> bool:
    """Whether it is to ask the store, which it then has."""
    return subscription.take()[1]


def test_a_user_is_followed_from_the_first_to_the_last_who_cares() -> None:
    bus = FollowingBus()
    hub = ChangeHub(bus)
    hub.follow("u1")
    mailbox = hub.subscribe("m1", quiet, known_modseq=1, user_id="u1")
    user = hub.subscribe_user("u1", quiet)
    hub.subscribe("m2", quiet, known_modseq=1, user_id="u2").close()
    hub.unfollow("u1")
    mailbox.close()
    mailbox.close()
    assert bus.told == ["+u1", "+u2", "-u2"]
    user.close()
    assert bus.told == ["+u1", "+u2", "-u2", "-u1"]


def test_a_resync_of_a_user_is_only_theirs() -> None:
    hub = ChangeHub(LocalBus())
    mine = hub.subscribe("m1", quiet, known_modseq=1, user_id="u1")
    feed = hub.subscribe_user("u1", quiet)
    other = hub.subscribe("m2", quiet, known_modseq=1, user_id="u2")
    unnamed = hub.subscribe("m3", quiet, known_modseq=1)
    feed.take()
    hub.resync("u1")
    assert [asked(one) for one in (mine, feed, other, unnamed)] == [True, True, False, True]
    hub.resync("u3")
    assert [asked(one) for one in (mine, feed, other, unnamed)] == [False, False, False, True]
    hub.resync()
    assert all(asked(one) for one in (mine, feed, other, unnamed))


def test_a_closed_subscription_hears_nothing() -> None:
    hub = ChangeHub(LocalBus())
    gone = hub.subscribe("m1", quiet, known_modseq=1, user_id="u1")
    kept = hub.subscribe("m1", quiet, known_modseq=1, user_id="u1")
    gone.close()
    hint = Hint("mailbox", "u1", "m1", 1, 2)
    hub.publish(hint)
    hub.resync("u1")
    assert not gone
    assert asked(kept)
