"""Redis behind the gateway: operations a second from many tasks, with the pipeline and call by call.

    python scripts/bench/redis_pipeline.py [URL] [TASKS] [CALLS]

Each task counts its own strikes, one after the other. With the pipeline, whatever is queued goes out in one exchange;
call by call, each operation is a round trip of its own in one of the lane's threads. The database is left as it was,
but for keys that expire within a minute. The URL is redis://127.0.0.1:6379/0 unless given.
"""

from __future__ import annotations

import sys
import time

import trio

from wd_trio.adapters.bridge import Gateway, LaneOptions
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.pipeline import RedisLink

URL = "redis://127.0.0.1:6379/0"
TASKS = 64
CALLS = 64_000
THREADS = 8
REPEATS = 3


async def strike(gateway: Gateway, limits: RedisLimits, key: str, calls: int) -> None:
    for _ in range(calls):
        await gateway.run(limits.strike, key, window_s=60.0)


async def measure(link: RedisLink, lane: LaneOptions, tasks: int, calls: int) -> tuple[float, float]:
    """Operations a second and microseconds of this process' CPU for each, the best of some runs."""
    limits = RedisLimits(link)
    best, cpu_us = 0.0, float("inf")
    async with Gateway([lane]) as gateway:
        for _ in range(REPEATS):
            begun, cpu_begun = time.perf_counter(), time.process_time()
            async with trio.open_nursery() as nursery:
                for task in range(tasks):
                    nursery.start_soon(strike, gateway, limits, f"bench:{task}", calls // tasks)
            best = max(best, calls / (time.perf_counter() - begun))
            cpu_us = min(cpu_us, (time.process_time() - cpu_begun) / calls * 1e6)
    return best, cpu_us


async def main(url: str, tasks: int, calls: int) -> None:
    link = RedisLink(url)
    try:
        lanes = {
            f"call by call, {THREADS} threads": LaneOptions(name="state.write", threads=THREADS),
            "in the pipeline": LaneOptions(name="state.write", group=link.run_group),
        }
        for name, lane in lanes.items():
            a_second, cpu_us = await measure(link, lane, tasks, calls)
            print(f"{name:26} {a_second:8,.0f} a second, {cpu_us:5.1f} µs of CPU each")
    finally:
        link.close()


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    trio.run(main, given.get(0, URL), int(given.get(1, TASKS)), int(given.get(2, CALLS)))
