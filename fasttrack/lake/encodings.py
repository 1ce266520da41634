"""How the lake's Parquet files are encoded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa


def parquet_options(schema: pa.Schema, dictionary: Collection[str]) -> dict[str, Any]:
    """What pyarrow's Parquet writers are told.

    Offsets, moments and ids mostly differ little from their neighbours, so columns without a dictionary are written as
    differences (Parquet's DELTA_BINARY_PACKED and DELTA_BYTE_ARRAY): half the bytes, and less work for the compressor.
    Spark's vectorized reader takes both since 3.3; BYTE_STREAM_SPLIT, which would suit doubles, it does not.

    Args:
        schema: the columns.
        dictionary: those for which a dictionary pays.
    """
    found = {field.name: _difference(field.type) for field in schema if field.name not in dictionary}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": list(dictionary),
        "column_encoding": {name: encoding for name, encoding in found.items() if encoding is not None},
    }


def _difference(kind: pa.DataType) -> str | None:
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        return "DELTA_BINARY_PACKED"
    return "DELTA_BYTE_ARRAY" if pa.types.is_string(kind) else None
