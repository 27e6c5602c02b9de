"""The command line: `wd-trio serve`, and what an operator does beside a running or a stopped server.

- Exit status: 0 it was done; 1 it failed; 2 the input or the configuration is wrong. An expected failure is one
  line on stderr (a configuration: one line per fault); only a defect of wd-trio itself shows a traceback.
- Results go to stdout: tables where a person looks, tab-separated lines where a program does.
- Secrets come from stdin or a prompt, never from an argument, which every user of the machine can read.
- Commands never talk to engines: ops composes the services and offers one function for each command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import wd_trio
from wd_trio.cli import accounts, copies, server, sessions, watch
from wd_trio.cli.terminal import complain
from wd_trio.config_load import ConfigFaults
from wd_trio.errors import Conflict, Invalid, WdError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(given)
    arguments.given = given
    try:
        return int(arguments.run(arguments))
    except ConfigFaults as error:
        for path, message in error.faults:
            complain(f"{path}: {message}")
        return 2
    except Invalid as error:
        complain(str(error) or f"the {error.what} is not valid")
        return 2
    except WdError as error:
        complain(_words(error))
        return 1
    except BrokenPipeError:
        # the reader of our output went away: the interpreter's own flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _words(error: WdError) -> str:
    """An error as a person reads it."""
    if isinstance(error, Conflict) and error.what in ("username", "address"):
        return f"the {error.what} is taken already"
    return str(error) or f"{type(error).__name__} {error.what}".strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wd-trio",
        description="A stateless mail store: IMAP, POP3, LMTP and an HTTP API.",
        parents=[_common(default=None)],
    )
    common = _common(default=argparse.SUPPRESS)  # so that a command does not undo what was said before it
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    server.add_commands(commands, common)
    accounts.add_commands(commands, common)
    sessions.add_commands(commands, common)
    copies.add_commands(commands, common)
    watch.add_commands(commands, common)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _common(*, default: str | None) -> argparse.ArgumentParser:
    """The options that may stand before a command and after it."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=default,
        help="the configuration (default: ./config.toml where there is one, else defaults)",
    )
    return common


def _version(arguments: argparse.Namespace) -> int:
    print(f"wd-trio {wd_trio.__version__}")
    return 0
