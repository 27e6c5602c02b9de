"""sessions: who is connected to the running server, and how to end that."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from wd_trio.cli.terminal import Commands, load_config, print_table
from wd_trio.ops import admin


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("sessions", help="connections of users")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="list those who are logged in")
    listing.add_argument("--user", metavar="NAME", help="only this user's")
    listing.set_defaults(run=_list)
    kill = actions.add_parser("kill", parents=[common], help="end sessions; clients may log in again")
    which = kill.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="ID", nargs="?", help="one session, as listed")
    which.add_argument("--user", metavar="NAME", help="all of this user's")
    kill.set_defaults(run=_kill)


def _list(arguments: argparse.Namespace) -> int:
    rows = [
        (
            session.id,
            session.username,
            session.protocol,
            session.ip,
            _time(session.created),
            _time(session.last_activity),
            session.worker,
            session.user_agent,
        )
        for session in admin.list_sessions(load_config(arguments), arguments.user)
    ]
    print_table(("Session", "User", "Protocol", "From", "Since", "Last active", "Worker", "Client"), rows)
    return 0


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kill(arguments: argparse.Namespace) -> int:
    count = admin.kill_sessions(load_config(arguments), session_id=arguments.id, username=arguments.user)
    print(f"ended {count} session{'' if count == 1 else 's'}")
    return 0
