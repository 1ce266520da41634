"""Seconds and memory of the feature job, and milliseconds of an online read.

    python tests/bench/bench_features.py [--sample 1.0] [USECASE]

Starts a platform of its own and fills its lake with the flights example. With a use-case file it starts and fills
nothing: it takes that one's lake, whose features it makes anew, by ``FASTTRACK_LAKE``, ``FASTTRACK_REDIS``,
``JAVA_HOME`` and ``FASTTRACK_SPARK_JARS``. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from fasttrack import usecase as usecases
from fasttrack.features.job import build
from fasttrack.features.online import OnlineStore, materialize
from fasttrack.ingest.drain import drain
from fasttrack.ingest.replay import replay
from fasttrack.lake.tables import read_raw, root
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.local_homes import running_platform

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "usecase.yaml"


class Memory:
    """The largest memory of this process and its children together, sampled ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def bench_build(usecase: UseCase, settings: Settings) -> dict[str, Any]:
    """A first build and its reuse. The table is removed before and kept after."""
    shutil.rmtree(Path(root(settings, usecase)) / "features", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with Memory() as memory:
        table = build(usecase, settings)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time()
    started = time.perf_counter()
    build(usecase, settings)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rows": table.rows,
        "columns": len(usecase.columns()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(children + own, 1),
        "peak_rss_mb": round(memory.peak / 1e6),
        "reuse_seconds": round(time.perf_counter() - started, 3),
    }


def bench_online(usecase: UseCase, settings: Settings, reads: int = 500) -> dict[str, Any]:
    """Materialization, and reads of one row by key and of one described event."""
    started = time.perf_counter()
    done = materialize(usecase, settings)
    seconds = time.perf_counter() - started
    point = usecase.prediction
    rows = read_raw(settings, usecase, point.stream).sort_by([(point.time_field, "descending")]).slice(0, 1).to_pylist()
    event = {name: rows[0][name] for name in usecase.streams[point.stream].fields}
    keys = {key: event[key] for key in usecase.entities[point.entity].keys}
    store = OnlineStore(usecase, settings)
    by_key = [_milliseconds(lambda: store.read([keys])) for _ in range(reads)]
    described = [_milliseconds(lambda: store.complete(event)) for _ in range(reads)]
    return {
        "materialize_seconds": round(seconds, 1),
        "keys": done.rows,
        "read_ms_p50": round(statistics.median(by_key), 2),
        "read_ms_p99": round(statistics.quantiles(by_key, n=100)[98], 2),
        "complete_ms_p50": round(statistics.median(described), 2),
    }


def _milliseconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("usecase", nargs="?", help="a use-case file whose lake is filled")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the flights")
    options = parser.parse_args()
    if options.usecase is not None:
        found = measure(usecases.load(options.usecase), Settings.from_environment())
    else:
        usecase = usecases.load(FLIGHTS)
        with running_platform(["kafka", "schema_registry", "redis"]) as platform:
            os.environ.update(platform.environment())
            replay(usecase, platform.settings(), sample=options.sample)
            drain(usecase, platform.settings())
            found = {"sample": options.sample, **measure(usecase, platform.settings())}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def measure(usecase: UseCase, settings: Settings) -> dict[str, Any]:
    """The figures that the settings allow, with their conditions."""
    found = {"cores": os.cpu_count(), "load": os.getloadavg(), "build": bench_build(usecase, settings)}
    if settings.redis:
        found["online"] = bench_online(usecase, settings)
    return found


if __name__ == "__main__":
    main()
