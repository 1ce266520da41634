"""The training pipeline on this machine: the definition that compiles for a cluster, run by ``kfp.local``."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fasttrack import errors, runs
from fasttrack.errors import ConflictError, FastTrackError, GateError, StepError
from fasttrack.kubeflow.definitions import training_pipeline
from fasttrack.kubeflow.interrupt import interruptible
from fasttrack.kubeflow.step_log import StepLog
from fasttrack.settings import Settings
from fasttrack.steps.frame import OWNER, check_run_id
from fasttrack.steps.report import SUCCEEDED, write_report
from fasttrack.usecase import UseCase

_GRACE_SECONDS = 8.0


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        run_id: its name.
        folder: its records, log and report.
        report: the content of ``report.json``.
    """

    run_id: str
    folder: Path
    report: dict[str, Any]


def new_run_id() -> str:
    """A name for a run: the time in UTC and four random hex digits, so that names sort by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_local(
    usecase: UseCase, text: str, settings: Settings, *, run_id: str | None = None, verbose: bool = False
) -> Run:
    """Run the training pipeline of a use case in processes of this machine, one a step.

    Args:
        usecase: the use case.
        text: its YAML text, which the steps get.
        settings: where the parts are.
        run_id: name of the run; a new one by default.
        verbose: show KFP's own log and traces too.

    Returns:
        The run, if every step succeeded.

    Raises:
        GateError: the gate refused the models of all rounds.
        StepError: a step failed; `where` names step and log, the cause is chained, its exit code kept.
        ConflictError: there is a run of this name.
        KeyboardInterrupt: the run was interrupted (SIGINT, SIGTERM); its steps are ended and the report is written.
    """
    run_id = run_id or new_run_id()
    check_run_id(run_id)
    pipeline = training_pipeline(usecase)
    folder = runs.run_folder(settings, usecase.name, run_id)
    if folder.exists():
        raise ConflictError(f"there is a run {run_id!r} already.", where=str(folder), fix="Give another name.")
    log = folder / "run.log"
    stdout = StepLog(log, sys.stderr, verbose=verbose)
    state, message = "FAILED", ""
    try:
        with _environment(pipeline, settings), interruptible(), contextlib.redirect_stdout(stdout):
            state, message = _execute(pipeline, {"usecase": text, "run_id": run_id}, folder / "kfp")
    except KeyboardInterrupt:
        state, message = "CANCELED", "interrupted"
        raise
    finally:
        _end_steps()
        stdout.close()
        found = _report(settings, usecase, run_id, state, message)
    if found["status"] != SUCCEEDED:
        raise _error(found, log, stdout.last_error)
    return Run(run_id, folder, found)


def _execute(pipeline: Any, arguments: dict[str, str], root: Path) -> tuple[str, str]:
    """Run the pipeline with KFP and say how it ended: a state as KFP names it, and a message."""
    from kfp import local
    from kfp.local.config import LocalExecutionConfig

    with warnings.catch_warnings():
        # KFP warns of each image that hasn't "python" in its name.
        warnings.simplefilter("ignore", RuntimeWarning)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            return "FAILED", str(error)
        finally:
            # Otherwise the next call of any component in this process would run it.
            LocalExecutionConfig.instance = None
    return "SUCCEEDED", ""


@contextlib.contextmanager
def _environment(pipeline: Any, settings: Settings) -> Iterator[None]:
    """Give the steps their variables by way of the pipeline: this process may run servers that must not see them."""
    # KFP leaves a folder a step in the temporary folder.
    temporary = tempfile.mkdtemp(prefix="fasttrack-run-")
    # An empty PYTHONDONTWRITEBYTECODE counts as none: compiled modules are kept for the next step.
    own = {"TMPDIR": temporary, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "", OWNER: str(os.getpid())}
    variables = [{"name": name, "value": value} for name, value in {**settings.to_environment(), **own}.items()]
    for executor in pipeline.pipeline_spec.deployment_spec["executors"].values():
        executor["container"]["env"] = variables
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _end_steps() -> None:
    """End the step processes that are left: ask, wait, then kill."""
    steps = [child for child in psutil.Process().children() if _is_step(child)]
    processes = [process for child in steps for process in [*_descendants(child), child]]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)


def _is_step(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any("kfp.dsl.executor_main" in word for word in process.cmdline())
    return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _report(settings: Settings, usecase: UseCase, run_id: str, state: str, message: str) -> dict[str, Any]:
    """The report that the exit handler left; where it couldn't, the report is made here."""
    if (runs.run_folder(settings, usecase.name, run_id) / "report.json").is_file():
        return runs.read_records(settings, usecase.name, run_id)["report"]
    return write_report(usecase, settings, run_id, state, message)


def _error(found: dict[str, Any], log: Path, last_line: str) -> FastTrackError:
    """The error of a run that did not succeed."""
    steps: dict[str, dict[str, Any]] = found["steps"]
    failed = next((name for name, record in steps.items() if record.get("status") != SUCCEEDED), None)
    cause = _cause(steps[failed]) if failed else None
    if isinstance(cause, GateError):
        return cause
    where = f"step {failed}, log {log}" if failed else f"log {log}"
    what = str(cause) if cause else " ".join([*found["problems"], last_line])
    error = StepError(what, where=where, fix=None if cause else "The log has the whole trace.")
    if isinstance(cause, FastTrackError):
        error.exit_code = cause.exit_code
    error.__cause__ = cause
    return error


def _cause(record: dict[str, Any]) -> Exception:
    """The error that a step's record tells of."""
    if told := record.get("what"):
        made = errors.rebuild(record.get("error_type"), told, where=record.get("where"), fix=record.get("fix"))
        if made is not None:
            return made
    return RuntimeError(f"{record.get('error_type', 'Error')}: {record.get('error', 'no reason given')}")
