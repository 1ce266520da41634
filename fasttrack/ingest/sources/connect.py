"""The reader of a declared source."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from fasttrack.errors import ConfigurationError, UseCaseError
from fasttrack.ingest.sources.source import Source
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from fasttrack.usecase.spec import suggestion

_PACKAGE = "fasttrack.ingest.sources"
# Loaded when they are needed: an image holds what its sources need.
_READERS = {
    "files": ("files", "FilesReader"),
    "rest": ("rest", "RestReader"),
    "postgres": ("postgres", "PostgresReader"),
    "postgres_replication": ("replication", "ReplicationReader"),
    "stream": ("stream", "TopicReader"),
}


def connect(usecase: UseCase, settings: Settings, name: str, environment: Mapping[str, str] | None = None) -> Source:
    """The reader of a source; it is not opened yet.

    Args:
        usecase: whose source.
        settings: the addresses of FastTrack's own parts; a source has its own.
        name: which.
        environment: where the variables that a source names are; default: this process's.

    Raises:
        UseCaseError: there is no such source, or nothing reads it (a webhook is sent to the gateway).
        ConfigurationError: what reads it is not installed, or a variable is not set.
    """
    if name not in usecase.sources:
        raise UseCaseError(f"there is no source {name!r}; {suggestion(name, usecase.sources)}", where=usecase.name)
    source = usecase.sources[name]
    if source.kind not in _READERS:
        raise UseCaseError(
            f"a {source.kind} isn't read: others send to it.", where=f"source {name}", fix="The gateway takes it in."
        )
    module, reader = _READERS[source.kind]
    try:
        found = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), reader)
    except ImportError as error:
        raise ConfigurationError(
            f"a {source.kind} source can't be read here: {error}.", where=f"source {name}",
            fix="Install what reads it: `pip install fasttrack[drain]`.",
        ) from error  # fmt: skip
    made: Source = found(usecase, name, source, os.environ if environment is None else environment)
    return made
