"""The history that a replay publishes: loaded from the use case's source, sampled, told apart by a digest."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError, UseCaseError
from fasttrack.ingest.contracts import arrow_schema, contract_version
from fasttrack.ingest.encode import conform
from fasttrack.usecase import UseCase, dump

_FORMAT = 1


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

    def events(self, sample: float) -> dict[str, pa.Table]:
        """The events of each stream, with the contract's columns.

        Args:
            sample: the share of the prediction's entities that is kept; see `sampled`.

        Raises:
            DataQualityError: the source fails, names an unknown stream, or its columns don't fit the contract.
        """
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
            found[name] = sampled(self._usecase, conform(stream, table, f"{self._where}, stream {name}"), sample)
        return found


def conform_empty(usecase: UseCase, stream: str) -> pa.Table:
    """No events, with the stream's columns."""
    return arrow_schema(usecase.streams[stream]).empty_table()


def sampled(usecase: UseCase, table: pa.Table, sample: float) -> pa.Table:
    """The rows of the sample: an entity of the prediction is in it with all its events, or not at all.

    It is chosen by a hash of the entity's keys, so every stream chooses the same ones, on every machine. A stream
    without these keys (weather, say) is kept whole.
    """
    keys = usecase.entities[usecase.prediction.entity].keys
    if sample >= 1 or not set(keys) <= set(table.column_names):
        return table
    parts = [table.column(key).combine_chunks().cast(pa.string()).fill_null("") for key in keys]
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "\x1f")
    encoded = joined.dictionary_encode()
    shares = np.fromiter(map(_share, encoded.dictionary.to_pylist()), np.float64, len(encoded.dictionary))
    kept: npt.NDArray[np.bool_] = shares[encoded.indices.to_numpy(zero_copy_only=False)] < sample
    return table.filter(pa.array(kept))


def _share(key: str) -> float:
    """A stable, evenly spread number in [0, 1) for a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
