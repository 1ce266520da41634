"""The history that a replay publishes: loaded from the use case's source, sampled, told apart by a digest."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError, UseCaseError
from fasttrack.ingest.contracts import contract_version
from fasttrack.ingest.encode import conform
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase import UseCase, dump

_FORMAT = 2
#: About how long a stretch of a sample is: a day has all hours in it, and few days in a row would be all alike.
_STRETCH_US = 86_400 * 10**6


class Source:
    """The function that the use case names under ``replay.source``.

    Args:
        usecase: a use case with a ``replay`` part.

    Raises:
        UseCaseError: there is no such part, module, file or function.
    """

    def __init__(self, usecase: UseCase) -> None:
        if usecase.replay is None:
            raise UseCaseError("has nothing to replay.", where=usecase.name, fix="Add a `replay` part with a `source`.")
        self._usecase = usecase
        self._where = f"replay.source {usecase.replay.source!r}"
        place, _, name = usecase.replay.source.rpartition(":")
        self._module = self._load(place)
        found = getattr(self._module, name, None)
        if not callable(found):
            raise UseCaseError(f"{place!r} has no function {name!r}.", where=self._where, fix="Check the name.")
        self._function: Callable[[], Any] = found
        self._loading: tuple[float, Future[dict[str, pa.Table]]] | None = None

    def _load(self, place: str) -> ModuleType:
        try:
            if not place.endswith(".py"):
                return importlib.import_module(place)
            path = Path(self._usecase.base) / place
            # Not put into sys.modules under its bare name: two use cases may both have an events.py.
            name = f"_fasttrack_source_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{path} can't be imported")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        except (ImportError, OSError) as error:
            raise UseCaseError(
                f"can't be loaded: {error}.", where=self._where, fix="Write `module:function` or `path.py:function`."
            ) from error

    def digest(self, sample: float, seed: int) -> str:
        """What the replay would publish, in 16 hex digits, without loading it.

        The source's file, the streams' contracts and the replay's settings count; a module may add a function
        ``fingerprint() -> str`` for the data that it reads.
        """
        file = getattr(self._module, "__file__", None)
        extra = getattr(self._module, "fingerprint", None)
        parts = {
            "format": _FORMAT,
            "code": hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "",
            "data": str(extra()) if callable(extra) else "",
            "replay": dump(self._usecase.replay) if self._usecase.replay else {},
            "streams": {
                n: [contract_version(s), s.partitions, self._usecase.topic(n)] for n, s in self._usecase.streams.items()
            },
            "entity": list(self._usecase.entities[self._usecase.prediction.entity].keys),
            "sample": sample,
            "seed": seed,
        }  # fmt: skip
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def preload(self, sample: float) -> None:
        """Begin to load what `events` will be asked for, in a thread."""
        pool = ThreadPoolExecutor(1, "replay-source")
        self._loading = sample, pool.submit(self._load_events, sample)
        pool.shutdown(wait=False)

    def events(self, sample: float) -> dict[str, pa.Table]:
        """The events of each stream, with the contract's columns.

        Args:
            sample: the share of the prediction's entities that is kept; see `chosen`.

        Raises:
            DataQualityError: the source fails, names an unknown stream, or its columns don't fit the contract.
        """
        if self._loading is not None and self._loading[0] == sample:
            return self._loading[1].result()
        return self._load_events(sample)

    def _load_events(self, sample: float) -> dict[str, pa.Table]:
        try:
            given = self._function()
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataQualityError(f"the source failed: {error}.", where=self._where, fix="Mend the source.") from error
        streams = self._usecase.streams
        if unknown := set(given) - set(streams):
            raise DataQualityError(f"gives unknown streams {sorted(unknown)}.", where=self._where, fix="Declare them.")
        found = {}
        for name, stream in streams.items():
            table = given.get(name, {})
            if not isinstance(table, pa.Table):
                table = (
                    pa.Table.from_pandas(table, preserve_index=False)
                    if name in given
                    else conform_empty(self._usecase, name)
                )
            found[name] = conform(stream, table, f"{self._where}, stream {name}")
        if sample >= 1:
            return found
        entities = chosen(self._usecase, found[self._usecase.prediction.stream], sample)
        return {name: sampled(self._usecase, table, entities) for name, table in found.items()}


def conform_empty(usecase: UseCase, stream: str) -> pa.Table:
    """No events, with the stream's columns."""
    return event_schema(usecase.streams[stream]).empty_table()


def chosen(usecase: UseCase, predictions: pa.Table, sample: float) -> pa.Array:
    """The entities of a sample: those whose prediction falls into evenly spaced stretches of each part of the split.

    Whole stretches are taken, not entities at random: windows and sequences stay as full as they are in the whole
    history, every part of the split gets its share, and the history's end is in it.

    Args:
        usecase: the use case.
        predictions: events of the prediction stream.
        sample: the share of each part's time, in (0, 1).

    Returns:
        The distinct joined keys, see `joined_keys`.
    """
    moment = predictions.column(usecase.prediction.time_field).combine_chunks().cast(pa.int64())
    times = moment.to_numpy(zero_copy_only=False) - round(usecase.prediction.lead.total_seconds() * 1e6)
    ends = [round(bound.timestamp() * 1e6) for bound in usecase.split.bounds()]
    start = int(times.min()) if len(times) else 0
    kept = np.zeros(len(times), np.bool_)
    for low, high in zip([min(start, ends[0]), *ends[:-1]], ends, strict=True):
        count = max(1, round((high - low) * sample / _STRETCH_US))
        stratum = max(1.0, (high - low) / count)
        share = ((times - low) % stratum) / stratum
        kept |= (times >= low) & (times < high) & (share >= 1 - sample)
    return joined_keys(usecase, predictions.filter(pa.array(kept))).unique()


def sampled(usecase: UseCase, table: pa.Table, entities: pa.Array) -> pa.Table:
    """The events of the chosen entities; a stream without their keys (weather, say) is kept whole."""
    keys = usecase.entities[usecase.prediction.entity].keys
    if not set(keys) <= set(table.column_names):
        return table
    return table.filter(pc.is_in(joined_keys(usecase, table), value_set=entities))


def joined_keys(usecase: UseCase, table: pa.Table) -> pa.Array:
    """The prediction entity's keys of each row, as one text."""
    keys = usecase.entities[usecase.prediction.entity].keys
    parts = [table.column(key).combine_chunks().cast(pa.string()).fill_null("") for key in keys]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "\x1f")
