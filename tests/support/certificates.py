"""Certificates for tests, made by openssl's program: self-signed, fresh, one folder each."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers import need

_KINDS = {
    "ec": "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
    "rsa": "-newkey rsa:2048",
}


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as paths of PEM files."""

    certificate: str
    key: str

    @property
    def der(self) -> bytes:
        """The certificate as a client sees it."""
        return ssl.PEM_cert_to_DER_cert(Path(self.certificate).read_text("ascii"))


def make_pair(folder: Path, name: str = "mail", *, kind: str = "ec", encrypted: bool = False) -> Pair:
    """A new pair for `name`.example.org."""
    pair = Pair(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    protection = ["-passout", "pass:secret"] if encrypted else ["-nodes"]
    host = f"{name}.example.org"
    what = f"-subj /CN={host} -addext subjectAltName=DNS:{host},IP:127.0.0.1 -days 2"
    files = ["-keyout", pair.key, "-out", pair.certificate]
    command = [need("openssl"), "req", "-x509", *_KINDS[kind].split(), *what.split(), *protection, *files]
    subprocess.run(command, check=True, capture_output=True)
    return pair


def trusting_anything() -> ssl.SSLContext:
    """A client's context for a server whose certificate is looked at afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
