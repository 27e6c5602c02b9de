from __future__ import annotations
import os, random, signal
from collections.abc import Callable
import trio
from crowd import Account, Crowd, Places, summary
from served import Served

async def test_storm(start_server: Callable[..., Served]) -> None:
    server = start_server(workers=3)
    users = [await trio.to_thread.run_sync(server.add_user) for _ in range(6)]
    places = Places((server.imap.host, server.imap.port), (server.pop3.host, server.pop3.port), (server.lmtp.host, server.lmtp.port))
    crowd = Crowd(places, [Account(u.username, u.address, u.password) for u in users])
    chance = random.Random(int(os.environ.get("SEED", "1")))
    wire = await crowd.open_lmtp()
    for n, a in enumerate(crowd.accounts * 3):
        await crowd.deliver(wire, a.address, f"first {n}")
    wire.close()
    fds0 = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    async with trio.open_nursery() as nursery:
        await crowd.gather(nursery, idlers=30, readers=30, talkers=1, droppers=3, senders=1, sweepers=1)
        await crowd.check()
        for r in range(6):
            async with trio.open_nursery() as both:
                async def reload() -> None:
                    print("reload", await trio.to_thread.run_sync(server.ask, "reload"))
                both.start_soon(reload)
                await trio.sleep(chance.random() * 1.5)
                for _ in range(2):
                    pids = await trio.to_thread.run_sync(server.worker_pids)
                    if pids:
                        try: os.kill(chance.choice(pids), signal.SIGKILL)
                        except ProcessLookupError: pass
                    await trio.sleep(chance.random() * 0.5)
            await trio.sleep(1.5)
            print(r, server.ask("status"))
            await crowd.check()
        crowd.stop()
        await crowd.check()
        nursery.cancel_scope.cancel()
    print("SUMMARY", summary(crowd.tally), crowd.tally.wrong[:5])
    for _ in range(40):
        await trio.sleep(0.25)
        status = server.ask("status")
        if not sum(w["connections"] for w in status["workers"]): break
    print("END", status)
    print("fds", fds0, len(os.listdir(f"/proc/{server.process.pid}/fd")))
    import subprocess
    print([(e.get("event"), e.get("level"), str(e)[:300]) for e in server.log.all() if e.get("level") in ("error","critical")][:12])
    assert not crowd.tally.wrong
    raise SystemExit
