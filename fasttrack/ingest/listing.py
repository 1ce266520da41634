"""Dead letters counted in groups, and the newest of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.deadletters import Wanted
from fasttrack.ingest.rounds import PLACE, Places, Shelf, first
from fasttrack.lake.schemas import DEAD_LETTERS, MOMENT
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_GROUPS = ("reason", "stream", "detail", "partition", "contract_version", "topic")
_PIECE = 100_000
# How a column of a piece is put together, and then those of several pieces.
_SUMS = {
    "count": (([], "count_all"), ("count", "sum")),
    "replayed": (("replayed_at", "count"), ("replayed", "sum")),
    "first": (("ingested_at", "min"), ("first", "min")),
    "last": (("ingested_at", "max"), ("last", "max")),
}


@dataclass
class Listing:
    """What a search found.

    Attributes:
        matched: how many there are.
        groups: their counts (``count``, ``replayed``, ``first``, ``last``) by what they were grouped by, largest first.
        letters: the newest, without key and value; ``replayed_at`` if they were sent again.
    """

    matched: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)


def search(usecase: UseCase, settings: Settings, wanted: Wanted, by: str = "reason", limit: int = 20) -> Listing:
    """Count dead letters, and list the newest; memory grows with the groups and `limit`, not with what is counted.

    Args:
        by: a column to group by: reason, stream, detail, partition, contract_version or topic.
        limit: how many are listed.

    Raises:
        ConfigurationError: `by` is none of these.
        NotFoundError: nothing was drained yet.
        StorageError: the lake can't be read.
    """
    if by not in _GROUPS:
        raise ConfigurationError(f"{by!r} is nothing to group by.", where="--by", fix=f"Use {', '.join(_GROUPS)}.")
    shelf = Shelf(usecase, settings)
    keys = list(dict.fromkeys(["stream", by]))
    order = [("topic", "ascending"), ("partition", "ascending"), ("offset", "descending")]
    found = Listing()
    groups: pa.Table | None = None
    newest: pa.Table | None = None
    for piece in _pieces(shelf, wanted):
        rows = piece.sort_by([(name, "ascending") for name in PLACE])
        moments = shelf.moments(Places(rows))
        rows = rows.append_column("replayed_at", pa.array(moments, mask=moments < 0).cast(MOMENT))
        found.matched += rows.num_rows
        counted = _summed(rows, keys, 0)
        groups = counted if groups is None else _summed(pa.concat_tables([groups, counted]), keys, 1)
        newest = rows if newest is None else pa.concat_tables([newest, rows])
        newest = first(newest, [("ingested_at", "descending"), *order], limit)
    if groups is not None and newest is not None:
        largest = [("count", "descending"), *((key, "ascending") for key in keys)]
        found.groups, found.letters = groups.sort_by(largest).to_pylist(), newest.to_pylist()
    return found


def _pieces(shelf: Shelf, wanted: Wanted) -> Iterator[pa.Table]:
    columns = [name for name in DEAD_LETTERS.names if name not in ("key", "value")]
    held: list[pa.Table] = []
    count = 0
    for rows in shelf.batches(wanted, columns):
        held.append(rows)
        count += rows.num_rows
        if count >= _PIECE:
            yield pa.concat_tables(held)
            held, count = [], 0
    if held:
        yield pa.concat_tables(held)


def _summed(rows: pa.Table, keys: list[str], step: int) -> pa.Table:
    sums = [each[step] for each in _SUMS.values()]
    found = rows.group_by(keys).aggregate(sums)
    names = ["count_all" if not column else f"{column}_{how}" for column, how in sums]
    return found.select([*keys, *names]).rename_columns([*keys, *_SUMS])
