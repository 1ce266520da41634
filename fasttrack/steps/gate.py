"""Step gate: accepted or refused."""

from __future__ import annotations

from fasttrack.evaluation.gate import decide
from fasttrack.progress import note
from fasttrack.steps.frame import ACCEPTED, REFUSED, step
from fasttrack.steps.metrics import read_metrics


def gate(usecase: str, run_id: str, model: str, round: int) -> str:
    """Hold the model's metrics against the thresholds.

    Returns:
        ``accepted`` or ``refused``; the reasons stand in the record.

    Raises:
        NotFoundError: the model was not evaluated.
    """
    with step(f"gate-{round}", usecase, run_id) as at:
        decision = decide(at.usecase, read_metrics(model))
        answer = ACCEPTED if decision.accepted else REFUSED
        at.record.update(decision=answer, reasons=decision.reasons, checks=decision.to_json()["checks"], model=model)
        note(f"Gate, round {round}: {answer}" + "".join(f"\n  {reason}" for reason in decision.reasons))
        return answer
