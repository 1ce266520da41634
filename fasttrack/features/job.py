"""Build the feature table of a use case with Spark, unless the very same one is there."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.errors import StepError, StorageError
from fasttrack.features import stats as statistics
from fasttrack.features.clock import calendar_part
from fasttrack.features.contract import verify
from fasttrack.features.fingerprint import Source, fingerprint, sources
from fasttrack.features.parts import commit, sweep
from fasttrack.features.plan import entity_plans, field_definitions, table_schema
from fasttrack.features.raw import raw_frame
from fasttrack.features.session import session
from fasttrack.lake.tables import features_path
from fasttrack.progress import note, track
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OnProgress = Callable[[str, int, int], None]

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class FeatureTable:
    """A complete feature table.

    Attributes:
        path: the Delta table.
        fingerprint: 64 hex digits over definitions, lake versions and code.
        rows: how many rows it has.
        stats: what `_stats.json` says (see `fasttrack.features.stats.measure`).
        lake_versions: the Delta version of each stream that was read.
        reused: whether it was there already.
    """

    path: str
    fingerprint: str
    rows: int
    stats: dict[str, Any]
    lake_versions: dict[str, int]
    reused: bool


def build(
    usecase: UseCase,
    settings: Settings,
    *,
    spark: SparkSession | None = None,
    versions: Mapping[str, int] | None = None,
    on_progress: OnProgress | None = None,
) -> FeatureTable:
    """The point-in-time correct feature table of a use case.

    Prediction time t is ``prediction.time_field - prediction.lead``; features see events strictly before t, the label
    is the first known one at or after t. Prediction events that came after their own t are left out and counted.

    Args:
        usecase: the use case.
        settings: where the lake is.
        spark: a session to use; by default the submitted application's, or a local one started for this call.
        versions: Delta version to read of each stream; the newest ones by default.
        on_progress: called with (phase, done, total); phases are ``compute`` (Spark tasks) and ``describe``.

    Raises:
        NotFoundError: a stream has no table in the lake.
        ConfigurationError: Spark can't be started.
        StorageError: the lake can't be read or written.
        DataQualityError: a prediction event is in the lake twice, or an event breaks its stream's contract.
        StepError: the Spark job failed.
    """
    lake = sources(usecase, settings, versions)
    digest = fingerprint(usecase, lake)
    path = features_path(settings, usecase, digest)
    found = statistics.stored(path)
    if found is not None:
        note(f"Features: unchanged, {found['rows']:,} rows reused ({digest[:12]}).")
        return _table(path, found, reused=True)
    for _, definition in field_definitions(usecase):
        if definition.transform:  # an unknown time zone is refused here and not in a worker
            calendar_part(np.zeros(1, dtype=np.int64), definition.transform, definition.timezone)
    report = on_progress or _ignore
    with session(spark) as active:
        _write(usecase, lake, path, active, report)
    report("describe", 0, 1)
    found = statistics.measure(usecase, path, lake, digest)
    statistics.store(path, found)
    report("describe", 1, 1)
    return _table(path, found, reused=False)


def _table(path: str, stats: dict[str, Any], *, reused: bool) -> FeatureTable:
    return FeatureTable(path, stats["fingerprint"], stats["rows"], stats, stats["lake_versions"], reused)


def _write(usecase: UseCase, lake: Mapping[str, Source], path: str, spark: SparkSession, report: OnProgress) -> None:
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    from fasttrack.features.spark import feature_files

    rows = sum(source.rows for source in lake.values())
    note(f"Features: {len(usecase.columns())} columns, {len(entity_plans(usecase))} entities, {rows:,} events.")
    attempt = uuid.uuid4().hex[:12] + "-"
    kept: list[str] = []
    try:
        raw = {stream: raw_frame(spark, source) for stream, source in lake.items()}
        verify(usecase, raw, lake)
        frame = feature_files(usecase, raw, int(spark.conf.get("spark.sql.shuffle.partitions") or 2), path, attempt)
        with _watch(spark, report):
            written = [(row["path"], row["size"], row["stats"]) for row in frame.collect()]
        commit(path, table_schema(usecase), written)
        kept = [name for name, _, _ in written]
    except (PySparkException, Py4JError) as error:
        raise _failure(error, path) from error
    finally:
        sweep(path, attempt, kept)


def _failure(error: Exception, path: str) -> StorageError | StepError:
    text = str(error)
    if "No space left on device" in text:
        return StorageError("the disk is full.", where=path, fix="Free some space and run again; nothing is lost.")
    reasons = [line.strip() for line in text.splitlines() if "Error" in line or "Exception" in line]
    reason = reasons[-1] if reasons else text.splitlines()[0] if text else type(error).__name__
    return StepError(f"the Spark job failed: {reason}", where=path, fix="Run with --debug for the whole trace.")


@contextmanager
def _watch(spark: SparkSession, report: OnProgress) -> Iterator[None]:
    """Show finished Spark tasks while the block runs."""
    stop = threading.Event()
    tracker = spark.sparkContext.statusTracker()
    with track("Computing features", unit="tasks") as bar:

        def poll() -> None:
            seen: dict[int, tuple[int, int]] = {}
            while not stop.wait(_POLL_SECONDS):
                for stage in tracker.getActiveStageIds():
                    info = tracker.getStageInfo(stage)
                    if info is not None:
                        seen[stage] = (info.numCompletedTasks, info.numTasks)
                active = set(tracker.getActiveStageIds())
                done = sum(total if stage not in active else part for stage, (part, total) in seen.items())
                bar.advance(done - bar.done)
                report("compute", done, sum(total for _, total in seen.values()))

        watcher = threading.Thread(target=poll, name="spark-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _ignore(phase: str, done: int, total: int) -> None:
    """The default for those who don't watch."""
