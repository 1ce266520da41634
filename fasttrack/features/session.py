"""The Spark session: our own on one machine, the given one on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.errors import ConfigurationError
from fasttrack.features.classes import Classes, classes
from fasttrack.progress import note

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JARS_VARIABLE = "FASTTRACK_SPARK_JARS"
CORES_VARIABLE = "FASTTRACK_SPARK_CORES"
MEMORY_VARIABLE = "FASTTRACK_SPARK_MEMORY"

_STOP_SECONDS = 30
_RECORD_SECONDS = 180

# A short job: compiling hot methods twice costs more than it gives, and so do a collector's threads (see `classes`).
_JAVA = "-XX:TieredStopAtLevel=1"

# Set by spark-submit for a driver that it started, as the Spark operator does.
_SUBMITTED = "PYSPARK_GATEWAY_PORT"


@contextmanager
def session(given: SparkSession | None = None) -> Iterator[SparkSession]:
    """A session to work in; one that this function had to start is stopped, and its JVM ended, at the end.

    Args:
        given: a session to use as it is. Without one, under spark-submit the submitted application's is used, and
            elsewhere a local one is started with the jars of ``FASTTRACK_SPARK_JARS``.

    Raises:
        ConfigurationError: no local session could be started.
    """
    from pyspark.sql import SparkSession

    active = given or SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    if _SUBMITTED in os.environ:
        yield SparkSession.builder.getOrCreate()
        return
    found = classes(os.environ.get(JARS_VARIABLE, ""))
    started = _start_local(found)
    try:
        yield started
    finally:
        _stop(started, found)


def _start_local(found: Classes) -> SparkSession:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need this environment, not any python3
    builder = SparkSession.builder.appName("fasttrack-features")
    for key, value in local_options(found).items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise ConfigurationError(
            f"Spark can't be started: {error}",
            where=f"JAVA_HOME={os.environ.get('JAVA_HOME', '')}",
            fix=f"Set JAVA_HOME to a Java 17 or 21, and {JARS_VARIABLE} to the Delta jars (`fasttrack doctor`).",
        ) from error


def local_options(found: Classes) -> dict[str, str]:
    """Spark options for one machine: few partitions, nothing listening beyond 127.0.0.1, no console noise.

    Args:
        found: the archive of Java classes to use.

    Raises:
        ConfigurationError: ``FASTTRACK_SPARK_CORES`` is not a positive number.
    """
    cores = os.environ.get(CORES_VARIABLE) or str(os.cpu_count() or 2)
    if not cores.isdecimal() or int(cores) < 1:
        raise ConfigurationError(f"{cores!r} is not a number of cores.", where=CORES_VARIABLE, fix="Write 2, say.")
    logging = Path(__file__).with_name("log4j2.properties").as_uri()
    options = {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": os.environ.get(MEMORY_VARIABLE) or "1280m",
        "spark.driver.extraJavaOptions": f"{_JAVA} {found.options} -Dlog4j2.configurationFile={logging}",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Twice the cores: a worker holds a whole partition, so more of them need less memory at a time.
        "spark.sql.shuffle.partitions": str(2 * int(cores)),
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.databricks.delta.stats.collect": "true",
        "spark.shuffle.compress": "false",
        # A job to list the files of one folder costs more than listing them.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
    }
    if jars := os.environ.get(JARS_VARIABLE):
        # Not `spark.jars`, whose classes come by a loader of Spark's own that no archive can serve.
        options["spark.driver.extraClassPath"] = jars.replace(",", os.pathsep)
    return options


def _stop(session: SparkSession, found: Classes) -> None:
    """Stop the session and end its JVM, which pyspark would keep (and its memory) as long as Python lives."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    session.stop()
    if gateway is None:
        return
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    process = getattr(gateway, "proc", None)
    if process is None:
        return
    process.stdin.close()  # its Java ends when this pipe does
    if found.recording is not None:
        note("Features: keeping Spark's loaded classes for its next start (once, some 10 s).")
    try:
        process.wait(timeout=_STOP_SECONDS if found.recording is None else _RECORD_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        process.kill()
        process.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        found.keep(whole=process.returncode == 0)
