"""Where each message of a batch goes: landed, duplicate or dead letter; each offset to exactly one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fasttrack.ingest.columncheck import Checked
from fasttrack.ingest.dedup import SeenIds
from fasttrack.ingest.rowcheck import Rejection
from fasttrack.usecase.streams import Stream

Index = npt.NDArray[np.int64]

_CHANGED = Rejection("contract changed", "the contract changed between an interrupted drain and this one")


@dataclass(frozen=True)
class Recorded:
    """What the tables hold of a partition at or above the offset where its drain resumes.

    The three tables are committed one after the other (landed first), so after an interruption their marks differ.

    Attributes:
        landed, duplicates, dead: the offsets recorded in each table.
        landed_mark, duplicates_mark, dead_mark: the first offset that each table has not decided on.
    """

    landed: frozenset[int] = frozenset()
    duplicates: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()
    landed_mark: int = 0
    duplicates_mark: int = 0
    dead_mark: int = 0


@dataclass
class Decision:
    """Positions in the batch by destination; offsets that the tables hold already are in none of them.

    Attributes:
        landed: positions in `Checked.rows` that are new events.
        duplicates: offset and event id (None if it can't be read any more) of each duplicate.
        dead: position in the batch and reason of each dead letter.
    """

    landed: Index
    duplicates: list[tuple[int, str | None]] = field(default_factory=list)
    dead: list[tuple[int, Rejection]] = field(default_factory=list)


def decide(stream: Stream, offsets: Index, checked: Checked, seen: SeenIds, recorded: Recorded) -> Decision:
    """Decide on a batch.

    Args:
        stream: the contract.
        offsets: the messages' offsets, ascending.
        checked: the outcome of the contract check.
        seen: the partition's index; new ids are remembered.
        recorded: what an interrupted drain left behind.
    """
    ids = checked.rows.column(stream.event_id).combine_chunks()
    if not pa.types.is_string(ids.type):
        ids = ids.cast(pa.string())
    when = checked.rows.column(stream.event_time).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    old = offsets < max(recorded.landed_mark, recorded.duplicates_mark, recorded.dead_mark)
    if not old.any():
        first = seen.first(ids, when)
        again = np.flatnonzero(~first)
        copies = ids.take(pa.array(again)).to_pylist()
        where = offsets[checked.index[again]].tolist()
        return Decision(np.flatnonzero(first), list(zip(where, copies, strict=True)), list(checked.rejected))
    return _recover(offsets, checked, ids, when, seen, recorded)


def _recover(
    offsets: Index, checked: Checked, ids: pa.Array, when: Index, seen: SeenIds, recorded: Recorded
) -> Decision:
    """Decide row by row where some tables have decided and others have not.

    What is recorded stays. What no table recorded goes to a table that has not decided on it yet: valid events as
    before, and if the contract changed meanwhile, so that the fitting table is past it, to the other one. So that no
    event is called a copy of one that is nowhere, what the raw table was too early for is a dead letter.
    """
    reasons = dict(checked.rejected)
    row_of = {int(at): row for row, at in enumerate(checked.index)}
    names = ids.to_pylist()
    known = recorded.landed | recorded.duplicates | recorded.dead
    places = offsets[checked.index]
    open_rows = np.flatnonzero((places >= recorded.landed_mark) & ~np.isin(places, list(known)))
    first = seen.first(ids.take(pa.array(open_rows)), when[open_rows])
    fresh = set(open_rows[first].tolist())
    landed_before = seen.holds(ids)
    found = Decision(np.empty(0, np.int64))
    landed: list[int] = []
    for at, offset in enumerate(offsets.tolist()):
        if offset in known:
            continue
        row = row_of.get(at)
        name = None if row is None else names[row]
        may_repeat, may_die = offset >= recorded.duplicates_mark, offset >= recorded.dead_mark
        if row is not None and row in fresh:
            landed.append(row)
        elif (row is not None and landed_before[row] and may_repeat) or not may_die:
            found.duplicates.append((offset, name))
        else:
            found.dead.append((at, reasons.get(at, _CHANGED)))
    found.landed = np.array(landed, np.int64)
    return found
