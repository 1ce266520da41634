"""Step report, the exit handler: the whole run in one file, and the proof that conditional steps really ran."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fasttrack import runs
from fasttrack.errors import NotFoundError, StepError
from fasttrack.progress import note
from fasttrack.settings import Settings
from fasttrack.steps.frame import ACCEPTED, REFUSED, named
from fasttrack.steps.substrate import substrate
from fasttrack.usecase import UseCase, parse

Records = dict[str, dict[str, Any]]

SUCCEEDED = "succeeded"
FAILED = "failed"
_BEFORE = ("drain", "validate", "features")
_ROUND = ("tune", "train", "evaluate", "gate")
_AFTER = ("register", "publish")


def report(usecase: str, run_id: str, state: str, message: str = "") -> str:
    """Write ``report.json`` of a run and print its summary.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        state: how the pipeline ended, by KFP: ``SUCCEEDED`` or another word.
        message: what KFP says about it.

    Returns:
        ``succeeded``, ``refused`` or ``failed``.

    Raises:
        StepError: KFP calls the run a success, but a step that had to run left no record.
    """
    run_id = named(run_id)
    parsed = parse(usecase, "usecase")
    if left := substrate().sweep(run_id, parsed.name):
        note(f"Left by steps that were killed, and removed: {', '.join(left)}")
    found = write_report(parsed, Settings.from_environment(), run_id, state, message)
    note(_summary(found))
    if state == "SUCCEEDED" and found["status"] != SUCCEEDED:
        raise StepError(
            " ".join(found["problems"]), where=f"run {run_id}", fix="Run the pipeline again; report this if it repeats."
        )
    return str(found["status"])


def write_report(usecase: UseCase, settings: Settings, run_id: str, state: str, message: str) -> dict[str, Any]:
    """Write ``report.json`` and return its content; see `report`.

    Raises:
        StorageError: the disk refused it.
    """
    records = _records(settings, usecase.name, run_id)
    status, problems = judge(records, usecase.gate.rounds, ended=state == "SUCCEEDED")
    now = datetime.now(UTC)
    # From the first step's start: what lies between the steps counts too.
    began = min((datetime.fromisoformat(record["started_at"]) for record in records.values()), default=now)
    found = {
        "usecase": usecase.name,
        "run_id": run_id,
        "status": status,
        "state": state,
        "message": message,
        "problems": problems,
        "finished_at": now.isoformat(),
        "seconds": round((now - began).total_seconds(), 3),
        "steps": records,
    }
    runs.write_record(settings, usecase.name, run_id, "report", found)
    return found


def judge(records: Records, rounds: int, *, ended: bool) -> tuple[str, list[str]]:
    """Hold the records against what the gate decided: a skipped branch is silent in KFP, so it is looked for here.

    Args:
        records: the run's records, by step.
        rounds: how many rounds the use case allows.
        ended: whether every step had its turn; else only failures count, not what is missing after them.

    Returns:
        The run's status, and what is wrong with it.
    """
    failed = [name for name, record in records.items() if record.get("status") != SUCCEEDED]
    if failed:
        problems = [f"{name}: {records[name].get('error') or 'ended without a word'}" for name in failed]
        return (REFUSED if failed == ["refuse"] else FAILED), problems
    expected = expected_steps(records, rounds)
    missing = [name for name in expected if name not in records]
    surplus = sorted(set(records) - set(expected))
    if not ended:
        return FAILED, [
            f"{missing[0]}: killed, or never started." if missing else "The pipeline failed outside its steps."
        ]
    problems = [f"Step {name} had to run, but left no record." for name in missing]
    problems += [f"Step {name} ran, although the gate decided otherwise." for name in surplus]
    return (FAILED if problems else SUCCEEDED), problems


def _records(settings: Settings, usecase: str, run_id: str) -> Records:
    try:
        records = runs.read_records(settings, usecase, run_id)
    except NotFoundError:
        return {}
    records.pop("report", None)
    return records


def expected_steps(records: Records, rounds: int) -> list[str]:
    """The steps that have to run, given what the gate decided in each round."""
    names = list(_BEFORE)
    for number in range(1, rounds + 1):
        names += [f"{name}-{number}" for name in _ROUND]
        decision = records.get(f"gate-{number}", {}).get("decision")
        if decision == ACCEPTED:
            return [*names, *_AFTER]
        if decision is None:
            return names
    return [*names, "refuse"]


def _summary(found: dict[str, Any]) -> str:
    steps = sorted(found["steps"].items(), key=lambda item: str(item[1].get("started_at", "")))
    lines = [f"Run {found['run_id']} of {found['usecase']}: {found['status']} in {found['seconds']:.1f} s"]
    for name, record in steps:
        again = " (reused)" if record.get("reused") else ""
        lines.append(f"  {name:<12} {record.get('seconds', 0):>7.1f} s  {record.get('status', 'unfinished')}{again}")
    return "\n".join([*lines, *(f"  ! {problem}" for problem in found["problems"])])
