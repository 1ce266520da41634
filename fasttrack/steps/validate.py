"""Step validate: the count adds up, and the events keep their contracts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fasttrack.errors import DataLossError
from fasttrack.ingest.reconcile import DELETED_FIX, Reconciliation, reconcile
from fasttrack.ingest.validate import validate as check_contracts
from fasttrack.progress import note
from fasttrack.steps.frame import step


@dataclass(frozen=True)
class Checked:
    """Totals over all streams: ``produced``, ``landed``, ``duplicates``, ``dead_lettered`` and the like."""

    counts: dict[str, int]


def validate(usecase: str, run_id: str, lake: str) -> Checked:
    """Reconcile topics and lake offset by offset, up to where the lake is, and check the tables.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        lake: JSON text: the Delta versions that the drain left.

    Raises:
        DataLossError: an offset of a topic is nowhere in the lake, is there twice, or was deleted by Kafka before the
            lake had it.
        DataQualityError: more dead letters than the use case allows.
    """
    with step("validate", usecase, run_id) as at:
        found = reconcile(at.usecase, at.settings, drained=True)
        at.record.update(lake=lake, reconciliation=_plain(found))
        if not found.balanced:
            raise _unbalanced(found)
        at.record["contracts"] = asdict(check_contracts(at.usecase, at.settings))
        total = found.total
        note(
            f"In {total.produced:,} = landed {total.landed:,} + duplicates {total.duplicates:,} "
            f"+ dead letters {total.dead_lettered:,}"
        )
        return Checked(asdict(total))


def _plain(found: Reconciliation) -> dict[str, Any]:
    streams = {name: {**asdict(counts), "balanced": counts.balanced} for name, counts in found.streams.items()}
    total = {**asdict(found.total), "balanced": found.balanced}
    return {**asdict(found), "streams": streams, "total": total, "balanced": found.balanced}


def _unbalanced(found: Reconciliation) -> DataLossError:
    kinds = {"deleted": found.deleted, "missing": found.gaps, "twice": found.repeats}
    named = [
        f"{fault.topic}[{fault.partition}] {fault.first}..{fault.last} {kind}"
        for kind, faults in kinds.items()
        for fault in faults
    ]
    total = found.total
    said = [f"{total.missing} event(s) of the topics are not in the lake, {total.repeated} are there twice"]
    fix = ["Keep topics and lake as they are, and compare these offsets with `fasttrack reconcile`."]
    if total.deleted:
        said.append(f"{total.deleted} offset(s) were deleted by Kafka before the lake had them")
        fix.append(DELETED_FIX)
    return DataLossError(f"{', '.join(said)}.", where=", ".join(named[:5]) or None, fix=" ".join(fix))
