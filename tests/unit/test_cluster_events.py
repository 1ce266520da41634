"""Which events of a cluster count for an object."""

from __future__ import annotations

from typing import Any

from fasttrack.kubeflow.cluster.follow import warnings


class Events:
    """A cluster that has these events."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    def list(self, *_: object, **__: object) -> list[dict[str, Any]]:
        return list(self._events)


def event(name: str, **times: str) -> dict[str, Any]:
    return {"type": "Warning", "involvedObject": {"name": name}, **times}


def names(cluster: Events, since: str = "") -> list[str]:
    found = warnings(cluster, "space", "search", since)  # type: ignore[arg-type]
    return [each["involvedObject"]["name"] for each in found]


def test_an_earlier_trys_events_do_not_count() -> None:
    cluster = Events(
        event("search-late", lastTimestamp="2026-01-01T10:00:07Z"),
        event("search-old", lastTimestamp="2026-01-01T09:59:59Z"),
        event("search-old-micro", eventTime="2026-01-01T09:59:59.900000Z"),
        event("search-at-once", eventTime="2026-01-01T10:00:00.000001Z"),
        event("other", lastTimestamp="2026-01-01T10:00:07Z"),
    )
    assert names(cluster, "2026-01-01T10:00:00Z") == ["search-at-once", "search-late"]
    assert names(cluster) == ["search-old", "search-old-micro", "search-at-once", "search-late"]
