"""Read online features through Feast: two round trips by entity key, one for a described event."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
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
    feature_store,
    foreign_keys,
    marker,
    redis_errors,
    views,
)
from fasttrack.features.plan import LENGTH_SUFFIX, field_definitions
from fasttrack.lake.schemas import event_schema
from fasttrack.settings import Settings
from fasttrack.usecase import Column, UseCase

Row = dict[str, Any]

_UNKNOWN = ""  # stands in a request for a key that is null; no event has it


class OnlineStore:
    """The newest feature values of a use case. Safe to share between threads.

    Args:
        usecase: the use case.
        settings: where Redis is.

    Raises:
        ConfigurationError: the Redis URL is missing or can't be used.
        UnavailableError: Redis doesn't answer.
    """

    def __init__(self, usecase: UseCase, settings: Settings) -> None:
        self._usecase = usecase
        self._settings = settings
        # The definitions follow from the use case, so a server needs no access to a shared registry. Feast keeps the
        # registry in memory for good (its cache never expires), so the file can go at once.
        with tempfile.TemporaryDirectory(prefix="fasttrack-feast-") as folder:
            self._feast = feature_store(usecase, settings, Path(folder) / "registry.db")
        self._own, *self._others = views(usecase)
        self._marker = marker(usecase)
        self._foreign = foreign_keys(usecase)
        self._keys = usecase.entities[usecase.prediction.entity].keys
        self._columns = {column.name: column for column in usecase.columns()}

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
        if not entity_key_rows:
            return []
        asked = [{key: self._text(row, key) for key in self._keys} for row in entity_key_rows]
        found = self._fetch([self._own, self._marker], asked)
        self._require_known(found, asked)
        foreign = [{key: row[f"{self._own.name}__{KEY_PREFIX}{key}"] for key in self._foreign} for row in found]
        times = [int(row[f"{self._own.name}__{ASKED_AT}"]) for row in found]
        rows = self._others_values(foreign, times, now) if self._others else self._marked(found, times, now)
        own = [self._values(self._own, row, row[self._name(self._marker, AS_OF)], known=True) for row in found]
        return [self._ordered(key | mine | row) for key, mine, row in zip(asked, own, rows, strict=True)]

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
        own = {name: _python(column[0].as_py()) for name, column in self._fields(event).items()}
        keys = {key: self._as_text(event[key][0].as_py()) for key in (*self._keys, *self._foreign)}
        every = self._others_values([keys], times or [None], now, own=True)[0]
        mine = {key: keys[key] for key in self._keys}
        return self._ordered(mine | every | own)

    def _others_values(
        self, keys: list[Row], times: Sequence[int | None], now: datetime | None, own: bool = False
    ) -> list[Row]:
        """Values of the other entities (with `own`, of the prediction entity's history too), and ``_as_of``."""
        wanted = [self._own, *self._others] if own else self._others
        asked = [{key: value if value is not None else _UNKNOWN for key, value in row.items()} for row in keys]
        found = self._fetch([*wanted, self._marker], asked)
        rows = self._marked(found, times, now)
        for view in wanted:
            for row, values, key in zip(rows, found, keys, strict=True):
                known = all(key[name] is not None for name in view.keys)
                row.update(self._values(view, values, values[self._name(self._marker, AS_OF)], known))
        return rows

    def _marked(self, found: list[Row], times: Sequence[int | None], now: datetime | None) -> list[Row]:
        moment = found[0][self._name(self._marker, AS_OF)]
        if moment is None:
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
        return [{"_as_of": from_microseconds(moment)} for _ in found]

    def _fetch(self, wanted: list[View], keys: list[Row]) -> list[Row]:
        """One Feast read (one Redis pipeline): ``view__column`` by row."""
        from feast.errors import FeastError

        features = [reference for view in wanted for reference in view.references()]
        entities = [{**row, MARKER_KEY: self._usecase.name} for row in keys]
        with redis_errors(self._settings):
            try:
                answer = self._feast.get_online_features(features, entities, full_feature_names=True)
            except (FeastError, ValueError) as error:
                raise InvalidRequestError(f"the entity keys can't be looked up: {error}") from error
        columns = answer.to_dict()
        return [{name: values[i] for name, values in columns.items()} for i in range(len(keys))]

    def _require_known(self, found: list[Row], asked: list[Row]) -> None:
        for row, key in zip(found, asked, strict=True):
            if row[self._name(self._own, AS_OF)] is None:
                named = ", ".join(f"{name} {value!r}" for name, value in key.items())
                raise NotFoundError(
                    f"{self._usecase.prediction.entity} with {named} is not in the online store.",
                    where=f"use case {self._usecase.name}",
                    fix="Check the key, or send the features themselves.",
                )

    def _values(self, view: View, found: Row, moment: int, known: bool) -> Row:
        """A view's feature columns; keys without a row of the newest moment have no events within reach."""
        written = found[self._name(view, AS_OF)]
        fresh = known and written is not None and (written >= moment or view is self._own)
        row: Row = {}
        for field in view.schema:
            column = self._columns.get(field.name) or self._columns.get(field.name.removesuffix(LENGTH_SUFFIX))
            if field.name in (AS_OF, ASKED_AT) or column is None:
                continue
            value = found[self._name(view, field.name)] if fresh else None
            row[field.name] = _value(column, field, value, fresh, known)
        return row

    def _fields(self, event: pa.Table) -> dict[str, pa.Array]:
        return field_columns(field_definitions(self._usecase), event)

    def _event(self, raw: Mapping[str, Any]) -> pa.Table:
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

    def _ordered(self, row: Row) -> Row:
        names = [n for c in self._columns for n in (c, c + LENGTH_SUFFIX) if n in row]
        return {name: row[name] for name in (*self._keys, *names, "_as_of")}

    def _text(self, row: Mapping[str, str], key: str) -> str:
        value = row.get(key)
        if value is None:
            raise InvalidRequestError(f"key {key!r} is missing.", fix=f"Give {', '.join(self._keys)}.")
        return str(value)

    @staticmethod
    def _as_text(value: Any) -> str | None:
        return None if value is None else str(pa.scalar(value).cast(pa.string()).as_py())

    @staticmethod
    def _name(view: View, column: str) -> str:
        return f"{view.name}__{column}"


def _value(column: Column, field: pa.Field, value: Any, fresh: bool, known: bool) -> Any:
    if field.name == column.name + LENGTH_SUFFIX and column.role == "sequence":
        return int(value) if fresh and value is not None else 0
    if column.role == "sequence":
        size = len(column.channels)
        flat = value if fresh and value else [float("nan")] * (column.length * size)
        return [list(flat[at : at + size]) for at in range(0, len(flat), size)]
    if column.aggregate == "count" and known and not fresh:
        return 0.0  # the kernel's answer for a key without events
    return _python(value)


def _python(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError("not an aware time")
    return moment
