"""Watches over gaps, from a scripted API server: 410 Gone, lost connections, bookmarks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fasttrack.errors import AuthorizationError, ConfigurationError, ConflictError, NotFoundError, UnavailableError
from fasttrack.kubeflow.cluster.client import Snapshot
from fasttrack.kubeflow.cluster.kinds import POD
from fasttrack.kubeflow.cluster.refusals import Expired, refusal
from fasttrack.kubeflow.cluster.stream import Change, Watch


def obj(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


def line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


class Response:
    def __init__(self, chunks: list[bytes | Exception]) -> None:
        self.chunks = chunks

    def stream(self, size: int, decode_content: bool) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        pass


class Server:
    """Answers lists and watches in the order of its script, then stops the watch."""

    host = "https://test"

    def __init__(self, lists: list[Snapshot], streams: list[list[bytes | Exception] | Exception]) -> None:
        self.lists, self.streams, self.stop = lists, streams, threading.Event()
        self.asked: list[str] = []

    def path(self, kind: Any, namespace: str) -> str:
        return "/pods"

    def snapshot(self, kind: Any, namespace: str, *, labels: str, fields: str) -> Snapshot:
        return self.lists.pop(0)

    def send(self, method: str, path: str, *, query: dict[str, str], **_: Any) -> Response:
        self.asked.append(query["resourceVersion"])
        if not self.streams:
            self.stop.set()
            return Response([])
        found = self.streams.pop(0)
        if isinstance(found, Exception):
            raise found
        return Response(found)


def watched(server: Server) -> tuple[list[str], list[str]]:
    gaps: list[str] = []
    watch = Watch(server, POD, "n", "", "", server.stop, gaps.append)  # type: ignore[arg-type]
    changes: list[Change] = list(watch)
    return [f"{change.type} {change.object['metadata']['name']}" for change in changes], gaps


def test_a_watch_goes_on_from_the_last_moment_that_it_knows() -> None:
    bookmark = line("BOOKMARK", obj("", 9))
    server = Server([Snapshot([obj("a", 1)], "5")], [[line("MODIFIED", obj("a", 7))], [bookmark]])
    assert watched(server)[0] == ["ADDED a", "MODIFIED a"]
    assert server.asked == ["5", "7", "9"]


@pytest.mark.parametrize("as_status", [True, False])
def test_after_410_what_changed_meanwhile_is_told(as_status: bool) -> None:
    gone: Any = Expired("gone") if as_status else [line("ERROR", {"code": 410, "message": "too old"})]
    later = Snapshot([obj("b", 8), obj("c", 9)], "10")
    server = Server([Snapshot([obj("a", 1), obj("b", 2)], "5"), later], [gone])
    assert watched(server)[0] == ["ADDED a", "ADDED b", "DELETED a", "MODIFIED b", "ADDED c"]


def test_a_lost_connection_is_told_once_and_the_watch_resumed() -> None:
    lost: list[Any] = [
        [line("ADDED", obj("b", 6)), OSError("reset")],
        UnavailableError("refused"),
        UnavailableError("no"),
    ]
    server = Server([Snapshot([], "5")], lost)
    told, gaps = watched(server)
    assert told == ["ADDED b"]
    assert [bool(gap) for gap in gaps] == [True, False]
    assert server.asked == ["5", "6", "6", "6"]


def test_an_event_that_comes_in_two_pieces_is_one() -> None:
    whole = line("ADDED", obj("b", 6))
    server = Server([Snapshot([], "5")], [[whole[:20], whole[20:]]])
    assert watched(server)[0] == ["ADDED b"]


@pytest.mark.parametrize("broken", [b"\xed\xa0\x80\n", b'{"type": "ADDED", "obj\n', b"<html>\n"])
def test_what_is_not_json_is_a_lost_connection(broken: bytes) -> None:
    server = Server([Snapshot([], "5")], [[line("ADDED", obj("b", 6)), broken], [line("MODIFIED", obj("b", 7))]])
    told, gaps = watched(server)
    assert told == ["ADDED b", "MODIFIED b"]
    assert [bool(gap) for gap in gaps] == [True, False]
    assert server.asked == ["5", "6", "7"]


def test_a_watch_that_is_not_permitted_ends() -> None:
    with pytest.raises(AuthorizationError):
        watched(Server([Snapshot([], "5")], [AuthorizationError("no")]))


@pytest.mark.parametrize(
    ("status", "message", "kind", "told"),
    [
        (
            400,
            'admission webhook "v.x" denied the request: numNodes',
            ConfigurationError,
            "webhook refused: v.x says: numNodes",
        ),
        (403, 'pods "a" is forbidden: exceeded quota: q, used: 1', ConfigurationError, "quota exceeded: q, used: 1"),
        (403, 'pods "a" is forbidden: violates PodSecurity "restricted"', ConfigurationError, "pod security"),
        (403, 'User "u" cannot create resource "trainjobs"', AuthorizationError, "not permitted"),
        (404, 'namespaces "x" not found', NotFoundError, "no namespace 'x'"),
        (409, "Apply failed with 1 conflict", ConflictError, "somebody else"),
        (500, 'failed calling webhook "w": connection refused', UnavailableError, "webhook w does not answer"),
        (0, "Connection refused", UnavailableError, "does not answer"),
        (422, "spec.x: Invalid value", ConfigurationError, "can't take it"),
    ],
)
def test_a_refusal_says_what_it_means(status: int, message: str, kind: type[Exception], told: str) -> None:
    error = refusal(status, json.dumps({"kind": "Status", "message": message}), "TrainJob n/a")
    assert type(error) is kind
    assert told in str(error)
