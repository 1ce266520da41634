"""The feature table by Spark: prediction events go from entity to entity and gather columns on the way.

For each entity, the prediction events so far and the entity's streams are shuffled together by the entity's key, and
the kernel runs over whole partitions as Arrow tables. No join is needed: rows take what they have gathered along,
packed into one binary column. The workers of the last entity write the files: pyarrow does that in a fraction of the
time that the JVM's row-by-row writer takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.features.carry import Slot, pack, unpack
from fasttrack.features.clock import microseconds
from fasttrack.features.compute import entity_columns, field_columns
from fasttrack.features.parts import WRITTEN, write_part
from fasttrack.features.plan import (
    EVENT_ID,
    PREDICTION_TIME,
    TIMESTAMP,
    EntityPlan,
    entity_plans,
    field_definitions,
    table_schema,
)
from fasttrack.usecase import UseCase
from fasttrack.usecase.features import FieldFeature, SequenceFeature

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame

Batches = Iterator[pa.RecordBatch]

_SPINE = -1
_OUTPUT_ROWS = 65_536
_KEY, _TEXT, _SOURCE, _PAYLOAD = "key_", "text_", "source_", "payload"


@dataclass(frozen=True)
class Stage:
    """What the workers do with one entity's partitions; it travels to them pickled.

    Attributes:
        plan: the entity's features.
        fields: the features of the event itself; the first stage computes them.
        text: names of the category columns, known once the first stage is over.
        before: slots that the payload holds when the stage begins.
        after: slots that it holds at the end.
        keys: key fields that later stages or the table need.
        folder: where the last stage writes the files; None before that.
        attempt: names the build in the names of its files.
        schema: of the feature table.
    """

    plan: EntityPlan
    fields: tuple[tuple[str, FieldFeature], ...]
    text: tuple[str, ...]
    before: tuple[Slot, ...]
    after: tuple[Slot, ...]
    keys: tuple[str, ...]
    folder: str | None
    attempt: str
    schema: pa.Schema

    def output(self) -> pa.Schema:
        """The schema of what a stage before the last one hands on."""
        texts = [*(_KEY + key for key in self.keys), *(_TEXT + name for name in self.text)]
        tail = [pa.field(name, pa.string()) for name in texts] + [pa.field(_PAYLOAD, pa.binary())]
        return pa.schema([pa.field("id", pa.string()), pa.field("t", pa.int64()), *tail])


def feature_files(
    usecase: UseCase, raw: Mapping[str, DataFrame], partitions: int, folder: str, attempt: str
) -> DataFrame:
    """A frame that, when collected, writes the table's files and tells what was written (schema `parts.WRITTEN`).

    Args:
        usecase: the use case.
        raw: the raw table of each stream that the features need.
        partitions: how many parts each shuffle makes; one part of one entity must fit a worker's memory.
        folder: where the files go; workers and driver must see it under the same path.
        attempt: names the build (see `parts.sweep`).
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    frame = _spine(usecase, raw[usecase.prediction.stream])
    for stage in stages(usecase, folder, attempt):
        schema = WRITTEN if stage.folder else stage.output()
        union = _union(stage.plan, frame, raw, partitions)
        frame = union.mapInArrow(partial(run_stage, stage), from_arrow_schema(schema))
    return frame


def stages(usecase: UseCase, folder: str, attempt: str) -> list[Stage]:
    """One stage an entity; the one with the widest columns, the sequence, comes last, so that they needn't travel."""
    plans = sorted(entity_plans(usecase), key=lambda p: any(isinstance(d, SequenceFeature) for _, d in p.definitions))
    own = usecase.entities[usecase.prediction.entity].keys
    schema = table_schema(usecase)
    definitions = tuple(field_definitions(usecase))
    text = tuple(name for name, _ in definitions if pa.types.is_string(schema.field(name).type))
    slots = tuple(Slot(schema.field(name)) for name, _ in definitions if name not in text)
    widths = {column.name: column.length * len(column.channels) for column in usecase.columns() if column.length}
    found: list[Stage] = []
    before: tuple[Slot, ...] = ()
    for number, plan in enumerate(plans):
        slots += tuple(Slot(field, widths.get(field.name, 1)) for field in plan.schema())
        keys = tuple(dict.fromkeys([*own, *(key for later in plans[number + 1 :] for key in later.keys)]))
        last = number == len(plans) - 1
        fields = definitions if number == 0 else ()
        found.append(Stage(plan, fields, text, before, slots, keys, folder if last else None, attempt, schema))
        before = slots
    return found


def run_stage(stage: Stage, batches: Batches) -> Batches:
    """All events and prediction events of some keys in, the prediction events with more columns out."""
    held = list(batches)
    union = pa.Table.from_batches(held) if held else None
    spine = None if union is None else union.filter(pc.equal(union["feed"], _SPINE))
    if union is None or spine is None or not len(spine):
        return
    columns = _columns(stage, union, spine)
    payload = pack(spine[_PAYLOAD] if stage.before else None, columns, stage.after[len(stage.before) :])
    texts = {name: columns[name] if stage.fields else spine[_TEXT + name] for name in stage.text}
    keys = {key: spine[_KEY + key] for key in stage.keys}
    if stage.folder is None:
        found = {"id": spine["id"], "t": spine["t"], _PAYLOAD: payload}
        found |= {_KEY + key: column for key, column in keys.items()} | {_TEXT + n: c for n, c in texts.items()}
        yield from pa.Table.from_pydict(found, schema=stage.output()).to_batches(max_chunksize=_OUTPUT_ROWS)
        return
    found = {EVENT_ID: spine["id"], PREDICTION_TIME: spine["t"].cast(TIMESTAMP)}
    everything = keys | texts | found | unpack(pa.chunked_array([payload]), stage.after)
    table = pa.Table.from_pydict({name: everything[name] for name in stage.schema.names}, schema=stage.schema)
    yield write_part(stage.folder, table, stage.attempt)


def _columns(stage: Stage, union: pa.Table, spine: pa.Table) -> pa.Table:
    keys = {_KEY + key: f"k{i}" for i, key in enumerate(stage.plan.keys)}
    events = {}
    for number, feed in enumerate(stage.plan.feeds):
        names = keys | {"t": "t", "id": "id"} | {f"v{i}": field for i, field in enumerate(feed.fields)}
        rows = union.filter(pc.equal(union["feed"], number))
        events[feed.stream] = rows.select(list(names)).rename_columns(list(names.values()))
    asked = spine.select([*keys, "t"]).rename_columns([*keys.values(), "t"])
    columns = entity_columns(stage.plan, asked, events)
    sources = list(dict.fromkeys(definition.field for _, definition in stage.fields))
    rows = spine.select([_SOURCE + source for source in sources]).rename_columns(sources)
    for name, column in field_columns(stage.fields, rows).items():
        columns = columns.append_column(name, column)
    return columns


def _spine(usecase: UseCase, raw: DataFrame) -> DataFrame:
    """The prediction events that were known by their prediction time t (microseconds), with all keys and sources."""
    from pyspark.sql import functions as f

    stream = usecase.streams[usecase.prediction.stream]
    moment = f.unix_micros(f.col(usecase.prediction.time_field)) - f.lit(microseconds(usecase.prediction.lead))
    keys = dict.fromkeys(key for plan in entity_plans(usecase) for key in plan.keys)
    sources = dict.fromkeys(definition.field for _, definition in field_definitions(usecase))
    rows = raw.select(
        f.col(stream.event_id).cast("string").alias("id"),
        moment.alias("t"),
        f.unix_micros(f.col(stream.event_time)).alias("known"),
        *(f.col(key).cast("string").alias(_KEY + key) for key in keys),
        *(f.col(source).alias(_SOURCE + source) for source in sources),
    )
    return rows.where(f.col("known") <= f.col("t")).drop("known")


def _union(plan: EntityPlan, spine: DataFrame, raw: Mapping[str, DataFrame], partitions: int) -> DataFrame:
    from pyspark.sql import functions as f

    union = spine.withColumn("feed", f.lit(_SPINE).cast("tinyint"))
    for number, feed in enumerate(plan.feeds):
        union = union.unionByName(_events(plan, number, raw[feed.stream]), allowMissingColumns=True)
    keys = [f.col(_KEY + key) for key in plan.keys]
    # Rows without a key meet no events; spread by their id they don't all fall into one partition.
    spread = f.when(_any_null(keys), f.col("id"))
    return union.repartition(partitions, *keys, spread)


def _events(plan: EntityPlan, number: int, raw: DataFrame) -> DataFrame:
    from pyspark.sql import functions as f

    feed = plan.feeds[number]
    return raw.where(~_any_null([f.col(key) for key in plan.keys])).select(
        f.lit(number).cast("tinyint").alias("feed"),
        f.unix_micros(f.col(feed.time_field)).alias("t"),
        f.col(feed.id_field).cast("string").alias("id"),
        *(f.col(key).cast("string").alias(_KEY + key) for key in plan.keys),
        *(f.col(field).cast("double").alias(f"v{i}") for i, field in enumerate(feed.fields)),
    )


def _any_null(columns: list[SparkColumn]) -> SparkColumn:
    found = columns[0].isNull()
    for column in columns[1:]:
        found = found | column.isNull()
    return found
