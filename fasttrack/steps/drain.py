"""Step drain: Kafka into the lake."""

from __future__ import annotations

from dataclasses import asdict

import orjson

from fasttrack.errors import StepError
from fasttrack.ingest.drain import drain as drain_topics
from fasttrack.lake.tables import versions
from fasttrack.steps.frame import step


def drain(usecase: str, run_id: str) -> str:
    """Move all events that the topics hold into the lake.

    Returns:
        JSON text: the Delta version of each stream's table, which the later steps read.

    Raises:
        UnavailableError: the broker does not answer.
        DataLossError: the broker no longer has events that the lake lacks.
        StepError: the drain was stopped on the way.
    """
    with step("drain", usecase, run_id) as at:
        report = drain_topics(at.usecase, at.settings)
        at.record["drain"] = asdict(report)
        if not report.complete:
            raise StepError(
                "the drain was stopped before it reached the end of the topics.",
                where=at.usecase.name,
                fix="Nothing is lost: run the pipeline again, and it goes on from there.",
            )
        at.record["lake_versions"] = versions(at.settings, at.usecase)
        return orjson.dumps(at.record["lake_versions"], option=orjson.OPT_SORT_KEYS).decode()
