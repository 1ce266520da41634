"""The demo's report: what went in, what came out, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from fasttrack.client import Gateway
from fasttrack.errors import NotFoundError
from fasttrack.lake.tables import read
from fasttrack.usecase import UseCase

Steps = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What the demo asks about.

    Attributes:
        keys: the entity's keys.
        truth: what the label turned out to be, if it is known.
    """

    keys: dict[str, str]
    truth: float | None


def latest_subject(usecase: UseCase, steps: Steps) -> Subject:
    """The entity with the latest prediction time: the one that the online store is fresh for.

    Raises:
        NotFoundError: the feature table has no rows.
    """
    path = steps["features"]["table"]["path"]
    keys = list(usecase.entities[usecase.prediction.entity].keys)
    table = read(path, [*keys, "_prediction_time", "_label"])
    if not len(table):
        raise NotFoundError("the feature table has no rows.", where=str(path), fix="Replay a larger sample.")
    latest = table.filter(pc.equal(table["_prediction_time"], pc.max(table["_prediction_time"])))
    row = latest.sort_by([(key, "ascending") for key in keys]).slice(0, 1).to_pylist()[0]
    return Subject({key: str(row[key]) for key in keys}, row["_label"])


def build(
    usecase: str,
    replayed: dict[str, Any],
    steps: Steps,
    request: dict[str, Any],
    answer: dict[str, Any],
    subject: Subject,
    gateway: Gateway,
) -> dict[str, Any]:
    """Put the report together from the records of the steps.

    Args:
        usecase: its name.
        replayed: what the replay said.
        steps: the run's records, by step.
        request: what was asked.
        answer: what the gateway answered.
        subject: whom it was asked about.
        gateway: where and with which token.
    """
    judged = last(steps, "gate")
    round_number = int(judged[0].rsplit("-", 1)[1])
    metrics = steps[f"evaluate-{round_number}"]["metrics"]
    tuned = steps[f"tune-{round_number}"]
    return {
        "usecase": usecase,
        "replay": replayed,
        "events": events(steps["validate"]["reconciliation"]),
        "rows": metrics["rows"],
        "candidates": tuned.get("trials", []),
        "scores": metrics["model"],
        "baselines": metrics["baselines"],
        "slices": metrics["slices"],
        "gate": {
            "accepted": judged[1]["decision"] == "accepted",
            "round": round_number,
            "reasons": judged[1]["reasons"],
            "variant": judged[1].get("variant", ""),
        },
        "model": {
            "architecture": tuned["architecture"],
            "parameters": tuned["parameters"],
            "version": steps["publish"]["version"],
            "digest": steps["publish"]["digest"],
        },
        "request": request,
        "prediction": answer,
        "truth": subject.truth,
        "gateway": gateway.url,
        "curl": gateway.curl(usecase, request),
    }


def events(reconciliation: dict[str, Any]) -> dict[str, Any]:
    """Counts per stream and in all, from the record of a reconciliation."""
    kept = ("produced", "landed", "duplicates", "dead_lettered", "balanced")
    streams = {name: {key: row[key] for key in kept} for name, row in reconciliation["streams"].items()}
    return {"streams": streams, **{key: reconciliation["total"][key] for key in kept}}


def last(steps: Steps, name: str) -> tuple[str, dict[str, Any]]:
    """The record of the last round of a step."""
    found = max((key for key in steps if key.startswith(f"{name}-")), key=lambda key: int(key.rsplit("-", 1)[1]))
    return found, steps[found]
