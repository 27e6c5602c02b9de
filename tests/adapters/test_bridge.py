"""The gateway: results, batching, cancellation, bounds and the breaker. Threads are held by gates, never by time."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from bridge_support import SHORT_WAIT_S, Group, echo_write, lane_named
from trio.testing import wait_all_tasks_blocked

from wd_trio import errors, telemetry
from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.lanes import make_way
from wd_trio.ports.gateway import in_lane, reads, writes


class Engine:
    """Calls with a gate: `entered` says that a thread is inside, `gate` lets it out."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.ran: list[object] = []

    @reads("store")
    def read(self, what: object = None) -> object:
        self.entered.release()
        self.gate.wait()
        self.ran.append(what)
        return what

    @writes("store")
    def write(self, what: object = None) -> object:
        self.entered.release()
        self.gate.wait()
        self.ran.append(what)
        return what

    async def wait_entered(self) -> None:
        await trio.to_thread.run_sync(self.entered.acquire)


@reads("store")
def echo_read(value: object) -> object:
    return value


@reads("store")
def raise_read(error: Exception) -> None:
    raise error


async def test_values_keywords_and_errors_come_back_from_named_threads() -> None:
    def named(*, suffix: str) -> str:
        return threading.current_thread().name + suffix

    async with Gateway([LaneOptions(name="work"), LaneOptions(name="store.read", threads=2)]) as gateway:
        assert await gateway.run(named, suffix="!") == "work-0!"
        assert await gateway.run(echo_read, 5) == 5
        with pytest.raises(errors.NotFound) as caught:
            await gateway.run(raise_read, errors.NotFound(what="mailbox"))
        assert caught.value.what == "mailbox"
        with pytest.raises(ZeroDivisionError):
            await gateway.run(lambda: 1 // 0)
        assert lane_named(gateway, "work").results == {"ok": 1, "fault": 1}
        assert lane_named(gateway, "store.read").results == {"ok": 1, "error": 1}


async def test_a_call_of_a_lane_that_is_not_there_is_a_programming_error() -> None:
    async with Gateway([LaneOptions(name="work")]) as gateway:
        with pytest.raises(KeyError):
            await gateway.run(in_lane("elsewhere")(lambda: 1))


async def test_fifty_in_flight_share_the_wake_ups() -> None:
    rounds, callers = 20, 50
    results: list[int] = []
    async with Gateway([LaneOptions(name="work")]) as gateway:

        async def caller(number: int) -> None:
            for turn in range(rounds):
                results.append(await gateway.run(lambda value: value, number * rounds + turn))

        async with trio.open_nursery() as nursery:
            for number in range(callers):
                nursery.start_soon(caller, number)
        statistics = gateway.statistics()
    assert sorted(results) == list(range(rounds * callers))
    assert statistics.crossings == rounds * callers
    assert statistics.deliveries < statistics.crossings / 5
    assert statistics.lanes[0].wakes < statistics.crossings / 5


async def test_a_brief_lane_needs_one_thread_and_one_delivery_for_what_comes_together() -> None:
    rounds, callers = 20, 50
    results: list[object] = []
    lanes = [LaneOptions(name="store.read", threads=4, abandon=True, brief=True)]
    async with Gateway(lanes) as gateway:

        async def caller(number: int) -> None:
            for turn in range(rounds):
                results.append(await gateway.run(echo_read, (number, turn)))

        async with trio.open_nursery() as nursery:
            for number in range(callers):
                nursery.start_soon(caller, number)
        statistics = gateway.statistics()
    assert set(results) == {(number, turn) for number in range(callers) for turn in range(rounds)}
    assert len(results) == rounds * callers
    assert statistics.deliveries < statistics.crossings / 5
    assert statistics.lanes[0].wakes < statistics.crossings / 5


async def test_nothing_waits_for_a_call_that_makes_way() -> None:
    engine = Engine()

    @reads("store")
    def long() -> object:
        make_way()
        return engine.read("long")

    async with Gateway([LaneOptions(name="store.read", threads=2, brief=True)]) as gateway:
        done: list[object] = []
        both = trio.Event()

        async def caller(call: Callable[..., object], *arguments: object) -> None:
            done.append(await gateway.run(call, *arguments))
            if len(done) == 2:
                both.set()

        async with trio.open_nursery() as nursery:
            for call, *arguments in ((echo_read, "before"), (long,), (echo_read, "behind")):
                nursery.start_soon(caller, call, *arguments)
            await both.wait()
            assert sorted(map(str, done)) == ["before", "behind"]
            engine.gate.set()
        assert done[2] == "long"


def test_outside_of_a_brief_lane_there_is_nobody_to_make_way_for() -> None:
    make_way()


async def test_cancelled_before_it_begins_a_call_never_runs() -> None:
    engine = Engine()
    async with Gateway([LaneOptions(name="store.write")]) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run, engine.write, "first")
        await engine.wait_entered()
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await gateway.run(engine.write, "second")
        assert scope.cancelled_caught
        assert lane_named(gateway, "store.write").waiting == 0
        engine.gate.set()
    assert engine.ran == ["first"]
    assert lane_named(gateway, "store.write").results == {"withdrawn": 1, "ok": 1}


async def test_a_write_that_has_begun_is_waited_for_and_its_value_returned() -> None:
    engine = Engine()
    outcome: list[object] = []
    async with Gateway([LaneOptions(name="store.write")]) as gateway, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            async def cancel_then_let_go() -> None:
                await engine.wait_entered()
                scope.cancel()
                await wait_all_tasks_blocked()
                engine.gate.set()

            nursery.start_soon(cancel_then_let_go)
            outcome.append(await gateway.run(engine.write, "kept"))
            await trio.lowlevel.checkpoint()
            outcome.append("not reached")
        assert scope.cancelled_caught
    assert outcome == ["kept"]


async def test_a_read_that_has_begun_is_abandoned() -> None:
    engine = Engine()
    async with (
        Gateway([LaneOptions(name="store.read", abandon=True)]) as gateway,
        trio.open_nursery() as nursery,
    ):
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await engine.wait_entered()
                scope.cancel()

            nursery.start_soon(cancel)
            await gateway.run(engine.read)
        assert scope.cancelled_caught
        engine.gate.set()
        assert await gateway.run(engine.read, "next") == "next"
        assert lane_named(gateway, "store.read").results["abandoned"] == 1


async def test_a_caller_that_is_cancelled_already_starts_nothing() -> None:
    ran: list[int] = []
    async with Gateway([LaneOptions(name="work")]) as gateway:
        with trio.CancelScope() as scope:
            scope.cancel()
            await gateway.run(ran.append, 1)
        assert scope.cancelled_caught
    assert ran == []


async def test_what_waits_is_told() -> None:
    def waiting() -> float | None:
        return telemetry.REGISTRY.get_sample_value("wildduck_gateway_waiting", {"lane": "store.read"})

    engine = Engine()
    async with Gateway([LaneOptions(name="store.read")]) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run, engine.read)
        await engine.wait_entered()
        assert waiting() == 0
        for _ in range(3):
            nursery.start_soon(gateway.run, engine.read)
        await wait_all_tasks_blocked()
        assert waiting() == 3
        engine.gate.set()
    assert waiting() is None, "a gateway that is closed tells nothing"


async def test_a_full_queue_refuses_at_once() -> None:
    engine = Engine()
    async with Gateway([LaneOptions(name="store.read", queue=3)]) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run, engine.read)
        await engine.wait_entered()
        for _ in range(3):
            nursery.start_soon(gateway.run, engine.read)
        await wait_all_tasks_blocked()
        with pytest.raises(errors.Unavailable):
            await gateway.run(engine.read)
        assert lane_named(gateway, "store.read").waiting == 3
        engine.gate.set()
    assert lane_named(gateway, "store.read").results == {"refused": 1, "ok": 4}
    assert not lane_named(gateway, "store.read").breaker_open


async def test_a_call_behind_a_hung_one_is_unavailable_after_its_wait() -> None:
    engine = Engine()
    lanes = [LaneOptions(name="store.read", wait_s=SHORT_WAIT_S)]
    async with Gateway(lanes) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run, engine.read, "hung")
        await engine.wait_entered()
        with pytest.raises(errors.Unavailable, match="waited too long"):
            await gateway.run(engine.read, "late")
        assert lane_named(gateway, "store.read").waiting == 0
        engine.gate.set()
    assert engine.ran == ["hung"]
    assert lane_named(gateway, "store.read").results == {"overdue": 1, "ok": 1}


async def test_the_breaker_opens_and_a_probe_closes_it() -> None:
    now = [100.0]
    lanes = [LaneOptions(name="store.read"), LaneOptions(name="store.write"), LaneOptions(name="state.read")]
    async with Gateway(lanes, breaker_threshold=3, breaker_retry_s=0.5, clock=lambda: now[0]) as gateway:
        for _ in range(3):
            with pytest.raises(errors.Unavailable, match="down"):
                await gateway.run(raise_read, errors.Unavailable("down"))
        for call in (echo_read, echo_write):
            with pytest.raises(errors.Unavailable, match="refused"):
                await gateway.run(call, 1)
        assert await gateway.run(reads("state")(lambda: "another engine")) == "another engine"
        now[0] += 0.5
        with pytest.raises(errors.Unavailable, match="down"):
            await gateway.run(raise_read, errors.Unavailable("down"))
        with pytest.raises(errors.Unavailable, match="refused"):
            await gateway.run(echo_read, 1)
        now[0] += 0.5
        assert await gateway.run(echo_write, 2) == 2
        assert await gateway.run(echo_read, 3) == 3


async def test_answers_that_are_errors_keep_the_breaker_closed() -> None:
    async with Gateway([LaneOptions(name="store.read")], breaker_threshold=2) as gateway:
        for _ in range(3):
            for error in (errors.Unavailable(), errors.NotFound()):
                with pytest.raises(type(error)):
                    await gateway.run(raise_read, error)
        assert await gateway.run(echo_read, 1) == 1


async def test_plain_lanes_have_no_breaker() -> None:
    def unavailable() -> None:
        raise errors.Unavailable

    async with Gateway([LaneOptions(name="work")], breaker_threshold=1) as gateway:
        for _ in range(3):
            with pytest.raises(errors.Unavailable):
                await gateway.run(unavailable)
        assert await gateway.run(lambda: 1) == 1


async def test_closed_it_refuses_and_its_threads_have_ended() -> None:
    engine = Engine()
    engine.gate.set()
    before = set(threading.enumerate())
    gateway = Gateway(
        [LaneOptions(name="store.read", threads=3), LaneOptions(name="store.write", group=Group())]
    )
    with pytest.raises(errors.Unavailable):
        await gateway.run(engine.read)
    async with gateway:
        await gateway.run(engine.read)
    with pytest.raises(errors.Unavailable):
        await gateway.run(engine.read)
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in started if name.startswith(("store.", "gateway-"))}


async def test_a_hung_engine_does_not_hold_the_exit() -> None:
    engine = Engine()
    async with Gateway([LaneOptions(name="store.read", abandon=True)], close_s=SHORT_WAIT_S) as gateway:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.run, engine.read)
                await engine.wait_entered()
                scope.cancel()
    engine.gate.set()


def test_a_thread_that_comes_back_after_the_loop_has_ended_is_harmless() -> None:
    engine = Engine()

    async def leave_it_hanging() -> None:
        async with Gateway([LaneOptions(name="late.read", abandon=True)], close_s=SHORT_WAIT_S) as gateway:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(gateway.run, reads("late")(lambda: engine.read("late")))
                    await engine.wait_entered()
                    scope.cancel()

    trio.run(leave_it_hanging)
    (hung,) = [thread for thread in threading.enumerate() if thread.name == "late.read-0"]
    engine.gate.set()
    hung.join()
    assert engine.ran == ["late"]


async def test_neither_arguments_nor_results_outlive_the_call() -> None:
    class Message:
        pass

    async with Gateway(
        [LaneOptions(name="store.read"), LaneOptions(name="store.write", group=Group())]
    ) as gateway:
        for call in (echo_read, echo_write):
            message = Message()
            alive = weakref.ref(message)
            await gateway.run(call, message)
            await gateway.run(call, None)  # the thread has passed on
            del message
            gc.collect()
            assert alive() is None


async def test_an_error_leaves_no_cycle_behind() -> None:
    class Fault(Exception):
        pass

    raised: list[weakref.ref[Fault]] = []

    def fail() -> None:
        fault = Fault()
        raised.append(weakref.ref(fault))
        try:
            raise fault
        finally:
            del fault

    async with Gateway([LaneOptions(name="work")]) as gateway:
        gc.disable()
        try:
            with contextlib.suppress(Fault):
                await gateway.run(fail)
            await gateway.run(lambda: None)
            assert raised[0]() is None
        finally:
            gc.enable()


async def test_under_random_cancellation_every_call_has_one_fate() -> None:
    calls, callers = 100, 40
    chance = random.Random(5)
    ran = Counter[str]()
    lock = threading.Lock()

    def note(lane: str) -> None:
        with lock:
            ran[lane] += 1

    read = reads("store")(lambda: note("store.read"))
    write = writes("store")(lambda: note("store.write"))
    lanes = [
        LaneOptions(name="store.read", threads=4, abandon=True),
        LaneOptions(name="store.write", group=Group(most=3)),
    ]
    async with Gateway(lanes) as gateway:

        async def caller() -> None:
            for _ in range(calls):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(gateway.run, chance.choice((read, write)))
                        for _ in range(chance.randrange(3)):
                            await trio.lowlevel.checkpoint()
                        if chance.random() < 0.5:
                            scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(caller)
        await gateway.run(read)
        await gateway.run(write)
    for lane in gateway.statistics().lanes:
        assert lane.waiting == 0
        assert lane.results["ok"] == ran[lane.name]
        assert lane.results["withdrawn"] > 0
        assert set(lane.results) <= {"ok", "withdrawn", "abandoned"}


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()
