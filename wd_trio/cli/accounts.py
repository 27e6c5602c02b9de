"""user and address: the accounts of the store, on a running or a stopped server."""

from __future__ import annotations

import argparse
import sys

from wd_trio.cli.terminal import Commands, load_config, print_table, read_password, size_bytes, size_words
from wd_trio.ops import admin


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    _add_user_commands(commands.add_parser("user", help="accounts"), common)
    _add_address_commands(commands.add_parser("address", help="addresses of accounts"), common)


def _add_user_commands(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="ACTION", required=True)
    add = commands.add_parser("add", parents=[common], help="make an account")
    add.add_argument("name", metavar="NAME", help="the user name, for log-in")
    add.add_argument("--address", metavar="ADDRESS", help="its first address (default: NAME where it is one)")
    add.add_argument("--full-name", metavar="TEXT", default="", help="the person's name")
    add.add_argument("--quota", metavar="SIZE", type=_quota, default=None, help="as in `user quota`")
    _add_password_option(add)
    add.set_defaults(run=_user_add)
    listing = commands.add_parser("list", parents=[common], help="list the accounts")
    listing.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin so")
    listing.set_defaults(run=_user_list)
    password = commands.add_parser("passwd", parents=[common], help="set a new password")
    password.add_argument("name", metavar="NAME")
    _add_password_option(password)
    password.set_defaults(run=_user_passwd)
    quota = commands.add_parser("quota", parents=[common], help="set the room for mail")
    quota.add_argument("name", metavar="NAME")
    quota.add_argument(
        "size", metavar="SIZE", type=_quota, help="bytes, or with K, M, G, T; unlimited; default"
    )
    quota.set_defaults(run=_user_quota)
    delete = commands.add_parser("del", parents=[common], help="delete an account and all its mail")
    delete.add_argument("name", metavar="NAME")
    delete.set_defaults(run=_user_del)


def _add_address_commands(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="ACTION", required=True)
    add = commands.add_parser("add", parents=[common], help="give an account a further address")
    add.add_argument("name", metavar="NAME")
    add.add_argument("address", metavar="ADDRESS")
    add.set_defaults(run=_address_add)
    listing = commands.add_parser("list", parents=[common], help="list the addresses of an account")
    listing.add_argument("name", metavar="NAME")
    listing.set_defaults(run=_address_list)
    delete = commands.add_parser("del", parents=[common], help="take an address away")
    delete.add_argument("address", metavar="ADDRESS")
    delete.set_defaults(run=_address_del)


def _add_password_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")


def _quota(text: str) -> int | None:
    """argparse type: bytes; 0 for unlimited; None for the configured default."""
    return {"unlimited": 0, "default": None}[text] if text in ("unlimited", "default") else size_bytes(text)


def _user_add(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    admin.add_user(
        config,
        arguments.name,
        read_password(arguments),
        address=arguments.address,
        full_name=arguments.full_name,
        quota_bytes=arguments.quota,
    )
    print(f"added {arguments.name}")
    return 0


def _user_list(arguments: argparse.Namespace) -> int:
    accounts = admin.list_users(load_config(arguments), arguments.prefix)
    shown = size_words if sys.stdout.isatty() else lambda size: "-" if size is None else str(size)
    rows = [
        (
            account.username,
            account.address,
            str(account.messages),
            shown(account.used_bytes),
            "unlimited" if account.quota_bytes == 0 else shown(account.quota_bytes),
            "disabled" if account.disabled else "",
        )
        for account in accounts
    ]
    print_table(("User", "Address", "Messages", "Used", "Quota", ""), rows)
    return 0


def _user_passwd(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    admin.set_password(config, arguments.name, read_password(arguments))
    print(f"{arguments.name} has a new password")
    return 0


def _user_quota(arguments: argparse.Namespace) -> int:
    admin.set_quota(load_config(arguments), arguments.name, arguments.size)
    print(f"{arguments.name} has a new quota")
    return 0


def _user_del(arguments: argparse.Namespace) -> int:
    admin.delete_user(load_config(arguments), arguments.name)
    print(f"deleted {arguments.name}")
    return 0


def _address_add(arguments: argparse.Namespace) -> int:
    admin.add_address(load_config(arguments), arguments.name, arguments.address)
    print(f"{arguments.name} now has {arguments.address}")
    return 0


def _address_list(arguments: argparse.Namespace) -> int:
    rows = [(address,) for address in admin.list_addresses(load_config(arguments), arguments.name)]
    print_table(("Address",), rows)
    return 0


def _address_del(arguments: argparse.Namespace) -> int:
    admin.delete_address(load_config(arguments), arguments.address)
    print(f"deleted {arguments.address}")
    return 0
