"""Versions of the lake's tables that something was made from: a vacuum has to keep them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import ConfigurationError, FastTrackError, NotFoundError, StorageError, UnavailableError
from fasttrack.features.stats import STATS_FILE
from fasttrack.lake.storage import remote
from fasttrack.lake.tables import load, raw_path, root
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings
from fasttrack.steps.register import LINEAGE
from fasttrack.usecase import UseCase

_KEY = "lake_versions"

#: For each stream the pinned versions of its raw table, and what pins them.
Pins = dict[str, dict[int, list[str]]]


def pins(usecase: UseCase, settings: Settings) -> Pins:
    """What runs, feature tables, model packages and the registry's models were made from.

    Only raw tables are ever pinned: nothing is computed from the others.

    Raises:
        ConfigurationError: `lake`, `runs`, `packages` or `postgres` is not set, or the registry has no tables.
        UnavailableError: the registry does not answer.
        StorageError: a record can't be read.
    """
    found: Pins = defaultdict(lambda: defaultdict(list))
    for who, versions in _all(usecase, settings):
        for stream, version in versions.items():
            if who not in found[stream][version]:
                found[stream][version].append(who)
    return {stream: dict(versions) for stream, versions in found.items()}


def _all(usecase: UseCase, settings: Settings) -> Iterator[tuple[str, dict[str, int]]]:
    name = usecase.name
    # A run's folder is there from its first step on, so these come before what is made of them.
    for file in _files(settings, "runs", f"{name}/*/*.json"):
        for versions in _stated(_json(file)):
            yield f"run {file.parent.name}", versions
    yield from _feature_tables(usecase, settings)
    for file in _files(settings, "packages", f"{name}/*/{LINEAGE}"):
        for versions in _stated(_json(file)):
            yield f"package {file.parent.name[:19]}", versions
    yield from _models(name, settings)


def _feature_tables(usecase: UseCase, settings: Settings) -> Iterator[tuple[str, dict[str, int]]]:
    lake = root(settings, usecase)
    if remote(lake):
        # Feature tables are in folders only.
        return
    tables = {stream: _table_id(raw_path(settings, usecase, stream)) for stream in usecase.streams}
    for file in _found(Path(lake), f"features/*/{STATS_FILE}"):
        stats = _json(file)
        made_of = stats.get("lake_tables", {})
        for versions in _stated(stats):
            # Those of a table that was deleted since pin nothing in the one that took its place.
            mine = {name: v for name, v in versions.items() if made_of.get(name) in (None, tables.get(name))}
            yield f"features {file.parent.name[:12]}", mine


def _table_id(path: str) -> str | None:
    try:
        return str(load(path).metadata().id)
    except NotFoundError:
        return None


def _models(name: str, settings: Settings) -> Iterator[tuple[str, dict[str, int]]]:
    registry = Registry(settings.require("postgres"))
    try:
        for model in registry.list(name):
            try:
                versions = registry.lineage(name, model.version).lake_versions
            except NotFoundError:
                # Registered without lineage: nobody knows, and nobody ever knew, what it was made of.
                continue
            yield f"model {name}:{model.version}", versions
    except (UnavailableError, ConfigurationError) as error:
        raise _unknown(error) from error
    finally:
        registry.close()


def _unknown(error: FastTrackError) -> FastTrackError:
    return type(error)(
        f"the registry can't say which versions models were made from: {error.what.rstrip('.')}.",
        where=error.where,
        fix="Start PostgreSQL (`fasttrack up`) or set FASTTRACK_POSTGRES to the registry's database, and run it again.",
    )


def _files(settings: Settings, name: str, pattern: str) -> list[Path]:
    folder = Path(settings.require(name))
    if not folder.is_dir():
        raise ConfigurationError(
            "there is no such folder here, so it can't be known what pins versions of the lake.",
            where=f"FASTTRACK_{name.upper()}={folder}",
            fix="Run this where the pipeline's folders are, and set the variable to the folder.",
        )
    return _found(folder, pattern)


def _found(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError as error:
        raise StorageError(
            f"can't be read: {error.strerror}.", where=str(folder), fix="Give this user the right to read it."
        ) from error


def _json(file: Path) -> Any:
    try:
        return orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise StorageError(
            f"can't be read, so it can't be known what it pins: {error}.", where=str(file),
            fix="Mend it, or delete it if nothing needs what it was made from.",
        ) from error  # fmt: skip


def _stated(record: Any) -> Iterator[dict[str, int]]:
    """The lake versions that a record has, at whatever depth: steps tell them in their own ways."""
    if isinstance(record, dict):
        for key, value in record.items():
            if key == _KEY:
                versions = orjson.loads(value) if isinstance(value, str) else value
                yield {str(stream): int(version) for stream, version in versions.items()}
            else:
                yield from _stated(value)
    elif isinstance(record, list):
        for value in record:
            yield from _stated(value)
