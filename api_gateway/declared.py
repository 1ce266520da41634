"""Use cases from files: their webhooks take events in before there is a model to serve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from api_gateway.observability import log, log_failure
from fasttrack.errors import FastTrackError
from fasttrack.usecase import UseCase, load

_SUFFIXES: Final = (".yaml", ".yml", ".json")


class Declared:
    """The use cases of a file, or of a folder's files, as they are now.

    Args:
        path: of the file or folder; empty: none.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._files: dict[Path, tuple[tuple[int, int], UseCase | None]] = {}
        self._usecases: dict[str, UseCase] = {}
        self._missing = False

    def get(self, name: str) -> UseCase | None:
        """The use case of that name."""
        return self._usecases.get(name)

    async def refresh(self) -> None:
        """Read what has changed; a file that can't be read keeps what it held before. Never raises."""
        if self._path is not None:
            await asyncio.to_thread(self._read, self._path)

    def _read(self, path: Path) -> None:
        try:
            found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES) if path.is_dir() else [path]
            stamps = {file: (stat.st_mtime_ns, stat.st_size) for file in found for stat in (file.stat(),)}
        except OSError as error:
            if not self._missing:
                log("error", "the use cases can't be read", path=str(path), reason=str(error))
            self._missing = True
            return
        self._missing = False
        files = {file: self._loaded(file, stamp) for file, stamp in stamps.items()}
        self._files = files
        self._usecases = {usecase.name: usecase for _, usecase in files.values() if usecase is not None}

    def _loaded(self, file: Path, stamp: tuple[int, int]) -> tuple[tuple[int, int], UseCase | None]:
        known = self._files.get(file)
        if known is not None and known[0] == stamp:
            return known
        try:
            usecase = load(file)
        except FastTrackError as error:
            log_failure("a use case can't be read", error, path=str(file))
            return stamp, known[1] if known else None
        log("info", "use case loaded", usecase=usecase.name, path=str(file))
        return stamp, usecase
