"""Compute every entity's values as of a moment, with the kernel of the offline job, and write them to Redis."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import NotFoundError
from fasttrack.features.clock import from_microseconds, microseconds, to_microseconds
from fasttrack.features.compute import entity_columns, field_columns
from fasttrack.features.online.definitions import (
    AS_OF,
    ASKED_AT,
    KEY_PREFIX,
    MARKER_KEY,
    View,
    feature_store,
    foreign_keys,
    marker,
    plans,
    redis_errors,
    views,
)
from fasttrack.features.plan import PREDICTION_TIME, TIMESTAMP, EntityPlan, Feed, field_definitions
from fasttrack.lake.tables import folder, raw_path, read
from fasttrack.progress import track
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

if TYPE_CHECKING:
    import pandas as pd

#: Prediction events stay in the store for this long after their prediction time.
RECENT = timedelta(hours=24)


@dataclass(frozen=True)
class Materialization:
    """What was written.

    Attributes:
        as_of: the moment; events strictly before it were seen.
        rows: keys written, by entity.
    """

    as_of: datetime
    rows: dict[str, int]


def materialize(usecase: UseCase, settings: Settings, as_of: datetime | None = None) -> Materialization:
    """Bring the online store to the state of a moment.

    Of the prediction entity those are written whose event is known at `as_of` and whose prediction time is to come
    or lies within the last 24 hours; of the others, every key that has events within reach of a feature.

    Args:
        usecase: the use case.
        settings: where lake and Redis are.
        as_of: the moment (aware); the largest prediction time in the lake by default.

    Raises:
        ConfigurationError: the lake is in an object store.
        NotFoundError: the lake has no tables, or no prediction event.
        UnavailableError: Redis doesn't answer.
    """
    registry = Path(folder(settings, usecase, "filling the online store needs")) / "online" / "registry.db"
    spine = _prediction_events(usecase, settings)
    moment = _default_moment(usecase, settings, spine) if as_of is None else to_microseconds(as_of)
    registry.parent.mkdir(parents=True, exist_ok=True)
    store = feature_store(usecase, settings, registry)
    asked = _current(usecase, spine, moment)
    found = plans(usecase)
    rows: dict[str, int] = {}
    with track("Filling the online store", total=len(found), unit="entities") as bar:
        for number, (plan, view) in enumerate(zip(found, views(usecase), strict=True)):
            table = entity_table(usecase, settings, plan, moment, asked if number == 0 else None)
            with redis_errors(settings):
                if len(table):
                    store.write_to_online_store(view.name, _frame(view, table, moment), allow_registry_cache=True)
            rows[plan.entity] = len(table)
            bar.advance()
        # The mark comes last: until then readers see the old moment.
        view = marker(usecase)
        mark = pa.table({MARKER_KEY: [usecase.name], AS_OF: pa.array([moment], pa.int64())})
        with redis_errors(settings):
            store.write_to_online_store(view.name, _frame(view, mark, moment), allow_registry_cache=True)
    return Materialization(from_microseconds(moment), rows)


def entity_table(
    usecase: UseCase, settings: Settings, plan: EntityPlan, moment: int, asked: pa.Table | None = None
) -> pa.Table:
    """The values of an entity's keys as of a moment: the columns of its `View`, and its keys.

    Args:
        usecase: the use case.
        settings: where the lake is.
        plan: the entity's features.
        moment: microseconds.
        asked: for the prediction entity, its events; other entities' keys are those that have events.
    """
    events = {feed.stream: _events(usecase, settings, plan, feed, moment) for feed in plan.feeds}
    names = [f"k{i}" for i in range(len(plan.keys))]
    if asked is None:
        keys = pa.concat_tables([table.select(names) for table in events.values()])
        spine = keys.group_by(names).aggregate([]).select(names)
    else:
        spine = asked.select(list(plan.keys)).rename_columns(names).cast(pa.schema([(n, pa.string()) for n in names]))
    times = pa.array(np.full(len(spine), moment), pa.int64())
    columns = entity_columns(plan, spine.append_column("t", times), events)
    table = pa.table({**{key: spine[name] for key, name in zip(plan.keys, names, strict=True)}, AS_OF: times})
    own = {} if asked is None else _own_columns(usecase, asked)
    for name, column in {**dict(zip(columns.column_names, columns.columns, strict=True)), **own}.items():
        table = table.append_column(name, column)
    return table


def _own_columns(usecase: UseCase, asked: pa.Table) -> dict[str, pa.Array | pa.ChunkedArray]:
    keys = {KEY_PREFIX + key: asked[key].cast(pa.string()) for key in foreign_keys(usecase)}
    return {ASKED_AT: asked["_t"], **keys, **field_columns(field_definitions(usecase), asked)}


def _events(usecase: UseCase, settings: Settings, plan: EntityPlan, feed: Feed, moment: int) -> pa.Table:
    """The events within reach of the plan's features, in the layout of `compute`."""
    since, until = (pa.scalar(at, pa.int64()).cast(TIMESTAMP) for at in (moment - plan.horizon(), moment))
    inside = (ds.field(feed.time_field) >= since) & (ds.field(feed.time_field) < until)
    for key in plan.keys:
        inside &= ds.field(key).is_valid()
    wanted = list(dict.fromkeys([*plan.keys, feed.time_field, feed.id_field, *feed.fields]))
    rows = read(raw_path(settings, usecase, feed.stream), wanted, inside)
    columns = {f"k{i}": rows[key].cast(pa.string()) for i, key in enumerate(plan.keys)}
    columns |= {"t": _micros(rows[feed.time_field]), "id": rows[feed.id_field].cast(pa.string())}
    return pa.table(columns | {field: rows[field].cast(pa.float64()) for field in feed.fields})


def _prediction_events(usecase: UseCase, settings: Settings) -> pa.Table:
    """All prediction events that were known by their prediction time ``_t``; ``_known`` is their own time."""
    stream = usecase.streams[usecase.prediction.stream]
    keys = [*usecase.entities[usecase.prediction.entity].keys, *foreign_keys(usecase)]
    sources = [definition.field for _, definition in field_definitions(usecase)]
    point = usecase.prediction
    wanted = list(dict.fromkeys([*keys, *sources, point.time_field, stream.event_time, stream.event_id]))
    rows = read(raw_path(settings, usecase, point.stream), wanted)
    asked = pc.subtract(_micros(rows[point.time_field]), microseconds(point.lead))
    rows = rows.append_column("_t", asked).append_column("_known", _micros(rows[stream.event_time]))
    return rows.filter(pc.less_equal(rows["_known"], rows["_t"]))


def _current(usecase: UseCase, spine: pa.Table, moment: int) -> pa.Table:
    """The events to hold at `moment`; of several of one key the last by (event time, event id)."""
    keys = list(usecase.entities[usecase.prediction.entity].keys)
    since = moment - max(microseconds(RECENT), microseconds(usecase.prediction.lead))
    rows = spine.filter(pc.and_(pc.less_equal(spine["_known"], moment), pc.greater_equal(spine["_t"], since)))
    for key in keys:
        rows = rows.filter(pc.is_valid(rows[key]))
    event_id = usecase.streams[usecase.prediction.stream].event_id
    ids = rows[event_id].cast(pa.string())
    rows = rows.append_column("_id", ids).sort_by([("_known", "ascending"), ("_id", "ascending")])
    rows = rows.append_column("_row", pa.array(np.arange(len(rows))))
    newest = rows.group_by(keys).aggregate([("_row", "max")])["_row_max"]
    return rows.take(newest.sort() if isinstance(newest, pa.Array) else newest.combine_chunks().sort())


def _default_moment(usecase: UseCase, settings: Settings, spine: pa.Table) -> int:
    moment = pc.max(spine["_t"]).as_py()
    if moment is None:
        raise NotFoundError(
            "there is no prediction event to serve.",
            where=raw_path(settings, usecase, usecase.prediction.stream),
            fix="Drain some events first (`fasttrack run`).",
        )
    return int(moment)


def _frame(view: View, table: pa.Table, moment: int) -> pd.DataFrame:
    """A pandas frame as Feast wants it; nulls inside lists are NaN, since its lists can't hold nulls."""
    import pandas as pd

    columns: dict[str, object] = {key: table[key].to_pandas() for key in view.keys}
    for field in view.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64)
            columns[field.name] = list(flat.reshape(len(column), -1)) if len(column) else []
        else:
            columns[field.name] = column.to_pandas()
    frame = pd.DataFrame(columns)
    frame[PREDICTION_TIME] = pd.Timestamp(from_microseconds(moment))
    return frame


def _micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(TIMESTAMP).cast(pa.int64())
