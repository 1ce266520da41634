"""What a local run shows of KFP's one stream: the steps' lines, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

from fasttrack.kubeflow.step_log import StepLog

STREAM = """\
18:16:26.560 - INFO - Executing task \x1b[96m'drain'\x1b[0m
18:16:26.560 - INFO - Streamed logs:

    [KFP Executor 2026-11-23 18:16:26,615 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {"run_id": "r1"}
        }
    }
    Draining: 10/10 events in 0.1 s
    Traceback (most recent call last):
      File "x.py", line 3, in drain
        raise ValueError("x")
    ValueError: x

18:16:26.625 - ERROR - Task \x1b[96m'drain'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
--------------------------------------------------------------------------------
18:16:26.626 - INFO - Executing task \x1b[96m'report'\x1b[0m
    Run r1 of flights: failed
18:16:26.689 - INFO - Task \x1b[96m'report'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
18:16:26.689 - INFO - Task \x1b[96m'report'\x1b[0m outputs:
    Output: 'x'
"""


def played(tmp_path: Path, *, verbose: bool = False, piece: int = 7) -> tuple[str, StepLog]:
    display = io.StringIO()
    log = StepLog(tmp_path / "run.log", display, verbose=verbose)
    for start in range(0, len(STREAM), piece):
        log.write(STREAM[start : start + piece])
    log.close()
    return display.getvalue(), log


def test_only_the_lines_of_the_steps_are_shown(tmp_path: Path) -> None:
    shown, _ = played(tmp_path)
    assert shown.splitlines() == [
        "drain      | Draining: 10/10 events in 0.1 s",
        "report     | Run r1 of flights: failed",
    ]


def test_the_log_keeps_everything_without_colours(tmp_path: Path) -> None:
    played(tmp_path)
    kept = (tmp_path / "run.log").read_text()
    assert "\x1b" not in kept
    for part in ("Executing task 'drain'", '"run_id": "r1"', "ValueError: x", "Output: 'x'"):
        assert part in kept


def test_the_reason_of_a_step_that_left_no_record_is_at_hand(tmp_path: Path) -> None:
    _, log = played(tmp_path)
    assert log.last_error == "ValueError: x"


def test_verbose_shows_everything(tmp_path: Path) -> None:
    shown, _ = played(tmp_path, verbose=True)
    assert "ValueError: x" in shown
    assert "Executing task" in shown
