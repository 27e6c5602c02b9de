"""The control channel: messages of every kind, batches of descriptors, and what happens when they do not fit."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import pytest
import trio
from trio.testing import MockClock

from wd_trio.config import Api, Config
from wd_trio.ops import messages
from wd_trio.ops.handoff import BATCH_DESCRIPTORS, Channel, ChannelOver, channel_pair, close_all
from wd_trio.secret import Secret


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pair = channel_pair()
    yield Channel(pair[0]), Channel(pair[1])
    for end in pair:
        if end.fileno() != -1:
            end.close()


MESSAGES: list[messages.Message] = [
    messages.Ready(7),
    messages.Failed("no disk"),
    messages.Adopt(3, [4, 1], {1: b"rest"}),
    messages.Adopted(3, refused=True),
    messages.Closed([1, 2]),
    messages.Moved([3, 5], {5: b"a line\r"}),
    messages.Upgrade(9),
    messages.Leaving(),
    messages.Drain(8.0, stopping=True),
    messages.Ping(1),
    messages.Pong(1),
    messages.AskSamples(4),
    messages.Samples(4, [messages.Family("n", "counter", "h", [("n_total", (("k", "v"),), 1.5)])], last=True),
    messages.AskMetrics(5),
    messages.Metrics(5, "text", last=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_every_message_arrives_as_it_was_sent(
    message: messages.Message, ends: tuple[Channel, Channel]
) -> None:
    await ends[0].send(message)
    received = await ends[1].receive()
    assert received.message == message
    assert received.descriptors == ()


async def test_boot_carries_the_whole_configuration(ends: tuple[Channel, Channel]) -> None:
    config = Config(api=replace(Api(), access_token=Secret("token")))
    await ends[0].send(messages.Boot(messages.VERSION, config, "server", 1, "server/1a"))
    received = (await ends[1].receive()).message
    assert isinstance(received, messages.Boot)
    assert received.config == config
    assert received.config.api.access_token.reveal() == "token"
    assert "token'" not in repr(received)


async def test_a_full_batch_of_descriptors_arrives_in_order_and_close_on_exec(
    ends: tuple[Channel, Channel],
) -> None:
    pipes = [os.pipe() for _ in range(BATCH_DESCRIPTORS)]
    for number, (_, write) in enumerate(pipes):
        os.write(write, bytes([number]))
    await ends[0].send(messages.Adopt(1, list(range(BATCH_DESCRIPTORS))), [read for read, _ in pipes])
    received = await ends[1].receive()
    assert not received.truncated
    assert [os.read(descriptor, 1)[0] for descriptor in received.descriptors] == list(
        range(BATCH_DESCRIPTORS)
    )
    assert all(fcntl.fcntl(each, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for each in received.descriptors)
    close_all(received.descriptors)
    close_all([end for pipe in pipes for end in pipe])


async def test_more_than_a_batch_is_a_mistake_of_the_sender(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="too many"):
        await ends[0].send(messages.Adopt(1, []), [0] * (BATCH_DESCRIPTORS + 1))


async def test_descriptors_that_do_not_fit_are_noticed_and_leak_nothing(
    ends: tuple[Channel, Channel],
) -> None:
    pipes = [os.pipe() for _ in range(20)]
    open_before = set(os.listdir("/proc/self/fd"))
    await ends[0].send(messages.Adopt(1, list(range(20))), [read for read, _ in pipes])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 3, hard))  # room for a few of them
    try:
        received = await ends[1].receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert received.truncated
    assert received.descriptors == ()
    assert received.message == messages.Adopt(1, list(range(20)))
    assert set(os.listdir("/proc/self/fd")) <= open_before
    close_all([end for pipe in pipes for end in pipe])


async def test_the_end_of_the_other_side_is_the_end(ends: tuple[Channel, Channel]) -> None:
    await ends[0].send(messages.Ready(1))
    ends[0].close()
    assert (await ends[1].receive()).message == messages.Ready(1)
    with pytest.raises(ChannelOver):
        await ends[1].receive()
    with pytest.raises(ChannelOver):
        await ends[1].send(messages.Ping(1))


async def test_last_words_arrive_from_one_who_left_messages_unread(ends: tuple[Channel, Channel]) -> None:
    await ends[1].send(messages.Ping(1))
    await ends[0].send(messages.Failed("no disk"))
    ends[0].close()
    assert (await ends[1].receive()).message == messages.Failed("no disk")
    with pytest.raises(ChannelOver):
        await ends[1].receive()


async def test_closing_wakes_who_receives(ends: tuple[Channel, Channel]) -> None:
    async def receive() -> None:
        with pytest.raises(ChannelOver):
            await ends[0].receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        ends[0].close()


async def test_several_tasks_may_send_into_a_full_channel(ends: tuple[Channel, Channel]) -> None:
    text = "x" * 100_000

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ends[0].send, messages.Metrics(number, text, True))
        got = [(await ends[1].receive()).message for _ in range(50)]
    assert sorted(message.request for message in got if isinstance(message, messages.Metrics)) == list(
        range(50)
    )


class Crowded(socket.socket):
    """A socket for which the kernel has no room at first."""

    left = 2

    def sendmsg(self, buffers: object, beside: Sequence[object] = (), *more: object) -> int:  # type: ignore[override]  # ours takes what it is given
        if beside and self.left:
            self.left -= 1
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return super().sendmsg(buffers, beside, *more)  # type: ignore[arg-type]  # passed on as it came


async def test_a_kernel_without_room_is_no_end(autojump_clock: MockClock) -> None:
    """Thousands of descriptors may be on their way, from other processes, too."""
    ours, theirs = channel_pair()
    crowded = Crowded(fileno=ours.detach())
    sender, receiver = Channel(crowded), Channel(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, messages.Adopt(1, [4]), [theirs.fileno()])
        await trio.testing.wait_all_tasks_blocked()
        await sender.send(messages.Ping(1))  # who has no descriptors to send need not wait for the others
        assert (await receiver.receive()).message == messages.Ping(1)
        received = await receiver.receive()
        assert received.message == messages.Adopt(1, [4])
        assert len(received.descriptors) == 1
        close_all(received.descriptors)
    for channel in (sender, receiver):
        channel.close()


def test_a_message_too_long_for_a_datagram_is_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        messages.encode(messages.Metrics(1, "x" * messages.MESSAGE_BYTES, True))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x81\xa4type\x01", b"\x81\xa4type\xa4Pong", b"\xff" * 100])
def test_nonsense_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.decode(data)


def test_a_message_of_another_version_is_heard_as_unknown() -> None:
    later = msgspec.msgpack.encode({"type": "Later", "what": [1, 2]})
    assert messages.decode(later) == messages.Unknown("Later")


def test_fields_of_another_version_do_no_harm() -> None:
    """The rule between versions (messages.py): fields are only added, with defaults."""
    fields = msgspec.msgpack.decode(messages.encode(messages.Adopt(3, [4, 1], {1: b"rest"})))
    assert messages.decode(msgspec.msgpack.encode(fields | {"later": 1})) == messages.Adopt(
        3, [4, 1], {1: b"rest"}
    )
    del fields["unread"]
    assert messages.decode(msgspec.msgpack.encode(fields)) == messages.Adopt(3, [4, 1])
    family = ["n", "counter", "h", [["n_total", [["k", "v"]], 1.5]], "later"]
    samples = {"type": "Samples", "request": 1, "families": [family], "last": True}
    heard = messages.decode(msgspec.msgpack.encode(samples))
    assert isinstance(heard, messages.Samples)
    assert heard.families == [messages.Family("n", "counter", "h", [("n_total", (("k", "v"),), 1.5)])]


async def test_a_receiver_that_is_cancelled_takes_no_message_along(ends: tuple[Channel, Channel]) -> None:
    for number in range(3):
        await ends[0].send(messages.Ping(number))
    with trio.CancelScope() as scope:
        scope.cancel()
        await ends[1].receive()
    assert scope.cancelled_caught
    assert (await ends[1].receive()).message == messages.Ping(0)


def test_a_socket_may_travel_twice_and_live_on(ends: tuple[Channel, Channel]) -> None:
    """The supervisor keeps its duplicate until the acknowledgement, and may give it to another worker."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for batch in (1, 2):
                await ends[0].send(messages.Adopt(batch, list(range(1))), [ours.fileno()])
                close_all((await ends[1].receive()).descriptors)
            theirs.sendall(b"still here")
            assert ours.recv(100) == b"still here"

    trio.run(main)
