"""The newest feature values of a use case: two round trips to Redis by entity key, one for a described event."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from fasttrack.errors import InvalidRequestError, NotFoundError, UnavailableError
from fasttrack.features.clock import from_microseconds, microseconds, to_microseconds
from fasttrack.features.compute import field_columns
from fasttrack.features.online.definitions import (
    AS_OF,
    ASKED_AT,
    KEY_PREFIX,
    MARKER_KEY,
    View,
    foreign_keys,
    marker,
    project,
    views,
)
from fasttrack.features.online.reader import Reader, Stored, Wanted
from fasttrack.features.online.served import Row, Served, number
from fasttrack.features.plan import LENGTH_SUFFIX, field_definitions
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: A lookup, told apart from who does it: gives what is wanted, is sent what was found, returns rows.
Steps = Generator[Wanted, list[list[Stored]], list[Row]]

_FEW = 32  # more rows take milliseconds of work
_UNKNOWN = ""  # stands in a request for a key that is null; no event has it


class OnlineStore:
    """The newest feature values of a use case. Safe to share between threads.

    Args:
        usecase: the use case.
        settings: where Redis is.

    Raises:
        ConfigurationError: the Redis URL is missing or can't be used.
    """

    def __init__(self, usecase: UseCase, settings: Settings) -> None:
        self._usecase = usecase
        own, *others = views(usecase)
        self._own, self._others, self._marker = own, others, marker(usecase)
        self._reader = Reader(settings, project(usecase), [own, *others, self._marker])
        self._foreign = foreign_keys(usecase)
        self._keys = usecase.entities[usecase.prediction.entity].keys
        columns = {column.name: column for column in usecase.columns()}
        self._served = {view.name: Served(view, columns) for view in (own, *others)}
        served = {name for of_view in self._served.values() for name in of_view.names}
        names = [n for column in columns for n in (column, column + LENGTH_SUFFIX) if n in served]
        self._order = dict.fromkeys((*self._keys, *names, "_as_of"))

    def read(self, entity_key_rows: Sequence[Mapping[str, str]], now: datetime | None = None) -> list[Row]:
        """Feature values of stored prediction events.

        Args:
            entity_key_rows: the prediction entity's keys, one mapping a row.
            now: the moment to judge staleness by; each event's prediction time by default.

        Returns:
            A row each: every feature column (float, str, None; a sequence as N lists of channel values, oldest first,
            left-padded with NaN, beside ``<name>_length``), the entity's keys and ``_as_of`` (aware datetime).

        Raises:
            NotFoundError: an entity isn't in the store, or nothing was materialized yet.
            InvalidRequestError: a key is missing.
            UnavailableError: Redis doesn't answer, or its values are older than serving.online_freshness.
        """
        return self._steps_now(self._reading(entity_key_rows, now))

    async def read_async(self, entity_key_rows: Sequence[Mapping[str, str]], now: datetime | None = None) -> list[Row]:
        """As `read`, without keeping the event loop from its other work."""
        if len(entity_key_rows) > _FEW:
            return await asyncio.to_thread(self.read, entity_key_rows, now)
        steps = self._reading(entity_key_rows, now)
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await self._reader.fetch_async(wanted))
        except StopIteration as end:
            rows: list[Row] = end.value
            return rows

    def close(self) -> None:
        """Hang up; the next lookup connects again."""
        self._reader.close()

    def _steps_now(self, steps: Steps) -> list[Row]:
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self._reader.fetch(wanted))
        except StopIteration as end:
            rows: list[Row] = end.value
            return rows

    def _reading(self, entity_key_rows: Sequence[Mapping[str, str]], now: datetime | None) -> Steps:
        if not entity_key_rows:
            return []
        asked = [{key: self._text(row, key) for key in self._keys} for row in entity_key_rows]
        if self._others:
            (own,) = yield [(self._own, asked)]
        else:
            own, (mark,) = yield [(self._own, asked), self._mark()]
        self._require_known(own, asked)
        times = [stored[ASKED_AT] for stored in own]
        if self._others:
            foreign = [{key: stored[KEY_PREFIX + key] for key in self._foreign} for stored in own]
            rows = yield from self._history(self._others, foreign, times, now)
        else:
            rows = [self._marked(mark, times, now) for _ in own]
        mine = self._served[self._own.name]
        return [
            self._order | key | mine.present(stored) | row for key, stored, row in zip(asked, own, rows, strict=True)
        ]

    def complete(self, raw: Mapping[str, Any], now: datetime | None = None) -> Row:
        """Feature values of an event of the prediction stream that need not be stored.

        Args:
            raw: fields of the event; times as aware datetimes or RFC 3339 texts. Absent fields count as null.
            now: the moment to judge staleness by; the event's prediction time, if it has one, by default.

        Returns:
            A row as `read` gives it.

        Raises:
            InvalidRequestError: an unknown field, or a value of a wrong type.
            NotFoundError: nothing was materialized yet.
            UnavailableError: as for `read`.
        """
        event = self._event(raw)
        point = self._usecase.prediction
        moment = event[point.time_field][0].as_py()
        times = [] if moment is None else [to_microseconds(moment) - microseconds(point.lead)]
        own = {name: number(column[0].as_py()) for name, column in self._fields(event).items()}
        keys = {key: self._as_text(event[key][0].as_py()) for key in (*self._keys, *self._foreign)}
        (every,) = self._steps_now(self._history([self._own, *self._others], [keys], times or [None], now))
        return self._order | {key: keys[key] for key in self._keys} | every | own

    def _history(
        self, wanted: Sequence[View], keys: Sequence[Mapping[str, Any]], times: Sequence[Any], now: datetime | None
    ) -> Steps:
        """The columns of `wanted` and ``_as_of`` for each row of keys, of which any may be null."""
        asked = [{key: _UNKNOWN if value is None else value for key, value in row.items()} for row in keys]
        *found, (mark,) = yield [*((view, asked) for view in wanted), self._mark()]
        head = self._marked(mark, times, now)
        rows = [dict(head) for _ in keys]
        for view, of_view in zip(wanted, found, strict=True):
            served = self._served[view.name]
            for row, key, stored in zip(rows, keys, of_view, strict=True):
                known = all(key[name] is not None for name in view.keys)
                present = known and self._is_fresh(view, stored, mark)
                row.update(served.present(stored) if present else served.absent(known))
        return rows

    def _is_fresh(self, view: View, stored: Stored, mark: Stored) -> bool:
        """Whether a key was written for the newest moment; one that wasn't has no events within reach any more."""
        written, moment = stored[AS_OF], mark[AS_OF]
        if not isinstance(written, int) or not isinstance(moment, int):
            return False
        return written >= moment or view is self._own

    def _mark(self) -> tuple[View, list[dict[str, str]]]:
        return self._marker, [{MARKER_KEY: self._usecase.name}]

    def _marked(self, mark: Stored, times: Sequence[Any], now: datetime | None) -> Row:
        """``_as_of``, if it isn't too old for any of the prediction times."""
        moment = mark[AS_OF]
        if not isinstance(moment, int):
            raise NotFoundError(
                f"the online store holds no features of use case {self._usecase.name!r}.",
                fix="Run the features step (`fasttrack run`).",
            )
        freshness = self._usecase.serving.online_freshness
        for time in times:
            at = to_microseconds(now) if now is not None else time
            if at is not None and at - moment > microseconds(freshness):
                raise UnavailableError(
                    f"the online features are of {from_microseconds(moment):%Y-%m-%d %H:%M} UTC, too old for a "
                    f"prediction at {from_microseconds(at):%Y-%m-%d %H:%M} UTC.",
                    where=f"use case {self._usecase.name}",
                    fix="Drain newer events and run the features step; the limit is serving.online_freshness.",
                )
        return {"_as_of": from_microseconds(moment)}

    def _require_known(self, found: Sequence[Stored], asked: Sequence[Mapping[str, str]]) -> None:
        for stored, key in zip(found, asked, strict=True):
            if stored[AS_OF] is None:
                named = ", ".join(f"{name} {value!r}" for name, value in key.items())
                raise NotFoundError(
                    f"{self._usecase.prediction.entity} with {named} is not in the online store.",
                    where=f"use case {self._usecase.name}",
                    fix="Check the key, or send the features themselves.",
                )

    def _fields(self, event: pa.Table) -> dict[str, pa.Array]:
        return field_columns(field_definitions(self._usecase), event)

    def _event(self, raw: Mapping[str, Any]) -> pa.Table:
        from fasttrack.lake.schemas import event_schema  # servers that only read have no Delta library

        stream = self._usecase.streams[self._usecase.prediction.stream]
        if unknown := sorted(set(raw) - set(stream.fields)):
            raise InvalidRequestError(
                f"stream {self._usecase.prediction.stream!r} has no field {unknown[0]!r}.",
                fix=f"Its fields are {', '.join(stream.fields)}.",
            )
        columns = {}
        for field in event_schema(stream):
            value = raw.get(field.name)
            try:
                if pa.types.is_timestamp(field.type) and value is not None:
                    value = _moment(value)
                columns[field.name] = pa.array([value], field.type)
            except (ValueError, TypeError, OverflowError) as error:  # Arrow's own errors are of these kinds
                raise InvalidRequestError(f"field {field.name!r} can't be {value!r}: it is a {field.type}.") from error
        return pa.table(columns)

    def _text(self, row: Mapping[str, str], key: str) -> str:
        value = row.get(key)
        if value is None:
            raise InvalidRequestError(f"key {key!r} is missing.", fix=f"Give {', '.join(self._keys)}.")
        return str(value)

    @staticmethod
    def _as_text(value: Any) -> str | None:
        return None if value is None else str(pa.scalar(value).cast(pa.string()).as_py())


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError("not an aware time")
    return moment
