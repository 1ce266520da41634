"""Feature columns of Arrow tables: the one implementation that the Spark job and the online store share.

Layout of the tables that go in: a spine has ``k0``.. (string keys) and ``t`` (int64 microseconds); events have
``k0``.., ``t``, ``id`` (string) and one float64 column a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.features.clock import calendar_part, microseconds
from fasttrack.features.kernel import Floats, History, Integers, following, recent, windows
from fasttrack.features.plan import LABEL, LABEL_TIME, LENGTH_SUFFIX, TIMESTAMP, EntityPlan
from fasttrack.usecase.features import FieldFeature, LastFeature, SequenceFeature, WindowFeature, expand

Arrays = dict[str, pa.Array]


@dataclass(frozen=True)
class _Queries:
    keys: Integers
    times: Integers


@dataclass(frozen=True)
class _Events:
    history: History
    values: dict[str, Floats]


def entity_columns(plan: EntityPlan, spine: pa.Table, events: Mapping[str, pa.Table]) -> pa.Table:
    """The columns of `plan` for each row of the spine, in the spine's order.

    Args:
        plan: the entity's features.
        spine: who is asked about and when; a row with a null key gets nulls (and sequence length 0).
        events: for each stream of `plan.feeds`, its events, in any order.

    Returns:
        A table with the schema ``plan.schema()``.
    """
    tables = [spine, *(events[feed.stream] for feed in plan.feeds)]
    codes = key_codes([[table[f"k{i}"] for i in range(len(plan.keys))] for table in tables])
    queries = _Queries(codes[0], _integers(spine["t"]))
    known = {}
    for feed, code in zip(plan.feeds, codes[1:], strict=True):
        known[feed.stream] = _load(events[feed.stream], code, feed.fields)
    arrays: Arrays = {}
    for name, definition in plan.definitions:
        arrays |= _definition(name, definition, queries, known[definition.stream])
    if plan.label_stream is not None and plan.label_field is not None:
        arrays |= _label(queries, known[plan.label_stream], plan.label_field)
    return pa.Table.from_pydict(arrays, schema=plan.schema())


def field_columns(definitions: Sequence[tuple[str, FieldFeature]], rows: pa.Table) -> Arrays:
    """The features that are fields of the prediction event itself.

    Args:
        definitions: (name, definition) pairs.
        rows: the prediction stream's own fields, with their contract types.
    """
    found: Arrays = {}
    for name, definition in definitions:
        column = rows[definition.field].combine_chunks()
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if text and definition.transform is None:
            found[name] = column.cast(pa.string())
            continue
        numbers = _field_numbers(definition, column)
        found[name] = number_text(numbers) if definition.categorical else _nullable(numbers)
    return found


def number_text(numbers: Floats) -> pa.Array:
    """Numbers as the text of a category: whole ones without a point; NaN becomes null."""
    distinct, places = np.unique(numbers, return_inverse=True)
    texts = [None if np.isnan(x) else str(int(x)) if x == int(x) else repr(float(x)) for x in distinct]
    return pa.array(texts, pa.string()).take(pa.array(places.astype(np.int64)))


def key_codes(tables: Sequence[Sequence[pa.ChunkedArray]]) -> list[Integers]:
    """Numbers for keys of one or more string parts, the same across tables; -1 where any part is null.

    Args:
        tables: for each table its key columns.
    """
    ends = np.cumsum([len(columns[0]) for columns in tables])
    codes = np.zeros(int(ends[-1]), dtype=np.int64)
    missing = np.zeros(len(codes), dtype=bool)
    for position, part in enumerate(zip(*tables, strict=True)):
        chunks = [chunk.cast(pa.string()) for column in part for chunk in column.chunks]
        encoded = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
        missing |= encoded.is_null().to_numpy(zero_copy_only=False)
        numbers = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        codes = codes * max(len(encoded.dictionary), 1) + numbers
        if position:  # keep the numbers dense, so that a product with the number of ticks stays within 64 bits
            codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return np.split(np.where(missing, -1, codes), ends[:-1])


def _definition(
    name: str, definition: WindowFeature | LastFeature | SequenceFeature, queries: _Queries, events: _Events
) -> Arrays:
    if isinstance(definition, WindowFeature):
        return _window(name, definition, queries, events)
    fields = definition.fields
    values = {field: events.values[field] for field in fields}
    count = definition.length if isinstance(definition, SequenceFeature) else 1
    age = microseconds(definition.max_age)
    found = recent(events.history, values, queries.keys, queries.times, count, age)
    if isinstance(definition, SequenceFeature):
        matrix = np.stack([*(found.values[field] for field in fields), found.age_hours], axis=2)
        return {name: sequence_array(matrix), name + LENGTH_SUFFIX: pa.array(found.length.astype(np.int32))}
    arrays = {f"{name}_{field}": _nullable(found.values[field][:, 0]) for field in fields}
    return arrays | {f"{name}_age_hours": _nullable(found.age_hours[:, 0])} if definition.age else arrays


def _window(name: str, definition: WindowFeature, queries: _Queries, events: _Events) -> Arrays:
    lengths = np.array([microseconds(window) for window in definition.windows], dtype=np.int64)
    # Without a field the events themselves are counted: a column of ones has no missing values.
    values = np.ones(len(events.history.keys)) if definition.field is None else events.values[definition.field]
    aggregates = windows(events.history, values, queries.keys, queries.times, lengths)
    found: Arrays = {}
    for column in expand(name, definition):
        position = definition.windows.index(column.window) if column.window is not None else 0
        numbers = aggregates[position].get(column.aggregate or "count")
        found[column.name] = _nullable(np.where(queries.keys < 0, np.nan, numbers))
    return found


def _label(queries: _Queries, events: _Events, field: str) -> Arrays:
    """The first known label at or after the prediction time: what came before was no secret any more."""
    values = events.values[field]
    present = ~np.isnan(values)
    history = History.build(events.history.keys[present], events.history.times[present], np.arange(int(present.sum())))
    places = following(history, queries.keys, queries.times)
    none = places < 0
    values, times = values[present], history.times
    if not len(times):
        return {LABEL: pa.nulls(len(places), pa.float64()), LABEL_TIME: pa.nulls(len(places), TIMESTAMP)}
    found = np.where(none, 0, places)
    return {
        LABEL: pa.array(values[found], mask=none),
        LABEL_TIME: pa.array(times[found], mask=none).cast(TIMESTAMP),
    }


def _load(table: pa.Table, codes: Integers, fields: Sequence[str]) -> _Events:
    times = _integers(table["t"])
    history = History.build(codes, times, _ties(codes, times, table["id"]))
    values = {field: _floats(table[field])[history.order] for field in fields}
    return _Events(history, values)


def _ties(codes: Integers, times: Integers, ids: pa.ChunkedArray) -> Integers:
    """Ranks of the ids where key and time are equal, 0 elsewhere: sorting all the texts would cost the most."""
    ranks = np.zeros(len(codes), dtype=np.int64)
    order = np.lexsort((times, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(times[order]) == 0)
    tied = order[np.concatenate((same, [False])) | np.concatenate(([False], same))] if len(order) else order
    if len(tied):
        ranks[tied] = pc.rank(ids.take(pa.array(tied)).combine_chunks(), tiebreaker="dense").to_numpy()
    return ranks


def sequence_array(matrix: Floats) -> pa.Array:
    """float64 [q, N, channels] as lists of N * channels values, row-major; NaN becomes null."""
    size = matrix.shape[1] * matrix.shape[2]
    offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(size))
    return pa.ListArray.from_arrays(offsets, _nullable(matrix.reshape(-1)))


def _field_numbers(definition: FieldFeature, column: pa.Array) -> Floats:
    if definition.transform is None:
        return _floats(column)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    times = _integers(column.cast(TIMESTAMP).fill_null(0).cast(pa.int64()))
    return np.where(missing, np.nan, calendar_part(times, definition.transform, definition.timezone))


def _integers(column: pa.ChunkedArray | pa.Array) -> Integers:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.int64)


def _floats(column: pa.ChunkedArray | pa.Array) -> Floats:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _nullable(numbers: Floats) -> pa.Array:
    return pa.array(np.ascontiguousarray(numbers), from_pandas=True)
