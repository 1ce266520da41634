"""What a feature table was made from: same fingerprint, same table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from fasttrack.errors import NotFoundError
from fasttrack.features.plan import streams_used
from fasttrack.lake.tables import load, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

# The code that decides the values. Its text is hashed, so no one has to remember to raise a version.
_CODE = ("carry.py", "clock.py", "compute.py", "kernel.py", "plan.py", "spark.py")


@dataclass(frozen=True)
class Source:
    """A raw table at one version.

    Attributes:
        path: the Delta table.
        table_id: Delta's own id of the table; it changes when the table is made anew.
        version: Delta version.
        rows: rows at that version.
    """

    path: str
    table_id: str
    version: int
    rows: int


def sources(usecase: UseCase, settings: Settings, versions: Mapping[str, int] | None = None) -> dict[str, Source]:
    """The raw tables on which the features depend, by stream.

    Args:
        usecase: the use case.
        settings: where the lake is.
        versions: the Delta version to read of each stream; the newest one where absent.

    Raises:
        NotFoundError: a table, or the version asked for, is not there.
        StorageError: a table can't be read.
    """
    found: dict[str, Source] = {}
    for stream in streams_used(usecase):
        path = raw_path(settings, usecase, stream)
        if versions is not None and stream not in versions:
            raise NotFoundError(
                f"stream {stream!r} has no table in the lake versions given.", where=path, fix="Drain the stream first."
            )
        table = load(path, versions[stream] if versions is not None else None)
        found[stream] = Source(path, str(table.metadata().id), table.version(), table.count())
    return found


def fingerprint(usecase: UseCase, lake: Mapping[str, Source]) -> str:
    """64 hex digits over the feature definitions, prediction, label, lake versions and the computing code."""
    entities = {d.entity for d in usecase.features.values() if hasattr(d, "entity")} | {usecase.prediction.entity}
    document = {
        "features": [[name, d.model_dump(mode="json")] for name, d in usecase.features.items()],
        "prediction": usecase.prediction.model_dump(mode="json"),
        "label": usecase.label.model_dump(mode="json", include={"stream", "field"}),
        "entities": {name: list(usecase.entities[name].keys) for name in sorted(entities)},
        "streams": {name: [usecase.streams[name].event_time, usecase.streams[name].event_id] for name in sorted(lake)},
        "lake": {name: [source.table_id, source.version] for name, source in sorted(lake.items())},
        "code": {name: hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest() for name in _CODE},
    }
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
