"""The command line: help that teaches, one line for an error, exit codes that mean something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "up",
    "down",
    "status",
    "doctor",
    "ingest",
    "replay",
    "drain",
    "reconcile",
    "deadletters",
    "run",
    "demo",
    "compile",
]
COMMANDS += ["predict", "explain", "token", "models", "usecase", "submit", "plan", "diff"]


def fasttrack(*words: str, home: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTTRACK_")}
    environment = {**kept, "FASTTRACK_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", **extra}
    command = [sys.executable, "-m", "fasttrack", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    found = fasttrack(command, "--help", home=tmp_path)
    assert found.returncode == 0
    assert "Usage: fasttrack" in found.stdout


def test_global_options_may_stand_anywhere(tmp_path: Path) -> None:
    example = "examples/flights/usecase.yaml"
    before = fasttrack("--json", "usecase", "check", example, home=tmp_path)
    after = fasttrack("usecase", "check", example, "--json", home=tmp_path)
    assert json.loads(before.stdout) == json.loads(after.stdout)
    assert json.loads(after.stdout)["name"] == "flights"


def test_a_malformed_use_case_is_one_line_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text((ROOT / "examples/flights/usecase.yaml").read_text().replace("lead: 2h", "laed: 2h"))
    found = fasttrack("usecase", "check", str(file), home=tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith(f"Error: {file}:") and "Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["replay"], ["run"], ["models", "list"], ["predict", "flights", "flight_id=x"]])
def test_without_a_platform_it_says_how_to_start_one(words: list[str], tmp_path: Path) -> None:
    found = fasttrack(*words, home=tmp_path)
    assert found.returncode == 2
    assert "fasttrack up" in found.stderr and "Traceback" not in found.stderr


def test_an_unknown_command_is_wrong_use(tmp_path: Path) -> None:
    found = fasttrack("replya", home=tmp_path)
    assert found.returncode == 2
    assert "No such command" in found.stderr


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    found = fasttrack("models", "list", "--debug", home=tmp_path)
    assert found.returncode != 0
    assert "Traceback" in found.stderr


def test_an_unreachable_gateway_is_exit_3(tmp_path: Path) -> None:
    settings = {"FASTTRACK_KAFKA": "127.0.0.1:1", "FASTTRACK_GATEWAY": "http://127.0.0.1:1"}
    found = fasttrack("predict", "flights", "flight_id=x", "--token", "t", home=tmp_path, **settings)
    assert found.returncode == 3
    assert "the gateway does not answer" in found.stderr
