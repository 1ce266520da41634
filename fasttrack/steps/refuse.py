"""Step refuse: the last round was refused too."""

from __future__ import annotations

from typing import NoReturn

from fasttrack.errors import GateError
from fasttrack.runs import read_records
from fasttrack.steps.frame import step


def refuse(usecase: str, run_id: str, rounds: int) -> NoReturn:
    """End the run with what the gate said in each round.

    Raises:
        GateError: always.
    """
    with step("refuse", usecase, run_id) as at:
        records = read_records(at.settings, at.usecase.name, at.run_id)
        said = {str(number): records.get(f"gate-{number}", {}).get("reasons", []) for number in range(1, rounds + 1)}
        at.record["reasons"] = said
        told = "; ".join(f"round {number}: {' '.join(reasons)}" for number, reasons in said.items())
        raise GateError(
            f"the gate refused all {rounds} round(s): {told}.",
            where=str(at.folder),
            fix="Compare metrics and thresholds (gate in the use case); add data, features or trials, or a round.",
        )
