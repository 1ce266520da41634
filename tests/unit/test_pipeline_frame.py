"""The frame of a step: its record, its errors, and its end with the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError, DataQualityError, NotFoundError, UseCaseError
from fasttrack.kubeflow.local_run import _cause
from fasttrack.steps import frame
from fasttrack.steps.frame import step
from fasttrack.steps.register import _offsets
from fasttrack.steps.reuse import fingerprint, recall, remember
from fasttrack.usecase import parse

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "examples/flights/usecase.yaml").read_text()


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_RUNS", str(tmp_path))


def test_what_a_step_says_is_in_its_record(tmp_path: Path) -> None:
    with step("drain", TEXT, "one") as at:
        at.record["rows"] = 3
    found = json.loads((tmp_path / "flights/one/drain.json").read_text())
    assert (found["status"], found["rows"]) == ("succeeded", 3)


def test_an_error_keeps_its_parts_so_that_the_run_can_raise_it_again(tmp_path: Path) -> None:
    with pytest.raises(DataQualityError), step("features", TEXT, "one"):
        raise DataQualityError("too much is missing.", where="column seats", fix="Raise the limit.")
    cause = _cause(json.loads((tmp_path / "flights/one/features.json").read_text()))
    assert isinstance(cause, DataQualityError)
    assert (cause.what, cause.where, cause.fix) == ("too much is missing.", "column seats", "Raise the limit.")


def test_an_unforeseen_error_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), step("drain", TEXT, "one"):
        raise ZeroDivisionError("division by zero")
    cause = _cause(json.loads((tmp_path / "flights/one/drain.json").read_text()))
    assert str(cause) == "ZeroDivisionError: division by zero"


def test_a_malformed_use_case_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UseCaseError), step("drain", "name: 3", "one"):
        raise AssertionError("must not get here")
    assert not list(tmp_path.iterdir())


def test_a_step_ends_when_the_process_that_owns_its_run_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom fasttrack.steps.frame import step\n"
        "with step('drain', open(sys.argv[1]).read(), 'one') as at:\n    print('up', flush=True)\n    time.sleep(120)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    environment = os.environ | {"FASTTRACK_RUN_OWNER": str(owner.pid), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(ROOT / "examples/flights/usecase.yaml")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert process.wait(timeout=60) != 0
    found = json.loads((tmp_path / "flights/one/drain.json").read_text())
    assert (found["status"], found["error_type"]) == ("failed", "KeyboardInterrupt")


def test_a_result_is_reused_only_while_nothing_that_went_in_has_changed(tmp_path: Path) -> None:
    usecase = parse(TEXT)
    key = fingerprint(usecase, "tune", "features/a", parts=("usecase",), keys=("split",))
    assert key == fingerprint(usecase, "tune", "features/a", parts=("usecase",), keys=("split",))
    assert key != fingerprint(usecase, "tune", "features/b", parts=("usecase",), keys=("split",))
    later = parse(TEXT.replace("train_until: 2013-09-01", "train_until: 2013-08-01"))
    assert key != fingerprint(later, "tune", "features/a", parts=("usecase",), keys=("split",))
    other = fingerprint(usecase, "tune", "features/a", parts=("usecase",), keys=("label",))
    assert other == fingerprint(later, "tune", "features/a", parts=("usecase",), keys=("label",))
    with step("tune-1", TEXT, "one") as at:
        assert recall(at, key) is None
        remember(at, key, {"score": 0.7})
    with step("tune-1", TEXT, "two") as at:
        assert recall(at, key) == {"score": 0.7}
        assert at.record["reused"] is True


def test_a_run_without_a_name_is_named_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(frame.RUN_ID, raising=False)
    with pytest.raises(ConfigurationError, match="can't name a run"):
        frame.named("")
    monkeypatch.setenv(frame.RUN_ID, "0c7c2a5e-1111-4222-8333-444455556666")
    assert frame.named("") == "0c7c2a5e-1111-4222-8333-444455556666"
    assert frame.named("mine") == "mine"


def test_a_run_whose_records_are_elsewhere_is_told_so() -> None:
    with pytest.raises(NotFoundError, match=r"no record of its step validate.*FASTTRACK_RUNS"):
        _offsets({"gate-1": {"decision": "accepted"}}, "/runs/flights/run-1")
