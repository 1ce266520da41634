"""Tables as the drain makes them, with columns of every kind, for the tests of their maintenance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import MOMENT, PROVENANCE
from fasttrack.lake.tables import ensure, load, read

SCHEMA = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("number", pa.float64()),
        pa.field("count", pa.int64()),
        pa.field("flag", pa.bool_()),
        pa.field("when", MOMENT),
        pa.field("raw", pa.binary()),
        *PROVENANCE,
    ]
)
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_TEXTS = ["", "a", "Łódź", "z" * 300, "\U0001f600", "ab", "B"]


def new_table(folder: Path, schema: pa.Schema = SCHEMA) -> str:
    """An empty table."""
    path = str(folder / "lake" / "table")
    ensure(path, schema)
    return path


def rows(chance: Random, partition: int, first: int, count: int, empty: float = 0.2) -> pa.Table:
    """Random rows of consecutive offsets; a share of `empty` of the values, and some whole columns, are null."""

    def column(value: Any) -> list[Any]:
        share = chance.choice([0.0, empty, 1.0])
        return [None if chance.random() < share else value() for _ in range(count)]

    values = {
        "text": column(lambda: chance.choice(_TEXTS)),
        "number": column(lambda: chance.choice([-1e300, -0.5, 0.0, 2.5, 1e-300, chance.random()])),
        "count": column(lambda: chance.choice([-(2**63), 2**63 - 1, chance.randint(-9, 9)])),
        "flag": column(lambda: chance.random() < 0.5),
        "when": column(lambda: _EPOCH + timedelta(microseconds=chance.randint(-(10**15), 10**12))),
        "raw": column(lambda: chance.randbytes(3)),
        "_topic_id": ["topic"] * count,
        "_partition": [partition] * count,
        "_offset": list(range(first, first + count)),
        "_ingested_at": [_EPOCH] * count,
    }
    return pa.table(values, schema=SCHEMA)


def fill(path: str, chance: Random, files: int, partitions: int = 2, most: int = 20) -> None:
    """Append files of random sizes to random partitions, as drains do."""
    for _ in range(files):
        partition = chance.randrange(partitions)
        ledger = Ledger(path, f"app:{partition}")
        first = ledger.mark or 0
        count = chance.randint(1, most)
        ledger.append(rows(chance, partition, first, count), first + count)


def content(path: str, version: int | None = None) -> pa.Table:
    """All rows of a table, by partition and offset."""
    return read(path, version=version).sort_by([("_partition", "ascending"), ("_offset", "ascending")])


def marks(path: str, partitions: int = 2) -> list[int | None]:
    """The partitions' marks."""
    table = load(path)
    return [table.transaction_version(f"app:{partition}") for partition in range(partitions)]


def on_disk(path: str) -> set[str]:
    """The names of the data files in the table's folder."""
    return {file.name for file in Path(path).glob("*.parquet")}
