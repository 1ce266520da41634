"""Per-column statistics of a feature table, kept beside it as ``_stats.json``; their presence says it is complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError, NotFoundError, StorageError
from fasttrack.features.fingerprint import Source
from fasttrack.features.kernel import Floats
from fasttrack.features.plan import EVENT_ID, LABEL, LENGTH_SUFFIX, PREDICTION_TIME
from fasttrack.lake.tables import read
from fasttrack.usecase import Column, UseCase

STATS_FILE = "_stats.json"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Stats = dict[str, Any]


def measure(usecase: UseCase, path: str, lake: Mapping[str, Source], fingerprint: str) -> Stats:
    """Read a finished table column by column and describe it.

    Args:
        usecase: the use case.
        path: the feature table.
        lake: the raw tables that it was made from.
        fingerprint: the table's fingerprint.

    Returns:
        ``rows``, ``dropped`` (prediction events that came too late to ask), ``columns`` (by column: ``missing`` and,
        for numbers, ``minimum``, ``maximum``, ``mean``, ``std``, ``quantiles``; for categories ``distinct``),
        ``newest_event`` by stream, ``first_row`` and ``newest_row`` (prediction times) and the lake versions.

    Raises:
        DataQualityError: a prediction event is in the lake twice.
    """
    times = read(path, [EVENT_ID, PREDICTION_TIME])
    rows = len(times)
    if rows != pc.count_distinct(times[EVENT_ID]).as_py():
        raise DataQualityError(
            f"stream {usecase.prediction.stream!r} holds an event id twice, so its rows can't be told apart.",
            where=lake[usecase.prediction.stream].path,
            fix="Make the stream's dedup_window longer, and drain it into a new lake.",
        )
    return {
        "fingerprint": fingerprint,
        "rows": rows,
        "dropped": lake[usecase.prediction.stream].rows - rows,
        "first_row": _iso(pc.min(times[PREDICTION_TIME]).as_py()),
        "newest_row": _iso(pc.max(times[PREDICTION_TIME]).as_py()),
        "newest_event": {stream: newest_event(usecase, stream, source) for stream, source in sorted(lake.items())},
        "lake_versions": {stream: source.version for stream, source in sorted(lake.items())},
        "lake_tables": {stream: source.table_id for stream, source in sorted(lake.items())},
        "columns": {**{c.name: _column(path, c) for c in usecase.columns()}, LABEL: _numbers(_read(path, LABEL))},
    }


def newest_event(usecase: UseCase, stream: str, source: Source) -> str | None:
    """The largest event time of a raw table at its version, ISO 8601; None if it is empty."""
    field = usecase.streams[stream].event_time
    return _iso(pc.max(read(source.path, [field], version=source.version)[field]).as_py())


def store(path: str, stats: Stats) -> None:
    """Write the statistics beside the table, all or nothing.

    Raises:
        StorageError: the disk refused.
    """
    target = Path(path) / STATS_FILE
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix="._stats", delete=False) as file:
            file.write(orjson.dumps(stats, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(target)
    except OSError as error:
        raise StorageError(f"can't be written: {error.strerror}.", where=str(target), fix="Free some space.") from error


def stored(path: str) -> Stats | None:
    """The statistics of a complete table, None if there is none at `path`.

    Raises:
        StorageError: they are there but can't be read.
    """
    file = Path(path) / STATS_FILE
    try:
        found: Stats = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise StorageError(
            f"can't be read: {error}.", where=str(file), fix="Delete the folder and build again."
        ) from error
    return found


def require(path: str) -> Stats:
    """The statistics of a complete table.

    Raises:
        NotFoundError: there is no complete table at `path`.
    """
    found = stored(path)
    if found is None:
        raise NotFoundError("there is no complete feature table.", where=path, fix="Run the features step first.")
    return found


def _read(path: str, column: str) -> pa.ChunkedArray:
    return read(path, [column])[column]


def _column(path: str, column: Column) -> Stats:
    if column.role == "category":
        values = _read(path, column.name)
        return {"missing": _share(values.null_count, len(values)), "distinct": pc.count_distinct(values).as_py()}
    if column.role == "sequence":
        lengths = _read(path, column.name + LENGTH_SUFFIX).to_numpy()
        shape = (len(lengths), column.length, len(column.channels))
        flat = _floats(pc.list_flatten(_read(path, column.name))).reshape(shape)
        channels = {name: _summary(flat[:, :, i].reshape(-1)) for i, name in enumerate(column.channels)}
        return {"missing": _share(int((lengths == 0).sum()), len(lengths)), "channels": channels}
    return _numbers(_read(path, column.name))


def _numbers(values: pa.ChunkedArray) -> Stats:
    return {"missing": _share(values.null_count, len(values)), **_summary(_floats(values))}


def _floats(values: pa.ChunkedArray | pa.Array) -> Floats:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)


def _summary(numbers: Floats) -> Stats:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return {"minimum": None, "maximum": None, "mean": None, "std": None, "quantiles": {}}
    return {
        "minimum": float(known.min()),
        "maximum": float(known.max()),
        "mean": float(known.mean()),
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "quantiles": dict(zip(map(str, QUANTILES), np.quantile(known, QUANTILES).tolist(), strict=True)),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
