"""Watches that go on: over lost connections, restarts of the API server, and histories that were thrown away."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from fasttrack.errors import AuthenticationError, AuthorizationError, NotFoundError, UnavailableError
from fasttrack.kubeflow.cluster.kinds import Kind, Object
from fasttrack.kubeflow.cluster.refusals import Expired

if TYPE_CHECKING:
    from fasttrack.kubeflow.cluster.client import Cluster

# The server ends a watch after this, and a connection that is silent for longer is dead.
_SERVER_SECONDS = 240
_SILENT_SECONDS = 260.0
_PAUSES = (0.2, 0.5, 1.0, 2.0)
# A starting API server refuses everybody until it has read its roles.
_STARTING_SECONDS = 20.0


class Change(NamedTuple):
    """What a watch tells: an object as it is now (or, `deleted`, as it was last)."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object


class Watch:
    """Iterates over what is there, then over every change.

    After a gap the present is compared with what was told before, so that every object's last state is told, and
    that it vanished; states in between may be left out, as in any watch.

    Args:
        cluster: where.
        kind: of the objects.
        namespace: of the objects; all by default.
        labels: label selector.
        fields: field selector.
        stop: ends the iteration.
        on_gap: called with a reason when the connection is lost, and with "" when it is back.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str,
        labels: str,
        fields: str,
        stop: threading.Event,
        on_gap: Callable[[str], None] | None,
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._namespace = namespace
        self._query = {"labelSelector": labels, "fieldSelector": fields}
        self._stop = stop
        self._on_gap = on_gap or (lambda _: None)
        self._known: dict[str, Object] = {}
        self._version = ""
        self._lost = 0.0
        self._response: Any = None

    def __iter__(self) -> Iterator[Change]:
        pauses = iter(_PAUSES)
        while not self._stop.is_set():
            try:
                if not self._version:
                    yield from self._relist()
                for change in self._stream():
                    pauses = iter(_PAUSES)
                    yield change
            except Expired:
                self._version = ""
            except UnavailableError as error:
                self._note_loss(error.what)
                self._stop.wait(next(pauses, _PAUSES[-1]))
            except (AuthenticationError, AuthorizationError, NotFoundError):
                if not self._lost or time.monotonic() - self._lost > _STARTING_SECONDS:
                    raise
                self._stop.wait(_PAUSES[-1])

    def close(self) -> None:
        """End a read that is waiting; for the thread that set `stop`.

        Not by closing the response: that waits for the read, which a quiet object holds for a minute.
        """
        response = self._response
        if response is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                response.shutdown()

    def _relist(self) -> Iterator[Change]:
        present = self._cluster.snapshot(
            self._kind, self._namespace, labels=self._query["labelSelector"], fields=self._query["fieldSelector"]
        )
        self._note_return()
        before, self._known = self._known, {item["metadata"]["uid"]: item for item in present.items}
        for uid, obj in before.items():
            if uid not in self._known:
                yield Change("DELETED", obj)
        for uid, obj in self._known.items():
            if uid not in before:
                yield Change("ADDED", obj)
            elif before[uid]["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                yield Change("MODIFIED", obj)
        self._version = present.version

    def _stream(self) -> Iterator[Change]:
        """The changes of one connection; ends when the server ends it."""
        query = {**self._query, "watch": "true", "resourceVersion": self._version, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(_SERVER_SECONDS)
        for event in self._events(query):
            kind, obj = event["type"], event["object"]
            if kind == "ERROR":
                if obj.get("code") == 410:
                    raise Expired("the history is gone.", where=str(self._kind))
                raise UnavailableError(f"the watch ended: {obj.get('message')}", where=str(self._kind))
            self._version = obj["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            uid = obj["metadata"]["uid"]
            if kind == "DELETED":
                self._known.pop(uid, None)
            else:
                self._known[uid] = obj
            yield Change(kind, obj)

    def _events(self, query: dict[str, str]) -> Iterator[Any]:
        from urllib3.exceptions import HTTPError

        path = self._cluster.path(self._kind, self._namespace)
        where = f"watch {self._kind}"
        self._response = self._cluster.send(
            "GET", path, query=query, where=where, stream=True, timeout=(5.0, _SILENT_SECONDS)
        )
        self._note_return()
        rest = b""
        try:
            for chunk in self._response.stream(65536, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (orjson.loads(line) for line in lines if line)
                if self._stop.is_set():
                    return
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            # A line that is not JSON is a broken connection too; `close` takes the response away from under the read.
            if not self._stop.is_set():
                raise UnavailableError(f"the connection was lost: {error}", where=self._cluster.host) from error
        finally:
            self._response.close()
            self._response = None

    def _note_loss(self, reason: str) -> None:
        if not self._lost:
            self._on_gap(reason)
            self._lost = time.monotonic()

    def _note_return(self) -> None:
        if self._lost:
            self._on_gap("")
            self._lost = 0.0
