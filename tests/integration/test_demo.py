"""The main job as a user runs it: `fasttrack demo --exit --sample 0.05 --report FILE`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The report, what was printed, and the home."""
    folder = tmp_path_factory.mktemp("demo")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTTRACK_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "FASTTRACK_HOME": str(folder / "home"), "COLUMNS": "160"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = ["demo", "--exit", "--sample", "0.05", "--report", str(folder / "report.json")]
    command = [sys.executable, "-m", "fasttrack", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=580)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "report.json").read_text()), done.stdout, folder / "home"


@pytest.fixture
def report(played: tuple[dict[str, Any], str, Path]) -> dict[str, Any]:
    return played[0]


def test_every_event_is_accounted_for(report: dict[str, Any]) -> None:
    events = report["events"]
    for row in [*events["streams"].values(), events]:
        assert row["produced"] == row["landed"] + row["duplicates"] + row["dead_lettered"]
        assert row["balanced"]
    sent = report["replay"]["streams"]
    assert events["produced"] == sum(stream["produced"] for stream in sent.values()) > 50_000
    assert events["duplicates"] == sum(stream["duplicates"] for stream in sent.values()) > 0
    assert events["dead_lettered"] == sum(stream["malformed"] for stream in sent.values()) > 0


def test_the_model_learned_and_the_gate_let_it_through(report: dict[str, Any]) -> None:
    assert report["gate"]["accepted"]
    assert {trial["architecture"] for trial in report["candidates"]} == {"mlp", "lstm", "transformer"}
    assert set(report["baselines"]) == {"group_mean", "hist_gradient_boosting"}
    assert report["scores"]["auc"] > report["baselines"]["group_mean"]["auc"]
    assert 0.5 < report["scores"]["interval_coverage"] <= 1
    assert report["model"]["digest"].startswith("sha256:")


def test_the_prediction_is_whole_and_explained(report: dict[str, Any]) -> None:
    answer = report["prediction"]
    found = answer["prediction"]
    assert 0 <= found["probability"] <= 1
    assert found["interval"]["lower"] <= found["value"] <= found["interval"]["upper"]
    assert len(answer["explanation"]["features"]) == 5
    assert answer["model"] == {"version": report["model"]["version"], "digest": report["model"]["digest"]}
    assert len(answer["trace_id"]) == 32
    assert "Authorization: Bearer" in report["curl"] and "/v1/usecases/flights/predict" in report["curl"]


def test_each_step_was_timed(report: dict[str, Any]) -> None:
    for step in (
        "up",
        "replay",
        "drain",
        "features",
        "tune-1",
        "train-1",
        "evaluate-1",
        "gate-1",
        "publish",
        "predict",
    ):
        assert report["seconds"][step] >= 0
    assert report["peak_memory_mb"] > 100


def test_the_screen_says_it_all(played: tuple[dict[str, Any], str, Path]) -> None:
    report, screen, _ = played
    assert "DOES NOT ADD UP" not in screen and "adds up" in screen
    assert f"{report['events']['produced']:,}" in screen
    assert report["curl"] in screen
    assert report["prediction"]["trace_id"] in screen
    assert "/docs" in screen


def test_nothing_is_left_running(played: tuple[dict[str, Any], str, Path]) -> None:
    home = str(played[2])
    left = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if home in " ".join(p.info["cmdline"] or [])]
    assert not left
