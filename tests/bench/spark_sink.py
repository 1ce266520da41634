"""What the drain is compared with: Spark Structured Streaming from Kafka into Parquet files, with its checkpoint.

It parses JSON by the same fields and keeps topic, partition and offset. Alone it checks no limits, finds no duplicates
and sets nothing aside: what can't be parsed becomes nulls. With `checked` it leaves out what breaks the contract (dead
letters would be a second query over the same topic) and drops copies within the dedup window, with state in RocksDB.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fasttrack.local.jars import spark_kafka_jars
from fasttrack.local.jvm import java_home
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.bench.drain_load import CONTRACT, STREAM

_TYPES = {"string": "string", "integer": "bigint", "number": "double", "boolean": "boolean", "timestamp": "timestamp"}


@dataclass(frozen=True)
class Wrote:
    """Rows, seconds of the query, and seconds until the session stood (not counted)."""

    rows: int
    seconds: float
    start_seconds: float


def write(settings: Settings, case: UseCase, folder: Path, *, checked: bool = False, cores: int = 2) -> Wrote:
    """Let Spark write what the topic holds, on so many cores; `checked`: once, and only what keeps the contract."""
    os.environ |= {"JAVA_HOME": str(java_home()), "SPARK_LOCAL_IP": "127.0.0.1"}
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    began = time.monotonic()
    session = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.jars", ",".join(str(jar) for jar in spark_kafka_jars()))
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "3g")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.compression.codec", "zstd")
        # As many as there are cores: each is a task with a state store of its own.
        .config("spark.sql.shuffle.partitions", cores)
        .config(
            "spark.sql.streaming.stateStore.providerClass",
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
        )
        .getOrCreate()
    )
    try:
        session.sparkContext.setLogLevel("ERROR")
        started = time.monotonic()
        fields = ", ".join(f"`{name}` {_TYPES[field.type]}" for name, field in case.streams[STREAM].fields.items())
        messages = (
            session.readStream.format("kafka")
            .option("kafka.bootstrap.servers", settings.kafka)
            .option("subscribe", case.topic(STREAM))
            .option("startingOffsets", "earliest")
            .load()
        )
        # The registry's header is five bytes.
        text = f.expr("substring(value, 6)").cast("string")
        rows = messages.select("topic", "partition", "offset", f.from_json(text, fields).alias("event"))
        found = rows.select("topic", "partition", "offset", "event.*")
        if checked:
            stream = case.streams[STREAM]
            window = f"{stream.dedup_window.total_seconds():.0f} seconds"
            found = found.where(CONTRACT).withWatermark(stream.event_time, window)
            found = found.dropDuplicatesWithinWatermark([stream.event_id])
        query = (
            found.writeStream.format("parquet")
            .option("path", str(folder / "rows"))
            .option("checkpointLocation", str(folder / "checkpoint"))
            .trigger(availableNow=True)
            .start()
        )
        query.awaitTermination()
        seconds = time.monotonic() - started
        return Wrote(session.read.parquet(str(folder / "rows")).count(), seconds, started - began)
    finally:
        session.stop()
