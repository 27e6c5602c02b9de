"""backup and restore: the whole store in one file, on a running or a stopped server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wd_trio.cli.terminal import Commands, load_config, progress_bar
from wd_trio.errors import Invalid
from wd_trio.ops import admin


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    backup = commands.add_parser("backup", parents=[common], help="copy the store into one file")
    backup.add_argument("file", type=Path, metavar="FILE", help="the copy; must not exist yet")
    backup.set_defaults(run=_backup)
    restore = commands.add_parser("restore", parents=[common], help="replace the store by a backup")
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument("--yes", action="store_true", help="do not ask")
    restore.set_defaults(run=_restore)


def _backup(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if arguments.file.exists():
        raise Invalid(f"{arguments.file} exists already")
    with progress_bar("Copying") as progress:
        admin.back_up(config, arguments.file, progress)
    print(f"backed up to {arguments.file}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if not arguments.file.is_file():
        raise Invalid(f"{arguments.file} is no file")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise Invalid("restoring replaces everything in the store: say --yes")
        if input(f"Replace everything in {config.store.url} by {arguments.file}? [y/N] ").lower() not in (
            "y",
            "yes",
        ):
            print("nothing was changed")
            return 1
    with progress_bar("Restoring") as progress:
        admin.restore(config, arguments.file, progress)
    print(f"restored from {arguments.file}; every mailbox has a new UIDVALIDITY, so clients fetch it anew")
    return 0
