"""The exit handler: what it finds in the records of a run, and that it notices what never ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError, StepError
from fasttrack.runs import write_record
from fasttrack.settings import Settings
from fasttrack.steps.report import expected_steps, judge, report

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
ONCE = ["drain", "validate", "features", "tune-1", "train-1", "evaluate-1", "gate-1"]
TWICE = [*ONCE, "tune-2", "train-2", "evaluate-2", "gate-2"]
OUT = ["register", "publish"]
DONE = {"status": "succeeded", "seconds": 1.0, "started_at": "2026-01-01T00:00:00+00:00"}


def records(names: list[str], **decisions: str) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {name: dict(DONE) for name in names}
    for gate, decision in decisions.items():
        made[gate.replace("_", "-")]["decision"] = decision
    return made


def test_a_run_that_is_accepted_at_once_succeeds() -> None:
    assert judge(records([*ONCE, *OUT], gate_1="accepted"), 2, ended=True) == ("succeeded", [])


def test_a_run_that_is_accepted_in_the_second_round_succeeds() -> None:
    found = records([*TWICE, *OUT], gate_1="refused", gate_2="accepted")
    assert judge(found, 2, ended=True) == ("succeeded", [])


@pytest.mark.parametrize("left_out", OUT)
def test_an_accepted_model_that_nobody_published_is_a_failure(left_out: str) -> None:
    found = records([name for name in [*ONCE, *OUT] if name != left_out], gate_1="accepted")
    status, problems = judge(found, 2, ended=True)
    assert status == "failed"
    assert problems == [f"Step {left_out} had to run, but left no record."]


def test_a_refusal_that_led_nowhere_is_a_failure() -> None:
    status, problems = judge(records(ONCE, gate_1="refused"), 2, ended=True)
    assert status == "failed"
    assert problems[0] == "Step tune-2 had to run, but left no record."


def test_the_last_refusal_has_to_end_in_the_refuse_step() -> None:
    found = records(TWICE, gate_1="refused", gate_2="refused")
    assert judge(found, 2, ended=True)[0] == "failed"
    found["refuse"] = {"status": "failed", "error": "the gate refused"}
    assert judge(found, 2, ended=False) == ("refused", ["refuse: the gate refused"])


def test_publishing_a_refused_model_is_a_failure() -> None:
    found = records([*TWICE, *OUT], gate_1="refused", gate_2="refused")
    status, problems = judge(found, 2, ended=True)
    assert status == "failed"
    assert "Step publish ran, although the gate decided otherwise." in problems


def test_a_failed_step_is_named_with_its_reason() -> None:
    found = records(ONCE[:2]) | {"features": {"status": "failed", "error": "too much is missing"}}
    assert judge(found, 2, ended=False) == ("failed", ["features: too much is missing"])


def test_a_killed_step_leaves_no_record_and_is_named_as_the_next_one() -> None:
    assert judge(records(ONCE[:3]), 2, ended=False) == ("failed", ["tune-1: killed, or never started."])


def test_expected_steps_stop_where_the_gate_has_not_spoken() -> None:
    assert expected_steps(records(ONCE), 2) == ONCE


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FASTTRACK_RUNS", str(tmp_path))
    return Settings(runs=str(tmp_path))


def test_the_report_is_written_and_a_silent_skip_fails_the_step(settings: Settings, tmp_path: Path) -> None:
    for name, record in records(ONCE, gate_1="accepted").items():
        write_record(settings, "flights", "one", name, record)
    with pytest.raises(StepError, match="Step register had to run"):
        report(USECASE.read_text(), "one", "SUCCEEDED")
    found = json.loads((tmp_path / "flights/one/report.json").read_text())
    assert found["status"] == "failed"
    assert set(found["steps"]) == set(ONCE)


def test_the_report_is_written_even_when_no_step_left_a_record(settings: Settings, tmp_path: Path) -> None:
    assert report(USECASE.read_text(), "none", "FAILED", "Task drain failed.") == "failed"
    found = json.loads((tmp_path / "flights/none/report.json").read_text())
    assert found["problems"] == ["drain: killed, or never started."]
    assert found["message"] == "Task drain failed."


def test_a_run_id_that_leaves_the_folder_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="can't name a run"):
        report(USECASE.read_text(), "../elsewhere", "FAILED")
