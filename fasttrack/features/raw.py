"""Raw tables as Spark frames."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from fasttrack.features.fingerprint import Source
from fasttrack.lake.tables import load

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Hadoop takes these for patterns.
_PATTERN = re.compile(r"([*?{}\[\]\\])")


def raw_frame(spark: SparkSession, source: Source) -> DataFrame:
    """A raw table at its pinned version.

    A table that needs nothing but its list of files (Delta protocol, reader version 1, no partition columns: what
    the drain writes) is read as Parquet files. The list comes from the library that pinned the version; Spark's own
    source runs a job for each time that a frame is used to find the same list. Anything else (deletion vectors,
    column mapping) is read by Spark's Delta source.

    Raises:
        NotFoundError, StorageError: the table can't be opened.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    table = load(source.path, source.version)
    if table.protocol().min_reader_version > 1 or table.metadata().partition_columns:
        return spark.read.format("delta").option("versionAsOf", source.version).load(source.path)
    # A file that was written before a column was added lacks it: the table's schema makes it null.
    schema = from_arrow_schema(pa.schema(table.schema()))
    # The library names files as parts of URLs.
    files = [_PATTERN.sub(r"\\\1", unquote(file)) for file in table.file_uris()]
    return spark.read.schema(schema).parquet(*files) if files else spark.createDataFrame([], schema)
