"""What systemd hears from the running server (`Type=notify`), in order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

from served import Served

from wd_trio.ops import control


def test_ready_reload_fault_upgrade_and_stop(start_server: Callable[..., Served], tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        server = start_server(ready=False, environ={"NOTIFY_SOCKET": str(path)})

        def heard() -> str:
            return manager.recv(1000).decode()

        assert heard() == "READY=1\nSTATUS=serving with 2 workers"
        server.wait_ready()
        assert server.ask("reload")["ok"]
        assert heard().startswith("RELOADING=1\n")
        assert heard().startswith("READY=1\n")

        config, good = server.config(), server.config_path.read_text()
        server.config_path.write_text(good + "[nonsense]\n")
        assert control.request(config, "reload")["faults"] == ["nonsense: no such section"]
        assert heard().startswith("RELOADING=1\n")
        assert heard().startswith("READY=1\n")  # it serves on, as before
        server.config_path.write_text(good)

        assert control.upgrade(config).ok
        assert heard().startswith("RELOADING=1\n")
        assert heard().startswith("RELOADING=1\n")  # by the new program
        assert heard().startswith("READY=1\n")

        server.signal(signal.SIGTERM)
        assert heard() == "STOPPING=1\nSTATUS=draining"
        assert server.wait() == 0
