"""Loading the configuration: a TOML file, then the environment, then every check; all faults at once.

- Both sources become plain values per (section, key); each is converted to the key's declared type, then
  held against its declared range; what spans keys or needs a grammar (addresses, networks, URLs) follows.
- A fault names its key path and the rule, never the value: a value may be a secret.
- What needs more than the configuration itself (a certificate that is one, an engine that answers) shows elsewhere.
- Relative paths count from the configuration file's folder, else from the current one, and come out absolute:
  the workers need not share the caller's folder.
"""

from __future__ import annotations

import ipaddress
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from wd_trio.addresses import is_cluster, parse_listen, sqlite_path
from wd_trio.config import Config, Store
from wd_trio.errors import Invalid
from wd_trio.secret import Secret

ENVIRONMENT_PREFIX: Final = "WD_TRIO_"
FILE_NAME: Final = "config.toml"
Fault = tuple[str, str]

LISTENING: Final = ("imap", "pop3", "lmtp", "api")
CLUSTER_CONTROL: Final = "wd-trio.control"
_REDIS_SCHEMES: Final = (
    "redis://",
    "rediss://",
    "redis+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]*")
_KINDS: Final[dict[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Secret: "a text",
    tuple[str, ...]: "a list of texts",
}


class ConfigFaults(Invalid):
    """All that is wrong with a configuration: `faults` holds (key path, message) in order of the keys."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{path}: {message}" for path, message in faults), what="config")
        self.faults = faults


def default_path(folder: Path) -> Path | None:
    """`folder`/config.toml where there is one."""
    path = folder / FILE_NAME
    return path if path.is_file() else None


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of the file at `path` (None: defaults only) under the overrides in `environ`.

    Raises ConfigFaults with every fault found.
    """
    faults: list[Fault] = []
    found: dict[tuple[str, str], Any] = {}
    if path is not None:
        _read_file(path, found, faults)
    _read_environment(environ, found, faults)
    sections = {section: dict[str, Any]() for section, _, _ in _keys()}
    for section, key, hint in _keys():
        if (section, key.name) in found:
            value = _convert(found[section, key.name], hint, key, f"{section}.{key.name}", faults)
            if value is not None:
                sections[section][key.name] = value
    config = Config(**{name: _section_types()[name](**values) for name, values in sections.items()})
    _check(config, faults)
    if faults:
        order = {f"{section}.{key.name}": n for n, (section, key, _) in enumerate(_keys())}
        raise ConfigFaults(sorted(faults, key=lambda fault: order.get(fault[0].partition("[")[0], -1)))
    folder = path.parent if path is not None else Path()
    return _absolute(config, folder.absolute())


def _section_types() -> dict[str, Any]:
    return get_type_hints(Config)


def _keys() -> Iterator[tuple[str, Field[Any], Any]]:
    """(section, field, type) of every declared key, in order."""
    for section, kind in _section_types().items():
        hints = get_type_hints(kind)
        for key in fields(kind):
            yield section, key, hints[key.name]


# --- the sources ------------------------------------------------------------------------------------------


def _read_file(path: Path, found: dict[tuple[str, str], Any], faults: list[Fault]) -> None:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        faults.append((str(path), f"cannot be read: {error.strerror}"))
        return
    except UnicodeDecodeError:
        faults.append((str(path), "is not UTF-8 text"))
        return
    except tomllib.TOMLDecodeError as error:
        faults.append((str(path), f"is not TOML: {error}"))
        return
    known = {(section, key.name) for section, key, _ in _keys()}
    for section, content in document.items():
        if section not in _section_types():
            faults.append((section, "no such section" if isinstance(content, dict) else "no such key"))
        elif not isinstance(content, dict):
            faults.append((section, f"is a section: write [{section}]"))
        else:
            for name, value in content.items():
                if (section, name) in known:
                    found[section, name] = value
                else:
                    faults.append((f"{section}.{name}", "no such key"))


def _read_environment(
    environ: Mapping[str, str], found: dict[tuple[str, str], Any], faults: list[Fault]
) -> None:
    names = {
        f"{ENVIRONMENT_PREFIX}{section}__{key.name}".upper(): (section, key.name, hint)
        for section, key, hint in _keys()
    }
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if name not in names:
            faults.append((name, "no such key (the form is WD_TRIO_<SECTION>__<KEY>)"))
            continue
        section, key, hint = names[name]
        if hint in (str, Secret):
            found[section, key] = environ[name]
            continue
        try:
            (found[section, key],) = tomllib.loads(f"value = {environ[name]}").values()
        except ValueError:
            found.pop((section, key), None)
            faults.append((f"{section}.{key}", f"{name} is not {_KINDS[hint]} as TOML writes it"))


# --- the values -------------------------------------------------------------------------------------------


def _convert(value: Any, hint: Any, key: Field[Any], path: str, faults: list[Fault]) -> Any:
    """`value` as the key's type and within its range, else None and a fault."""
    try:
        converted = msgspec.convert(value, str if hint is Secret else hint)
    except msgspec.ValidationError:
        faults.append((path, f"expected {_KINDS[hint]}"))
        return None
    fault = _range_fault(converted, key)
    if fault:
        faults.append((path, fault))
        return None
    return Secret(converted) if hint is Secret else converted


def _range_fault(value: Any, key: Field[Any]) -> str | None:
    least, most, choices = (key.metadata[name] for name in ("least", "most", "choices"))
    if choices and value not in choices:
        return f"expected one of {', '.join(choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if least is not None and value < least:
        return f"must be at least {least}"
    if most is not None and value > most:
        return f"must be at most {most}"
    return None


def _check(config: Config, faults: list[Fault]) -> None:
    """The rules that a type and a range cannot say."""
    if config.server.hostname and not _HOST_NAME.fullmatch(config.server.hostname):
        faults.append(("server.hostname", "is not a host name"))
    _check_engine(config, faults)
    _check_listeners(config, faults)
    _check_tls(config, faults)
    _check_networks(config.server.proxy_networks, "server.proxy_networks", faults)
    _check_networks(config.tls.trusted_networks, "tls.trusted_networks", faults)
    if not _TOKEN.fullmatch(config.api.access_token.reveal()):
        faults.append(("api.access_token", "a bearer token has only letters, digits and . _ ~ + / = -"))


def _check_engine(config: Config, faults: list[Fault]) -> None:
    """The two URLs name one engine together; whether their servers can be had shows when they are opened."""
    if not is_cluster(config.store.url):
        try:
            sqlite_path(config.store.url)
        except Invalid as error:
            faults.append(("store.url", str(error)))
        if config.redis.url:
            faults.append(("redis.url", "belongs to the cluster engine: leave it empty with sqlite:PATH"))
        if config.server.control:  # beside the store it proves that no other server serves it
            faults.append(
                ("server.control", "belongs to the cluster engine: leave it empty with sqlite:PATH")
            )
    elif not config.redis.url:
        faults.append(("redis.url", "the cluster engine needs a Redis beside MongoDB"))
    elif not config.redis.url.startswith(_REDIS_SCHEMES):
        faults.append(("redis.url", f"expected one of {', '.join(_REDIS_SCHEMES)}"))


def _check_tls(config: Config, faults: list[Fault]) -> None:
    """A certificate and its key come together, and where TLS is listened for there are some."""
    tls = config.tls
    listens = any(getattr(config, section).tls_listen for section in LISTENING)
    for name, value, other in (("certificate", tls.certificate, tls.key), ("key", tls.key, tls.certificate)):
        if not value and (other or listens):
            faults.append(
                (f"tls.{name}", "is needed with the other one" if other else "is needed with tls_listen")
            )


def _check_networks(networks: Sequence[str], path: str, faults: list[Fault]) -> None:
    for n, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            faults.append((f"{path}[{n}]", "expected a network as address/bits, its host bits zero"))


def _check_listeners(config: Config, faults: list[Fault]) -> None:
    """Every address by its grammar, and none twice (port 0 is a different port each time)."""
    seen: dict[str, str] = {}
    for section in LISTENING:
        for key in ("listen", "tls_listen"):
            for n, text in enumerate(getattr(getattr(config, section), key)):
                path = f"{section}.{key}[{n}]"
                try:
                    address = parse_listen(text)
                except Invalid as error:
                    faults.append((path, str(error)))
                    continue
                if address.is_unix or address.port:
                    taken = seen.setdefault(str(address), path)
                    if taken != path:
                        faults.append((path, f"the same address as {taken}"))


def _absolute(config: Config, folder: Path) -> Config:
    """Paths as seen from the configuration's folder."""
    server, store, tls = config.server, config.store, config.tls
    if not is_cluster(store.url):
        store = Store(url=f"sqlite:{folder / sqlite_path(store.url)}")
    elif not server.control:
        server = replace(server, control=CLUSTER_CONTROL)
    if server.control:
        server = replace(server, control=str(folder / server.control))
    if tls.certificate:
        tls = replace(tls, certificate=str(folder / tls.certificate), key=str(folder / tls.key))
    return replace(config, store=store, server=server, tls=tls)


# --- the default file -------------------------------------------------------------------------------------


def render_default() -> str:
    """`config.toml`: every key with its default and its meaning."""
    lines = [
        "# The configuration of wd-trio: every key, with its default. A key or a section left out keeps it.",
        "# WD_TRIO_<SECTION>__<KEY> in the environment overrides a key; `wd-trio check-config` judges all.",
    ]
    section = ""
    for name, key, _ in _keys():
        if name != section:
            section = name
            lines += ["", f"[{section}]"]
        lines.append(f"{key.name} = {_toml(_default(key))}  # {key.metadata['help']}")
    return "\n".join(lines) + "\n"


def _default(key: Field[Any]) -> Any:
    if key.default is not MISSING:
        return key.default
    return key.default_factory() if key.default_factory is not MISSING else None


def _toml(value: Any) -> str:
    """A default as TOML. Defaults are plain ASCII texts, numbers, booleans and lists of texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return msgspec.json.encode(value.reveal() if isinstance(value, Secret) else value).decode()
