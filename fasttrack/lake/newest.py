"""The moments that a table spans, and the newest of some rows, found from the newest files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from fasttrack.lake.schemas import MOMENT

_FIRST_STEP = 3_600_000_000
_WIDER = 24


def span(table: DeltaTable, column: str) -> tuple[int, int] | None:
    """The least and the greatest moment that the files' statistics name; no file is opened.

    Returns:
        Microseconds since 1970, within a millisecond; None for a table without rows.
    """
    files = pa.table(table.get_add_actions(flatten=True))
    if f"max.{column}" not in files.column_names:
        return None
    bounds = [pc.min(files[f"min.{column}"]), pc.max(files[f"max.{column}"])]
    low, high = (bound.cast(pa.int64()).as_py() for bound in bounds)
    return None if high is None else (low, high)


def newest(table: DeltaTable, column: str, where: ds.Expression, rank: int = 1) -> int | None:
    """The greatest value of a timestamp column among the rows that `where` selects, or the `rank`-th greatest.

    Files whose statistics end earlier than what was found are not opened, so on a table in about the order of time
    this costs a few files, whatever the table's size.

    Returns:
        Microseconds since 1970; None if there are fewer such rows.
    """
    spanned = span(table, column)
    if spanned is None:
        return None
    low, high = spanned
    dataset, step = table.to_pyarrow_dataset(), _FIRST_STEP
    while True:
        since = max(low, high - step)
        recent = where & (ds.field(column) >= pa.scalar(since, pa.int64()).cast(MOMENT))
        greatest = np.empty(0, np.int64)
        for rows in dataset.to_batches(columns=[column], filter=recent):
            times = rows.column(0).drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
            greatest = np.concatenate([greatest, times])
            if len(greatest) > rank:
                greatest = np.partition(greatest, -rank)[-rank:]
        if len(greatest) == rank or since == low:
            return int(greatest.min()) if len(greatest) == rank else None
        step *= _WIDER
