"""Configuration: the default file, types, ranges, overrides, and every fault at once."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from wd_trio.config import Config
from wd_trio.config_load import ConfigFaults, default_path, load, render_default
from wd_trio.ops.control import control_path
from wd_trio.secret import Secret

ROOT = Path(__file__).parents[1]


def faults(text: str = "", environ: dict[str, str] | None = None, *, folder: Path) -> dict[str, str]:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigFaults) as caught:
        load(path, environ or {})
    assert len(dict(caught.value.faults)) == len(caught.value.faults), "one fault for each key"
    return dict(caught.value.faults)


def without_store(config: Config) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "store"}


def test_the_file_in_the_repository_is_what_the_code_declares() -> None:
    assert (ROOT / "config.toml").read_text("utf-8") == render_default()


def test_the_default_file_says_the_defaults() -> None:
    config = load(ROOT / "config.toml", {})
    assert without_store(config) == without_store(Config())
    document = tomllib.loads(render_default())
    assert document.keys() == {field.name for field in dataclasses.fields(Config)}


def test_every_key_has_one_comment() -> None:
    for line in render_default().splitlines():
        if " = " in line and not line.startswith("#"):
            assert line.count("  # ") == 1


def test_no_file_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_path(tmp_path) is None
    config = load(None, {"HOME": "/", "OTHER_WD_TRIO_X": "1"})
    assert config.store.url == f"sqlite:{tmp_path}/data/wd-trio.db"
    assert without_store(config) == without_store(Config())


def test_a_named_file_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match=r"cannot be read"):
        load(tmp_path / "none.toml", {})


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "config.toml"
    path.write_text('[store]\nurl = "sqlite:mail.db"\n')
    monkeypatch.chdir(tmp_path)
    assert load(path, {}).store.url == f"sqlite:{tmp_path}/etc/mail.db"
    assert load(Path("etc/config.toml"), {}).store.url == f"sqlite:{tmp_path}/etc/mail.db"
    assert load(path, {"WD_TRIO_STORE__URL": "sqlite:/srv/mail.db"}).store.url == "sqlite:/srv/mail.db"


def test_values_of_each_type_from_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[server]\nworkers = 3\n[auth]\nfailure_delay_s = 2\n[api]\naccess_token = "abc"\n')
    config = load(
        path,
        {
            "WD_TRIO_SERVER__WORKERS": "5",
            "WD_TRIO_SERVER__HOSTNAME": "mx.example.com",
            "WD_TRIO_IMAP__LISTEN": '["127.0.0.1:1143", "[::1]:1143", "unix:/run/imap.sock"]',
            "WD_TRIO_API__ACCESS_CONTROL": "false",
            "WD_TRIO_API__ACCESS_TOKEN": "true",
            "WD_TRIO_LIMITS__MESSAGE_BYTES": "0x100000",
        },
    )
    assert config.server.workers == 5
    assert config.server.hostname == "mx.example.com"
    assert config.imap.listen == ("127.0.0.1:1143", "[::1]:1143", "unix:/run/imap.sock")
    assert config.api.access_control is False
    assert config.api.access_token == Secret("true"), "texts are taken as they are"
    assert config.limits.message_bytes == 1 << 20
    assert config.auth.failure_delay_s == 2.0


def test_all_faults_at_once(tmp_path: Path) -> None:
    found = faults(
        """
        surprise = 1
        imap = 3
        [nowhere]
        x = 1
        [server]
        workers = "two"
        colour = "red"
        drain_s = 60
        hostname = "-x"
        proxy_networks = ["127.0.0.1", "10.0.0.1/24", "fd00::1/128"]
        [lmtp]
        listen = ["nonsense", "127.0.0.1:99999", "[::1]:24", "[::1]:24", "unix:relative", "[x]:1", ":25", "h:"]
        recipients = 0
        [limits]
        flush_s = nan
        [tls]
        trusted_networks = ["10.0.0.1/8", "fd00::/8", "everyone"]
        [log]
        level = "loud"
        """,
        {
            "WD_TRIO_LOG__FORMAT": "xml",
            "WD_TRIO_LOG": "x",
            "WD_TRIO_LIMITS__QUOTA_BYTES": "1\nother = 2",
            "WD_TRIO_API__LISTEN": "127.0.0.1:80",
            "WD_TRIO_API__ACCESS_CONTROL": "yes",
        },
        folder=tmp_path,
    )
    assert found.keys() == {
        "surprise",
        "imap",
        "nowhere",
        "server.workers",
        "server.colour",
        "server.drain_s",
        "server.hostname",
        "server.proxy_networks[1]",
        *(f"lmtp.listen[{n}]" for n in (0, 1, 3, 4, 5, 6, 7)),
        "lmtp.recipients",
        "limits.flush_s",
        "limits.quota_bytes",
        "tls.trusted_networks[0]",
        "tls.trusted_networks[2]",
        "log.level",
        "log.format",
        "WD_TRIO_LOG",
        "api.listen",
        "api.access_control",
    }


def test_a_certificate_and_its_key_come_together(tmp_path: Path) -> None:
    assert faults("[tls]\ncertificate = 'a.pem'", folder=tmp_path) == {
        "tls.key": "is needed with the other one"
    }
    assert faults("[tls]\nkey = 'a.pem'", folder=tmp_path).keys() == {"tls.certificate"}


def test_tls_listeners_need_a_certificate_and_addresses_of_their_own(tmp_path: Path) -> None:
    found = faults(
        """
        [imap]
        listen = ["127.0.0.1:993"]
        tls_listen = ["127.0.0.1:993", "nowhere"]
        [pop3]
        tls_listen = ["127.0.0.1:995"]
        """,
        folder=tmp_path,
    )
    assert found == {
        "tls.certificate": "is needed with tls_listen",
        "tls.key": "is needed with tls_listen",
        "imap.tls_listen[0]": "the same address as imap.listen[0]",
        "imap.tls_listen[1]": found["imap.tls_listen[1]"],
    }


def test_certificates_are_found_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[tls]\ncertificate = 'mail.pem'\nkey = '/etc/ssl/mail.key'\n", "utf-8")
    tls = load(path, {}).tls
    assert (tls.certificate, tls.key) == (str(tmp_path / "mail.pem"), "/etc/ssl/mail.key")
    assert tls.hold


CLUSTER = """
[store]
url = "mongodb://anna:s3cret@10.0.0.1/mail?replicaSet=rs"
[redis]
url = "redis://:s3cret@10.0.0.1"
"""


def test_the_cluster_engine_is_two_urls_whose_passwords_never_print(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CLUSTER)
    config = load(path, {})
    assert (config.store.url[:12], config.redis.url[:9]) == ("mongodb://an", "redis://:")
    assert "s3cret" not in repr(config)
    assert control_path(config) == tmp_path / "wd-trio.control"
    elsewhere = load(path, {"WD_TRIO_SERVER__CONTROL": "/run/wd-trio/control"})
    assert control_path(elsewhere) == Path("/run/wd-trio/control")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[store]\nurl = "mongodb://10.0.0.1/mail"', "redis.url"),
        ('[store]\nurl = "mongodb://10.0.0.1/mail"\n[redis]\nurl = "http://10.0.0.1"', "redis.url"),
        ('[redis]\nurl = "redis://10.0.0.1"', "redis.url"),
        ('[server]\ncontrol = "/run/control"', "server.control"),
    ],
)
def test_urls_that_make_no_engine(text: str, fault: str, tmp_path: Path) -> None:
    assert faults(text, folder=tmp_path).keys() == {fault}


@pytest.mark.parametrize(
    "url", ["", "sqlite:", "sqlite::memory:", "sqlite://host/x", "sqlite:dir/", "postgres:x"]
)
def test_store_urls_that_are_none(url: str, tmp_path: Path) -> None:
    assert faults(f'[store]\nurl = "{url}"', folder=tmp_path).keys() == {"store.url"}


@pytest.mark.parametrize("value", ["true", "1.5", '"1"', "[1]", "1979-05-27"])
def test_wrong_types(value: str, tmp_path: Path) -> None:
    assert faults(f"[server]\nworkers = {value}", folder=tmp_path) == {
        "server.workers": "expected a whole number"
    }


def test_secrets_never_print(tmp_path: Path) -> None:
    config = load(None, {"WD_TRIO_API__ACCESS_TOKEN": "tr0ub4dor"})
    assert "tr0ub4dor" not in repr(config)
    assert "tr0ub4dor" not in str(faults('[api]\naccess_token = ["tr0ub4dor"]', folder=tmp_path))
    environ = {"WD_TRIO_API__ACCESS_TOKEN": "tr0ub4dor with spaces"}
    assert "tr0ub4dor" not in str(faults(environ=environ, folder=tmp_path))


@pytest.mark.parametrize("content", [b"[imap", b"\xff\xfe", b"[imap]\nlisten = [1\n"])
def test_a_file_that_is_not_toml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigFaults) as caught:
        load(path, {})
    assert [where for where, _ in caught.value.faults] == [str(path)]


def test_unix_socket_paths_that_are_too_long(tmp_path: Path) -> None:
    found = faults(f'[imap]\nlisten = ["unix:/{"x" * 107}"]', folder=tmp_path)
    assert found == {"imap.listen[0]": "a Unix socket's path has at most 107 bytes"}


def test_port_zero_may_be_given_twice() -> None:
    listen = '["127.0.0.1:0"]'
    config = load(None, {"WD_TRIO_IMAP__LISTEN": listen, "WD_TRIO_LMTP__LISTEN": listen})
    assert config.imap.listen == config.lmtp.listen == ("127.0.0.1:0",)
