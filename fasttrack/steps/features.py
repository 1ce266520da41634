"""Step features: the point-in-time table, and the online store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from fasttrack.steps.frame import step
from fasttrack.steps.substrate import substrate


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
        found = substrate().features(at, orjson.loads(lake))
        at.record.update(found)
        table = found["table"]
        metadata = {name: table[name] for name in ("fingerprint", "rows", "reused")} | {"lake_versions": lake}
        return Table(str(table["path"]), metadata)
