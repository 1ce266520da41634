"""Step features: the point-in-time table, and the online store."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from fasttrack.features.job import build
from fasttrack.features.online import materialize
from fasttrack.features.online.definitions import load_feast
from fasttrack.features.quality import check
from fasttrack.steps.frame import step


@dataclass(frozen=True)
class Table:
    """The feature table.

    Attributes:
        path: where it lies.
        metadata: fingerprint, rows, lake versions and the like.
    """

    path: str
    metadata: dict[str, Any]


def features(usecase: str, run_id: str, lake: str) -> Table:
    """Build the table at the given lake versions, unless it is there; check it; refresh the online store.

    Raises:
        DataQualityError: the table breaks a limit of the use case.
        UnavailableError: the online store does not answer.
    """
    with step("features", usecase, run_id) as at:
        # Feast loads while Spark is waited for.
        threading.Thread(target=load_feast, name="load-feast", daemon=True).start()
        table = build(at.usecase, at.settings, versions=orjson.loads(lake))
        at.record["table"] = asdict(table)
        at.record["quality"] = asdict(check(at.usecase, table.path))
        at.record["online"] = asdict(materialize(at.usecase, at.settings))
        metadata = {"fingerprint": table.fingerprint, "rows": table.rows, "lake_versions": lake, "reused": table.reused}
        return Table(str(table.path), metadata)
