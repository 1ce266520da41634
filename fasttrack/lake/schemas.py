"""Arrow schemas of the lake's tables."""

from __future__ import annotations

import pyarrow as pa

from fasttrack.usecase.streams import FieldContract, Stream

MOMENT = pa.timestamp("us", "UTC")

_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": MOMENT,
}

#: What the drain adds to each event. `_topic_id` tells a topic from one of the same name that was deleted: their
#: offsets both start at 0.
PROVENANCE = (
    pa.field("_topic_id", pa.string()),
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
    pa.field("_ingested_at", MOMENT),
)

DEAD_LETTERS = pa.schema(
    [
        pa.field("stream", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("topic_id", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("contract_version", pa.string()),
        pa.field("ingested_at", MOMENT),
    ]
)

DUPLICATES = pa.schema(
    [
        pa.field("stream", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("topic_id", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("event_id", pa.string()),
    ]
)

#: What became of dead letters that were sent again. Two rows each: `intent` before the message is sent (with what is
#: sent), `done` after (with its `sent_offset`).
REPLAYS = pa.schema(
    [
        *(field for field in DUPLICATES if field.name != "event_id"),
        pa.field("state", pa.string()),
        pa.field("round", pa.int64()),
        pa.field("sent_topic_id", pa.string()),
        pa.field("sent_partition", pa.int32()),
        pa.field("sent_offset", pa.int64()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("fixed", pa.bool_()),
        pa.field("contract_version", pa.string()),
        pa.field("replayed_at", MOMENT),
    ]
)


def field_type(field: FieldContract) -> pa.DataType:
    """The Arrow type in which values of a contract's field are kept."""
    return _TYPES[field.type]


def event_schema(stream: Stream) -> pa.Schema:
    """The contract's fields as Arrow columns, in the contract's order."""
    return pa.schema([pa.field(name, field_type(field), nullable=True) for name, field in stream.fields.items()])


def raw_schema(stream: Stream) -> pa.Schema:
    """The raw table's columns: the contract's fields, then where each event came from.

    Every column is nullable to the table, because a contract evolves by adding and relaxing fields and a Delta
    column can't be relaxed without rewriting metadata; the drain is what enforces the contract.
    """
    return pa.schema([*event_schema(stream), *PROVENANCE])
