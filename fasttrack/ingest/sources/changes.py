"""What a table's replication messages tell, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fasttrack.errors import IntegrityError
from fasttrack.ingest.sources.origin import Origin
from fasttrack.ingest.sources.pgoutput import (
    UNCHANGED,
    Begin,
    Change,
    Commit,
    Message,
    Relation,
    Row,
    Truncate,
    Unchanged,
    lsn_number,
    lsn_text,
)
from fasttrack.ingest.sources.postgres_link import TableColumn
from fasttrack.ingest.sources.source import Position, Record
from fasttrack.progress import note


@dataclass(frozen=True)
class Place:
    """How far a stream of changes was read.

    Attributes:
        lsn: where the last whole transaction ends.
        transaction: the commit's place of the one that was read in part; 0: none.
        index: how many of its changes were.
    """

    lsn: int
    transaction: int = 0
    index: int = 0

    @classmethod
    def of(cls, position: Position) -> Place:
        """The place that `to_position` wrote."""
        inside = position.get("transaction")
        if inside is None:
            return cls(lsn_number(position["lsn"]))
        return cls(lsn_number(position["lsn"]), lsn_number(inside["lsn"]), inside["index"])

    def to_position(self) -> dict[str, Any]:
        """As JSON values."""
        inside = {"lsn": lsn_text(self.transaction), "index": self.index} if self.transaction else None
        return {"lsn": lsn_text(self.lsn), "transaction": inside}


class Changes:
    """Turns messages into records, and knows the place behind them.

    A change's identity is the place of its transaction's commit and its number in it, which never change.

    Args:
        place: what lies before it is left out.
        origin: where the source's history began.
        table: schema and name of the table; changes of others are left out.
        describe: asks the table's columns anew, as they may have changed.
        wanted: the kinds of changes that become records.
        needed: the columns that events are made of.
        where: named in messages.
    """

    def __init__(
        self,
        place: Place,
        origin: Origin,
        table: tuple[str, str],
        describe: Callable[[], Mapping[str, TableColumn]],
        wanted: Iterable[str],
        needed: Iterable[str],
        where: str,
    ) -> None:
        self.place = place
        self._origin = origin
        self._table = table
        self._describe = describe
        self._wanted, self._needed, self._where = frozenset(wanted), frozenset(needed), where
        self._columns = describe()
        self._relations: dict[int, Relation] = {}
        self._begin: Begin | None = None
        self._index = 0

    def record(self, message: Message) -> Record | None:
        """The record that `message` tells of, if any.

        Raises:
            IntegrityError: the messages don't follow each other as they must.
        """
        match message:
            case Begin():
                self._begin, self._index = message, 0
            case Commit():
                self._begin = None
                # One that lies before doesn't end the transaction that was read in part.
                if message.end > self.place.lsn:
                    self.place = Place(message.end)
            case Relation():
                if message.id in self._relations:
                    self._columns = self._describe()
                self._relations[message.id] = message
            case Truncate():
                note(f"{self._where}: the table was emptied (TRUNCATE); no events tell of its rows")
            case Change():
                return self._change(message)
        return None

    def _change(self, change: Change) -> Record | None:
        begin, relation = self._begin, self._relations.get(change.relation)
        if begin is None or relation is None:
            raise IntegrityError(
                "a change came outside a transaction or of an unknown table.", where=self._where, fix="Report this."
            )
        if (relation.schema, relation.name) != self._table:
            return None
        index, self._index = self._index, self._index + 1
        if begin.lsn < self.place.lsn or (begin.lsn == self.place.transaction and index < self.place.index):
            return None
        self.place = Place(self.place.lsn, begin.lsn, self._index)
        if change.kind not in self._wanted:
            return None
        names = [column.name for column in relation.columns]
        identity = f"{lsn_text(begin.lsn)}:{index}"
        extra = self._origin.told(change.kind, lsn_text(begin.lsn), begin.at, identity)
        if change.new is None:
            # Of a row that is gone the server tells the key, or all of it; the key's columns are never null.
            known = {name: value for name, value in zip(names, change.old or (), strict=True) if isinstance(value, str)}
            return Record(identity, self._values(known) | extra)
        row = dict(zip(names, _completed(change.new, change.old), strict=True))
        missing = sorted(name for name, value in row.items() if value is UNCHANGED and name in self._needed)
        told = {name: value for name, value in row.items() if not isinstance(value, Unchanged)}
        if missing:
            return self._unreadable(identity, told, extra, missing)
        return Record(identity, self._values(told) | extra)

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns
        return {
            name: value if value is None or name not in columns else columns[name].convert(value)
            for name, value in row.items()
        }

    def _unreadable(
        self, identity: str, row: Mapping[str, Any], extra: Mapping[str, Any], missing: list[str]
    ) -> Record:
        """A row whose large values aren't told: a dead letter that shows what is known, rather than a wrong event."""
        note(
            f"{self._where}: a change doesn't tell {', '.join(missing)} (large values that it left alone), so it "
            "becomes a dead letter: ALTER TABLE ... REPLICA IDENTITY FULL makes the server tell them from then on."
        )
        return Record(identity, None, orjson.dumps({**row, **extra, "_not_told": missing}))


def _completed(new: Row, old: Row | None) -> Row:
    """The new row, with what it doesn't tell taken from the old one, if that was told in full."""
    if old is None:
        return new
    return tuple(
        before if isinstance(now, Unchanged) and before is not None else now
        for now, before in zip(new, old, strict=True)
    )
