"""What a table's replication messages tell, as records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
from fasttrack.ingest.sources.postgres_values import Convert
from fasttrack.ingest.sources.rows import Rows
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

    A change's identity is the place of its transaction's commit and its number in it, which never change. Values are
    converted by the types that the table had when they were written: it may have been altered since.

    Args:
        place: what lies before it is left out.
        origin: where the source's history began, and of which table.
        name: schema and name by which the table is called today, or another in its place.
        types: asks what makes values of the texts of some types.
        look: makes sure that the table and its publication are still the ones of `origin`.
        wanted: the kinds of changes that become records.
        needed: the columns that events are made of.
        where: named in messages.
    """

    def __init__(
        self,
        place: Place,
        origin: Origin,
        name: tuple[str, str],
        types: Callable[[Iterable[int]], Mapping[int, Convert]],
        look: Callable[[], None],
        wanted: Iterable[str],
        needed: Iterable[str],
        where: str,
    ) -> None:
        self.place = place
        self._origin = origin
        self._name, self._types, self._look = name, types, look
        self._wanted, self._needed, self._where = frozenset(wanted), frozenset(needed), where
        self._rows = Rows(self._needed, where)
        self._converts: dict[str, Convert] = {}
        self._relations: dict[int, Relation] = {}
        self._begin: Begin | None = None
        self._index = 0

    def record(self, message: Message) -> Record | None:
        """The record that `message` tells of, if any.

        Raises:
            IntegrityError: the messages don't follow each other as they must.
            ConfigurationError: the table was renamed.
            DataLossError: another table has its name now.
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
                self._relation(message)
            case Truncate() if self._origin.table in message.relations:
                note(f"{self._where}: the table was emptied (TRUNCATE); no events tell of its rows")
            case Change():
                return self._change(message)
        return None

    def _relation(self, relation: Relation) -> None:
        ours = relation.id == self._origin.table
        if ours != ((relation.schema, relation.name) == self._name):
            # Its name was another one, or another table had it: today's catalog knows whether that is over.
            self._look()
        if ours:
            convert = self._types({column.type for column in relation.columns})
            # A type that is gone by now was none of those that Python has, too.
            self._converts = {column.name: convert.get(column.type, str) for column in relation.columns}
        self._relations[relation.id] = relation

    def _change(self, change: Change) -> Record | None:
        begin, relation = self._begin, self._relations.get(change.relation)
        if begin is None or relation is None:
            raise IntegrityError(
                "a change came outside a transaction or of an unknown table.", where=self._where, fix="Report this."
            )
        if relation.id != self._origin.table:
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
            return self._rows.replicated(identity, self._values(known) | extra)
        row = dict(zip(names, _completed(change.new, change.old), strict=True))
        missing = sorted(name for name, value in row.items() if value is UNCHANGED and name in self._needed)
        told = {name: value for name, value in row.items() if not isinstance(value, Unchanged)}
        if missing:
            return self._unreadable(identity, told, extra, missing)
        return self._rows.replicated(identity, self._values(told) | extra)

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: None if value is None else self._converts[name](value) for name, value in row.items()}

    def _unreadable(
        self, identity: str, row: Mapping[str, Any], extra: Mapping[str, Any], missing: list[str]
    ) -> Record:
        """A row whose large values aren't told: a dead letter that shows what is known, rather than a wrong event."""
        note(
            f"{self._where}: a change doesn't tell {', '.join(missing)} (large values that it left alone), so it "
            "becomes a dead letter: ALTER TABLE ... REPLICA IDENTITY FULL makes the server tell them from then on."
        )
        # Not orjson: it takes no half surrogates.
        document = {**row, **extra, "_not_told": missing}
        return Record(identity, None, json.dumps(document, default=str, separators=(",", ":")).encode())


def _completed(new: Row, old: Row | None) -> Row:
    """The new row, with what it doesn't tell taken from the old one, if that was told in full."""
    if old is None:
        return new
    return tuple(
        before if isinstance(now, Unchanged) and before is not None else now
        for now, before in zip(new, old, strict=True)
    )
