"""serve, check-config, reload, upgrade, status and health: the server itself, and what asks it."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from wd_trio.addresses import Listen, parse_listen
from wd_trio.cli.status import print_page
from wd_trio.cli.terminal import Commands, complain, config_path, load_config
from wd_trio.config import Config
from wd_trio.config_load import load, render_default
from wd_trio.errors import Invalid
from wd_trio.ops import admin, control, serving, succession, trial
from wd_trio.ops.tls import certificates
from wd_trio.ops.upgrade import UpgradeOptions

HEALTH_TIMEOUT_S: Final = 5.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    serve = commands.add_parser("serve", parents=[common], help="run the server until it is told to stop")
    serve.add_argument("--demo", action="store_true", help="make an account to try things with, and say how")
    # What a running server gives a newer program at an upgrade: a trial to take, its own place to go on in.
    serve.add_argument(trial.OPTION, dest="trial", type=int, help=argparse.SUPPRESS)
    serve.add_argument(succession.OPTION, dest="succeed", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)
    check = commands.add_parser(
        "check-config", parents=[common], help="report every fault of the configuration"
    )
    check.add_argument("--print-default", action="store_true", help="print a config.toml with every default")
    check.set_defaults(run=_check_config)
    reload = commands.add_parser(
        "reload", parents=[common], help="make a running server load its configuration"
    )
    reload.set_defaults(run=_reload)
    upgrade = commands.add_parser(
        "upgrade",
        parents=[common],
        help="make a running server go on as the version that is installed now",
    )
    upgrade.set_defaults(run=_upgrade)
    status = commands.add_parser("status", parents=[common], help="all about a running server on one page")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)
    health = commands.add_parser("health", parents=[common], help="ask a running server how it is")
    health.add_argument(
        "--live", action="store_true", help="only whether it turns, without asking its engines"
    )
    health.add_argument(
        "--url", metavar="URL", help="the API's base URL (default: the first of [api] listen)"
    )
    health.set_defaults(run=_health)


# --- serve ------------------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    path = config_path(arguments)
    command = (sys.executable, "-m", "wd_trio", *succession.without_option(arguments.given))
    upgrade_options = UpgradeOptions(command=command)

    def read() -> Config:
        return _load(path)

    if arguments.trial is not None:
        return trial.undergo(arguments.trial, read)
    if arguments.succeed is not None:
        return serving.succeed(arguments.succeed, reload=read, upgrade_options=upgrade_options)
    config = read()
    demo = admin.prepare_demo(config) if arguments.demo else None

    def ready(addresses: Sequence[str]) -> None:
        if demo is not None:
            _print_demo(demo, addresses)

    return serving.serve(
        config, config_path=path, reload=read, on_ready=ready, upgrade_options=upgrade_options
    )


def _load(path: Path | None) -> Config:
    """The configuration, with a certificate that can be used. ConfigFaults."""
    return certificates.check(load(path, os.environ))


def _print_demo(demo: admin.Demo, addresses: Sequence[str]) -> None:
    """Where the server listens, how to log in, and lines to copy and paste."""
    console = Console(soft_wrap=True, highlight=False)
    console.print("\n[bold]wd-trio is ready[/bold]")
    for address in addresses:
        console.print(
            f"  {address.replace('apis://', 'https://').replace('api://', 'http://')}", markup=False
        )
    console.print("\n[bold]Account[/bold]")
    console.print(f"  {admin.DEMO_ADDRESS}, user name {admin.DEMO_USER}")
    if demo.password is not None:
        console.print(f"  password {demo.password.reveal()} (shown only now)", markup=False)
    else:
        console.print("  made at an earlier start; for a new password: [bold]wd-trio user passwd demo[/bold]")
    if demo.token is not None:
        console.print(f"  API token {demo.token.reveal()} (root's; shown only now)", markup=False)
    console.print("\n[bold]Try it[/bold]")
    password = demo.password.reveal() if demo.password is not None else "PASSWORD"
    for line in _demo_lines(addresses, password):
        console.print(f"  {line}", markup=False)
    console.print("\nCtrl-C stops it; mail stays.\n")


def _demo_lines(addresses: Sequence[str], password: str) -> list[str]:
    """One command each to deliver, to read and to ask for health, by the TCP addresses there are."""
    places: dict[str, Listen] = {}
    for address in addresses:
        protocol, _, place = address.partition("://")
        listen = parse_listen(place)
        if not listen.is_unix:
            places.setdefault(protocol, Listen(_ANY.get(listen.host, listen.host), listen.port))
    lines = []
    if lmtp := places.get("lmtp"):
        mail = f'"me@example.com", "{admin.DEMO_ADDRESS}", "Subject: hello\\r\\n\\r\\nIt works.\\r\\n"'
        lines.append(
            f"python3 -c 'import smtplib; smtplib.LMTP(\"{lmtp.host}\", {lmtp.port}).sendmail({mail})'"
        )
    if imap := places.get("imap"):
        lines.append(f"curl --user {admin.DEMO_USER}:{password} 'imap://{imap}/INBOX;MAILINDEX=1'")
    if pop3 := places.get("pop3"):
        lines.append(f"curl --user {admin.DEMO_USER}:{password} pop3://{pop3}/1")
    if api := places.get("api"):
        lines.append(f"curl http://{api}/health")
    return lines


# --- the others -------------------------------------------------------------------------------------------


def _check_config(arguments: argparse.Namespace) -> int:
    if arguments.print_default:
        print(render_default(), end="")
        return 0
    path = config_path(arguments)
    _load(path)
    print(f"{path or 'no file, defaults only'}: no faults")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    answer = control.request(load_config(arguments), "reload")
    for fault in answer.get("faults", ()):
        complain(fault if isinstance(fault, str) else ": ".join(fault))
    if answer.get("ok"):
        print("reloaded")
        return 0
    if not answer.get("faults"):
        complain(str(answer.get("error") or "the server could not reload; its log says why"))
    return 1


def _upgrade(arguments: argparse.Namespace) -> int:
    came = control.upgrade(load_config(arguments))
    for fault in came.faults:
        complain(fault)
    (old, old_generation), (new, new_generation) = came.before, came.after
    if new_generation > old_generation:
        print(f"upgraded from {old} (generation {old_generation}) to {new} (generation {new_generation})")
    return 0 if came.ok else 1


def _status(arguments: argparse.Namespace) -> int:
    about = control.request(load_config(arguments), "report")
    if not about.get("ok"):
        complain(str(about.get("error") or "the server does not say"))
        return 1
    about["health"] = _health_of(about["addresses"])
    if arguments.json:
        print(json.dumps(about))
    else:
        print_page(about)
    return 0


def _health_of(addresses: Sequence[str]) -> dict[str, Any]:
    """What /health says at the first of the API's addresses without TLS."""
    base = next(
        (address.removeprefix("api://") for address in addresses if address.startswith("api://")), None
    )
    if base is None:
        return {"status": "not asked", "error": "there is no API without TLS"}
    try:
        body: dict[str, Any] = _get(base, "/health")[1]
    except OSError as error:
        return {"status": "no answer", "error": str(error)}
    return body


def _health(arguments: argparse.Namespace) -> int:
    path = "/health/live" if arguments.live else "/health"
    status, body = _get(_api_base(arguments), path)
    print(json.dumps(body))
    return 0 if status == 200 else 1


def _api_base(arguments: argparse.Namespace) -> str:
    if arguments.url:
        return str(arguments.url).rstrip("/")
    config: Config = load_config(arguments)
    if not config.api.listen:
        raise Invalid("api.listen is empty: name the server with --url")
    return str(parse_listen(config.api.listen[0]))


def _get(base: str, path: str) -> tuple[int, Any]:
    """GET base + path, where base is an http URL or a listening address; its status and JSON body."""
    if base.startswith("http://"):
        parts = urllib.parse.urlsplit(base)
        host, port, path = parts.hostname or "", parts.port or 80, parts.path + path
        unix = ""
    elif "://" in base:
        raise Invalid("the URL must begin with http://")
    else:
        listen = parse_listen(base)
        host, port, unix = _ANY.get(listen.host, listen.host) or "localhost", listen.port, listen.path
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_S)
    try:
        if unix:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(HEALTH_TIMEOUT_S)
            connection.sock.connect(unix)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except OSError as error:
        raise OSError(f"no answer from {base}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{base} does not answer as a wd-trio server does") from error
    finally:
        connection.close()
