"""The benchmarks run, at sizes that measure nothing: every row that the server can serve has its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOT_YET = ("API: ",)  # rows of routes that may not be there: they light up by themselves


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.bench.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_row_is_measured() -> None:
    told = json.loads(run("table", "--tiny", "--workers", "1", "--json"))
    results: list[dict[str, Any]] = told["results"]
    assert {result["target"] for result in results} == {"wd-trio, 1 worker"}
    assert len(results) == len({(result["row"], result["connections"]) for result in results})
    for result in results:
        if result["note"] == "not there":
            assert result["row"].startswith(NOT_YET), result
        elif not result["row"].startswith("memory"):
            assert result["operations"] > 0, result
            assert result["per_second"] > 0, result
            assert 0 < result["p50_ms"] <= result["p99_ms"], result
    assert {result["connections"] for result in results if result["row"] == "NOOP"} == {1, 2}


def test_a_table_of_chosen_rows() -> None:
    shown = run("table", "--tiny", "--workers", "1", "--connections", "2", "--only", "noop", "status")
    rows = [line.split("|")[1:3] for line in shown.splitlines() if line.startswith("| ")][1:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["NOOP", "2"],
        ["NOOP, 10 pipelined", "2"],
        ["STATUS", "2"],
    ]


def test_a_profile_names_the_functions() -> None:
    shown = run("profile", "NOOP", "--tiny", "--connections", "1", "--seconds", "0.1", "--with", "cprofile")
    assert "calls/op" in shown
    assert "wd_trio/servers/imap/session.py" in shown


def test_parking_is_measured() -> None:
    told = json.loads(run("parking", "--tiny", "--json"))
    assert told["connections"] == [2, 6]
    for figures in (told["parked_ms"], told["unparked_ms"]):
        assert 0 < figures[0] <= figures[1]
