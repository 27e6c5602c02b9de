"""What the commands share: the configuration, complaints, tables, sizes, secrets and progress."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from wd_trio.config import Config
from wd_trio.config_load import default_path, load
from wd_trio.errors import Invalid
from wd_trio.secret import Secret

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
PASSWORD_BYTES: Final = 1024
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"wd-trio: {text}", file=sys.stderr)


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The configuration file in force: --config, else ./config.toml where there is one."""
    given: Path | None = arguments.config
    return given.absolute() if given is not None else default_path(Path.cwd())


def load_config(arguments: argparse.Namespace) -> Config:
    """The configuration in force; raises ConfigFaults."""
    return load(config_path(arguments), os.environ)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows as a table on a terminal, else tab-separated and without a heading."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def read_password(arguments: argparse.Namespace) -> Secret:
    """The new password: from stdin with --password-stdin, else asked twice on the terminal."""
    if arguments.password_stdin:
        return _judge(sys.stdin.buffer.readline(PASSWORD_BYTES + 2))
    if not sys.stdin.isatty():
        raise Invalid("no terminal to ask on: use --password-stdin")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Again: ") != password:
        raise Invalid("the two passwords differ")
    return _judge(password.encode())


def _judge(line: bytes) -> Secret:
    text = line.removesuffix(b"\n").removesuffix(b"\r")
    if not text:
        raise Invalid("the password is empty")
    if len(text) > PASSWORD_BYTES or b"\0" in text:
        raise Invalid(f"a password has at most {PASSWORD_BYTES} bytes and no NUL")
    try:
        return Secret(text.decode())
    except UnicodeDecodeError:
        raise Invalid("the password is not UTF-8 text") from None


def size_bytes(text: str) -> int:
    """A size as bytes or with K, M, G or T (of 1024); for argparse."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not (number.isascii() and number.isdigit()) or unit not in _UNITS:
        raise argparse.ArgumentTypeError("expected a size in bytes, or with K, M, G or T")
    return int(number) * _UNITS[unit]


def size_words(size: int | None) -> str:
    """A size for people: 1.5 GiB."""
    if size is None:
        return "-"
    number, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that draws a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
