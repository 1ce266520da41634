"""Step gate: accepted or refused."""

from __future__ import annotations

from fasttrack.evaluation.gate import decide
from fasttrack.evaluation.variant import outcome
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
        metrics = read_metrics(model)
        decision, variant = decide(at.usecase, metrics), outcome(metrics)
        answer = ACCEPTED if decision.accepted else REFUSED
        at.record.update(decision=answer, reasons=decision.reasons, checks=decision.to_json()["checks"], model=model)
        if variant:
            at.record["variant"] = variant
        said = [*decision.reasons, *([variant] if variant else [])]
        note(f"Gate, round {round}: {answer}" + "".join(f"\n  {line}" for line in said))
        return answer
