"""Events as message values, built column by column: the schema registry's header, then JSON text or an Avro record."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError
from fasttrack.ingest.avroencode import records
from fasttrack.ingest.contracts import header
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase.streams import Stream

# Characters that JSON escapes, and DEL, which needs no escape but costs nothing to send the slow way.
_ESCAPED = r'["\\\x00-\x1f\x7f]'


def conform(stream: Stream, table: pa.Table, name: str) -> pa.Table:
    """The contract's columns of `table`, in its order and types; an absent nullable column becomes nulls.

    Raises:
        DataQualityError: a column is missing, not in the contract, or of a type that can't be converted.
    """
    schema = event_schema(stream)
    if extra := set(table.column_names) - set(schema.names):
        raise DataQualityError(f"the source gives unknown columns {sorted(extra)}.", where=name, fix="Drop them.")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not stream.fields[field.name].nullable:
                raise DataQualityError(f"the source lacks column {field.name!r}.", where=name, fix="Add it.")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataQualityError(f"column {field.name!r}: {error}.", where=name, fix=f"Give {field.type}.") from error
    return pa.table(columns, schema=schema)


def values(stream: Stream, table: pa.Table, schema_id: int) -> pa.Array:
    """One message value for each row, in the stream's encoding.

    Args:
        stream: the contract.
        table: its columns, as `conform` gives them; a NaN becomes null (in Avro, where null is allowed).
        schema_id: the registered schema.

    Raises:
        DataQualityError: a value is null that Avro can't write.
    """
    if stream.encoding == "avro":
        return records(stream, table, header(schema_id))
    return encode(table, schema_id)


def encode(table: pa.Table, schema_id: int) -> pa.Array:
    """One message value for each row: header and JSON object, nulls written as ``null``.

    Args:
        table: columns of strings, integers, floats, booleans and timestamps; a NaN becomes ``null``.
        schema_id: the registered schema.

    Returns:
        A binary (or large binary) array as long as the table.
    """
    pieces: list[pa.Array | pa.Scalar] = []
    lead = "{"
    for name, column in zip(table.column_names, table.columns, strict=True):
        pieces.append(pa.scalar(f"{lead}{orjson.dumps(name).decode()}:"))
        pieces.append(_text(column.combine_chunks()))
        lead = ","
    pieces.append(pa.scalar("}"))
    text = pc.binary_join_element_wise(*pieces, pa.scalar("")).cast(pa.binary())
    return pc.binary_join_element_wise(pa.scalar(header(schema_id)), text, pa.scalar(b""))


def _text(column: pa.Array) -> pa.Array:
    """A column as JSON values."""
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
        text = column.cast(pa.string())
    elif pa.types.is_timestamp(kind):
        text = pc.binary_join_element_wise(pa.scalar('"'), _moments(column), pa.scalar('"'), pa.scalar(""))
    elif pa.types.is_string(kind):
        text = _strings(column)
    else:
        text = column.cast(pa.string())
    return pc.fill_null(text, "null")


def _moments(column: pa.Array) -> pa.Array:
    seconds = column.cast(pa.timestamp("s", "UTC"), safe=False)
    whole = pc.all(pc.equal(seconds.cast(column.type), column), min_count=0).as_py()
    naive = pa.timestamp("s" if whole is not False else "us")
    text = (seconds if whole is not False else column).cast(naive).cast(pa.string())
    return pc.binary_join_element_wise(pc.utf8_replace_slice(text, 10, 11, "T"), pa.scalar("Z"), pa.scalar(""))


def _strings(column: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
        return pa.array([None if v is None else orjson.dumps(v).decode() for v in column.to_pylist()], pa.string())
    return pc.binary_join_element_wise(pa.scalar('"'), column, pa.scalar('"'), pa.scalar(""))


def keys(stream: Stream, table: pa.Table) -> pa.Array:
    """The message keys: the UTF-8 text of the key field."""
    return table.column(stream.key).combine_chunks().cast(pa.string()).cast(pa.binary())


def subset(tables: Mapping[str, pa.Table], positions: Mapping[str, np.ndarray]) -> dict[str, pa.Table]:
    """The named rows of each table."""
    return {name: table.take(pa.array(positions[name])) for name, table in tables.items()}
