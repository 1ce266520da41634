"""The demo's course: platform, replay, pipeline, prediction, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from fasttrack.client import Gateway
from fasttrack.demo import screen
from fasttrack.demo.memory import MemoryWatch
from fasttrack.demo.report import build, latest_subject
from fasttrack.errors import StorageError
from fasttrack.progress import note
from fasttrack.settings import Settings
from fasttrack.usecase import load

if TYPE_CHECKING:
    from fasttrack.ingest.source import Source
    from fasttrack.local.platform import Platform


class Demo:
    """The main job for one use case on a local platform.

    Args:
        path: the use-case file.
        home: data folder of the platform.
        sample: share of the entities that are replayed, in (0, 1].
    """

    def __init__(self, path: Path, home: Path, *, sample: float = 1.0) -> None:
        self.path = path
        self.usecase = load(path)
        self.home = home
        self.sample = sample
        self.seconds: dict[str, float] = {}

    def play(self, *, report: Path | None = None, stay: bool = False, json: bool = False) -> dict[str, Any]:
        """Run everything, print the screen (or JSON), and stay up until Ctrl-C if asked to.

        Returns:
            The report, as it is written to `report`.

        Raises:
            FastTrackError: whatever went wrong; the platform is stopped first and keeps its data.
        """
        started = time.monotonic()
        source = self._source()
        with MemoryWatch() as memory, self._platform() as platform:
            os.environ.update(platform.environment())
            found = self._work(platform.settings(), source)
            found["seconds"] = self.seconds
            found["total_seconds"] = round(time.monotonic() - started, 1)
            found["peak_memory_mb"] = memory.peak_mb
            self._tell(found, report, json)
            if stay:
                note("The platform stays up; Ctrl-C ends it.")
                platform.wait()
        return found

    def _source(self) -> Source | None:
        """The events, being loaded while the platform starts; nothing if it has had some before."""
        from fasttrack.ingest.source import Source

        if (self.home / "kafka").exists():
            return None
        source = Source(self.usecase)
        source.preload(self.sample)
        return source

    @contextmanager
    def _platform(self) -> Iterator[Platform]:
        """The platform of the home: this process's own, unless one is up in the background, which stays up."""
        from fasttrack.local.home import Home
        from fasttrack.local.platform import Platform

        platform = Platform(self.home)
        if Home(self.home).locked():
            note(f"Using the platform of {self.home}, which is up already.")
            yield platform
            return
        try:
            with self._step("up"):
                platform.start()
            yield platform
        finally:
            platform.stop()

    def _work(self, settings: Settings, source: Source | None) -> dict[str, Any]:
        from fasttrack.ingest.replay import replay
        from fasttrack.kubeflow.local_run import run_local

        with self._step("replay"):
            replayed = replay(self.usecase, settings, sample=self.sample, source=source)
        steps = run_local(self.usecase, self.path.read_text(), settings).report["steps"]
        self.seconds |= {name: record["seconds"] for name, record in steps.items()}
        with self._step("predict"):
            subject = latest_subject(self.usecase, steps)
            request = {"entity": subject.keys, "explain": True}
            gateway = Gateway(settings.require("gateway"), self._token(settings))
            answer = gateway.predict(self.usecase.name, request)
        return build(self.usecase.name, asdict(replayed), steps, request, answer, subject, gateway)

    def _token(self, settings: Settings) -> str:
        from fasttrack.local.issuer import mint

        roles = [
            name for name, role in self.usecase.roles.items() if {"predict", "explain"} <= set(role.grants("default"))
        ]
        return mint(self.home, subject="demo", roles=roles[:1], ttl=timedelta(hours=12), audience=settings.audience)

    def _tell(self, found: dict[str, Any], path: Path | None, json: bool) -> None:
        text = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=str)
        if path is not None:
            try:
                path.write_bytes(text + b"\n")
            except OSError as error:
                raise StorageError(f"the report can't be written: {error.strerror}.", where=str(path)) from error
        if json:
            print(text.decode())
        else:
            screen.render(found, Console(highlight=False))

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)
