"""Follows an object and its pods: one stream of changes out of several watches, troubles, and the pods' last lines."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from fasttrack.errors import FastTrackError
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import EVENT, Kind, Object
from fasttrack.kubeflow.cluster.stream import Change, Watch
from fasttrack.progress import note

_TAIL_LINES = 200
_DEAF_SECONDS = 20.0
#: As long as a time is without its fraction and zone.
_SECOND = len("2026-01-01T00:00:00")


class Selection(NamedTuple):
    """What to watch."""

    kind: Kind
    namespace: str
    name: str = ""
    labels: str = ""


class Feed:
    """Several watches as one stream; a context manager, which ends them."""

    def __init__(self, cluster: Cluster, selections: list[Selection]) -> None:
        self._queue: queue.SimpleQueue[tuple[Kind, Change] | FastTrackError] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._watches = [
            (
                chosen.kind,
                Watch(
                    cluster,
                    chosen.kind,
                    chosen.namespace,
                    chosen.labels,
                    f"metadata.name={chosen.name}" if chosen.name else "",
                    self._stop,
                    self._note_gap,
                ),
            )
            for chosen in selections
        ]
        self._lost = 0

    def __enter__(self) -> Feed:
        for kind, watch in self._watches:
            threading.Thread(target=self._pump, args=(kind, watch), name=f"watch-{kind.kind}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for _, watch in self._watches:
            watch.close()

    def read(self, seconds: float) -> Iterator[tuple[Kind, Change]]:
        """What comes within `seconds`; returns earlier as soon as something has come.

        Raises:
            FastTrackError: a watch can't go on: not permitted, or the kind is gone.
        """
        ends = time.monotonic() + seconds
        while True:
            try:
                found = self._queue.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(found, FastTrackError):
                raise found
            yield found
            ends = 0.0

    def _pump(self, kind: Kind, watch: Watch) -> None:
        try:
            for change in watch:
                self._queue.put((kind, change))
        except FastTrackError as error:
            self._queue.put(error)

    def _note_gap(self, reason: str) -> None:
        # Each watch loses its connection; people are told once.
        self._lost += 1 if reason else -1
        if reason and self._lost == 1:
            note("The connection to the API server is lost; what was started goes on, and is followed again.")
        elif not reason and self._lost == 0:
            note("The API server answers again.")


@dataclass
class LogTail:
    """The last lines of pods' logs, fetched now and then; a log that can't be had is left out."""

    cluster: Cluster
    namespace: str
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    _since: dict[str, str] = field(default_factory=dict)
    _told: dict[str, set[str]] = field(default_factory=dict)
    _deaf: dict[str, float] = field(default_factory=dict)

    def poll(self, pod: str, container: str = "") -> list[str]:
        """New lines of a pod since the last call, oldest first."""
        if time.monotonic() < self._deaf.get(pod, 0.0):
            return []
        since = self._since.get(pod, "")
        try:
            found = self.cluster.logs(
                pod, self.namespace, container=container, tail=_TAIL_LINES, since=since[:19] + "Z" if since else ""
            )
        except FastTrackError:
            # Not started, gone, on a node that doesn't answer, or not permitted: the outcome doesn't hang on it.
            self._deaf[pod] = time.monotonic() + _DEAF_SECONDS
            return []
        told = self._told.get(pod, set())
        new = [line for line in found if line not in told]
        if found:
            self._since[pod] = found[-1].partition(" ")[0]
            # `since` has whole seconds: what came within the last one comes again.
            self._told[pod] = set(found)
        texts = [line.partition(" ")[2] for line in new]
        self.lines.extend(texts)
        return texts


def warnings(cluster: Cluster, namespace: str, prefix: str, since: str = "") -> list[Object]:
    """Warning events about objects whose names begin with `prefix`, oldest first; none where they can't be read.

    Args:
        cluster: the cluster.
        namespace: where.
        prefix: of the names.
        since: only those that were seen at this time or later, as Kubernetes writes times.
    """
    try:
        found = cluster.list(EVENT, namespace, fields="type=Warning")
    except FastTrackError:
        return []
    own = [event for event in found if str(event.get("involvedObject", {}).get("name", "")).startswith(prefix)]
    return sorted((event for event in own if _seen(event) >= since[:_SECOND]), key=_seen)


def _seen(event: Object) -> str:
    """When an event was seen last, to the second: some are told in microseconds."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")[:_SECOND]
