"""Dead letters by the million: gone through piece by piece, with what became of each, in bounded memory.

A piece is as many as are thought about at once. It holds places (where a message was), 8 bytes each beside the names
of their partitions; contents are read for a round at a time, which is what is sent at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import NotFoundError
from fasttrack.ingest.deadletters import Letter, Wanted, letters
from fasttrack.lake.failures import storage
from fasttrack.lake.schemas import DEAD_LETTERS
from fasttrack.lake.storage import patiently
from fasttrack.lake.tables import dead_letters_path, load, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

PLACE = ["topic_id", "partition", "offset"]
_PIECE = 500_000
_ROUND = 5_000
_ROUND_BYTES = 32 << 20
_BY_PLACE = [(name, "ascending") for name in PLACE]


@dataclass
class Tally:
    """What was gone through so far: `matched` dead letters, `before` of which had been replayed."""

    matched: int = 0
    before: int = 0


class Shelf:
    """The dead letters of a use case and their replays, as both tables are when this is made.

    Raises:
        NotFoundError: nothing was drained yet.
        StorageError: the lake can't be read.
    """

    def __init__(self, usecase: UseCase, settings: Settings) -> None:
        self._path, self._replays_path = dead_letters_path(settings, usecase), replays_path(settings, usecase)
        table = load(self._path)
        self._replays: ds.Dataset | None = None
        with storage(self._path):
            self._letters = table.to_pyarrow_dataset()
            with suppress(NotFoundError):
                self._replays = load(self._replays_path).to_pyarrow_dataset()

    def batches(self, wanted: Wanted, columns: list[str], where: ds.Expression | None = None) -> Iterator[pa.Table]:
        """The rows that are wanted (and for which `where` holds), some at a time.

        Raises:
            StorageError: the lake can't be read.
        """
        asked = columns if wanted.contains is None else list({*columns, "value"})
        chosen = wanted.expression() if where is None else wanted.expression() & where
        with storage(self._path):
            for rows in _batches(self._path, self._letters, asked, chosen):
                if wanted.contains is not None:
                    rows = rows.filter(pc.match_substring(rows.column("value"), wanted.contains))
                if rows.num_rows:
                    yield rows.select(columns)

    def moments(self, places: Places) -> npt.NDArray[np.int64]:
        """When the dead letters at these places were replayed, in microseconds; -1 for those that were not.

        Raises:
            StorageError: the lake can't be read.
        """
        found = np.full(len(places), -1, np.int64)
        if self._replays is None or not len(places):
            return found
        where = (ds.field("state") == "done") & places.near()
        with storage(self._replays_path):
            for rows in _batches(self._replays_path, self._replays, [*PLACE, "replayed_at"], where):
                at = places.positions(rows)
                moments = rows.column("replayed_at").cast(pa.int64()).to_numpy()
                found[at[at >= 0]] = moments[at >= 0]
        return found


def _batches(path: str, dataset: ds.Dataset, columns: list[str], where: ds.Expression) -> Iterator[pa.Table]:
    # A scan of the whole dataset reads ahead by up to a GiB, and one of an object store can't be gone on with when an
    # answer breaks off. So one row group is read after the other.
    for fragment in dataset.get_fragments(filter=where):
        for group in patiently(path, partial(fragment.split_by_row_group, where, schema=dataset.schema)):
            read = partial(group.to_table, columns=columns, filter=where, schema=dataset.schema, use_threads=False)
            rows = patiently(path, read)
            if rows.num_rows:
                yield rows


class Places:
    """Places in their order: by topic id, partition and offset.

    Args:
        rows: their columns, in this order; each place once.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._offsets = rows.column("offset").to_numpy()
        groups = rows.group_by(PLACE[:2], use_threads=False).aggregate([([], "count_all")]).to_pylist()
        ends = np.cumsum([each["count_all"] for each in groups], dtype=np.int64).tolist()
        starts = [0, *ends[:-1]]
        self._groups = {
            (each["topic_id"], each["partition"]): (first, last)
            for each, first, last in zip(groups, starts, ends, strict=True)
        }

    def __len__(self) -> int:
        return len(self._offsets)

    def near(self, exactly: bool = False) -> ds.Expression:
        """What holds for rows at these places, and, unless `exactly`, for others between them."""
        found = ds.scalar(False)
        for (topic_id, partition), (first, last) in self._groups.items():
            mine, offset = self._offsets[first:last], ds.field("offset")
            here = (ds.field("topic_id") == topic_id) & (ds.field("partition") == partition)
            here &= (offset >= int(mine[0])) & (offset <= int(mine[-1]))
            found |= here & offset.isin(pa.array(mine)) if exactly else here
        return found

    def positions(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """For each row its place's position among these; -1 if it is none of them."""
        offsets = rows.column("offset").to_numpy()
        found = np.full(len(offsets), -1, np.int64)
        for each in rows.group_by(PLACE[:2]).aggregate([]).to_pylist():
            if (bounds := self._groups.get((each["topic_id"], each["partition"]))) is None:
                continue
            same = pc.and_(
                pc.equal(rows.column("topic_id"), each["topic_id"]),
                pc.equal(rows.column("partition"), each["partition"]),
            )
            mine = np.flatnonzero(same.to_numpy())
            held = self._offsets[bounds[0] : bounds[1]]
            at = np.minimum(np.searchsorted(held, offsets[mine]), len(held) - 1)
            found[mine] = np.where(held[at] == offsets[mine], bounds[0] + at, -1)
        return found


def rounds(shelf: Shelf, wanted: Wanted, tally: Tally) -> Iterator[list[Letter]]:
    """What is wanted and was not replayed, in the order of the places, some thousand (or some MiB) at a time.

    Args:
        tally: counts what was gone through, whole pieces at a time.

    Raises:
        StorageError: the lake can't be read.
    """
    beyond: ds.Expression | None = None
    while (piece := _next(shelf, wanted, beyond)).num_rows:
        beyond = _beyond(piece.slice(piece.num_rows - 1).to_pylist()[0])
        waiting = shelf.moments(Places(piece)) < 0
        tally.matched += piece.num_rows
        tally.before += piece.num_rows - int(np.count_nonzero(waiting))
        left = piece.filter(pa.array(waiting))
        for low in range(0, left.num_rows, _ROUND):
            yield from _read(shelf, left.slice(low, _ROUND))


def _next(shelf: Shelf, wanted: Wanted, beyond: ds.Expression | None) -> pa.Table:
    """The first places, a piece at most, in order."""
    held = [pa.table({name: pa.array([], DEAD_LETTERS.field(name).type) for name in PLACE})]
    count = 0
    for rows in shelf.batches(wanted, PLACE, beyond):
        held.append(rows)
        count += rows.num_rows
        if count >= 2 * _PIECE:
            held = [first(pa.concat_tables(held), _BY_PLACE, _PIECE)]
            count = _PIECE
    return first(pa.concat_tables(held), _BY_PLACE, _PIECE)


def first(rows: pa.Table, order: list[tuple[str, str]], count: int) -> pa.Table:
    """The first rows in an order, as a table that keeps no memory of the others."""
    return rows.take(pc.sort_indices(rows, order)[:count]).combine_chunks()


def _beyond(place: dict[str, str | int]) -> ds.Expression:
    found = ds.scalar(False)
    same = ds.scalar(True)
    for name in PLACE:
        found |= same & (ds.field(name) > place[name])
        same &= ds.field(name) == place[name]
    return found


def _read(shelf: Shelf, part: pa.Table) -> Iterator[list[Letter]]:
    found: list[pa.Table] = []
    size = 0
    for rows in shelf.batches(Wanted(), DEAD_LETTERS.names, Places(part).near(exactly=True)):
        found.append(rows)
        size += rows.nbytes
        if size > _ROUND_BYTES and part.num_rows > 1:
            # Too much for one round: it is read again as two.
            half = part.num_rows // 2
            del found, rows
            yield from _read(shelf, part.slice(0, half))
            yield from _read(shelf, part.slice(half))
            return
    yield letters(pa.concat_tables(found).sort_by(_BY_PLACE))
