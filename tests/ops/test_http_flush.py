"""Hypercorn's sends are bounded by the kernel: a client that takes nothing is given up."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from wd_trio.ops.http.serve import bound_sends

FLUSH_S = 0.1


async def test_a_client_that_never_reads_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        bound_sends(listener.fileno(), FLUSH_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(accepted)) as stream:
            with pytest.raises(trio.BrokenResourceError) as caught, trio.CancelScope(shield=True):
                await stream.send_all(bytes(64 << 20))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ETIMEDOUT


async def test_a_unix_socket_has_no_such_bound(tmp_path: object) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/api")
        bound_sends(listener.fileno(), FLUSH_S)
