"""nginx and HAProxy with the configurations under deploy/, moved to this machine's ports.

The files name three servers by host name and listen on well-known ports; here each name becomes an address that
answers, each port a free one. Nothing else of the files changes.
"""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers import need

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
WAIT_S = 30.0

PORTS = {"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "lmtp": 24, "api": 8080}
"""Where the configurations listen."""
TARGETS = {1143: "imap", 1110: "pop3", 1124: "lmtp", 8080: "api"}
"""Where they expect the servers."""
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
CLIENT = "127.0.0.5"
"""Where clients come from: an address that is not the balancer's."""
CERTIFICATE = "/etc/haproxy/certs/mail.pem"


@dataclass(frozen=True)
class Balancer:
    """A running one: the local port of each service it offers, by the names in PORTS."""

    ports: Mapping[str, int]
    process: subprocess.Popen[bytes]


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A free TCP port for each name: all are held until all are known."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: sock.getsockname()[1] for name, sock in zip(names, socks, strict=True)}


def _aim(text: str, servers: Sequence[Mapping[str, int]]) -> str:
    """Every `mail-N:port` becomes the local port of that protocol at the N-th server (of fewer: round and round)."""

    def line_for(found: re.Match[str]) -> str:
        server = servers[(int(found[1]) - 1) % len(servers)]
        rest = found[3].replace("check port 8080", f"check port {server['api']}")
        return f"127.0.0.1:{server[TARGETS[int(found[2])]]}{rest}"

    return re.sub(r"\bmail-(\d):(\d+)(.*)", line_for, text)


def nginx_conf(servers: Sequence[Mapping[str, int]], ports: Mapping[str, int]) -> str:
    """deploy/nginx.conf for these servers on these ports, as Debian's nginx takes it."""
    text = _aim((DEPLOY / "nginx.conf").read_text("utf-8"), servers)
    names = {port: name for name, port in PORTS.items()}
    text = re.sub(r"\blisten (\d+);", lambda found: f"listen 127.0.0.1:{ports[names[int(found[1])]]};", text)
    return f"load_module {MODULE};\n{text}" if MODULE.exists() else text


def haproxy_cfg(
    servers: Sequence[Mapping[str, int]],
    ports: Mapping[str, int],
    certificate: Path,
    *,
    header: str = "send-proxy-v2-ssl",
) -> str:
    """deploy/haproxy.cfg for these servers on these ports, with another form of the header if asked."""
    text = _aim((DEPLOY / "haproxy.cfg").read_text("utf-8"), servers)
    names = {port: name for name, port in PORTS.items()}
    text = re.sub(r"\bbind :(\d+)", lambda found: f"bind 127.0.0.1:{ports[names[int(found[1])]]}", text)
    text = text.replace("inter 2s", "inter 200ms")
    return text.replace(CERTIFICATE, str(certificate)).replace("send-proxy-v2-ssl", header)


def need_nginx() -> str:
    """nginx with the module that carries mail."""
    program = need("nginx")
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr.split()
    return program if MODULE.exists() or "--with-stream" in built else need("nginx's stream module")


def nginx_command(program: str, folder: Path, conf: Path) -> list[str]:
    return [program, "-p", str(folder), "-c", str(conf), "-e", "stderr", "-g", f"pid {folder}/nginx.pid;"]


def make_certificate(openssl: str, folder: Path) -> Path:
    """A self-signed certificate with its key in one file, as HAProxy wants it."""
    key, chain, both = folder / "key.pem", folder / "chain.pem", folder / "mail.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=mail.example.org -days 2"
    files = ["-keyout", str(key), "-out", str(chain)]
    subprocess.run([openssl, *make.split(), *files], check=True, capture_output=True)
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    return both


@contextlib.contextmanager
def running(command: Sequence[str], ports: Mapping[str, int], folder: Path) -> Iterator[Balancer]:
    """Run a balancer in the foreground until its ports answer; stop it at the end."""
    log = folder / "balancer.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        for port in ports.values():
            _wait_for(port, process, log)
        yield Balancer(ports, process)
    finally:
        process.terminate()
        process.wait(WAIT_S)


@contextlib.contextmanager
def balancing(
    kind: str, folder: Path, servers: Sequence[Mapping[str, int]], *, header: str = "send-proxy-v2-ssl"
) -> Iterator[Balancer]:
    """ "nginx" or "haproxy" before these servers, as deploy/ configures it; HAProxy with that form of the header."""
    folder.mkdir(exist_ok=True)
    if kind == "nginx":
        ports = free_ports(["imap", "pop3", "lmtp", "api"])
        configuration = folder / "nginx.conf"
        configuration.write_text("daemon off;\n" + nginx_conf(servers, ports))
        command = nginx_command(need_nginx(), folder, configuration)
    else:
        ports = free_ports(["imap", "imaps", "pop3", "pop3s", "lmtp", "api"])
        configuration = folder / "haproxy.cfg"
        certificate = make_certificate(need("openssl"), folder)
        configuration.write_text(haproxy_cfg(servers, ports, certificate, header=header))
        command = [need("haproxy"), "-db", "-f", str(configuration)]
    with running(command, ports, folder) as balancer:
        yield balancer


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        else:
            return


# --- clients


class Imap(imaplib.IMAP4):
    """A client that speaks from an address of its own."""

    def __init__(self, port: int, source: str = CLIENT) -> None:
        self._source = source
        super().__init__("127.0.0.1", port)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return socket.create_connection((self.host, self.port), 30, source_address=(self._source, 0))


class Imaps(Imap):
    """The same on TLS; whose certificate it is makes no difference here."""

    def _create_socket(self, timeout: float | None) -> socket.socket:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(super()._create_socket(timeout))


class Pop3(poplib.POP3):
    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), 30, source_address=(CLIENT, 0))
