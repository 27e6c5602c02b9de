"""`scripts/serve --cluster`: the server on a MongoDB and a Redis of its own, to try that engine on one machine.

Both keep to ./data/cluster and to fixed ports of loopback, since a replica set remembers its members' addresses, and
end with the server. It is a pair for trying things: one node's majority is that node, so a lost disk is lost mail,
and the MongoDB of the wheel is an old one. docs/operations.md says what to run instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from scripts.engine_processes import Absent, DidNotStart, mongod_is_primary, start_mongod, start_redis

FOLDER: Final = Path("data", "cluster").absolute()
MONGO_PORT: Final = 27117
REDIS_PORT: Final = 6479


def main(arguments: list[str]) -> int:
    """The server's exit status; 2 when an engine cannot be started."""
    with ExitStack() as stack:
        try:
            known = Path(FOLDER, "mongodb", "WiredTiger").exists()
            mongod = start_mongod(FOLDER / "mongodb", port=MONGO_PORT, initiate=not known)
            stack.callback(mongod.stop)
            mongod.wait_until(mongod_is_primary)
            redis = start_redis(FOLDER / "redis", port=REDIS_PORT)
            stack.callback(redis.stop)
        except (Absent, DidNotStart) as error:
            print(f"the cluster engine does not start: {error}", file=sys.stderr)
            return 2
        environ = {
            "WD_TRIO_STORE__URL": f"mongodb://127.0.0.1:{MONGO_PORT}/",
            "WD_TRIO_REDIS__URL": redis.url,
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "wd_trio", "serve", "--demo", *arguments], env={**os.environ, **environ}
        )
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:
                continue  # the terminal's Ctrl-C is the server's too: it drains, then this ends


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
