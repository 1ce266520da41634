"""The moments that a table spans, and the newest of some rows, found from the newest files."""

from __future__ import annotations

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


def newest(table: DeltaTable, column: str, where: ds.Expression) -> int | None:
    """The greatest value of a timestamp column among the rows that `where` selects.

    Files whose statistics end earlier than what was found are not opened, so on a table in about the order of time
    this costs a few files, whatever the table's size.

    Returns:
        Microseconds since 1970; None if there is no such row.
    """
    spanned = span(table, column)
    if spanned is None:
        return None
    low, high = spanned
    dataset, step = table.to_pyarrow_dataset(), _FIRST_STEP
    while True:
        since = max(low, high - step)
        recent = where & (ds.field(column) >= pa.scalar(since, pa.int64()).cast(MOMENT))
        found = pc.max(dataset.to_table(columns=[column], filter=recent).column(0).cast(pa.int64())).as_py()
        if found is not None or since == low:
            return None if found is None else int(found)
        step *= _WIDER
